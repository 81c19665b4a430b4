"""Reading images, with one defined rule for each kind of file.

| a file with        | becomes                                                                          |
|--------------------|----------------------------------------------------------------------------------|
| EXIF orientation   | turned upright                                                                   |
| alpha, or a palette with transparency | laid over white, on the stored values                         |
| a palette, 1 bit, 8-bit grey | its colours; grey in all three channels                                |
| 16-bit grey        | v / 65535, unrounded; in TIFF v / 4095 for 12 bits, and turned round where white is 0 |
| 16 bits per channel, colour | the high byte of each, as Pillow decodes it                               |
| a TIFF palette of 8-bit values | these values; 16-bit ones by their high byte                           |
| LAB, YCbCr         | Pillow's plain conversion                                                        |
| CMYK               | by its profile; without one, Pillow's plain conversion                           |
| an ICC profile     | to sRGB, perceptual intent (untouched if its colorimetry is sRGB's; a broken one ignored) |
| several frames or pages | the first                                                                     |
| damaged or very large metadata | its pixels; what can't be read is ignored                              |
| changed bytes in a JPEG's coded data | what libjpeg makes of them, without a note                       |

Every rule but the plain case and the last one leaves a note. A JPEG has no checksums: of its damage only what is
missing shows. libjpeg counts some of the rest in warnings, which Pillow doesn't pass on. Refused are:

- more than MAX_PIXELS pixels (`--max-pixels`), and formats that are programs or layers (SVG, EPS, PDF, PSD), from
  the header;
- values without a defined range (32 bits, signed), and the TIFF kinds that Pillow opens but gets wrong;
- an incomplete image, also where its decoder would fill what is missing with grey or black.

With `max_side`, JPEG (but not progressive) and JPEG 2000 are decoded at a half, quarter or eighth of their size
first, so that memory follows what is wanted; 16 bytes per pixel are taken of that size.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from torch import Tensor

from vaelens.errors import BadInputError
from vaelens.files import StrPath
from vaelens.images import headers
from vaelens.images.colors import Conversion, tiles, to_tensor
from vaelens.images.formats import exif, jpeg, png, ppm, tiff
from vaelens.images.formats.tiff import GreyScale
from vaelens.images.headers import DamagedImageError, Opened, Source

SUFFIXES = {  # every name that files of headers.FORMATS have
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".mpo", ".webp", ".tif", ".tiff", ".bmp"),
    *(".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
}
ORIENTATION = 0x0112
DAMAGED_EXIF = "damaged EXIF data ignored"
PARTLY_DAMAGED_EXIF = "part of its EXIF data is damaged; the rest is used"
UPRIGHT = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = {5, 6, 7, 8}
EIGHT_BIT = {"RGB", "RGBA", "LA", "CMYK"}  # what Pillow makes of 16 bits per channel


Found = TypeVar("Found")


@dataclass(frozen=True)
class DecodedImage:
    """An image from a file: `image` is [1,3,h,w] in [0,1], float32, `notes` say which rules were applied.

    `path` is the file, or the name that was given with the bytes.
    """

    path: Path
    image: Tensor
    notes: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        h, w = self.image.shape[2:]
        return h, w


def read_image(path: StrPath) -> Tensor:
    """The image file at `path` as [1,3,h,w] in [0,1], float32. Rules and errors: `decode_file`."""
    return decode_file(path).image


def read_size(path: StrPath, max_side: int | None = None) -> tuple[int, int]:
    """Height and width as stored, from the header alone; raises as `decode_file` does, except for damage behind it."""

    def read(source: Source) -> tuple[int, int]:
        with headers.opened(source, max_side) as opened:
            return opened.size[1], opened.size[0]

    return _read(Source(Path(path)), read)[0]


def decode_file(path: StrPath, max_side: int | None = None) -> DecodedImage:
    """The image at `path` by the rules above, with notes on those that applied.

    `max_side` shrinks a larger one (Lanczos) so that its longer side has that many pixels.

    Raises BadInputError for a file that is missing, empty, damaged, incomplete, not an image, of a refused format, or
    with more pixels than `headers.pixel_limit` allows; ResourceError where memory runs out.
    """
    return _decoded(Source(Path(path)), max_side)


def read_text(path: StrPath) -> dict[str, str]:
    """A PNG's text by its key; nothing for another kind of image. Pixels aren't looked at.

    Left out is damaged text, a compressed one that unpacks to more than a megabyte, and what is beyond 16 in all.
    Raises as `read_size` does.
    """
    source = Source(Path(path))
    read_size(path)
    with source.stream() as stream:
        if stream.read(len(png.SIGNATURE)) != png.SIGNATURE:
            return {}
        with headers.boundary(source):
            return png.read_text(stream)


def decode_bytes(data: bytes, name: str) -> DecodedImage:
    """An image file's bytes by the rules above; `name` is what messages call it. Raises as `decode_file` does."""
    return _decoded(Source(Path(name), data), None)


def decode_plain(data: bytes, name: str) -> np.ndarray:
    """An image file's bytes to uint8 [h,w,3] by Pillow's convert("RGB") and nothing else.

    The table above doesn't hold: no EXIF orientation, no profile, alpha dropped, 16-bit grey as Pillow has it.
    What is refused is the same, with the same messages.
    """

    def read(source: Source) -> np.ndarray:
        with headers.opened(source) as opened:
            frame = _loaded(opened, source)
            if frame.mode in {"I", "F"}:
                raise _no_range(source)
            w, h = frame.size
            pixels = np.empty((h, w, 3), dtype=np.uint8)
            for left, top, right, bottom in tiles(w, h):
                part = frame.crop((left, top, right, bottom))
                pixels[top:bottom, left:right] = np.asarray(part.convert("RGB"))
            return pixels

    return _read(Source(Path(name), data), read)[0]


def _decoded(source: Source, max_side: int | None) -> DecodedImage:
    def read(source: Source) -> DecodedImage:
        with headers.opened(source, max_side) as opened:
            return _by_the_rules(opened, source, max_side)

    decoded, without_metadata = _read(source, read)
    note = ("damaged or very large metadata ignored",) if without_metadata else ()
    return replace(decoded, notes=decoded.notes + note)


def _read(source: Source, read: Callable[[Source], Found]) -> tuple[Found, bool]:
    """What is read; where a decoder fails, without the metadata, which may be all that is damaged. Whether it was."""
    try:
        return read(source), False
    except DamagedImageError as error:
        with headers.boundary(source):
            lean = headers.without_metadata(source)
        if lean is None:
            raise
        try:
            return read(lean), True
        except DamagedImageError:
            raise error from error.__cause__


def _by_the_rules(opened: Opened, source: Source, max_side: int | None) -> DecodedImage:
    notes: list[str] = []
    count = headers.frame_count(opened)
    if count is not None:
        notes.append(f"the first of {count} frames or pages")
    image = opened.image
    if image.mode in EIGHT_BIT and _has_16_bits(image):
        notes.append("16 bits per channel, the high byte kept")
    grey = GreyScale()
    turn = None
    if image.format == "TIFF":
        grey, turn = tiff.grey_scale(image), tiff.orientation(image)
        if tiff.take_8_bit_palette(image):
            notes.append("8-bit values in a palette of 16 bits, taken as they are")
    frame = _loaded(opened, source)
    if frame.mode == "F" or (frame.mode == "I" and image.format != "PPM"):
        raise _no_range(source)
    stored = f"{opened.size[0]}x{opened.size[1]}"
    if turn is None:
        turn = _orientation(image, notes)
        if turn in UPRIGHT:
            frame = frame.transpose(UPRIGHT[turn])
            image.close()  # gives its memory back
            stored = "x".join(map(str, opened.size[::-1] if turn in SIDEWAYS else opened.size))
    if turn in UPRIGHT:
        notes.append("turned upright by its EXIF orientation")
    conversion = Conversion(frame, grey)
    pixels = to_tensor(conversion, max_side)
    notes += conversion.notes
    if max_side is not None and max(opened.size) > max_side:
        notes.append(f"shrunk from {stored}")
    return DecodedImage(source.file, pixels, tuple(notes))


def _has_16_bits(image: Image.Image) -> bool:
    if image.format == "TIFF":
        return tiff.has_16_bits(image)
    return ";16" in str(getattr(image, "tile", "")) if image.format == "PNG" else ppm.has_16_bits(image)


def _loaded(opened: Opened, source: Source) -> Image.Image:
    """The decoded frame, of which every pixel comes from the file."""
    image, stream = opened.image, opened.stream
    if ppm.is_slow(image):
        return ppm.decode(image, stream)
    if image.format == "TIFF":
        tiff.keep_exif_away(image)
        if not tiff.has_sensible_blocks(image, stream):
            raise headers.damaged(source, "its JPEG data are larger than the image")
    image.load()
    complete = True
    if image.format == "PNG":
        w, h = image.size
        black = not np.asarray(image.crop((0, h - 1, w, h))).any()  # as Pillow leaves rows that aren't there
        unsure = black or image.info.get("interlace")  # its last row may come before its last pass
        complete = not unsure or png.has_every_row(stream)
    elif image.format in {"JPEG", "MPO"}:
        complete = jpeg.has_every_block(source.bytes(), image, opened.scale)
    elif image.format == "TIFF":
        complete = tiff.has_every_block(image, stream)
    if not complete:
        raise headers.damaged(source, "its data end before its last pixels")
    vars(image).pop("_decoder", None)  # of WebP and AVIF, which holds the pixels once or twice more
    return image


def _orientation(image: Image.Image, notes: list[str]) -> int:
    try:
        raw = image.info.get("exif")
        if raw is not None:
            Image.Exif().load(raw)  # of a JPEG, Pillow has hidden its failure
        found = image.getexif()
        orientation = found.get(ORIENTATION, 1)
        if isinstance(raw, bytes) and not exif.is_whole(raw):
            notes.append(PARTLY_DAMAGED_EXIF if len(found) else DAMAGED_EXIF)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the pixels are intact, whatever is wrong with the EXIF data
        notes.append(DAMAGED_EXIF)
        return 1
    return orientation if isinstance(orientation, int) else 1


def _no_range(source: Source) -> BadInputError:
    return BadInputError(f"{source.file} holds 32-bit values without a defined range. Save it with 8 or 16 bits.")
