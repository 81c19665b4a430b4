"""EXIF data: whether all of it is there, and its texts. Pillow leaves out what isn't there, without a word."""

import struct
from collections.abc import Generator

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}  # bytes, by type
DIRECTORIES = {0x8769, 0x8825, 0xA005}  # tags that point at one: Exif, GPS, interoperability
MOST_DIRECTORIES = 8
ENTRY = 12  # bytes
HEADER = b"Exif\0\0"
ASCII, UNDEFINED = 2, 7  # types
USER_COMMENT = 0x9286
NAMES = {
    0x010D: "DocumentName",
    0x010E: "ImageDescription",
    0x010F: "Make",
    0x0110: "Model",
    USER_COMMENT: "UserComment",
}
CODE = 8  # bytes that name a comment's encoding
MAX_TEXT = 2**24  # bytes of all texts


def is_whole(data: bytes) -> bool:
    """Whether each directory of EXIF data lies inside, with the values of all its entries."""
    data = data.removeprefix(HEADER)
    if not data:
        return True
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return False
    pending, seen = [int(struct.unpack_from(f"{order}I", data, 4)[0])], set[int]()
    while pending:
        place = pending.pop()
        if place in seen:
            continue
        seen.add(place)
        if len(seen) > MOST_DIRECTORIES or place + 2 > len(data):
            return False
        (count,) = struct.unpack_from(f"{order}H", data, place)
        entries = data[place + 2 : place + 2 + ENTRY * count]
        if len(entries) < ENTRY * count:
            return False
        for tag, kind, number, value in struct.iter_unpack(f"{order}HHII", entries):
            size = SIZES.get(kind, 0) * number
            if size > 4 and value + size > len(data):
                return False
            if tag in DIRECTORIES and value:  # some cameras write 0 where they have none
                pending.append(value)
    return True


def texts(data: bytes) -> dict[str, str]:
    """The texts of EXIF data by their tag's name, of another than NAMES its number: "0x010c".

    Damaged entries, and what is beyond MAX_TEXT bytes in all, are left out.
    """
    data = data.removeprefix(HEADER)
    found: dict[str, str] = {}
    room = MAX_TEXT
    for tag, first, number in _entries(data):
        name = NAMES.get(tag, f"0x{tag:04x}")
        if name in found:
            continue
        room -= number
        if room < 0:
            break
        content = data[first : first + number]
        if text := _comment(content) if tag == USER_COMMENT else _decoded(content):
            found[name] = text
    return found


def _entries(data: bytes) -> Generator[tuple[int, int, int]]:
    """Tag, place and number of bytes of each text that lies inside, of the first directories. Nothing is copied."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return
    pending, seen = [int(struct.unpack_from(f"{order}I", data, 4)[0])], set[int]()
    while pending:
        place = pending.pop()
        if place in seen or len(seen) >= MOST_DIRECTORIES or place + 2 > len(data):
            continue
        seen.add(place)
        (count,) = struct.unpack_from(f"{order}H", data, place)
        start = place + 2
        for at in range(start, min(start + ENTRY * count, len(data) - ENTRY + 1), ENTRY):
            tag, kind, number, value = struct.unpack_from(f"{order}HHII", data, at)
            if tag in DIRECTORIES and value:
                pending.append(value)
            elif kind == ASCII or (tag == USER_COMMENT and SIZES.get(kind) == 1):
                first = at + 8 if number <= 4 else value
                if first + number <= len(data):
                    yield tag, first, number


def _comment(content: bytes) -> str:
    """A UserComment, by the encoding that its first 8 bytes name."""
    code, text = content[:CODE], content[CODE:]
    if code == b"UNICODE\0":
        return _unicode(text)
    return _decoded(text if code in {b"ASCII\0\0\0", bytes(CODE)} else content)


def _unicode(text: bytes) -> str:
    """UTF-16 in either byte order, which EXIF doesn't fix and programs choose freely; some write UTF-8."""
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"), (b"\xef\xbb\xbf", "utf-8")):
        if text.startswith(mark):
            return text[len(mark) :].decode(encoding, "replace").rstrip("\0")
    high, low = (
        text[0::2].count(0),
        text[1::2].count(0),
    )  # where Latin letters have a zero byte, in big-endian and little
    if not high and not low and _is_utf_8(text):
        return text.decode()
    return text.decode("utf-16-be" if high >= low else "utf-16-le", "replace").rstrip("\0")


def _decoded(content: bytes) -> str:
    """UTF-8, or Latin-1 where it isn't that, up to the closing zeros."""
    content = content.rstrip(b"\0")
    return content.decode("utf-8" if _is_utf_8(content) else "latin-1")


def _is_utf_8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
