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
    which pipelines scale. Nothing is padded or clamped. Where half precision overflows, use bfloat16 or float32:
    `config.force_upcast` tells SDXL's pipeline so for fp16.
    """
    return _model_class()(vae)


@cache
def _model_class() -> type:
    """The class, made when it is first asked for: diffusers takes seconds to import."""
    library = diffusers()
    from diffusers.configuration_utils import ConfigMixin  # noqa: PLC0415
    from diffusers.models.autoencoders.vae import DecoderOutput  # noqa: PLC0415
    from diffusers.models.modeling_outputs import AutoencoderKLOutput  # noqa: PLC0415

    class VaelensVAE(library.ModelMixin, ConfigMixin):
        """A network of vaelens under diffusers' names."""

        config_name = "config.json"
        _supports_gradient_checkpointing = False

        def __init__(self, vae: VAE) -> None:
            super().__init__()  # pyright: ignore[reportUnknownMemberType]
            spec = vae.spec
            self.register_to_config(  # pyright: ignore[reportUnknownMemberType]
                in_channels=3,
                out_channels=3,
                sample_size=512,
                latents_mean=None,
                latents_std=None,
                use_quant_conv=True,
                use_post_quant_conv=True,
                latent_channels=spec.latent_channels,
                block_out_channels=_block_channels(vae),
                scaling_factor=spec.scaling_factor,
                shift_factor=spec.shift_factor or None,
                force_upcast=not isinstance(vae.network, TinyAutoencoder),
                name=vae.name,
            )
            self.network = vae.network
            self._range = spec.pixel_range

        def encode(self, x: Tensor, return_dict: bool = True) -> Any:
            """Pixels [b,3,h,w] in [-1,1] to the posterior over raw z."""
            low, high = self._range
            posterior = self.network.posterior((x + 1) / 2 * (high - low) + low)
            latent_dist = _Distribution(posterior)
            return AutoencoderKLOutput(latent_dist=latent_dist) if return_dict else (latent_dist,)

        def decode(self, z: Tensor, return_dict: bool = True, generator: Any = None) -> Any:
            """Raw z [b,c,h/f,w/f] to pixels [b,3,h,w] in [-1,1]; `generator` is ignored, as by diffusers' own."""
            low, high = self._range
            pixels = self.network.decode(z)
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
        """A draw of raw z; one generator for the batch, or one a picture, as in diffusers."""
        return self._posterior.sample(torch.default_generator if generator is None else generator)


def _block_channels(vae: VAE) -> tuple[int, ...]:
    """As many as give the downscale factor, which pipelines compute from their number."""
    found = getattr(vae.spec.config, "block_out_channels", None)
    return tuple(found) if found is not None else (64,) * (vae.spec.factor.bit_length())
