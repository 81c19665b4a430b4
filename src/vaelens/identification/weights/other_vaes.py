"""VAEs that vaelens doesn't run, by the shapes of their tensors: Wan, Qwen-Image, FLUX.2 and others.

Names and shapes are those of the published files, in diffusers' layout or the original one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]

PREFIXES = ("", "vae.", "first_stage_model.")


@dataclass(frozen=True)
class OtherVAE:
    """A kind of VAE: its name, its latent space (None where vaelens has no name for it), and tensors that only it has.

    A size of None may be any; a name that ends in a dot is the beginning of some tensor's name.
    """

    title: str
    space: str | None
    tensors: Mapping[str, tuple[int | None, ...]]

    def fits(self, shapes: Shapes) -> bool:
        """Whether all its tensors are there, in their shapes."""
        return all(
            any(one.startswith(name) for one in shapes)
            if name.endswith(".")
            else name in shapes and _fits(shapes[name], wanted)
            for name, wanted in self.tensors.items()
        )


# In this order: what a row asks for may also be in files of a later one.
OTHERS = (
    OtherVAE("FLUX.2's VAE", "flux2", {"bn.running_mean": (128,), "decoder.conv_in.weight": (512, 32, 3, 3)}),
    OtherVAE(
        "FLUX.2's VAE with the small decoder",
        "flux2",
        {"bn.running_mean": (128,), "decoder.conv_in.weight": (384, 32, 3, 3)},
    ),
    OtherVAE("HunyuanImage 2.1's VAE", "hyimage", {"decoder.conv_in.weight": (1024, 64, 3, 3)}),
    OtherVAE(
        "Qwen-Image 2.1's VAE",
        None,
        {"encoder.conv_in.weight": (96, 4, 3, 3), "decoder.conv_in.weight": (1152, 64, 3, 3)},
    ),
    OtherVAE("Wan 2.2's VAE", "wan22", {"decoder.conv_in.weight": (1024, 48, 3, 3, 3)}),
    OtherVAE(
        "Wan 2.2's VAE", "wan22", {"decoder.upsamples.0.upsamples.0.residual.2.weight": (None, None, None, None, None)}
    ),
    OtherVAE(
        "Wan 2.1's or Qwen-Image's VAE",
        "wan21",
        {"encoder.down_blocks.0.norm1.gamma": (None,) * 4, "decoder.conv_in.weight": (384, 16, 3, 3, 3)},
    ),
    OtherVAE("Wan 2.1's or Qwen-Image's VAE", "wan21", {"decoder.middle.0.residual.0.gamma": (None,) * 4}),
    OtherVAE("Sana's DC-AE", "dc-sana", {"decoder.conv_in.weight": (1024, 32, 3, 3)}),
    OtherVAE("Sana's DC-AE", "dc-sana", {"decoder.stages.1.op_list.0.": ()}),
    OtherVAE(
        "the asymmetric VAE",
        "sd1",
        {"decoder.condition_encoder.": (), "encoder.conv_in.weight": (None,) * 4},
    ),
    OtherVAE("the consistency decoder", "sd1", {"decoder_unet.": ()}),
)


def other_vae(shapes: Shapes) -> OtherVAE | None:
    """Which of these a file holds; None for any other file."""
    for prefix in PREFIXES:
        inner = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        found = next((one for one in OTHERS if one.fits(inner)), None)
        if found is not None:
            return found
    return None


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(size is None or size == n for n, size in zip(shape, wanted, strict=True))
