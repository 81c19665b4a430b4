"""Sources of images as users name them, the same in all commands: what is refused before anything is done."""

from pathlib import Path

import numpy as np
import pytest

from support.commands import invoke
from vaelens.images.datasets import open_dataset
from vaelens.images.datasets.folders import image_files
from vaelens.images.writing import encode_png


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder `set` with two images, in the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    for number in range(2):
        pixels = np.full((16, 16, 3), 100 * number, np.uint8)
        (tmp_path / "set" / f"{number}.png").write_bytes(encode_png(pixels))


@pytest.mark.parametrize("address", ["https://example.org/photos.zip", "http://example.org/a/b.png?x=1"])
@pytest.mark.parametrize(
    "call",
    [
        "evaluate ADDRESS",
        "calibrate ADDRESS --vae tiny-kl-f8",
        "finetune ADDRESS",
        "finetune set --held-out ADDRESS",
        "reconstruct ADDRESS",
        "compare --photo ADDRESS",
        "inspect tiny-kl-f8 --health --photo ADDRESS",
    ],
)
def test_a_web_address_in_place_of_images_is_a_usage_error_that_says_to_download_it(
    tmp_path: Path, call: str, address: str
) -> None:
    ran = invoke(*call.replace("ADDRESS", address).split(), code=2)
    message = ran.stderr.splitlines()[-1]
    assert address in message
    assert "Download the " in message
    assert len(list(tmp_path.iterdir())) == 1, "nothing was written"


def test_patterns_that_no_shell_expanded_stand_for_their_files_in_every_command() -> None:
    for pattern in ("set/*.png", "set/{0..1}.png"):
        assert [path.name for path in image_files([pattern])] == ["0.png", "1.png"]
        assert [item.id for item in open_dataset(pattern).items] == ["0.png", "1.png"]
    ran = invoke("reconstruct", "set/{0..3}.png", code=3)
    assert "2 of 4 files that the pattern names are missing, the first is set/2.png" in ran.stderr
    ran = invoke("evaluate", "set/*.jpg", code=3)
    assert "set/*.jpg: no file has such a name" in ran.stderr
    ran = invoke("evaluate", "set/*.png", "-o", "set", code=2)
    assert "the next run would take what is written there for images of yours" in ran.stderr


@pytest.mark.parametrize("command", ["evaluate --vae tiny-kl-f8", "calibrate --vae tiny-kl-f8", "finetune"])
def test_what_can_not_be_a_dataset_is_refused_before_any_network_is_named(tmp_path: Path, command: str) -> None:
    (tmp_path / "sea").mkdir()
    for source, code, why in (
        ("se?", 2, "se? stands for 2 folders. Name one folder, or 'se?/*.png'."),
        ("nowhere", 3, "nowhere: there is no such file or folder."),
        ("https://example.org/a.zip", 2, "https://example.org/a.zip"),
        ("sea/*.png", 3, "sea/*.png: no file has such a name"),
    ):
        name, *options = command.split()
        ran = invoke(name, source, *options, code=code)
        assert why in ran.stderr
        assert "downloaded once" not in ran.stderr


@pytest.mark.parametrize(
    "call",
    [
        "evaluate set -o set",
        "evaluate set/0.png -o set",
        "evaluate set -o set/../set",
        "calibrate set --vae tiny-kl-f8 -o set",
        "reconstruct set -o set",
        "reconstruct set/0.png set/1.png -o set",
        "reconstruct set -o set/out",
        "reconstruct set -o set/strip.png",
        "reconstruct . -o out",
        "compare --photo set/0.png -o set",
        "finetune set -o set",
        "finetune set -o set/run",
        "finetune synthetic --held-out set -o set",
    ],
)
def test_an_output_whose_images_the_next_run_would_read_is_refused(tmp_path: Path, call: str) -> None:
    ran = invoke(*call.split(), code=2)
    assert "the next run would take what is written there for images of yours. Choose another folder." in ran.stderr
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["0.png", "1.png"]
