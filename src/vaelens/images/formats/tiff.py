"""TIFF: kinds of values that Pillow gets wrong, and JPEG strips that were cut short or are too large."""

from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO, Literal, cast

from PIL import Image, ImagePalette, UnidentifiedImageError

from vaelens.images.formats import jpeg

WIDTH, BITS, COMPRESSION, PHOTOMETRIC, PLANES = 256, 258, 259, 262, 284
TILE_WIDTH, TILE_LENGTH = 322, 323
ORIENTATION, STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES = 274, 273, 279, 324, 325
PALETTE, SAMPLE_FORMAT, JPEG_TABLES, SUBSAMPLING = 320, 339, 347, 530
WHITE_IS_ZERO, YCBCR = 0, 6
UNCOMPRESSED, JPEG = 1, 7
LOSSY = {6, JPEG, 34892, 34676, 34677, 50001}  # JPEG in three forms, SGI's logarithms; WebP, which mostly is
LONG = 4  # a kind of value
SIGNED = 2
LARGEST_TILE = 2**24  # pixels, of a smaller image
SEPARATE = 2


@dataclass(frozen=True)
class GreyScale:
    """What grey values mean: `white` is the largest one, or the smallest where `inverted`."""

    white: int = 65535
    inverted: bool = False


def unreadable_kind(image: Image.Image) -> str | None:
    """What a TIFF holds, where Pillow opens it but gets wrong values."""
    bits, planes = _first(image, BITS, 1), _first(image, PLANES, 1)
    raw = _first(image, COMPRESSION, UNCOMPRESSED) == UNCOMPRESSED
    w, h = _first(image, TILE_WIDTH, 0), _first(image, TILE_LENGTH, 0)
    if w * h > max(LARGEST_TILE, 2 * image.width * image.height):
        return f"tiles of {w}x{h} pixels"  # each takes memory, whatever the image's size
    if _first(image, SAMPLE_FORMAT, 1) == SIGNED:
        return f"signed {bits}-bit values, whose black and white aren't defined"
    if raw and planes == SEPARATE and bits == 16:
        return "16-bit values in separate uncompressed planes"
    if raw and _first(image, PHOTOMETRIC, 0) == YCBCR and _tags(image).get(SUBSAMPLING, (2, 2)) != (1, 1):
        return "subsampled YCbCr colours without compression"
    return None


def grey_scale(image: Image.Image) -> GreyScale:
    """The scale of a grey TIFF with more than 8 bits."""
    return GreyScale(2 ** _first(image, BITS, 16) - 1, _first(image, PHOTOMETRIC, 1) == WHITE_IS_ZERO)


def has_16_bits(image: Image.Image) -> bool:
    return _first(image, BITS, 1) == 16


def take_8_bit_palette(image: Image.Image) -> bool:
    """Where all values of the palette lie below 256, use them as they are; Pillow takes the high bytes, black."""
    values = _tags(image).get(PALETTE, ())
    if image.mode not in {"P", "PA"} or not values or not 0 < max(values) < 256:
        return False
    image.palette = ImagePalette.raw("RGB;L", bytes(values))
    return True


def is_lossless(stream: BinaryIO) -> bool:
    """Whether the first page's compression keeps every value; False for another format."""
    stream.seek(0)
    head = stream.read(8)
    orders: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}
    order = orders.get(head[:4])
    if order is None:
        return False
    stream.seek(int.from_bytes(head[4:], order))
    entries = stream.read(12 * int.from_bytes(stream.read(2), order))
    for at in range(0, len(entries), 12):
        if int.from_bytes(entries[at : at + 2], order) == COMPRESSION:
            length = 4 if int.from_bytes(entries[at + 2 : at + 4], order) == LONG else 2
            return int.from_bytes(entries[at + 8 : at + 8 + length], order) not in LOSSY
    return True


def orientation(image: Image.Image) -> int:
    """As EXIF numbers them. Pillow turns TIFF files upright itself."""
    return _first(image, ORIENTATION, 1)


def keep_exif_away(image: Image.Image) -> None:
    """Pillow reads all of a TIFF's EXIF data after the pixels; damaged ones would cost the pixels."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation(image)
    vars(image)["getexif"] = lambda: exif


def has_sensible_blocks(image: Image.Image, stream: BinaryIO) -> bool:
    """Whether no JPEG strip or tile of a TIFF says that it is larger than the image and the tiles are."""
    tags = _tags(image)
    most = max(image.width, _first(image, TILE_WIDTH, 0)), max(image.height, _first(image, TILE_LENGTH, 0))
    return all(w <= most[0] and h <= most[1] for w, h in (block.size for _, block in _jpegs(image, stream, tags)))


def has_every_block(image: Image.Image, stream: BinaryIO) -> bool:
    """Whether the JPEG strips or tiles of a TIFF are complete; True for another compression."""
    for data, block in _jpegs(image, stream, _tags(image)):
        block.load()
        if not jpeg.has_every_block(data, block):
            return False
    return True


def _jpegs(image: Image.Image, stream: BinaryIO, tags: dict[int, Any]) -> Generator[tuple[bytes, Image.Image]]:
    """The JPEG strips or tiles of a TIFF that Pillow can open, each as a file of its own, not yet decoded."""
    if _first(image, COMPRESSION, UNCOMPRESSED) != JPEG:
        return
    offsets, sizes = ((STRIP_OFFSETS, STRIP_BYTES), (TILE_OFFSETS, TILE_BYTES))[STRIP_OFFSETS not in tags]
    tables = cast(bytes, tags.get(JPEG_TABLES, b""))
    for offset, size in zip(tags.get(offsets, ()), tags.get(sizes, ()), strict=False):
        stream.seek(offset)
        strip = stream.read(size)
        if not strip.startswith(b"\xff\xd8"):
            continue
        whole = tables[:-2] + strip[2:] if tables.startswith(b"\xff\xd8") else strip
        try:
            decoded = Image.open(BytesIO(whole), formats=["JPEG"])
        except UnidentifiedImageError:  # of a kind that only libtiff reads, such as two channels
            continue
        with decoded:
            yield whole, decoded


def _tags(image: Image.Image) -> dict[int, Any]:
    return dict(getattr(image, "tag_v2", {}))


def _first(image: Image.Image, tag: int, default: int) -> int:
    """A tag's first value."""
    values = _tags(image).get(tag, default)
    with suppress(TypeError, IndexError):  # a single value, or none
        values = values[0]
    return values if isinstance(values, int) else default
