"""Turning a VAE file into another: layouts, precisions, whole checkpoints, other runtimes. Each result is checked."""

from vaelens.conversion.baking import Baked, bake
from vaelens.conversion.converting import Conversion, convert, extract

__all__ = ["Baked", "Conversion", "bake", "convert", "extract"]
