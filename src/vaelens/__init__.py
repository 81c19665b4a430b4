"""vaelens: look at one latent through many decoders.

    import vaelens as vl

    vae = vl.load("ft-mse")                 # a name, a path or a hub id
    image = vl.read_image("me.jpg")         # [1,3,h,w] in [0,1]
    again = vae.reconstruct(image)          # the same size
    vl.compare("the letter R in red on white", seeds=[0]).save("letter.html")

Importing this brings in no torch: public names load on first use.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaelens.adapters.as_diffusers import as_diffusers
    from vaelens.adapters.speed_up import speed_up, undo_speed_up
    from vaelens.blind.pooling import pool_blind_results
    from vaelens.comparison.workflow import compare, generate
    from vaelens.conversion import bake, convert, extract
    from vaelens.conversion.exporting.workflow import export
    from vaelens.errors import VaelensError
    from vaelens.evaluation.run import evaluate
    from vaelens.finetuning.training import finetune
    from vaelens.health.examination import examine
    from vaelens.identification.identifying import identify
    from vaelens.images.reading import read_image
    from vaelens.latent_cache.cache import open_cache
    from vaelens.latent_cache.encoding import encode_dataset
    from vaelens.loading import load
    from vaelens.metrics.psnr import psnr
    from vaelens.metrics.ssim import ssim
    from vaelens.reconstruction import reconstruct
    from vaelens.vae import VAE, Encoded

__all__ = [
    "VAE",
    "Encoded",
    "VaelensError",
    "as_diffusers",
    "bake",
    "compare",
    "convert",
    "encode_dataset",
    "evaluate",
    "examine",
    "export",
    "extract",
    "finetune",
    "generate",
    "identify",
    "load",
    "open_cache",
    "pool_blind_results",
    "psnr",
    "read_image",
    "reconstruct",
    "speed_up",
    "ssim",
    "undo_speed_up",
]

_HOMES = {
    "VAE": "vaelens.vae",
    "Encoded": "vaelens.vae",
    "VaelensError": "vaelens.errors",
    "as_diffusers": "vaelens.adapters.as_diffusers",
    "bake": "vaelens.conversion",
    "compare": "vaelens.comparison.workflow",
    "convert": "vaelens.conversion",
    "encode_dataset": "vaelens.latent_cache.encoding",
    "evaluate": "vaelens.evaluation.run",
    "examine": "vaelens.health.examination",
    "export": "vaelens.conversion.exporting.workflow",
    "extract": "vaelens.conversion",
    "generate": "vaelens.comparison.workflow",
    "finetune": "vaelens.finetuning.training",
    "identify": "vaelens.identification.identifying",
    "load": "vaelens.loading",
    "open_cache": "vaelens.latent_cache.cache",
    "pool_blind_results": "vaelens.blind.pooling",
    "psnr": "vaelens.metrics.psnr",
    "read_image": "vaelens.images.reading",
    "reconstruct": "vaelens.reconstruction",
    "speed_up": "vaelens.adapters.speed_up",
    "ssim": "vaelens.metrics.ssim",
    "undo_speed_up": "vaelens.adapters.speed_up",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("vaelens")
    if name not in _HOMES:
        raise AttributeError(f"module 'vaelens' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
