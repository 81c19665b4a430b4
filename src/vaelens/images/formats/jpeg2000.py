"""How often a JPEG 2000 image can be halved while it is decoded."""

from typing import BinaryIO

CODESTREAM = b"\xff\x4f\xff\x51"
ORIGIN = 14  # where in the size segment the image's left and top stand
CODING_STYLE, TILE = 0x52, 0x90
HEAD = 2**20  # bytes in which the codestream begins; before it lies the ICC profile
MOST = 32  # levels that the format knows


def resolution_levels(stream: BinaryIO) -> int:
    """The number of resolution levels below the full one; 0 where the header doesn't tell.

    Also 0 for an image that doesn't begin at its grid's origin: Pillow takes it for damaged when it is reduced.
    """
    stream.seek(0)
    head = stream.read(HEAD)
    place = head.find(CODESTREAM) + 2
    if any(head[place + ORIGIN : place + ORIGIN + 8]):
        return 0
    while place >= 2 and place + 12 <= len(head) and head[place] == 0xFF and head[place + 1] != TILE:
        if head[place + 1] == CODING_STYLE:
            return min(head[place + 9], MOST)
        place += 2 + int.from_bytes(head[place + 2 : place + 4], "big")
    return 0
