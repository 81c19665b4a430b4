"""Pipes, folders that can't be read, links in circles and files that vanish: each is a row or a notice."""

import os
from collections.abc import Iterator
from errno import EACCES
from pathlib import Path
from typing import Any

import pytest

import vaelens as vl
from support.known_vaes import World, made_world
from support.vaes import random_vae
from vaelens.errors import BadInputError
from vaelens.identification.weights import examined_file
from vaelens.networks.tiny import TinyAutoencoderConfig
from vaelens.weights.own_files import own_kind


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """No known VAE is here."""
    with made_world(tmp_path) as made:
        yield made


def test_a_pipe_is_not_opened(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = world.folder / "shards" / "x.safetensors"
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    before = Path.open

    def opened(path: Path, *args: Any, **options: Any) -> Any:
        assert path != pipe, "opening it would wait"
        return before(path, *args, **options)

    monkeypatch.setattr(Path, "open", opened)
    assert own_kind(pipe) is None
    (row,) = vl.identify(world.folder)
    assert "pipe" in row.what
    assert row.exit_code == 3


def test_a_folder_that_can_not_be_read_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = world.write("a.safetensors", world.tensors["sdxl"])
    closed = world.write("closed/b.safetensors", world.tensors["sdxl"]).parent
    before = os.scandir

    def refused(place: Any) -> Any:
        if Path(place) == closed:
            raise PermissionError(EACCES, "Permission denied", str(place))
        return before(place)

    monkeypatch.setattr(os, "scandir", refused)
    notices: list[str] = []
    assert [file.path for file in vl.identify(world.folder, notify=notices.append)] == [path]
    assert [notice for notice in notices if f"{closed}: left out: Permission denied" in notice]
    with pytest.raises(BadInputError, match="closed: can't be read: Permission denied"):
        vl.identify(closed)


def test_a_link_in_a_circle_is_a_row(world: World) -> None:
    world.write("a.safetensors", world.tensors["sdxl"])
    (world.folder / "b.safetensors").symlink_to("b.safetensors")
    assert {file.path.name: file.exit_code for file in vl.identify(world.folder)} == {
        "a.safetensors": 0,
        "b.safetensors": 3,
    }


def test_a_broken_link_says_where_it_leads(world: World) -> None:
    world.write("a.safetensors", world.tensors["sdxl"])
    link = world.folder / "b.safetensors"
    link.symlink_to("gone.safetensors")
    said = f"{link} is a link to {(world.folder / 'gone.safetensors').resolve()}, which isn't there."
    for sources in (world.folder, link):
        (row,) = [file for file in vl.identify(sources) if file.path == link]
        assert row.what.startswith(said)
        assert row.exit_code == 3
    with pytest.raises(BadInputError, match="there is no such file"):
        vl.identify(world.folder / "gone.safetensors")


def test_a_half_that_vanishes_is_that_rows_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = random_vae(TinyAutoencoderConfig(), space="sd1", scale=1.0).network.state_dict()
    for half, offset in (("encoder", 0), ("decoder", 1)):
        numbered = {
            f"{int(name.split('.')[2]) + offset}.{name.split('.', 3)[3]}": t
            for name, t in tensors.items()
            if name.startswith(half)
        }
        world.write(f"taesd_{half}.safetensors", numbered)
    world.write("other.safetensors", world.tensors["kl-f8"])
    decoder = world.folder / "taesd_decoder.safetensors"
    before = examined_file.read_raw

    def read(path: Path, **options: Any) -> Any:
        found = before(path, **options)
        if path.name == "taesd_encoder.safetensors":
            decoder.unlink()
        return found

    monkeypatch.setattr(examined_file, "read_raw", read)
    codes = {
        file.path.name: file.exit_code for file in vl.identify([*sorted(world.folder.glob("*encoder*")), world.folder])
    }
    assert codes == {"taesd_encoder.safetensors": 3, "other.safetensors": 0, "taesd_decoder.safetensors": 3}
