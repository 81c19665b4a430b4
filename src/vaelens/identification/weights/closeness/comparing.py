"""What each half of each file is, by comparing it with all references and with the other files of the call."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from vaelens.identification.weights.closeness.distances import Distances, distances
from vaelens.identification.weights.closeness.half_verdict import HalfVerdict, NamedMixture, Nearest, Sameness
from vaelens.identification.weights.closeness.mixtures import find_mixture
from vaelens.identification.weights.closeness.rounding import TYPICAL, differing_tensors, precision_of
from vaelens.identification.weights.references import Reference
from vaelens.identification.weights.scaling import UndoneHalf
from vaelens.weights.registry import registry

NEARLY = 4.0  # times the typical error of rounding: so close, each value is compared


def verdict_by_digests(target: Reference, references: Sequence[Reference], number: int) -> HalfVerdict | None:
    """Which known VAEs, or those named to compare with, have the target's encoder (0) or decoder (1); None if none."""
    same = [one for one in references if one.is_trusted and one.family == target.family and _same(one, target, number)]
    if not same:
        return None
    values = target.half(number).content.values
    return same_as(same, "same" if any(one.half(number).content.values == values for one in same) else "rounded")


def verdicts_by_weights(
    targets: Sequence[Reference], references: Sequence[Reference], number: int
) -> dict[Reference, HalfVerdict]:
    """Of targets that digests don't tell: what is near, and of what they are mixtures.

    Targets are compared with each other too; all have weights.
    """
    found: dict[Reference, HalfVerdict] = {}
    for signature in dict.fromkeys(target.signature(number) for target in targets):
        alike = [one for one in targets if one.signature(number) == signature]
        pool = [one for one in (*references, *targets) if one.signature(number) == signature]
        sets = _distinct(pool, number)
        if len(sets) == 1:
            found |= {target: HalfVerdict(_others(target, sets[0])) for target in alike}
            continue
        measured = distances([_half(one.first, number) for one in sets])
        for target in alike:
            own = next(place for place, one in enumerate(sets) if target in one.members)
            found[target] = _verdict(measured, sets, own, target, number)
    return found


@dataclass(frozen=True, eq=False)
class _Distinct:
    """VAEs with the same half; the first is a known one where there is one, of full precision if any is."""

    members: tuple[Reference, ...]

    @property
    def first(self) -> Reference:
        return self.members[0]

    @property
    def name(self) -> str:
        return self.first.name

    @property
    def is_trusted(self) -> bool:
        return any(one.is_trusted for one in self.members)


def _distinct(pool: Sequence[Reference], number: int) -> list[_Distinct]:
    ordered = sorted(pool, key=lambda one: (not one.is_trusted, bool(one.half(number).exact_in)))
    sets: list[list[Reference]] = []
    for one in ordered:
        same = next((members for members in sets if _same(members[0], one, number)), None)
        if same is None:
            sets.append([one])
        elif one not in same:
            same.append(one)
    return [_Distinct(tuple(members)) for members in sets]


def _verdict(measured: Distances, sets: Sequence[_Distinct], own: int, target: Reference, number: int) -> HalfVerdict:
    precision = precision_of(sets[own].first.half(number).exact_in)
    others = sorted((n for n in range(len(sets)) if n != own), key=lambda n: measured.between(own, n))
    for other in others:
        theirs = precision_of(sets[other].first.half(number).exact_in)
        if measured.between(own, other) > NEARLY * (TYPICAL[precision] + TYPICAL[theirs]):
            break
        if not _differing(sets, own, other, number):
            same = [one for one in sets[other].members if one.is_trusted] or sets[other].members
            return same_as(same, "close")
    scaled = {n for n in others if _is_scaled_beside(target, sets[n].first, number, measured.between(own, n))}
    comparable = [n for n in others if n not in scaled]
    mixture = find_mixture(
        measured, own, comparable, TYPICAL[precision], only_averages=lambda n: not sets[n].is_trusted
    )
    named = None
    if mixture is not None:
        spaces = frozenset(sets[n].first.space for n, _ in mixture.parts)
        parts = tuple((sets[n].name, weight) for n, weight in mixture.parts)
        named = NamedMixture(mixture.kind, parts, mixture.residual, spaces)
    nearest = next(iter(comparable), others[0])
    near = replace(_near(measured, sets, own, nearest, number), is_comparable=nearest not in scaled)
    known = None
    if not sets[nearest].is_trusted:
        trusted = next((n for n in comparable if sets[n].is_trusted), None)
        known = _near(measured, sets, own, trusted, number) if trusted is not None else None
    return HalfVerdict(_others(target, sets[own]), mixture=named, nearest=near, nearest_known=known)


def _is_scaled_beside(target: Reference, other: Reference, number: int, distance: float) -> bool:
    """Whether the other is scaled for float16 where the target isn't, by its metadata and by its values, which are
    nearer to the target with the scaling undone; `distance` is that of the values as stored.
    """
    if target.scaling is not None or other.scaling is None:
        return False
    mine, stored = _half(target, number), _half(other, number)
    exponents = other.scaling.of(stored, mine)
    return bool(exponents) and distances([mine, UndoneHalf(stored, exponents).tensors]).between(0, 1) < distance


def _near(measured: Distances, sets: Sequence[_Distinct], own: int, other: int, number: int) -> Nearest:
    differing = _differing(sets, own, other, number)
    tensors = len(_half(sets[own].first, number))
    first = sets[other].first
    return Nearest(sets[other].name, first.space, measured.between(own, other), tuple(differing), tensors)


def _differing(sets: Sequence[_Distinct], a: int, b: int, number: int) -> list[str]:
    first, second = sets[a].first, sets[b].first
    precisions = precision_of(first.half(number).exact_in), precision_of(second.half(number).exact_in)
    return differing_tensors(_half(first, number), _half(second, number), precisions, {**first.undone, **second.undone})


def _others(target: Reference, own: _Distinct) -> tuple[str, ...]:
    """The other files that have the target's half."""
    return tuple(one.name for one in own.members if one != target)


def same_as(same: Sequence[Reference], sameness: Sameness) -> HalfVerdict:
    """The verdict for a half that these have."""
    order = [*registry().vaes]
    names = sorted(dict.fromkeys(one.name for one in same), key=lambda n: order.index(n) if n in order else len(order))
    space = next((one.space for one in same if one.space is not None), None)
    return HalfVerdict(tuple(names), sameness, any(one.is_trusted for one in same), space)


def _same(a: Reference, b: Reference, number: int) -> bool:
    return a.family == b.family and a.half(number).same_as(b.half(number))


def _half(reference: Reference, number: int) -> dict[str, Tensor]:
    weights = reference.half(number).weights
    assert weights is not None
    return dict(weights)
