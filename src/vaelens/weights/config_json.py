"""diffusers' config.json, read and written: the dialect in which the hub describes VAEs."""

from collections.abc import Mapping
from typing import Any, cast

from vaelens.errors import BadInputError, UsageError
from vaelens.networks.tiny import TinyAutoencoderConfig
from vaelens.weights.registry import KL_PIXELS, config_values, frozen, registry
from vaelens.weights.settling import KL_FIELDS, TINY_FIELDS, TINY_FIXED, Claim
from vaelens.weights.spec import VAESpec

# diffusers' AutoencoderKL has no such fields: its code fixes them. The defaults are its class's, not SD 1.x's.
KL_FIXED = {"norm_eps": 1e-6, "pixel_range": KL_PIXELS}
TINY_WIDTH = 64
KL_DEFAULTS = {"norm_num_groups": 32, "scaling_factor": 0.18215, "shift_factor": 0.0}


def config_json_claims(config: Mapping[str, Any], where: str) -> tuple[str, Claim, Claim]:
    """diffusers' config.json: the kind, what it says, and what it means by leaving fields out.

    Raises BadInputError for another class of VAE or an activation or block that these networks don't have.
    """
    name = config.get("_class_name")
    if name == "AutoencoderKL":
        expected = {"act_fn": "silu", "latents_mean": None, "latents_std": None}
        blocks = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
        odd: list[str] = [
            f"{f} = {config[f]!r}"
            for f, kind in blocks.items()
            if f in config and (not isinstance(config[f], list) or any(b != kind for b in config[f]))
        ]
        said = {f: config[f] for f in (*KL_FIELDS, "scaling_factor", "shift_factor") if config.get(f) is not None}
        claims = Claim("config.json", KL_FIXED | frozen(said)), Claim("diffusers' default", KL_DEFAULTS, default=True)
        kind = "kl"
    elif name == "AutoencoderTiny":
        expected = {"act_fn": "relu", "upsample_fn": "nearest", "upsampling_scaling_factor": 2}
        said = {f: config[f] for f in (*TINY_FIELDS, "scaling_factor") if config.get(f) is not None}
        odd: list[str] = []
        for side in ("encoder", "decoder"):
            widths = config.get(f"{side}_block_out_channels", [TINY_WIDTH])
            if isinstance(widths, list) and widths and widths == widths[:1] * len(cast(list[Any], widths)):
                said["width"] = widths[0]
            else:
                odd.append(f"{side}_block_out_channels = {widths!r}")
        claims = Claim("config.json", frozen(said)), Claim("diffusers' default", TINY_FIXED, default=True)
        kind = "tiny"
    else:
        raise BadInputError(
            f"{where}: config.json describes {name or 'no VAE'}; vaelens runs AutoencoderKL and AutoencoderTiny."
        )
    odd += [f"{f} = {config[f]!r}" for f, v in expected.items() if f in config and config[f] != v]
    if odd:
        raise BadInputError(f"{where}: config.json asks for {', '.join(odd)}, which vaelens doesn't have.")
    return kind, *claims


def space_of_config(config: Mapping[str, Any], where: str) -> str | None:
    """The latent space that a VAE's config.json alone tells; None for one of its own, or a tiny autoencoder's.

    Raises BadInputError as `config_json_claims` does.
    """
    kind, said, default = config_json_claims(config, where)
    values: dict[str, Any] = {**default.values, **said.values}
    blocks = values.get("block_out_channels")
    if kind != "kl" or not isinstance(blocks, tuple):
        return None
    factor = 2 ** (len(cast(tuple[object, ...], blocks)) - 1)
    scale, shift = values["scaling_factor"], values["shift_factor"]
    return registry().space_of(values.get("latent_channels", 4), factor, scale, shift)


def config_json(spec: VAESpec) -> dict[str, Any]:
    """The spec as diffusers' config.json. Raises UsageError where diffusers has no such network."""
    config = spec.config
    values = config_values(config)
    if isinstance(config, TinyAutoencoderConfig):
        if config.mid_block_pool:
            raise UsageError("diffusers has no tiny autoencoder with pools; save to a .safetensors file instead.")
        width = values.pop("width")
        del values["mid_block_pool"]
        sides = {
            f"{side}_block_out_channels": [width] * len(config.num_encoder_blocks) for side in ("encoder", "decoder")
        }
        return {"_class_name": "AutoencoderTiny", **values, **sides, "scaling_factor": spec.scaling_factor}
    if spec.pixel_range != KL_PIXELS or config.norm_eps != KL_FIXED["norm_eps"]:
        raise UsageError("diffusers fixes the pixel range and epsilon otherwise; save to a .safetensors file instead.")
    del values["norm_eps"]
    count = len(config.block_out_channels)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * count, "up_block_types": ["UpDecoderBlock2D"] * count}
    scales = {"scaling_factor": spec.scaling_factor, "shift_factor": spec.shift_factor or None}
    return {"_class_name": "AutoencoderKL", "act_fn": "silu", **values, **blocks, **scales}
