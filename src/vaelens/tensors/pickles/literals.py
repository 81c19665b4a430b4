"""The opcodes of a pickle that stand for a number, a string or bytes: each one's value, read from the file."""

import codecs
from collections.abc import Callable, Mapping

from vaelens.tensors.pickles.byte_source import ByteSource
from vaelens.tensors.pickles.refusals import WrongPickleError
from vaelens.tensors.pickles.values import Inert

DIGITS = 1_000  # of a whole number: PyTorch's magic number has 24
LONGEST = 2**20  # bytes of a string; longer ones, an array's numbers perhaps, name no tensor and are passed over


def _integer(source: ByteSource) -> object:
    line = source.line()
    return {b"00": False, b"01": True}.get(line) if line in {b"00", b"01"} else parsed_integer(line)


def parsed_integer(line: bytes) -> int:
    """A whole number in digits. Raises WrongPickleError for anything else."""
    digits = line.removesuffix(b"L")
    if not digits.removeprefix(b"-").isdigit() or len(digits) > DIGITS:
        raise WrongPickleError("a number in it isn't one")
    return int(digits)


def _float(source: ByteSource) -> float:
    try:
        return float(source.line())
    except ValueError:
        raise WrongPickleError("a number in it isn't one") from None


def _long(source: ByteSource, width: int) -> int:
    length = source.unsigned(width)
    if length > DIGITS:
        raise WrongPickleError(f"a number in it has {length:,} bytes")
    return source.signed(length)


def _quoted_text(source: ByteSource) -> str:
    line = source.line().strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"'\"":
        raise WrongPickleError("a string in it has no quotes")
    try:
        return _legacy_text(codecs.escape_decode(line[1:-1])[0])  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
    except ValueError:
        raise WrongPickleError("a string in it has a wrong escape") from None


def _escaped_text(source: ByteSource) -> str:
    try:
        return codecs.raw_unicode_escape_decode(source.line())[0]  # .decode would import the codec
    except UnicodeDecodeError:
        raise WrongPickleError("a string in it has a wrong escape") from None


def _legacy_text(raw: bytes) -> str:
    """A string of Python 2, which was bytes."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _text(source: ByteSource, width: int) -> object:
    raw = _raw(source, source.unsigned(width))
    try:
        return raw.decode("utf-8", "surrogatepass") if isinstance(raw, bytes) else raw
    except UnicodeDecodeError:
        raise WrongPickleError("a string in it isn't UTF-8") from None


def _text_of_2(source: ByteSource, width: int) -> object:
    length = source.signed(width) if width > 1 else source.unsigned(width)
    if length < 0:
        raise WrongPickleError("a string in it has less than no bytes")
    raw = _raw(source, length)
    return _legacy_text(raw) if isinstance(raw, bytes) else raw


def _raw(source: ByteSource, length: int) -> bytes | Inert:
    if length <= LONGEST:
        return source.take(length)
    source.skip(length)
    return Inert("a long string")


# Keyed by opcode; see Python's pickletools for the format of each.
LITERALS: Mapping[int, Callable[[ByteSource], object]] = {
    ord("N"): lambda _: None,
    0x88: lambda _: True,
    0x89: lambda _: False,
    ord(")"): lambda _: (),
    ord("I"): _integer,
    ord("L"): lambda source: parsed_integer(source.line()),
    ord("J"): lambda source: source.signed(4),
    ord("K"): lambda source: source.unsigned(1),
    ord("M"): lambda source: source.unsigned(2),
    0x8A: lambda source: _long(source, 1),
    0x8B: lambda source: _long(source, 4),
    ord("F"): _float,
    ord("G"): lambda source: source.double(),
    ord("S"): _quoted_text,
    ord("T"): lambda source: _text_of_2(source, 4),
    ord("U"): lambda source: _text_of_2(source, 1),
    ord("V"): _escaped_text,
    0x8C: lambda source: _text(source, 1),
    ord("X"): lambda source: _text(source, 4),
    0x8D: lambda source: _text(source, 8),
    ord("C"): lambda source: _raw(source, source.unsigned(1)),
    ord("B"): lambda source: _raw(source, source.unsigned(4)),
    0x8E: lambda source: _raw(source, source.unsigned(8)),
    0x96: lambda source: _raw(source, source.unsigned(8)),
}


def memory_of(value: object) -> int:
    """Bytes that a literal takes in Python, roughly."""
    if isinstance(value, str):
        return 80 + len(value) * (1 if value.isascii() else 4)
    if isinstance(value, bytes):
        return 40 + len(value)
    return 8 if value is None or isinstance(value, bool) or value == () else 44
