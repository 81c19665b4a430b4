"""Networks of VAEs: our own, and those that are classes of diffusers."""

from typing import Any

from torch import nn

from vaelens.adapters.libraries import diffusers
from vaelens.families import discovery
from vaelens.families.family import DiffusersFamily


def build_network(config: Any) -> nn.Module:
    """The network of a family's config, on torch's default device."""
    family = discovery.family_of(config)
    if not isinstance(family, DiffusersFamily):
        return discovery.build_network(config)
    return getattr(diffusers(), family.diffusers_classes[0])(**family.diffusers_arguments(config))
