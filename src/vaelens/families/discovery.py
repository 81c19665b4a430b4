"""The families there are: each module of this package that holds a FAMILY."""

import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from torch import nn

from vaelens.families.family import Family
from vaelens.families.layouts import Layout, Shapes

# What files keep a VAE under, also nested, as "ema.first_stage_model."; nothing in a stand-alone file. No more than
# three deep, so that a file's names can't be looked at under any number of prefixes.
PREFIX = re.compile(r"(?:(?:first_stage_model|vae|ema|ema_model)\.){0,3}")


@cache
def families() -> Mapping[str, Family]:
    """All of them by name."""
    package = __name__.rpartition(".")[0]
    modules = [import_module(f"{package}.{m.name}") for m in iter_modules(import_module(package).__path__)]
    found: list[Family] = [module.FAMILY for module in modules if hasattr(module, "FAMILY")]
    return {family.name: family for family in found}


def family_of(config: object) -> Family:
    """The family of a network's config."""
    return next(family for family in families().values() if type(config) is family.config)


def family_of_class(name: object) -> Family | None:
    """The family of a class of diffusers; None for one that vaelens doesn't run."""
    return next((family for family in families().values() if name in family.diffusers_classes), None)


def diffusers_classes() -> list[str]:
    """The classes of diffusers that vaelens runs."""
    return [name for family in families().values() for name in family.diffusers_classes]


def recognise(shapes: Shapes) -> list[tuple[str, Family, Layout]]:
    """The VAEs in a file: the prefix of each one's names, its family and its layout. More than one is ambiguous.

    Where several families fit under one prefix, it is the one that most tensors fit; the others are left over.
    """
    recognised: list[tuple[str, Family, Layout]] = []
    for prefix, inner in sorted(_by_prefix(shapes).items(), reverse=True):
        fitting = [(f, layout) for f in families().values() if (layout := _layout(f, inner)) is not None]
        refined = {name for family, _ in fitting for name in family.refines}
        fitting = [(family, layout) for family, layout in fitting if family.name not in refined]
        if fitting:
            recognised.append((prefix, *max(fitting, key=lambda pair: _fitting_count(pair[1], inner))))
    return recognised


def _by_prefix(shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
    """What stands behind each prefix that is some name's longest: "ema.vae.x" behind "ema.vae.", "ema." and ""."""
    longest = {name: name[: found.end()] for name in shapes if (found := PREFIX.match(name))}
    inner: dict[str, dict[str, tuple[int, ...]]] = {prefix: {} for prefix in longest.values()}
    for name, prefix in longest.items():
        parts = prefix.split(".")[:-1]
        for depth in range(len(parts) + 1):
            outer = "".join(f"{part}." for part in parts[:depth])
            if outer in inner:
                inner[outer][name.removeprefix(outer)] = shapes[name]
    return inner


def _layout(family: Family, shapes: Shapes) -> Layout | None:
    return next((layout for layout in family.layouts if layout.fits(shapes)), None)


def _fitting_count(layout: Layout, shapes: Shapes) -> int:
    return sum(layout.fits({name: shape}) for name, shape in shapes.items())


def build_network(config: Any) -> nn.Module:
    """The network of a config, on torch's default device. That of a `DiffusersFamily` is built in `adapters/` only."""
    return family_of(config).build(config)
