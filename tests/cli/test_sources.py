"""Sources of images as users name them, the same in all commands: what is refused before anything is done."""

from pathlib import Path

import numpy as np
import pytest

from support.commands import invoke
from vaelens.images.writing import encode_png


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder `set` with two images, in the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    for number in range(2):
        pixels = np.full((16, 16, 3), 100 * number, np.uint8)
        (tmp_path / "set" / f"{number}.png").write_bytes(encode_png(pixels))


@pytest.mark.parametrize(
    "call",
    [
        "evaluate set -o set",
        "evaluate set -o .",
        "evaluate set/0.png -o set",
        "evaluate set -o set/../set",
        "calibrate set --vae tiny-kl-f8 -o set",
        "reconstruct set -o set",
        "reconstruct set/0.png set/1.png -o set",
        "reconstruct set/0.png -o .",
        "compare --photo set/0.png -o set",
        "finetune set -o set",
        "finetune synthetic --held-out set -o set",
    ],
)
def test_a_folder_that_is_or_holds_the_images_is_no_output(tmp_path: Path, call: str) -> None:
    ran = invoke(*call.split(), code=2)
    assert "the output would lie among the images. Choose another folder." in ran.stderr
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["0.png", "1.png"]
