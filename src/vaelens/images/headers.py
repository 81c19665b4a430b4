"""Opening image files: what is refused before a pixel is decoded, and what the header may cost.

Pillow reads headers byte by byte in places. So the number of reads is bounded, whatever the format; and its own
limit on pixels, which can't be raised for one call, gives way to ours.
"""

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader, BytesIO, FileIO
from os import fstat
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from vaelens.errors import BadInputError, ResourceError, UsageError, VaelensError
from vaelens.images.formats import jpeg, jpeg2000, png, tiff, webp
from vaelens.process import Shared, without_warnings
from vaelens.resources import is_out_of_memory, total_memory
from vaelens.text.file_kinds import HEAD, TEXT, file_kind
from vaelens.text.paths import why_unreadable

MAX_PIXELS = 2**26  # 67 million: 1.1 GB while one is read
MOST_STORED = 16  # times as many pixels may be stored, where a format is shrunk while it is decoded
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000")
LARGE_READ = 2**20  # bytes
PER_PIXEL = 16  # bytes of memory that reading takes
ADVISED_SIDE = 1024
MAX_READS = 200_000  # of one file: a large PNG takes some 50,000
COUNTING_READS = {"TIFF": 30_000, "GIF": 200_000}  # to count frames; in TIFF, the cost of each grows with their number
LARGE_ENOUGH = 2**23  # pixels: up to here, a JPEG is decoded at twice the size it is shrunk to
AVIF_EXIF = re.compile(rb"(infe.{8})Exif", re.DOTALL)  # in the list of items


class _Limit:
    """The number of pixels an image may have, for the whole process: threads read images for one another."""

    def __init__(self) -> None:
        self.pixels = MAX_PIXELS


_limit = _Limit()


@contextmanager
def pixel_limit(pixels: int | None) -> Generator[None]:
    """Read images of up to so many pixels in here, in every thread; None leaves the limit as it is.

    Reading takes 16 bytes of memory per pixel. Raises UsageError below 1.
    """
    if pixels is not None and pixels < 1:
        raise UsageError(f"max_pixels must be at least 1, not {pixels}.")
    before = _limit.pixels
    _limit.pixels = before if pixels is None else pixels
    try:
        yield
    finally:
        _limit.pixels = before


def max_pixels() -> int:
    """How many pixels an image may have now."""
    return _limit.pixels


class _TooManyReadsError(Exception):
    """Reading the file would take very long."""


class _Counted:
    """A file whose reads are counted."""

    reads = 0
    most = MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > self.most:
            raise _TooManyReadsError
        return super().read(size)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]


class _CountedFile(_Counted, BufferedReader):
    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LARGE_READ:  # memory is taken for what is asked for, not for what is there
            size = min(size, max(0, fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


class _CountedBytes(_Counted, BytesIO):
    pass


@dataclass(frozen=True)
class Source:
    """An image file: on disk, or `data`. `file` is its path, or what messages call it.

    `profile` is an ICC profile that `data` no longer holds.
    """

    file: Path
    data: bytes | None = None
    profile: bytes | None = None

    @contextmanager
    def stream(self) -> Generator[BinaryIO]:
        """The file from its beginning. Raises BadInputError for one that can't be read."""
        if self.data is not None:
            yield _CountedBytes(self.data)
            return
        try:
            if reason := why_unreadable(self.file):
                raise BadInputError(f"{self.file} is {reason}, not an image. Name an image file.")
            stream = _CountedFile(FileIO(self.file))
        except IsADirectoryError as error:
            raise BadInputError(f"{self.file} is a folder, not an image. Name the image files.") from error
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            reason = getattr(error, "strerror", None) or error
            raise BadInputError(f"{self.file}: can't be read: {reason}. Check the path.") from error
        with stream:
            yield stream

    def bytes(self) -> bytes:
        """All of it."""
        with self.stream() as stream:
            return stream.read()


@dataclass(frozen=True)
class Opened:
    """An image with its header read: Pillow's object, and the stream it reads from.

    `size` is the width and height as stored; `scale` is what the decoder divides both by.
    """

    image: Image.Image
    stream: BinaryIO
    size: tuple[int, int]
    scale: int


@contextmanager
def _true_memory_errors(size: tuple[int, int]) -> Generator[None]:
    """Pillow's decoders say that memory ran out also where damaged data ask for an absurd amount. The size in pixels
    is known to be sensible: so where there is room for that, the data are damaged.
    """
    try:
        yield
    except OSError as error:
        if "out of memory" not in str(error):
            raise
        bytearray(PER_PIXEL * size[0] * size[1])  # or MemoryError
        raise


class DamagedImageError(BadInputError):
    """A decoder has failed, on the pixels or on the metadata."""


def damaged(source: Source, reason: str) -> DamagedImageError:
    """The error for an image that isn't whole."""
    shown = "".join(c if c.isprintable() else " " for c in reason)[:200].rstrip(". ")
    return DamagedImageError(f"{source.file}: a damaged or incomplete image: {shown}. Copy it again.")


@contextmanager
def boundary(source: Source) -> Generator[None]:
    """Any exception of a decoder in here, of whatever type, becomes one that names the file; ours pass.

    Where memory runs out, it is a ResourceError: the image may be whole.
    """
    try:
        yield
    except VaelensError:
        raise
    except _TooManyReadsError as error:
        raise BadInputError(
            f"{source.file}: its header or data come in over {MAX_READS} small parts, which would take very long to "
            "read. Save the image again."
        ) from error
    except Exception as error:
        if is_out_of_memory(error):
            raise ResourceError(
                f"{source.file}: not read, out of memory. Shrink it with --max-side {ADVISED_SIDE}, or close other "
                "programs."
            ) from error
        raise damaged(source, str(error) or type(error).__name__) from error


@contextmanager
def opened(source: Source, max_side: int | None = None) -> Generator[Opened]:
    """The image with its header read, and set to be decoded at a smaller scale where `max_side` allows it.

    Raises BadInputError for a file that is missing, empty, not an image, of a refused format, damaged, or with more
    pixels than `pixel_limit` allows.
    """
    with source.stream() as stream, boundary(source), _without_limit, without_warnings:
        _refuse_by_kind(source, stream)
        if png.has_many_packed_texts(stream):
            raise damaged(source, f"over {png.MOST_PACKED} compressed texts")
        with _open(source, stream) as image:
            if source.profile is not None:
                image.info["icc_profile"] = source.profile
            kind = tiff.unreadable_kind(image) if image.format == "TIFF" else None
            if kind is not None:
                raise BadInputError(f"{source.file} is a TIFF with {kind}. Save it as PNG first.")
            size = image.size
            scale = 1 if max_side is None else _set_scale(image, stream, source, max_side)
            if not _fits(size, scale):
                helps = max_side is None and _fits(size, _set_scale(image, stream, source, ADVISED_SIDE))
                raise _too_large(source, size, helps)
            with _true_memory_errors(size):
                yield Opened(image, stream, size, scale)


def without_metadata(source: Source) -> Source | None:
    """The same pixels and ICC profile without what else the file holds; None where there is nothing to leave out."""
    with source.stream() as stream:
        head = stream.read(16)
        profile = None
        if head.startswith(png.SIGNATURE):
            data, profile = png.without_metadata(stream), png.read_profile(stream)
        elif head.startswith(b"\xff\xd8"):
            data = jpeg.without_metadata(head + stream.read())
        elif head[4:8] == b"ftyp":
            data = AVIF_EXIF.sub(rb"\1free", head + stream.read())
        else:
            return None
        stream.seek(0)
        return None if data == stream.read() else replace(source, data=data, profile=profile)


def frame_count(opened: Opened) -> str | None:
    """How many frames or pages there are, in words; None for one. Counting them is given up where it takes long."""
    image, stream = opened.image, opened.stream
    if image.format in COUNTING_READS and isinstance(stream, _Counted):
        stream.reads, stream.most = 0, COUNTING_READS[image.format]
    try:
        count = getattr(image, "n_frames", 1)
        return f"{count}" if count > 1 else None
    except Exception:  # noqa: BLE001 - the first frame is there, and nothing else is asked for
        return "several"
    finally:
        if isinstance(stream, _Counted):
            stream.reads, stream.most = 0, MAX_READS
        if image.format in COUNTING_READS:
            image.seek(0)


@contextmanager
def _no_limit() -> Generator[None]:
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


_without_limit = Shared(_no_limit)


def _refuse_by_kind(source: Source, stream: BinaryIO) -> None:
    head = stream.read(HEAD)
    kind = file_kind(head)
    if kind is not None and kind.use != "image" and kind is not TEXT:  # a text may be one of the formats that are text
        raise BadInputError(kind.instead_of_image(source.file))
    size = webp.size(head)
    if size is not None and not _fits(size, 1):  # Pillow takes the memory before it tells the size
        raise _too_large(source, size, False)


def _open(source: Source, stream: BinaryIO) -> Image.Image:
    try:
        return Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError as error:
        stream.seek(0)
        head = stream.read(HEAD)
        form = _form_by_magic(head)
        if form:
            raise DamagedImageError(
                f"{source.file} begins as a {form} file, but is damaged, or of a kind that can't be read. "
                "Copy it again, or save it as PNG."
            ) from error
        if file_kind(head) is TEXT:
            raise BadInputError(TEXT.instead_of_image(source.file)) from error
        known = ", ".join(FORMATS)
        raise BadInputError(
            f"{source.file} isn't an image that vaelens knows ({known}). Convert it to PNG first."
        ) from error


def _form_by_magic(head: bytes) -> str | None:
    for form in FORMATS:
        accepts: Callable[[bytes], bool | str] | None = Image.OPEN[form][1]
        if accepts is not None and accepts(head[:16]):
            return form
    return None


def _set_scale(image: Image.Image, stream: BinaryIO, source: Source, max_side: int) -> int:
    """Set a JPEG or JPEG 2000 to be decoded at a half, quarter, ... of its size, as far as `max_side` allows it."""
    w, h = image.size
    if max(w, h) <= max_side:
        return 1
    wanted = [max(1, round(side * max_side / max(w, h))) for side in (w, h)]
    if image.format in {"JPEG", "MPO"}:
        if not jpeg.is_sequential(source.bytes()):
            return 1
        ratio = min(w // wanted[0], h // wanted[1])
        scale = next(s for s in (8, 4, 2, 1) if ratio >= s)
        if scale > 1 and 4 * (w // scale) * (h // scale) <= LARGE_ENOUGH:
            scale //= 2  # smoother, and still small
        if scale > 1:
            image.draft(None, (w // scale, h // scale))  # pyright: ignore[reportUnknownMemberType]
        return scale
    if image.format == "JPEG2000":
        levels = jpeg2000.resolution_levels(stream)
        scale = 1
        while levels and all(side // (2 * scale) >= 2 * want for side, want in zip((w, h), wanted, strict=True)):
            scale, levels = 2 * scale, levels - 1
        while any((side + scale // 2) // scale != -(-side // scale) for side in (w, h)):
            scale //= 2  # Pillow rounds to the nearest where OpenJPEG rounds up, and takes the file for damaged
        if scale > 1:
            image.reduce = scale.bit_length() - 1  # pyright: ignore[reportAttributeAccessIssue]
        return scale
    return 1


def _fits(size: tuple[int, int], scale: int) -> bool:
    w, h = size
    return -(-w // scale) * -(-h // scale) <= _limit.pixels and w * h <= MOST_STORED * _limit.pixels


def _too_large(source: Source, size: tuple[int, int], max_side_helps: bool) -> BadInputError:
    """The error for too many pixels. More aren't offered where this machine's memory couldn't hold them."""
    w, h = size
    memory = total_memory()
    if memory is None or PER_PIXEL * w * h <= memory:
        advice = f"Make it smaller first, or allow more with --max-pixels {w * h}."
    else:
        how = f"Shrink it with --max-side {ADVISED_SIDE}" if max_side_helps else "Make a smaller copy of it first"
        advice = f"So many wouldn't fit into this machine's memory of {memory / 1e9:.1f} GB. {how}."
    return BadInputError(f"{source.file} has {w}x{h} pixels; vaelens reads at most {_limit.pixels}. {advice}")
