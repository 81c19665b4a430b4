"""What a VAE is beside its tensors: the network's config, and the conventions around it."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import AfterValidator, Field

from vaelens.families.discovery import family_of
from vaelens.families.family import Family


class NetworkConfig(Protocol):
    """A family's frozen dataclass: what fixes every tensor's shape and the network's arithmetic."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


def _is_range(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] < bounds[1]:
        raise ValueError("the lower bound must lie below the upper one")
    return bounds


@dataclasses.dataclass(frozen=True)
class VAESpec:
    """Network, latent space and ranges of one VAE.

    Its family maps raw z to latents, which the diffusion model sees, by default (z - shift_factor) * scaling_factor;
    the network's own pixels lie in pixel_range. `latent_space` is a name of the registry, or None for a space of its
    own, inside which nothing else may be swapped. `other_fields` are those of diffusers' config.json that none of this
    depends on (`sample_size`, `force_upcast`, whatever vaelens doesn't know): JSON values, kept for what is saved.
    Specs that differ in them alone are equal.
    """

    config: NetworkConfig
    latent_space: str | None
    scaling_factor: Annotated[float, Field(gt=0)]
    shift_factor: float
    pixel_range: Annotated[tuple[float, float], AfterValidator(_is_range)]
    other_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any], compare=False)

    @property
    def family(self) -> Family:
        """The architecture."""
        return family_of(self.config)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return self.family.latent_channels(self.config)

    @property
    def factor(self) -> int:
        """Pixels per latent cell along each side, when an image is encoded."""
        return self.family.factor(self.config)

    @property
    def decoded_factor(self) -> int:
        """Pixels per latent cell along each side of a decoded image: more than `factor` where the decoder enlarges."""
        return self.family.decoded_factor(self.config)


def config_values(config: NetworkConfig) -> dict[str, Any]:
    """A config as plain values, as they stand in metadata and messages."""
    return dataclasses.asdict(config)


def spec_values(spec: VAESpec) -> dict[str, Any]:
    """All that results depend on, as plain values: a spec without its `other_fields`."""
    return {f: v for f, v in dataclasses.asdict(spec).items() if f != "other_fields"}
