"""JPEG segments: the file without its metadata, and whether its scans hold every block of the image.

libjpeg fills what is missing with grey and says so in a warning, which Pillow drops. But a decoder that has every
block never looks at bytes between the last block and the end marker. So random bytes are put there: if they change
the image, it is incomplete.
"""

import re
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from PIL import Image, ImageChops

START, END, SCAN, RESTART_INTERVAL = 0xD8, 0xD9, 0xDA, 0xDD
TABLES = {0xDB, 0xC4, 0xCC, RESTART_INTERVAL}  # quantization, Huffman and arithmetic coding
HUFFMAN_FRAMES = {0xC0, 0xC1, 0xC2}
PROGRESSIVE = 0xC2
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
ADOBE, JFIF, PROFILE = 0xEE, 0xE0, 0xE2
NO_DATA = {0x01, *range(0xD0, 0xD9)}  # markers without a length
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)  # in coded data
RANDOM = bytes(np.random.default_rng(0).integers(1, 255, 512, dtype=np.uint8))  # without 0 and 255
GREY, NEAR = 128, 24  # what missing blocks become, and how far their neighbours' colour changes it
LAST_COEFFICIENT = 63


@dataclass
class _Segments:
    """What a file's markers say, up to its first end marker."""

    kept: list[bytes] = field(default_factory=list[bytes])  # the segments that pixels come from
    profile: list[bytes] = field(default_factory=list[bytes])
    frame: int = 0  # its marker
    components: bytes = b""  # their ids
    scans: list[bytes] = field(default_factory=list[bytes])  # their headers
    ended: bool = False


def without_metadata(data: bytes) -> bytes:
    """The JPEG's segments that pixels come from, and its ICC profile."""
    found = _segments(data)
    return b"".join((b"\xff\xd8", *found.profile, *found.kept, b"\xff\xd9" if found.ended else b""))


def is_sequential(data: bytes) -> bool:
    """Whether all blocks come in one scan, so that shrinking while decoding takes less memory."""
    found = _segments(data)
    return len(found.scans) == 1 and found.frame != PROGRESSIVE


def has_every_block(data: bytes, decoded: Image.Image, scale: int = 1) -> bool:
    """Whether all of a decoded image comes from the file; `scale` is the one that it was decoded at.

    Arithmetic coding, which may leave out zeros at the end, isn't checked.
    """
    found = _segments(data)
    if found.frame not in HUFFMAN_FRAMES or not found.ended:
        return True
    if found.frame == PROGRESSIVE and not _every_coefficient(found):
        return False
    if len(found.scans) == 1 and abs(float(np.mean(_corner(decoded))) - GREY) > NEAR:
        return True
    padded = b"".join((b"\xff\xd8", *found.kept, RANDOM, b"\xff\xd9"))
    with Image.open(BytesIO(padded), formats=["JPEG"]) as again:
        if scale > 1:
            again.draft(None, (again.width // scale, again.height // scale))
        again.load()
        return again.size == decoded.size and _equal(again, decoded)


def _corner(image: Image.Image) -> np.ndarray:
    w, h = image.size
    return np.asarray(image.crop((w - 1, h - 1, w, h)))


def _equal(one: Image.Image, other: Image.Image) -> bool:
    """Strip by strip, which takes little memory."""
    w, h = one.size
    rows = max(1, 2**20 // w)
    boxes = [(0, top, w, min(top + rows, h)) for top in range(0, h, rows)]
    return all(ImageChops.difference(one.crop(box), other.crop(box)).getbbox(alpha_only=False) is None for box in boxes)


def _segments(data: bytes) -> _Segments:
    found, place = _Segments(), 2
    while (place := data.find(b"\xff", place)) >= 0 and place + 1 < len(data):
        marker = data[place + 1]
        if marker in {0x00, 0xFF} or marker in NO_DATA:
            place += 1 if marker == 0xFF else 2
            continue
        if marker == END:
            found.ended = True
            break
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        segment = data[place:end]
        if marker == SCAN:
            found.scans.append(segment)
            following = MARKER.search(data, end)
            end = following.end() - 2 if following else len(data)
            found.kept.append(data[place:end])
        elif marker in FRAMES:
            found.frame, found.components = marker, segment[10::3]
            found.kept.append(segment)
        elif marker in TABLES or marker in {ADOBE, JFIF}:
            found.kept.append(segment)
        elif marker == PROFILE and segment[4:15] == b"ICC_PROFILE":
            found.profile.append(segment)
        place = max(end, place + 2)
    return found


def _every_coefficient(found: _Segments) -> bool:
    """Whether the scans of a progressive JPEG bring every coefficient of every component to its last bit."""
    missing = {(component, k) for component in found.components for k in range(LAST_COEFFICIENT + 1)}
    for scan in found.scans:
        count = scan[4] if len(scan) > 4 else 0
        if len(scan) < 8 + 2 * count:
            continue
        first, last, bits = scan[5 + 2 * count : 8 + 2 * count]
        if not bits & 15:
            missing -= {(scan[5 + 2 * i], k) for i in range(count) for k in range(first, last + 1)}
    return not missing
