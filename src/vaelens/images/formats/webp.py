"""WebP: the size, from the first bytes."""


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
