"""A zip member's data unpacked in bounded pieces, whatever size it claims to have."""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from vaelens.images.datasets.items import PIECE

STORED, DEFLATED, BZIP2, LZMA = 0, 8, 12, 14  # a zip's numbers of methods
DAMAGE = (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError)  # what unpacking raises; bz2 an OSError
LZMA_HEADER = 9  # a version, the number of property bytes (always 5), and these


class _Decompressor(Protocol):
    """As bz2's and lzma's: it keeps what doesn't fit into the answer."""

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def unpacked(packed: Iterable[bytes], method: int, size: int, crc: int) -> Iterator[bytes]:
    """The data in pieces of at most PIECE bytes, checked: no more than `size` bytes are ever unpacked.

    Raises one of DAMAGE for damaged data, another size or another checksum.
    """
    found = checksum = 0
    for piece in packed if method == STORED else _decompressed(packed, MAKERS[method](size)):
        found += len(piece)
        if found > size:
            raise ValueError(f"it holds more than the {size:,} bytes that the directory says")
        checksum = zlib.crc32(piece, checksum)
        yield piece
    if found < size:
        raise ValueError(f"it holds {found:,} of the {size:,} bytes that the directory says")
    if checksum != crc:
        raise ValueError("its checksum is wrong")


def _decompressed(packed: Iterable[bytes], decompressor: _Decompressor) -> Iterator[bytes]:
    for piece in packed:
        data = piece
        while not decompressor.eof:
            found = decompressor.decompress(data, PIECE)
            data = b""
            if found:
                yield found
            if len(found) < PIECE:  # it wants more data
                break


class _Inflater:
    """zlib's raw stream in the manner of the others."""

    def __init__(self, _size: int) -> None:
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


class _LZMA:
    """A zip's LZMA stream, which begins with its own properties."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._head = b""
        self._stream: lzma.LZMADecompressor | None = None

    @property
    def eof(self) -> bool:
        return self._stream is not None and self._stream.eof

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if self._stream is None:
            self._head += data
            if len(self._head) < LZMA_HEADER:
                return b""
            data = self._head[LZMA_HEADER:]
            self._stream = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[self._filter(self._head[:LZMA_HEADER])])
        return self._stream.decompress(data, max_length)

    def _filter(self, head: bytes) -> dict[str, int]:
        properties, dictionary = head[4], int.from_bytes(head[5:9], "little")
        if head[2:4] != b"\x05\x00" or properties >= 9 * 5 * 5:
            raise ValueError("its LZMA properties are wrong")
        # Memory is taken for the dictionary at once, and what it claims may be 4 GB; nothing refers further back than
        # the data is long.
        return {
            "id": lzma.FILTER_LZMA1,
            "dict_size": max(4096, min(dictionary, self._size)),
            "lc": properties % 9,
            "lp": properties // 9 % 5,
            "pb": properties // 45,
        }


MAKERS: dict[int, Callable[[int], _Decompressor]] = {
    DEFLATED: _Inflater,
    BZIP2: lambda _: bz2.BZ2Decompressor(),
    LZMA: _LZMA,
}
METHODS = {STORED, *MAKERS}
