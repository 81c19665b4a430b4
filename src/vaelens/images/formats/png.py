"""PNG chunks: the text, the file without its metadata, and whether the compressed stream holds every row."""

import struct
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}  # the chunks that pixels come from
MAX_UNPACKED = 2**20  # bytes of one compressed text
MAX_TEXT = 2**24  # bytes of all text
MOST_PACKED = 128  # compressed texts: Pillow unpacks a megabyte of each, also of those that it leaves out
MAX_PROFILE = 2**24
LONGEST_KEY = 79  # bytes
TEXTS = {b"tEXt", b"zTXt", b"iTXt", b"comf"}  # the last one is ComfyUI's own, for animations; laid out as tEXt
PIECE = 2**16
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@dataclass(frozen=True)
class _Chunk:
    kind: bytes
    start: int  # of its data
    length: int


def read_text(stream: BinaryIO) -> dict[str, str]:
    """The text of a PNG by its key. Damaged chunks, and texts beyond the limits above, are left out.

    One that is left out counts for the longest, since finding that out may have cost as much.
    """
    found: dict[str, str] = {}
    room = MAX_TEXT
    for chunk in _chunks(stream):
        if chunk.kind in TEXTS and chunk.length <= room:
            data = _intact(stream, chunk)
            entry = None if data is None else _text(chunk.kind, data)
            if entry is not None and len(entry[1]) <= room:
                found[entry[0]] = entry[1]
            room -= MAX_UNPACKED if entry is None else len(entry[1])
    return found


def read_profile(stream: BinaryIO) -> bytes | None:
    """The ICC profile of a PNG, if there is an intact one, of any sensible size."""
    for chunk in _chunks(stream):
        if chunk.kind == b"iCCP":
            data = _intact(stream, chunk) or b""
            return _unpacked(data.partition(b"\0")[2][1:], MAX_PROFILE)
    return None


def read_exif(stream: BinaryIO) -> bytes | None:
    """The EXIF data of a PNG, which may stand behind its pixels; None where there are none, or damaged ones."""
    for chunk in _chunks(stream):
        if chunk.kind == b"eXIf" and chunk.length <= MAX_TEXT:
            return _intact(stream, chunk)
    return None


def without_metadata(stream: BinaryIO) -> bytes:
    """The PNG's chunks that hold pixels, unchanged, and nothing else."""
    kept = [SIGNATURE]
    for chunk in _chunks(stream):
        if chunk.kind in PIXELS:
            stream.seek(chunk.start - 8)
            kept.append(stream.read(chunk.length + 12))
    return b"".join(kept)


def is_cut_off(stream: BinaryIO) -> bool:
    """Whether a file, if it is a PNG, ends before its last chunk. The pixels aren't looked at."""
    stream.seek(0)
    if stream.read(len(SIGNATURE)) != SIGNATURE:
        return False
    return not any(chunk.kind == b"IEND" for chunk in _chunks(stream))


def has_many_packed_texts(stream: BinaryIO) -> bool:
    """Whether a file, if it is a PNG, holds so many compressed texts that Pillow would take seconds for them."""
    stream.seek(0)
    if stream.read(len(SIGNATURE)) != SIGNATURE:
        return False
    packed = (chunk for chunk in _chunks(stream) if _is_packed(stream, chunk))
    return next(islice(packed, MOST_PACKED, None), None) is not None


def has_every_row(stream: BinaryIO) -> bool:
    """Whether the compressed stream is as long as the header says; it is unpacked piece by piece."""
    wanted, found = 0, 0
    inflate = zlib.decompressobj()
    for chunk in _chunks(stream):
        stream.seek(chunk.start)
        if chunk.kind == b"IHDR" and chunk.length >= 13:
            wanted = _unpacked_size(stream.read(13))
        if chunk.kind != b"IDAT":
            continue
        left = chunk.length
        while left > 0 and (piece := stream.read(min(left, PIECE))):
            left -= len(piece)
            while piece and found < wanted and not inflate.eof:
                found += len(inflate.decompress(piece, 16 * PIECE))
                piece = inflate.unconsumed_tail
        if found >= wanted or inflate.eof:
            break
    return found >= wanted


def _chunks(stream: BinaryIO) -> Generator[_Chunk]:
    """The chunks up to the last one or the file's end. The stream may be moved between them."""
    place = len(SIGNATURE)
    while True:
        stream.seek(place)
        head = stream.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        yield _Chunk(kind, place + 8, length)
        if kind == b"IEND":
            return
        place += 12 + length


def _is_packed(stream: BinaryIO, chunk: _Chunk) -> bool:
    """Whether it is compressed text."""
    if chunk.kind != b"iTXt":
        return chunk.kind == b"zTXt"
    stream.seek(chunk.start)
    return stream.read(min(chunk.length, LONGEST_KEY + 2)).partition(b"\0")[2][:1] not in {b"", b"\0"}


def _intact(stream: BinaryIO, chunk: _Chunk) -> bytes | None:
    """A chunk's data, if its checksum is right."""
    stream.seek(chunk.start)
    data = stream.read(chunk.length)
    return data if zlib.crc32(data, zlib.crc32(chunk.kind)).to_bytes(4, "big") == stream.read(4) else None


def _text(kind: bytes, data: bytes) -> tuple[str, str] | None:
    """Key and text of a chunk; None for a damaged one."""
    name, separator, rest = data.partition(b"\0")
    packed, encoding = kind == b"zTXt", "latin-1"
    if packed:
        rest = rest[1:]
    if kind == b"iTXt":
        packed, encoding = rest[:1] == b"\1", "utf-8"
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]  # behind the language and the translated key
    unpacked = _unpacked(rest, MAX_UNPACKED) if packed else rest
    if not separator or unpacked is None:
        return None
    try:
        return name.decode("latin-1"), unpacked.decode(encoding)
    except UnicodeDecodeError:
        return None


def _unpacked(data: bytes, most: int) -> bytes | None:
    """Inflated data; None for damaged data, and for more than `most` bytes."""
    inflate = zlib.decompressobj()
    try:
        unpacked = inflate.decompress(data, most)
    except zlib.error:
        return None
    return unpacked if inflate.eof else None


def _unpacked_size(header: bytes) -> int:
    """Bytes of all rows, with the filter byte that each begins with."""
    width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * CHANNELS.get(color, 1)
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    total = 0
    for left, top, step_x, step_y in passes:
        w, h = -(-(width - left) // step_x), -(-(height - top) // step_y)
        if w > 0 and h > 0:
            total += h * (1 + (w * bits + 7) // 8)
    return total
