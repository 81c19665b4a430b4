"""Paths from users: names that no file can have, wherever a path is taken."""

from collections.abc import Callable
from pathlib import Path

import pytest

import vaelens as vl
from vaelens.errors import BadInputError, UsageError
from vaelens.images.datasets import open_dataset
from vaelens.latents import read_latents
from vaelens.tensors.safetensors_file import open_safetensors
from vaelens.text import paths
from vaelens.text.paths import cache_folder, user_path

READERS = {
    "user_path": user_path,
    "latents": read_latents,
    "dataset": open_dataset,
    "VAE": lambda path: vl.load(path, device="cpu"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".png"])
@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "\ud800"], ids=["overlong", "NUL", "half a surrogate pair"])
@pytest.mark.parametrize("reader", READERS)
def test_a_name_that_no_file_can_have_is_a_wrong_value(reader: str, name: str, suffix: str) -> None:
    if reader == "latents" and suffix == ".png":
        return
    read: Callable[[str], object] = READERS[reader]
    with pytest.raises(UsageError, match=r"can't be"):
        read(f"{name}{suffix}")


def test_homes_are_meant_by_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "images").mkdir()
    assert user_path("~/images") == tmp_path / "images"
    assert user_path("~/none/at/all") == tmp_path / "none/at/all"
    with pytest.raises(BadInputError, match="holds no images"):
        open_dataset("~/images")


def test_a_weights_file_of_an_impossible_name_is_refused() -> None:
    with pytest.raises(BadInputError, match="can't be read: embedded null byte"):
        open_safetensors(Path("a\0.safetensors"))


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("VAELENS_CACHE", "~/elsewhere")
    assert cache_folder() == Path.home() / "elsewhere"
    monkeypatch.delenv("VAELENS_CACHE")
    assert cache_folder() == tmp_path / "vaelens"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "vaelens"
    monkeypatch.setattr(paths.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "vaelens"


def test_without_a_home_folder_the_cache_folder_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("VAELENS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(UsageError, match=r"no home folder for the cache\. Name one: VAELENS_CACHE=FOLDER"):
        cache_folder()
