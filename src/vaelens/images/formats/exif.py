"""EXIF data: whether all of it is there. Pillow leaves out what isn't, without a word that could be heard."""

import struct

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}  # bytes, by type
DIRECTORIES = {0x8769, 0x8825, 0xA005}  # tags that point at one: Exif, GPS, interoperability
MOST_DIRECTORIES = 8
ENTRY = 12  # bytes
HEADER = b"Exif\0\0"


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
