"""A VAE of vaelens where diffusers expects one of its own:

pipe = StableDiffusionPipeline.from_pretrained(MODEL, vae=vaelens.as_diffusers(vaelens.load("ft-mse")))
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from vaelens.adapters.libraries import diffusers
from vaelens.networks.tiny import TinyAutoencoder
from vaelens.vae import VAE


def as_diffusers(vae: VAE) -> Any:
    """The VAE as a ModelMixin that the Stable Diffusion and SDXL pipelines take, also img2img and inpaint.

    It shares `vae`'s weights: `.to(device)` and `.to(dtype)` move both. What goes in and comes out is diffusers'
    convention: pixels in [-1,1], raw z, `encode(x).latent_dist`, `decode(z).sample`; `config` holds the factors by
    which pipelines scale. Nothing is padded or clamped. `enable_slicing()` decodes a batch's images one by one, and
    Accelerate's hooks run, so that offloading moves it. Where half precision overflows, use bfloat16 or float32:
    `config.force_upcast` tells SDXL's pipeline so for fp16.
    """
    if not isinstance(vae, VAE):  # pyright: ignore[reportUnnecessaryIsInstance]  (a name is what one tries first)
        raise TypeError(f"as_diffusers takes a VAE, vaelens.load({vae!r}), not a {type(vae).__name__}.")
    return _model_class()(vae)


@cache
def _model_class() -> type:
    """The class, made when it is first asked for: diffusers takes seconds to import."""
    library = diffusers()
    from diffusers.models.autoencoders.vae import DecoderOutput  # noqa: PLC0415
    from diffusers.models.modeling_outputs import AutoencoderKLOutput  # noqa: PLC0415
    from diffusers.utils import accelerate_utils  # noqa: PLC0415

    hooked: Any = accelerate_utils.apply_forward_hook  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

    class VaelensVAE(library.AutoencoderKL):
        """A network of vaelens under diffusers' names; an AutoencoderKL to whoever asks, without the modules of one."""

        _supports_gradient_checkpointing = False
        _keep_in_fp32_modules = None

        def __init__(self, vae: VAE) -> None:
            library.ModelMixin.__init__(self)
            spec = vae.spec
            self.register_to_config(
                in_channels=3,
                out_channels=3,
                sample_size=512,
                latents_mean=None,
                latents_std=None,
                use_quant_conv=hasattr(vae.network, "quant_conv"),
                use_post_quant_conv=hasattr(vae.network, "post_quant_conv"),
                latent_channels=spec.latent_channels,
                block_out_channels=_block_channels(vae),
                scaling_factor=spec.scaling_factor,
                shift_factor=spec.shift_factor or None,
                force_upcast=not isinstance(vae.network, TinyAutoencoder),
                name=vae.name,
            )
            self.network = vae.network
            self._range = spec.pixel_range
            self.use_slicing = False

        def enable_slicing(self) -> None:
            """Decode a batch's images one by one, for less memory."""
            self.use_slicing = True

        def enable_tiling(self, use_tiling: bool = True) -> None:
            """Refused: tiles have seams, and what vaelens decodes has the pixels of the whole."""
            if use_tiling:
                raise NotImplementedError("vaelens doesn't decode in tiles; use smaller images or enable_slicing().")

        def disable_slicing(self) -> None:
            """Take a batch at once again."""
            self.use_slicing = False

        @hooked
        def encode(self, x: Tensor, return_dict: bool = True) -> Any:
            """Pixels [b,3,h,w] in [-1,1] to the posterior over raw z."""
            low, high = self._range
            latent_dist = _Distribution(self.network.posterior((x + 1) / 2 * (high - low) + low))
            return AutoencoderKLOutput(latent_dist=latent_dist) if return_dict else (latent_dist,)

        @hooked
        def decode(self, z: Tensor, return_dict: bool = True, generator: Any = None) -> Any:
            """Raw z [b,c,h/f,w/f] to pixels [b,3,h,w] in [-1,1]; `generator` is ignored, as by diffusers' own."""
            low, high = self._range
            parts = [z[i : i + 1] for i in range(len(z))] if self.use_slicing else [z]
            pixels = torch.cat([self.network.decode(part) for part in parts])
            sample = (pixels - low) / (high - low) * 2 - 1
            return DecoderOutput(sample=sample) if return_dict else (sample,)

        @property
        def post_quant_conv(self) -> torch.nn.Module:
            """What SDXL's pipeline looks at for the precision that it has to hand latents over in."""
            inner: torch.nn.Module | None = getattr(self.network, "post_quant_conv", None)
            return inner or self.network

        def forward(self, sample: Tensor, sample_posterior: bool = False, generator: Any = None) -> Any:
            """decode(encode(sample)), by the posterior's mode or a draw from it."""
            posterior = self.encode(sample).latent_dist
            return self.decode(posterior.sample(generator) if sample_posterior else posterior.mode())

    return VaelensVAE


class _Distribution:
    """A posterior under the names that diffusers' pipelines use."""

    def __init__(self, posterior: Any) -> None:
        self._posterior = posterior
        self.mean: Tensor = posterior.mean

    def mode(self) -> Tensor:
        """Raw z."""
        return self._posterior.mode()

    def sample(self, generator: torch.Generator | list[torch.Generator] | None = None) -> Tensor:
        """A draw of raw z; one generator for the batch, or one an image, as in diffusers."""
        return self._posterior.sample(torch.default_generator if generator is None else generator)


def _block_channels(vae: VAE) -> tuple[int, ...]:
    """As many as give the downscale factor, which pipelines compute from their number."""
    found = getattr(vae.spec.config, "block_out_channels", None)
    return tuple(found) if found is not None else (64,) * (vae.spec.factor.bit_length())
