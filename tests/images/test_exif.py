"""EXIF data of which only a part is damaged."""

import struct

import pytest

from support.images.written_files import noise, saved
from vaelens.images.reading import decode_bytes

PIXELS = noise(12, 8)


def exif_of(entries: list[tuple[int, int, int, int]], rest: bytes = b"") -> bytes:
    """EXIF data with entries of tag, type, count and value, and what follows the directory."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + bytes(4) + rest


TURNED = (0x0112, 3, 1, 6)
DESCRIPTION, EXIF_DIRECTORY = (0x010E, 2, 8, 38), (0x8769, 4, 1, 38)
PARTLY_DAMAGED_EXIF = {
    "a value outside": exif_of([TURNED, (0x010E, 2, 400, 38)]),
    "a cut value": exif_of([TURNED, DESCRIPTION], b"a phot"),
    "a directory outside": exif_of([TURNED, (0x8769, 4, 1, 4000)]),
    "a cut directory": exif_of([TURNED, EXIF_DIRECTORY], struct.pack("<H", 3) + bytes(20)),
    "a cut list": exif_of([TURNED, DESCRIPTION])[:-14],
}


@pytest.mark.parametrize("kind", PARTLY_DAMAGED_EXIF)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_exif_data_that_are_damaged_behind_a_good_orientation_cost_a_note(form: str, kind: str) -> None:
    """The image is turned upright, as the orientation is there; what else the data said is lost."""
    options = {"lossless": True} if form == "WEBP" else {}
    whole = exif_of([TURNED, DESCRIPTION], b"a photo\0")
    expected = decode_bytes(saved(PIXELS, form, exif=whole, **options), "a")
    assert expected.notes == ("turned upright by its EXIF orientation",)
    found = decode_bytes(saved(PIXELS, form, exif=PARTLY_DAMAGED_EXIF[kind], **options), "a")
    assert found.image.equal(expected.image)
    assert found.notes == (
        "part of its EXIF data is damaged; the rest is used",
        "turned upright by its EXIF orientation",
    )


@pytest.mark.parametrize("pointer", [0x8769, 0x8825, 0xA005])
def test_a_directory_at_0_is_one_that_is_not_there(pointer: int) -> None:
    """Some programs write 0 for a GPS directory that they have removed."""
    found = decode_bytes(saved(PIXELS, "JPEG", exif=exif_of([TURNED, (pointer, 4, 1, 0)])), "a")
    assert found.notes == ("turned upright by its EXIF orientation",)
