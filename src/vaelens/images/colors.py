"""From a decoded frame of any mode to a tensor in [0,1], tile by tile, so that no second copy of a large image exists.

What a colour profile means is measured, not read off its name: one that leaves a grid of colours where they are is
sRGB, whatever it is called.
"""

from collections.abc import Generator
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor

from vaelens.images.formats.tiff import GreyScale

TILE = 2**18  # pixels
DEEP_GREY = {"I;16", "I;16L", "I;16B", "I;16N"}
SAME = 2  # 8-bit steps that a profile may move colours by and be sRGB: profiles are rounded, and some are short
GRID = np.unique(np.r_[0:256:17, 0:32:4])  # values per channel


@dataclass(frozen=True)
class _Profile:
    """A profile's way to sRGB: None, where that leaves colours as they are; `error`, where there is none."""

    transform: ImageCms.ImageCmsTransform | None
    name: str = ""
    error: str = ""


class Conversion:
    """How a frame's pixels become RGB; `notes` say what applied, once all of it is converted.

    `grey` is the scale of 16-bit values.
    """

    def __init__(self, frame: Image.Image, grey: GreyScale) -> None:
        self.frame = frame
        self._grey = grey
        self._deep = frame.mode in DEEP_GREY or frame.mode == "I"
        self._alpha = not self._deep and frame.has_transparency_data
        self._see_through = False
        self._notes: list[str] = []
        self._profile = _Profile(None)
        if self._deep:
            ignored = [what for what in ("icc_profile", "transparency") if what in frame.info]
            bits = grey.white.bit_length()
            self._notes.append(
                f"{bits}-bit grey, scaled" + (f", its {' and '.join(ignored)} ignored" if ignored else "")
            )
            return
        if frame.mode in {"LAB", "YCbCr", "HSV"}:
            self._notes.append(f"{frame.mode} colours, converted by Pillow")
        self._choose_profile()

    def _choose_profile(self) -> None:
        data = cast(bytes | None, self.frame.info.get("icc_profile"))
        mode = self.frame.mode
        if data and self._alpha and mode in {"L", "LA", "La"}:
            self._notes.append("grey with alpha: its colour profile ignored")  # it describes one channel
        elif data:
            self._profile = _profile(data, mode if mode in {"L", "CMYK"} else "L" if mode == "1" else "RGB")
            if self._profile.error:
                self._notes.append(f"colour profile ignored, it is broken or doesn't fit ({self._profile.error})")
            elif self._profile.transform is not None:
                self._notes.append(f"converted from the colour profile {self._profile.name!r} to sRGB")
        if mode == "CMYK" and self._profile.transform is None:
            self._notes.append("CMYK without a usable profile, converted by Pillow")

    @property
    def notes(self) -> list[str]:
        """The rules that applied to the tiles so far."""
        return [*(["alpha laid over white"] if self._see_through else []), *self._notes]

    def tile(self, box: tuple[int, int, int, int]) -> Tensor:
        """The pixels in a box (left, top, right, bottom) as [3,h,w] in [0,1]."""
        whole = box == (0, 0, *self.frame.size)
        part = self.frame if whole else self.frame.crop(box)
        if self._deep:
            grey = np.asarray(part).astype(np.float32) / self._grey.white
            grey = 1 - grey if self._grey.inverted else grey
            return torch.as_tensor(grey).clamp(0, 1).expand(3, *grey.shape)
        if self._alpha:
            part = self._over_white(part)
        pixels = np.array(self._rgb(part), dtype=np.uint8)
        return torch.as_tensor(pixels).permute(2, 0, 1).to(torch.float32).div_(255)

    def _over_white(self, part: Image.Image) -> Image.Image:
        """The pixels without alpha."""
        if part.mode == "La":
            part = part.convert("LA")
        layer = part.convert("RGBA")
        if layer.getchannel("A").getextrema() == (255, 255):
            return layer.convert("RGB")
        self._see_through = True
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")

    def _rgb(self, part: Image.Image) -> Image.Image:
        if part.mode not in {"RGB", "L", "CMYK"}:
            part = part.convert("L" if part.mode == "1" else "RGB")
        if self._profile.transform is not None:
            return self._profile.transform.apply(part)
        return part.convert("RGB")


def to_tensor(conversion: Conversion, max_side: int | None) -> Tensor:
    """A frame as [1,3,h,w] in [0,1], float32; where its longer side exceeds `max_side`, shrunk to it (Lanczos).

    The frame's memory is given back.
    """
    w, h = conversion.frame.size
    shrinks = max_side is not None and max(w, h) > max_side
    side = max_side if shrinks and max_side is not None else max(w, h)
    wanted = max(1, round(w * side / max(h, w))), max(1, round(h * side / max(h, w)))
    narrow = shrinks and w <= TILE  # rows as they come: Lanczos shrinks one direction after the other anyway
    image = torch.empty(1, 3, h, wanted[0] if narrow else w)
    for left, top, right, bottom in tiles(w, h):
        tile = conversion.tile((left, top, right, bottom))
        if narrow:
            image[0, :, top:bottom] = _resized(tile, (wanted[0], bottom - top))
        else:
            image[0, :, top:bottom, left:right] = tile
    conversion.frame.close()
    return _resized(image[0], wanted)[None].clamp_(0, 1) if shrinks else image


def tiles(width: int, height: int) -> Generator[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) of at most TILE pixels that cover an image; whole rows, where they fit."""
    columns = min(width, TILE)
    rows = max(1, TILE // columns)
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield left, top, min(left + columns, width), min(top + rows, height)


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Planes [3,h,w] to a width and height, by Pillow."""
    planes = [Image.fromarray(plane.numpy()).resize(size, Image.Resampling.LANCZOS) for plane in image]
    return torch.as_tensor(np.stack([np.asarray(plane) for plane in planes]))


@lru_cache(maxsize=8)
def _profile(data: bytes, mode: str) -> _Profile:
    """How a profile's colours, of images with this mode, become sRGB: by perceptual intent."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(data))
        name = (ImageCms.getProfileDescription(source) or "").strip()
        if mode != "CMYK" and _is_srgb(source, mode):
            return _Profile(None)
        return _Profile(_to_srgb(source, mode, ImageCms.Intent.PERCEPTUAL), name)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the pixels are intact, whatever is wrong with the profile
        return _Profile(None, error=" ".join(str(error).split())[:100])


def _to_srgb(source: ImageCms.ImageCmsProfile, mode: str, intent: ImageCms.Intent) -> ImageCms.ImageCmsTransform:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return ImageCms.buildTransform(source, srgb, mode, "RGB", intent)


def _is_srgb(source: ImageCms.ImageCmsProfile, mode: str) -> bool:
    """Whether the profile's primaries, white and tone curves leave a grid of colours where they are."""
    if mode == "L":
        colors = np.arange(256, dtype=np.uint8)[None]
        expected = np.stack([colors] * 3, axis=-1)
    else:
        expected = colors = np.stack(np.meshgrid(GRID, GRID, GRID), axis=-1).reshape(1, -1, 3).astype(np.uint8)
    transform = _to_srgb(source, mode, ImageCms.Intent.RELATIVE_COLORIMETRIC)
    found = np.asarray(transform.apply(Image.fromarray(colors)))
    return bool(np.abs(found.astype(int) - expected).max() <= SAME)
