"""A part of a mapped file, read from the front; nothing is read beyond its end."""

import mmap
import struct

from vaelens.tensors.pickles.refusals import WrongPickleError

LINE = 2**16  # bytes of a line in the old text form: longer names and numbers have no use

Mapped = mmap.mmap | bytes


class ByteSource:
    """The bytes from `at` to `end` of a file, or of bytes."""

    def __init__(self, data: Mapped, at: int = 0, end: int | None = None) -> None:
        self.data = data
        self.at = at
        self.end = len(data) if end is None else end

    def byte(self) -> int:
        """The next byte. Raises WrongPickleError at the end."""
        if self.at >= self.end:
            raise WrongPickleError("it is incomplete: a pickle in it has no end")
        self.at += 1
        return self.data[self.at - 1]

    def take(self, length: int) -> bytes:
        """The next bytes, copied. Raises WrongPickleError, before anything is copied, where there are fewer."""
        self.skip(length)
        return self.data[self.at - length : self.at]

    def skip(self, length: int) -> None:
        """Pass over the next bytes. Raises WrongPickleError where there are fewer."""
        left = self.end - self.at
        if length > left:
            raise WrongPickleError(f"it is incomplete: at byte {self.at:,} it asks for {length:,} more, of {left:,}")
        self.at += length

    def unsigned(self, width: int) -> int:
        """The next `width` bytes as a number, little-endian."""
        return int.from_bytes(self.take(width), "little")

    def signed(self, width: int) -> int:
        """The same with a sign, in two's complement."""
        return int.from_bytes(self.take(width), "little", signed=True)

    def double(self) -> float:
        """The next 8 bytes as a number, big-endian as pickles have them."""
        return struct.unpack(">d", self.take(8))[0]

    def line(self) -> bytes:
        """The bytes up to a newline, which is left out. Raises WrongPickleError where none comes soon."""
        end = self.data.find(b"\n", self.at, min(self.end, self.at + LINE))
        if end < 0:
            raise WrongPickleError(f"the line at byte {self.at:,} has no end")
        found = self.data[self.at : end]
        self.at = end + 1
        return found
