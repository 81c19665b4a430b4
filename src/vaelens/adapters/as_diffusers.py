"""A VAE of vaelens as one of diffusers' own classes:

pipe = StableDiffusionPipeline.from_pretrained(MODEL, vae=vaelens.as_diffusers(vaelens.load("ft-mse")))
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from vaelens.adapters.libraries import diffusers
from vaelens.families.family import DiffusersFamily
from vaelens.vae import VAE


def as_diffusers(vae: VAE) -> Any:
    """The VAE as a ModelMixin that diffusers' pipelines take, also img2img and inpaint.

    It shares `vae`'s weights: `.to(device)` and `.to(dtype)` move both. Inputs and outputs are as in diffusers:
    pixels in [-1,1], raw z, `encode(x).latent_dist`, `decode(z).sample`; `config` holds the factors by which pipelines
    scale. Nothing is padded or clamped. `enable_slicing()` decodes a batch's images one by one, and Accelerate's hooks
    run, so that offloading works. Where fp16 overflows, use bfloat16 or float32: `config.force_upcast` makes SDXL's
    pipeline do so. A network that is a class of diffusers anyway is returned as it is. Raises TypeError for anything
    but a VAE.
    """
    if not isinstance(vae, VAE):  # pyright: ignore[reportUnnecessaryIsInstance]  (a name is what one tries first)
        raise TypeError(f"as_diffusers takes a VAE, vaelens.load({vae!r}), not a {type(vae).__name__}.")
    if isinstance(vae.spec.family, DiffusersFamily):
        return vae.network
    return _model_class()(vae)


@cache
def _model_class() -> type:
    """The class, made when it is first used: diffusers takes seconds to import."""
    library = diffusers()
    from diffusers.models.autoencoders.vae import DecoderOutput  # noqa: PLC0415
    from diffusers.models.modeling_outputs import AutoencoderKLOutput  # noqa: PLC0415
    from diffusers.utils import accelerate_utils  # noqa: PLC0415

    hooked: Any = accelerate_utils.apply_forward_hook  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

    class VaelensVAE(library.AutoencoderKL):
        """A network of vaelens with diffusers' methods; an instance of AutoencoderKL, but without its modules."""

        _supports_gradient_checkpointing = False
        _keep_in_fp32_modules = None

        def __init__(self, vae: VAE) -> None:
            library.ModelMixin.__init__(self)
            spec, family = vae.spec, vae.spec.family
            self.register_to_config(
                in_channels=3,
                out_channels=3,
                sample_size=512,
                latents_mean=None,
                latents_std=None,
                use_quant_conv=getattr(spec.config, "use_quant_conv", False),
                use_post_quant_conv=getattr(spec.config, "use_post_quant_conv", False),
                latent_channels=spec.latent_channels,
                block_out_channels=family.block_out_channels(spec.config),
                scaling_factor=spec.scaling_factor,
                shift_factor=spec.shift_factor or None,
                force_upcast=family.force_upcast,
                name=vae.name,
            )
            self.network = vae.network
            self._family = family
            self._range = spec.pixel_range
            self.use_slicing = False

        def enable_slicing(self) -> None:
            """Decode a batch's images one by one, for less memory."""
            self.use_slicing = True

        def enable_tiling(self, use_tiling: bool = True) -> None:
            """Raises NotImplementedError: tiles have seams."""
            if use_tiling:
                raise NotImplementedError("vaelens doesn't decode in tiles; use smaller images or enable_slicing().")

        def disable_slicing(self) -> None:
            """Decode whole batches again."""
            self.use_slicing = False

        @hooked
        def encode(self, x: Tensor, return_dict: bool = True) -> Any:
            """Pixels [b,3,h,w] in [-1,1] to the posterior over raw z."""
            low, high = self._range
            latent_dist = _Distribution(self._family.encode(self.network, (x + 1) / 2 * (high - low) + low))
            return AutoencoderKLOutput(latent_dist=latent_dist) if return_dict else (latent_dist,)

        @hooked
        def decode(self, z: Tensor, return_dict: bool = True, generator: Any = None) -> Any:
            """Raw z [b,c,h/f,w/f] to pixels [b,3,h,w] in [-1,1]; `generator` is ignored, as by diffusers' own."""
            low, high = self._range
            parts = [z[i : i + 1] for i in range(len(z))] if self.use_slicing else [z]
            pixels = torch.cat([self._family.decode(self.network, part) for part in parts])
            sample = (pixels - low) / (high - low) * 2 - 1
            return DecoderOutput(sample=sample) if return_dict else (sample,)

        @property
        def post_quant_conv(self) -> torch.nn.Module:
            """SDXL's pipeline reads the precision of the latents from it."""
            inner: torch.nn.Module | None = getattr(self.network, "post_quant_conv", None)
            return inner or self.network

        def forward(self, sample: Tensor, sample_posterior: bool = False, generator: Any = None) -> Any:
            """decode(encode(sample)), by the posterior's mode or a sample of it."""
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
        """A sample of raw z; one generator for the batch, or one per image, as in diffusers."""
        return self._posterior.sample(torch.default_generator if generator is None else generator)
