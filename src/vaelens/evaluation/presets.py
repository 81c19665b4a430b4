"""Presets: whole measuring protocols with names. Results of two presets never stand in one table.

`card-2022` follows the scripts behind the published tables (pesser/stable-diffusion, scripts/autoencoder-eval.py);
`modern` is what papers since 2024 mostly do; `offline` needs no download.
"""

import difflib
from dataclasses import asdict, dataclass
from typing import Any, Literal

from vaelens.errors import UsageError
from vaelens.images.resizing import ResizeMethod
from vaelens.metrics.ssim import Padding


@dataclass(frozen=True)
class Preset:
    """How an image becomes what is measured, from its file's bytes on."""

    name: str
    reading: Literal["plain", "rules"]  # Pillow's convert("RGB") alone; or images/reading.py's rules
    resize: ResizeMethod
    side: int  # pixels of the square that is cut from the middle, the shorter side resized to it
    posterior: Literal["sample", "mode"]
    rounding: Literal["truncate", "half-up"]  # to 8 bits; truncated originals go through the same saving
    ssim_padding: Padding
    inception: Literal["torch_fidelity", "pytorch_fid"] | None  # how 8-bit images become Inception's input
    metrics: tuple[str, ...]  # keys of metric_table.py, in the order of the columns

    def as_dict(self) -> dict[str, Any]:
        """For records."""
        return asdict(self)


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("card-2022", "plain", "opencv_bilinear", 256, "sample", "truncate", "zero", "torch_fidelity",
               ("rfid", "kid", "psnr", "ssim", "psim")),
        Preset("modern", "rules", "pillow_bicubic", 256, "mode", "half-up", "valid", "torch_fidelity",
               ("rfid", "kid", "psnr", "ssim", "lpips_vgg", "lpips_alex", "psim")),
        Preset("offline", "rules", "pillow_bicubic", 256, "mode", "half-up", "valid", None,
               ("fd_small", "psnr", "ssim", "psim_small")),
    )
}  # fmt: skip


def find_preset(name: str) -> Preset:
    """The preset of that name. Raises UsageError with the nearest known one."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name.lower(), PRESETS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(PRESETS)}."
        raise UsageError(f"there is no preset {name!r}. {hint}")
    return PRESETS[name]
