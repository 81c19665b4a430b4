"""How the files of a family name its tensors. In memory a tensor has the name and shape that diffusers gives it."""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]
Tensors = Mapping[str, Tensor]
Half = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class Layout:
    """One way of naming a family's tensors.

    `fits` tells by names and shapes, without prefix, whether a file has it; a damaged file may fit, as what it lacks is
    listed later. `to_diffusers` and `from_diffusers` rename and reshape; without the latter nothing is saved in this
    layout. Conversions raise ValueError where two names mean one tensor. `half` is for layouts that keep encoder and
    decoder in separate files: which of them this one holds.
    """

    name: str
    fits: Callable[[Shapes], bool]
    to_diffusers: Callable[[Tensors], dict[str, Tensor]] = dict
    from_diffusers: Callable[[Tensors], dict[str, Tensor]] | None = None
    half: Callable[[Shapes], Half] | None = None


def some_name(pattern: str) -> Callable[[Shapes], bool]:
    """Whether at least one name begins with the pattern."""
    return lambda shapes: any(re.match(pattern, name) for name in shapes)


def every_name(pattern: str) -> Callable[[Shapes], bool]:
    """Whether all names begin with the pattern, and there are any."""
    return lambda shapes: bool(shapes) and all(re.match(pattern, name) for name in shapes)


def size(shapes: Shapes, name: str, axis: int) -> int:
    """A tensor's size along an axis. Raises ValueError where the tensor or the axis is missing."""
    if name not in shapes or len(shapes[name]) <= axis:
        raise ValueError(f"{name} is missing or misshapen")
    return shapes[name][axis]


def count(names: Iterable[str], *prefixes: str) -> int:
    """How many of `prefix`0., `prefix`1., ... there are, without a gap: no more than there are tensors."""
    numbered = re.compile(rf"(?:{'|'.join(map(re.escape, prefixes))})(0|[1-9][0-9]{{0,8}})\.")
    numbers = {int(match[1]) for name in names if (match := numbered.match(name))}
    return next(number for number in itertools.count() if number not in numbers)
