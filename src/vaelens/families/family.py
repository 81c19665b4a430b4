"""What a module of this package declares about its architecture. Defaults are those of Stable Diffusion's VAEs.

A family with a network of its own builds it. `DiffusersFamily` is for those that run a class of diffusers: such a
family names the class and says in `encode` and `decode` how it is called; `adapters/` builds it.
"""

from collections.abc import Hashable, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from vaelens.errors import UsageError
from vaelens.families.layouts import Layout, Shapes
from vaelens.networks.autoencoder_kl import DiagonalGaussian

if TYPE_CHECKING:
    from vaelens.families.spec import VAESpec


class Family:
    """One VAE architecture. A module's instance is called FAMILY.

    Names and values:
    - `name`: in `vaes.toml` and in the metadata of saved files; `title`: in messages, "a full VAE (AutoencoderKL)"
    - `config`: the frozen dataclass of what fixes the network, in the field names of diffusers' config.json. The types
      of its fields are checked whatever a value comes from; its `__post_init__` raises ValueError for impossible ones
    - `layouts`: how files name the tensors, the one in diffusers' names called "diffusers"
    - `refines`: families whose layouts fit this one's files too, and which then don't count
    - `encoder_parts`, `decoder_parts`: where tensor names begin that belong to either, for fingerprints
    - `dropped`: where names begin that training left in files and nobody needs
    - `assumed`: fields of the config whose default holds where nothing says otherwise
    - `unseen`: fields that no shape depends on, with any possible value
    - `pixel_range`: of the network's own pixels; `convention`: fields of VAESpec that are the same in each VAE of the
      family, by their names
    - `trainable`: whether recipes can train it
    - `residual_blocks`: names of the classes whose output is a sum, which may exceed every layer's

    diffusers' config.json:
    - `diffusers_classes`: its `_class_name`, the first one when it is written; empty where diffusers lacks the network
    - `json_fixed`: fields that its code fixes and config.json doesn't hold
    - `json_defaults`: what it means by leaving a field out, also one that vaelens doesn't use
    - `json_unstated`: fields that vaelens doesn't use and that are written where nothing says them
    - `json_required`: fields that must have this value where they are there
    - `json_scales`: the fields of VAESpec that it holds
    """

    name: ClassVar[str]
    title: ClassVar[str]
    config: ClassVar[type[Any]]
    layouts: ClassVar[tuple[Layout, ...]]
    refines: ClassVar[tuple[str, ...]] = ()
    encoder_parts: ClassVar[frozenset[str]] = frozenset({"encoder", "quant_conv"})
    decoder_parts: ClassVar[frozenset[str]] = frozenset({"decoder", "post_quant_conv"})
    dropped: ClassVar[tuple[str, ...]] = ()
    assumed: ClassVar[frozenset[str]] = frozenset()
    unseen: ClassVar[Mapping[str, Any]] = {}
    pixel_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    convention: ClassVar[Mapping[str, Any]] = {}
    trainable: ClassVar[bool] = False
    residual_blocks: ClassVar[frozenset[str]] = frozenset()
    diffusers_classes: ClassVar[tuple[str, ...]] = ()
    json_fixed: ClassVar[Mapping[str, Any]] = {}
    json_defaults: ClassVar[Mapping[str, Any]] = {}
    json_unstated: ClassVar[Mapping[str, Any]] = {}
    json_required: ClassVar[Mapping[str, Any]] = {}
    json_scales: ClassVar[tuple[str, ...]] = ("scaling_factor", "shift_factor")

    # Recognising a file

    def shape_values(self, shapes: Shapes) -> dict[str, Any]:
        """The fields of the config that tensor shapes fix, by diffusers names: each that any shape depends on.

        Raises ValueError where a tensor that it looks at is missing.
        """
        raise NotImplementedError

    def field_names(self) -> tuple[str, ...]:
        """The fields of the config."""
        return tuple(f.name for f in fields(self.config))

    # The network

    def build(self, config: Any) -> nn.Module:
        """The network of a config, on torch's default device."""
        raise NotImplementedError

    def is_network(self, network: Any, config: Any) -> bool:
        """Whether a network is that of a config."""
        return network.config == config

    def encode(self, network: Any, pixels: Tensor) -> DiagonalGaussian:
        """Pixels [b,3,h,w] in `pixel_range`, multiples of the factor, to the posterior over raw z."""
        return network.posterior(pixels)

    def decode(self, network: Any, z: Tensor) -> Tensor:
        """Raw z to pixels [b,3,h,w] in `pixel_range`."""
        return network.decode(z)

    def factor(self, config: Any) -> int:
        """Pixels per latent cell along each side, when an image is encoded."""
        return config.factor

    def decoded_factor(self, config: Any) -> int:
        """The same in a decoded image."""
        return self.factor(config)

    def image_channels(self, config: Any) -> tuple[int, int]:
        """Channels of the images that are encoded, and of decoded ones."""
        del config  # some families have others
        return 3, 3

    def latent_channels(self, config: Any) -> int:
        """Channels of a latent."""
        return config.latent_channels

    # z and latents

    def to_latents(self, z: Tensor, spec: "VAESpec", network: Any) -> Tensor:
        """Raw z [b,c,h/f,w/f] to what the diffusion model sees: (z - shift_factor) * scaling_factor."""
        del network  # some families keep statistics there
        return (z - spec.shift_factor) * spec.scaling_factor

    def to_z(self, latents: Tensor, spec: "VAESpec", network: Any) -> Tensor:
        """The inverse of `to_latents`."""
        del network
        return latents / spec.scaling_factor + spec.shift_factor

    def space_key(self, config: Any, scaling_factor: float, shift_factor: float) -> Hashable:
        """What two VAEs of one latent space have in common by their numbers; None where numbers don't tell."""
        return self.latent_channels(config), self.factor(config), scaling_factor, shift_factor

    # diffusers

    def from_config_json(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """A config.json's fields of the spec by name; and what it asks for beyond this family, as `field = value`."""
        held = {f: values[f] for f in (*self.field_names(), *self.json_scales) if values.get(f) is not None}
        odd = [f"{f} = {values[f]!r}" for f, v in self.json_required.items() if f in values and values[f] != v]
        return {**self.json_fixed, **held}, odd

    def diffusers_arguments(self, config: Any) -> dict[str, Any]:
        """What makes diffusers' class the same network."""
        return {f: v for f, v in asdict(config).items() if f not in self.json_fixed}

    def json_fields(self, config: Any) -> frozenset[str]:
        """The fields of a config.json that follow from the spec; all others are kept as they are."""
        return frozenset({"_class_name", *self.diffusers_arguments(config), *self.json_scales})

    def diffusers_lacks(self, spec: "VAESpec") -> str:
        """What of this VAE diffusers has no network for; "" if it has all."""
        values: dict[str, Any] = {**asdict(spec.config), "pixel_range": spec.pixel_range}
        odd = [f"{f} {values[f]}" for f, fixed in self.json_fixed.items() if values[f] != fixed]
        return ", ".join(odd) if self.diffusers_classes else self.title

    def to_config_json(self, spec: "VAESpec") -> dict[str, Any]:
        """The spec as diffusers' config.json. Raises UsageError where diffusers has no such network."""
        if lacking := self.diffusers_lacks(spec):
            raise UsageError(f"diffusers has no such network ({lacking}); save to a .safetensors file instead.")
        scales = {f: getattr(spec, f) for f in self.json_scales}
        if "shift_factor" in scales:
            scales["shift_factor"] = scales["shift_factor"] or None
        held = {"_class_name": self.diffusers_classes[0], **self.diffusers_arguments(spec.config), **scales}
        return {**self.json_unstated, **spec.other_fields, **held}


class DiffusersFamily(Family):
    """A family whose network is the first of `diffusers_classes`, made with `diffusers_arguments`."""

    def is_network(self, network: Any, config: Any) -> bool:
        return all(network.config.get(f) == v for f, v in self.diffusers_arguments(config).items())
