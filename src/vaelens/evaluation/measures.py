"""The measures by name: what their columns are called, which way is better, and which networks they need."""

from dataclasses import dataclass
from typing import Literal

from vaelens.report.tables import Better


@dataclass(frozen=True)
class Measure:
    """One column: `of` an image, with a value in each row, or of the whole set; `digits` after the point."""

    key: str
    title: str
    better: Better
    digits: int
    of: Literal["image", "set"]
    networks: tuple[str, ...] = ()  # of metrics/networks.toml; without any it needs no download
    unit: str = ""
    about: str = ""


MEASURES = {
    measure.key: measure
    for measure in (
        Measure("rfid", "rFID", "lower", 2, "set", ("inception",),
                about="Frechet distance between Inception features of originals and reconstructions"),
        Measure("kid", "KID x1000", "lower", 3, "set", ("inception",),
                about="polynomial maximum mean discrepancy of the same features, unbiased for few images"),
        Measure("fd_dinov2", "FD-DINOv2", "lower", 2, "set",
                about="Frechet distance on DINOv2 features"),
        Measure("fd_small", "fd-small", "lower", 3, "set",
                about="Frechet distance on the features of a small network of vaelens' own; not an rFID"),
        Measure("psnr", "PSNR", "higher", 2, "image", unit="dB",
                about="peak signal-to-noise ratio, from the mean squared error"),
        Measure("ssim", "SSIM", "higher", 4, "image",
                about="structural similarity in Gaussian windows, 1 for equal images"),
        Measure("ssim_zero", "SSIM zero", "higher", 4, "image",
                about="SSIM with zero-padded borders, when both paddings are asked for"),
        Measure("ssim_valid", "SSIM valid", "higher", 4, "image",
                about="SSIM of the windows that lie inside, when both paddings are asked for"),
        Measure("psim", "PSIM", "lower", 4, "image", ("vgg16",),
                about="cosine distance of VGG16 features, summed over five layers, without learned weights"),
        Measure("lpips_vgg", "LPIPS-VGG", "lower", 4, "image", ("vgg16", "lpips-vgg"),
                about="learned distance of VGG16 features"),
        Measure("lpips_alex", "LPIPS-Alex", "lower", 4, "image", ("alexnet", "lpips-alex"),
                about="learned distance of AlexNet features"),
        Measure("psim_small", "psim-small", "lower", 4, "image",
                about="cosine distance of the features of a small network of vaelens' own; not a PSIM"),
    )
}  # fmt: skip
