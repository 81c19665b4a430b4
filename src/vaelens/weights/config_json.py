"""diffusers' config.json, in which the hub describes VAEs, as a source of specs. Writing one is the family's job."""

from collections.abc import Mapping
from typing import Any

from vaelens.errors import BadInputError
from vaelens.families.discovery import diffusers_classes, family_of_class
from vaelens.families.family import Family
from vaelens.json_reading import quoted
from vaelens.weights.registry import frozen, registry
from vaelens.weights.spec_sources import SPEC_FIELDS, SpecSource, check_types, listed


def config_json_sources(config: Mapping[str, Any], where: str) -> tuple[Family, SpecSource, SpecSource]:
    """The family, what config.json says, and what it means by leaving fields out.

    Raises BadInputError for another class of VAE, and for an activation or block that the family doesn't have.
    """
    name = config.get("_class_name")
    family = family_of_class(name)
    if family is None:
        described = name if isinstance(name, str) and name.isidentifier() else quoted(name) if name else "no VAE"
        raise BadInputError(
            f"{where}: config.json describes {described:.60}; vaelens runs {', '.join(diffusers_classes())}."
        )
    values, odd = family.from_config_json(config)
    if odd:
        raise BadInputError(f"{where}: config.json asks for {listed(odd)}, which vaelens doesn't have.")
    used = {*family.field_names(), *SPEC_FIELDS}
    defaults = SpecSource(
        "diffusers' default",
        {f: v for f, v in family.json_defaults.items() if f in used},
        default=True,
        other_fields={f: v for f, v in family.json_defaults.items() if f not in used},
    )
    return family, SpecSource("config.json", frozen(values), other_fields=config), defaults


def space_of_config(config: Mapping[str, Any], where: str) -> str | None:
    """The latent space that a VAE's config.json alone tells; None for one of its own, or where numbers don't tell.

    Raises BadInputError as `config_json_sources` does, and for values of a wrong type.
    """
    family, stated, defaults = config_json_sources(config, where)
    check_types(family, stated, where)
    values: dict[str, Any] = {**family.unseen, **family.convention, **defaults.values, **stated.values}
    try:
        network = family.config(**{f: v for f, v in values.items() if f in family.field_names()})
        key = family.space_key(network, values["scaling_factor"], values["shift_factor"])
    except (ValueError, KeyError):
        return None
    return None if key is None else registry().space_of(key)
