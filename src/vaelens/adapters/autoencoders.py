"""Networks of VAEs: our own, and those that are classes of diffusers."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from vaelens.adapters.libraries import diffusers, quiet
from vaelens.errors import BadInputError
from vaelens.families import discovery
from vaelens.families.family import DiffusersFamily


def build_network(config: Any) -> nn.Module:
    """The network of a family's config, on torch's default device."""
    family = discovery.family_of(config)
    if not isinstance(family, DiffusersFamily):
        return discovery.build_network(config)
    return getattr(diffusers(), family.diffusers_classes[0])(**family.diffusers_arguments(config))


def model_of(config: Mapping[str, Any], where: str) -> Any:
    """The model of diffusers that a config.json describes, its weights on the meta device: without memory or values.

    Raises BadInputError where diffusers refuses a value.
    """
    model_class = getattr(diffusers(), config["_class_name"])
    try:
        with quiet(), torch.device("meta"):  # diffusers warns of fields that it doesn't know, and keeps them
            return model_class.from_config(json.loads(json.dumps(config)))
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInputError(
            f"{where}: diffusers' {config['_class_name']} refuses its config ({reason}). Correct it in config.json."
        ) from error
