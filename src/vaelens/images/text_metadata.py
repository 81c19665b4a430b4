"""The texts that an image file carries beside its pixels: PNG's text chunks, and the EXIF data of any format."""

from dataclasses import dataclass
from pathlib import Path

from vaelens.files import StrPath
from vaelens.images import headers
from vaelens.images.formats import exif, png
from vaelens.images.headers import Source


@dataclass(frozen=True)
class ImageText:
    """One text: where it stands ("PNG text" or "EXIF"), under which key, and the text as it was stored."""

    place: str
    key: str
    text: str


def is_cut_off(path: StrPath) -> bool:
    """Whether a PNG file ends too early; False for other formats, which aren't checked."""
    source = Source(Path(path))
    with source.stream() as stream, headers.boundary(source):
        return png.is_cut_off(stream)


def read_texts(path: StrPath) -> list[ImageText]:
    """The texts of an image file, PNG's own first. The pixels aren't looked at.

    EXIF data are read from PNG, JPEG, WebP and AVIF. Damaged texts are left out, and those beyond the limits of
    `formats.png` and `formats.exif`. Raises BadInputError for a file that isn't an image that vaelens reads, by its
    header.
    """
    source = Source(Path(path))
    with headers.opened(source) as opened:
        raw: object = opened.image.info.get("exif")
    found: list[ImageText] = []
    with source.stream() as stream, headers.boundary(source):
        if stream.read(len(png.SIGNATURE)) == png.SIGNATURE:
            found += [ImageText("PNG text", key, text) for key, text in png.read_text(stream).items()]
            raw = png.read_exif(stream)
    if isinstance(raw, bytes):
        found += [ImageText("EXIF", key, text) for key, text in exif.texts(raw).items()]
    return found
