"""Reading images, with one defined rule for each kind of file.

| a file with        | becomes                                                                          |
|--------------------|----------------------------------------------------------------------------------|
| EXIF orientation   | turned upright                                                                   |
| alpha, or a palette with transparency | laid over white, on the stored values                         |
| a palette, 1 bit, 8-bit grey | its colours; grey in all three channels                                |
| 16-bit grey        | v / 65535, unrounded                                                             |
| 16 bits per channel, colour | the high byte of each, as Pillow decodes it                               |
| LAB, YCbCr         | Pillow's plain conversion                                                        |
| CMYK               | by its profile; without one, Pillow's plain conversion                           |
| an ICC profile     | converted to sRGB, perceptual intent (sRGB itself untouched; a broken one ignored) |
| several frames or pages | the first                                                                     |

Every rule but the plain case leaves a note. More than MAX_PIXELS pixels, and formats that
are programs or layers (SVG, EPS, PDF, PSD), are refused from the header.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from vaelens.errors import BadInputError
from vaelens.files import StrPath
from vaelens.process import without_warnings

MAX_PIXELS = 2**27  # 134 million: 1.6 GB as a float tensor
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000")
SUFFIXES = {  # every name that files of these formats have
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".mpo", ".webp", ".tif", ".tiff", ".bmp"),
    *(".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
}
HEAD = 1024  # bytes that show what a file is
ORIENTATION = 0x0112
EIGHT_BIT = {"RGB", "RGBA", "LA"}  # what Pillow makes of PNGs with 16 bits per channel
DEEP_GREY = {"I;16", "I;16L", "I;16B", "I;16N"}
REFUSED = {b"%!PS": "EPS or PostScript", b"8BPS": "PSD", b"%PDF": "PDF", b"\xc5\xd0\xd3\xc6": "EPS"}


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


def read_size(path: StrPath) -> tuple[int, int]:
    """Height and width as stored, from the header alone; raises as `decode_file` does, except for damage behind it."""
    with _opened_file(Path(path)) as opened:
        return opened.height, opened.width


def decode_file(path: StrPath, max_side: int | None = None) -> DecodedImage:
    """The image at `path` by the rules above, with notes on those that applied.

    `max_side` shrinks a larger one (Lanczos) so that its longer side has that many pixels.

    Raises BadInputError for a file that is missing, empty, truncated, no image, of a refused format, or
    larger than MAX_PIXELS.
    """
    file = Path(path)
    return _decoded(_opened_file(file), file, max_side)


def read_text(path: StrPath) -> dict[str, str]:
    """A PNG's text chunks; nothing for another kind of image. Raises as `decode_file` does.

    Pillow refuses text that unpacks to more than a megabyte a chunk, and 64 in all.
    """
    file = Path(path)
    with _opened_file(file) as opened:
        _loaded(opened, file)  # text may stand behind the pixels
        return {key: str(value) for key, value in getattr(opened, "text", {}).items()}


def decode_bytes(data: bytes, name: str) -> DecodedImage:
    """An image file's bytes by the rules above; `name` is what messages call it. Raises as `decode_file` does."""
    file = Path(name)
    return _decoded(_opened(BytesIO(data), data[:HEAD], file), file, None)


def decode_plain(data: bytes, name: str) -> np.ndarray:
    """An image file's bytes to uint8 [h,w,3] by Pillow's convert("RGB") and nothing else.

    The table above doesn't hold: no EXIF orientation, no profile, alpha dropped, 16-bit grey as Pillow has it.
    What is refused is the same, with the same messages.
    """
    file = Path(name)
    with _opened(BytesIO(data), data[:HEAD], file) as opened:
        frame = _loaded(opened, file)
        if frame.mode in {"I", "F"}:
            raise _no_range(file)
        with without_warnings:  # about transparency in palettes, which is dropped here by definition
            return np.array(frame.convert("RGB"), dtype=np.uint8)


def _decoded(opened: Image.Image, file: Path, max_side: int | None) -> DecodedImage:
    notes: list[str] = []
    with opened:
        count = getattr(opened, "n_frames", 1)
        if count > 1:
            notes.append(f"the first of {count} frames or pages")
        if opened.format == "PNG" and ";16" in str(getattr(opened, "tile", "")) and opened.mode in EIGHT_BIT:
            notes.append("16 bits per channel, the high byte kept")
        frame = _loaded(opened, file)
        turned = frame.getexif().get(ORIENTATION, 1) in range(2, 9)
        upright = ImageOps.exif_transpose(frame)
        if turned:
            notes.append("turned upright by its EXIF orientation")
        image = _tensor(upright, opened.format, notes, file)
    if max_side is not None and max(image.shape[2:]) > max_side:
        image = _shrunk(image, max_side)
        notes.append(f"shrunk from {upright.width}x{upright.height}")
    return DecodedImage(file, image, tuple(notes))


def _opened_file(file: Path) -> Image.Image:
    try:
        if file.exists() and not file.is_file() and not file.is_dir():
            raise BadInputError(f"{file} is a device or pipe, not an image file. Save the image first.")
        with file.open("rb") as stream:
            head = stream.read(HEAD)
    except IsADirectoryError as error:
        raise BadInputError(f"{file} is a folder, not an image. Name the image files.") from error
    except OSError as error:
        raise BadInputError(f"{file}: can't be read: {error.strerror}. Check the path.") from error
    return _opened(file, head, file)


def _opened(source: Path | BytesIO, head: bytes, file: Path) -> Image.Image:
    """The image with its header read; `head` is how the file begins, `file` what messages call it."""
    if not head:
        raise BadInputError(f"{file} is empty, not an image. Copy it anew.")
    kind = next((name for magic, name in REFUSED.items() if head.startswith(magic)), None)
    if kind is None and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and b"<svg" in head.lower():
        kind = "SVG"
    if kind is not None:
        raise BadInputError(f"{file} is {kind}, which vaelens doesn't draw. Export it as PNG first.")
    try:
        with without_warnings:  # our own limit below takes the place of Pillow's
            opened = Image.open(source, formats=FORMATS)
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise BadInputError(f"{file} is no image that vaelens knows ({known}). Convert it to PNG first.") from error
    except Image.DecompressionBombError as error:
        raise BadInputError(_too_large(file, None)) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise BadInputError(f"{file}: a damaged image: {error}. Copy it anew.") from error
    if opened.width * opened.height > MAX_PIXELS:
        opened.close()
        raise BadInputError(_too_large(file, opened.size))
    return opened


def _too_large(file: Path, size: tuple[int, int] | None) -> str:
    which = f"has {size[0]}x{size[1]} pixels" if size else f"has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels"
    return f"{file} {which}; vaelens reads at most {MAX_PIXELS}. Make it smaller first."


def _loaded(opened: Image.Image, file: Path) -> Image.Image:
    try:
        opened.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise BadInputError(f"{file}: a damaged or incomplete image: {error}. Copy it anew.") from error
    return opened


def _tensor(image: Image.Image, form: str | None, notes: list[str], file: Path) -> Tensor:
    """An upright frame of any mode to [1,3,h,w] in [0,1]."""
    if image.mode in DEEP_GREY or (image.mode == "I" and form == "PPM"):
        ignored = [what for what in ("icc_profile", "transparency") if what in image.info]
        notes.append("16-bit grey, scaled" + (f", its {' and '.join(ignored)} ignored" if ignored else ""))
        grey = np.asarray(image).astype(np.float32) / 65535
        return torch.as_tensor(grey).expand(1, 3, *grey.shape).contiguous()
    if image.mode in {"I", "F"}:
        raise _no_range(file)
    flat = _converted(_over_white(image, notes), notes)
    pixels = np.array(flat, dtype=np.uint8)
    return torch.as_tensor(pixels).permute(2, 0, 1)[None].contiguous().to(torch.float32) / 255


def _no_range(file: Path) -> BadInputError:
    return BadInputError(f"{file} holds 32-bit values without a defined range. Save it with 8 or 16 bits.")


def _shrunk(image: Tensor, side: int) -> Tensor:
    h, w = image.shape[2:]
    size = max(1, round(w * side / max(h, w))), max(1, round(h * side / max(h, w)))
    planes = [Image.fromarray(plane.numpy()).resize(size, Image.Resampling.LANCZOS) for plane in image[0]]
    return torch.as_tensor(np.stack([np.asarray(plane) for plane in planes]))[None].clamp(0, 1)


def _over_white(image: Image.Image, notes: list[str]) -> Image.Image:
    """The image without alpha; a profile stays attached."""
    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    if layer.getchannel("A").getextrema() == (255, 255):
        flat = layer.convert("RGB")
    else:
        notes.append("alpha laid over white")
        flat = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    flat.info = dict(image.info)
    if image.mode in {"L", "LA"} and flat.info.pop("icc_profile", None):
        notes.append("grey with alpha: its colour profile ignored")  # it describes one channel
    return flat


def _converted(image: Image.Image, notes: list[str]) -> Image.Image:
    """To RGB, by the profile that is attached, if there is one that works."""
    profile = cast(bytes | None, image.info.get("icc_profile"))
    if image.mode in {"LAB", "YCbCr", "HSV"}:
        notes.append(f"{image.mode} colours, converted by Pillow")
    if image.mode not in {"RGB", "L", "CMYK"}:
        image = image.convert("L" if image.mode == "1" else "RGB")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            name = ImageCms.getProfileDescription(source).strip()
            if "sRGB" in name and image.mode == "RGB":
                return image
            srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
            converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            notes.append(f"colour profile ignored, it is broken or doesn't fit ({error})")
        else:
            notes.append(f"converted from the colour profile {name!r} to sRGB")
            return cast(Image.Image, converted)
    if image.mode == "CMYK":
        notes.append("CMYK without a usable profile, converted by Pillow")
    return image.convert("RGB")
