"""The folder that a cache is written to: what may be in it before, what is left after a failure, and what is said."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from support.commands import invoke
from support.latents import content
from vaelens.errors import BadInputError, UsageError
from vaelens.latent_cache.cache import LatentCache

Encode = Callable[..., LatentCache]


def test_hidden_files_of_a_folder_do_not_count(encode: Encode, tmp_path: Path) -> None:
    folder = tmp_path / "latents"
    folder.mkdir()
    for name in (".DS_Store", ".lock", f".vaelens-{'0' * 16}.lock"):
        (folder / name).touch()
    assert encode().path == folder


def test_files_of_others_are_no_cache(encode: Encode, tmp_path: Path) -> None:
    (tmp_path / "latents").mkdir()
    for name in ("b.safetensors", "a.safetensors", "c.ckpt"):
        (tmp_path / "latents" / name).touch()
    with pytest.raises(UsageError, match=r"holds no cache, but a\.safetensors and 2 more\. Choose another folder"):
        encode()
    assert sorted(content(tmp_path / "latents")) == ["a.safetensors", "b.safetensors", "c.ckpt"]


@pytest.mark.parametrize("there", [False, True])
def test_images_of_which_none_is_readable_leave_nothing(there: bool, encode: Encode, tmp_path: Path) -> None:
    (tmp_path / "no").mkdir()
    for number in range(6):
        (tmp_path / "no" / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n not one %d" % number)
    if there:
        (tmp_path / "latents").mkdir()
    with pytest.raises(BadInputError, match=r"none of the images can be read\. The first: 0\.png"):
        encode(images_of=tmp_path / "no", skip_bad=True)
    assert [*tmp_path.rglob("latents/*")] == []
    assert (tmp_path / "latents").exists() == there


def test_a_complete_cache_is_said_to_be_complete(photos: Path, tmp_path: Path) -> None:
    command = ("encode", photos, "-o", tmp_path / "c", "--take", 2, "--size", 32, "--device", "cpu")
    assert f"Wrote 2 images to {tmp_path / 'c'}.\n" in invoke(*command).stdout
    again = invoke(*command).stdout
    assert again.endswith(f"{tmp_path / 'c'} is already complete.\n")
    assert "Wrote" not in again
    next((tmp_path / "c" / "shards").iterdir()).unlink()
    assert "Wrote 2 images" in invoke(*command).stdout


def test_images_left_out_are_listed(photos: Path, tmp_path: Path) -> None:
    some = tmp_path / "some"
    some.mkdir()
    for name in ("00.png", "01.png"):
        (some / name).write_bytes((photos / name).read_bytes()[: None if name == "00.png" else 300])
    command = ("encode", some, "-o", tmp_path / "c", "--size", 32, "--device", "cpu", "--skip-bad")
    ran = invoke(*command)
    assert "skipped    1 unreadable: 01.png" in ran.stdout
    assert "Using the encoder of the small embedded VAE tiny-kl-f8." in ran.stderr
    assert list(json.loads(invoke(*command, "--json").stdout)["skipped"]) == ["01.png"]
    assert "skipped    none" in invoke("encode", some / "00.png", "-o", tmp_path / "d", "--size", 32).stdout
