"""WebP: the size, from the first bytes, and whether the pixels were stored without loss."""

from typing import BinaryIO

MOST_CHUNKS = 100  # looked at; profile and EXIF data may come before the pixels


def size(head: bytes) -> tuple[int, int] | None:
    """Width and height; None for another format."""
    if not (head.startswith(b"RIFF") and head[8:12] == b"WEBP" and len(head) >= 30):
        return None
    if head[12:16] == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


def is_lossless(stream: BinaryIO) -> bool:
    """Whether the first frame was stored without loss; False for another format."""
    stream.seek(0)
    head = stream.read(12)
    if not (head.startswith(b"RIFF") and head[8:] == b"WEBP"):
        return False
    for _ in range(MOST_CHUNKS):
        head = stream.read(8)
        if len(head) < 8 or head[:4] in {b"VP8 ", b"VP8L"}:
            return head[:4] == b"VP8L"
        length = int.from_bytes(head[4:], "little")
        stream.seek(16 if head[:4] == b"ANMF" else length + length % 2, 1)  # a frame's chunks lie in its own
    return False
