"""Small files that ask for much: they are refused soon, or read in little memory."""

import json
import resource
import struct
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

import vaelens as vl
from support.images.written_files import noise, png, saved
from support.properties import Tally
from support.vaes import random_vae
from vaelens.errors import BadInputError
from vaelens.images.reading import decode_file

MB = 2**20


@contextmanager
def room(size: int) -> Generator[None]:
    """In here the process gets at most so many bytes more; asked for more, allocations fail."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def gif(width: int, height: int) -> bytes:
    data = bytearray(saved(Image.new("P", (16, 16)), "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


@pytest.mark.parametrize("data", [png(1, 2**27, b""), gif(16384, 8192)], ids=["png of one column", "gif"])
def test_more_pixels_than_the_budget_are_refused_in_little_memory(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "photo").write_bytes(data)
    with room(300 * MB), pytest.raises(BadInputError, match=r"pixels; vaelens reads at most .*"):
        vl.read_image(tmp_path / "photo")


def test_memory_follows_what_max_side_wants(tmp_path: Path) -> None:
    """64 million stored pixels, of which a few are wanted."""
    noise(64, 64).resize((8192, 8192)).save(tmp_path / "photo.jpg", quality=30)
    with room(300 * MB):
        assert decode_file(tmp_path / "photo.jpg", max_side=256).size == (256, 256)


def test_a_long_comment_in_a_header_is_refused_soon(tmp_path: Path) -> None:
    (tmp_path / "photo.ppm").write_bytes(b"P6\n#" + b"a" * 3_000_000 + b"\n4 4\n255\n" + bytes(48))
    with pytest.raises(BadInputError, match="small parts"):
        vl.read_image(tmp_path / "photo.ppm")


def test_a_tensor_file_s_header_of_very_many_values_is_refused_in_little_memory(tmp_path: Path) -> None:
    header = b"[" + b"[]," * 5_300_000 + b"[]]"
    (tmp_path / "vae.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    ended = Tally("a long header").check(lambda: vl.load(tmp_path / "vae.safetensors"), 50 * MB)  # it took 370
    assert ended == "BadInputError"


def test_a_config_of_any_size_is_refused(tmp_path: Path) -> None:
    folder = random_vae().save(tmp_path / "vae")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"note": "a" * 9_000_000}))
    with pytest.raises(BadInputError, match=r"config\.json"):
        vl.load(folder)
