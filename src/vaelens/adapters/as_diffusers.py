"""A VAE of vaelens as a model of diffusers:

pipe = StableDiffusionPipeline.from_pretrained(MODEL, vae=vaelens.as_diffusers(vaelens.load("ft-mse")))
"""

from typing import Any

from vaelens.adapters.autoencoders import model_of
from vaelens.errors import UsageError
from vaelens.vae import VAE


def as_diffusers(vae: VAE) -> Any:
    """The VAE as diffusers' AutoencoderKL or AutoencoderTiny (or the class that its architecture has there).

    It is what that class's `from_pretrained` gives for the saved VAE: nothing is added or replaced, so that all that
    diffusers does with its own VAEs works, and values are diffusers' bit for bit; `speed_up` makes it fast. Its
    parameters are those of `vae.network`, not copies: `.to(device)`, `.to(dtype)` and training change both. Of a
    bfloat16 VAE that keeps float32 weights (docs/exactness.md) they are rounded copies. Norms have the
    VAE's epsilon; where maps were scaled for float16, `from_pretrained` gives them diffusers' own. Inputs and outputs
    are as in diffusers: pixels in [-1,1]; raw z, which pipelines scale by `config`; nothing is padded or clamped.
    Raises UsageError for a network that diffusers doesn't have, BadInputError where diffusers refuses the VAE's config,
    TypeError for anything but a VAE.
    """
    if not isinstance(vae, VAE):  # pyright: ignore[reportUnnecessaryIsInstance]  (a name is what one tries first)
        raise TypeError(f"as_diffusers takes a VAE, vaelens.load({vae!r}), not a {type(vae).__name__}.")
    family = vae.spec.family
    if lacking := family.diffusers_lacks(vae.spec):
        raise UsageError(
            f"{vae.name} can't become a model of diffusers, which has no such network ({lacking}). Use its own encode "
            "and decode."
        )
    model = model_of(family.to_config_json(vae.spec), vae.name)
    own = vae.network.state_dict(keep_vars=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(own[name].requires_grad)  # which load_state_dict gives to what it takes over
    tensors = own if vae.dtype == vae.weight_dtype else vae.tensors()
    model.load_state_dict(tensors, strict=True, assign=True)
    for name, exponent in getattr(vae.spec.config, "norm_exponents", ()):
        model.get_submodule(name).eps *= 4.0**-exponent
    return model.eval()
