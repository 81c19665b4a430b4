"""What one half of a VAE is with its scaling for float16 undone, where its metadata say that it was scaled."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from vaelens.identification.weights.closeness.comparing import (
    same_as,
    verdict_by_digests,
    verdicts_by_weights,
)
from vaelens.identification.weights.closeness.distances import distances
from vaelens.identification.weights.closeness.half_verdict import HalfVerdict
from vaelens.identification.weights.half_values import HalfValues
from vaelens.identification.weights.references import Reference
from vaelens.identification.weights.scaling import UndoneHalf

LEFT_BY_ROUNDING = 0.01  # relative L2 distance


def verdict_with_scaling_undone(
    target: Reference, references: Sequence[Reference], number: int, stored: HalfVerdict
) -> HalfVerdict:
    """What the target's encoder (0) or decoder (1) is before it was scaled, where that tells more than `stored` does.

    `stored` is the verdict about the values as they are.
    """
    mine = target.half(number).weights
    if target.scaling is None or mine is None or stored.is_identified:
        return stored
    others = [one for one in references if one.place != target.place]
    alike = [one for one in others if one.signature(number) == target.signature(number)]
    halves = {one: UndoneHalf(mine, target.scaling.of(mine, _weights(one, number))) for one in alike}
    made_from = [one for one, half in halves.items() if half.exponents and _is_made_from(half, _weights(one, number))]
    if made_from:
        trusted = [one for one in made_from if one.is_trusted]
        return replace(same_as(trusted or made_from, "rounded"), is_scaled=True)
    best = stored
    distinct = {tuple(sorted(half.exponents.items())): half for half in halves.values()}
    for half in distinct.values() if alike else [UndoneHalf(mine, target.scaling.of(mine))]:
        if not half.exponents:
            continue
        found = _verdict(target, half, others, number)
        if _tells_more(found, best):
            best = replace(found, is_scaled=True)
    return best


def _verdict(target: Reference, half: UndoneHalf, others: Sequence[Reference], number: int) -> HalfVerdict:
    encoder, decoder = (HalfValues.of(half.tensors) if n == number else one for n, one in enumerate(target.halves))
    undone = replace(target, halves=(encoder, decoder), undone=half.exponents, scaling=None)
    by_digests = verdict_by_digests(undone, others, number)
    return by_digests if by_digests is not None else verdicts_by_weights([undone], others, number)[undone]


def _is_made_from(half: UndoneHalf, source: Mapping[str, Tensor]) -> bool:
    """Not where float16 left so little of the values that it could be others', too."""
    return half.is_made_from(source) and distances([half.tensors, source]).between(0, 1) <= LEFT_BY_ROUNDING


def _tells_more(found: HalfVerdict, than: HalfVerdict) -> bool:
    if found.same_as or than.same_as:
        return bool(found.same_as)
    if found.mixture is not None or than.mixture is not None:
        return than.mixture is None
    if found.nearest is None or not found.nearest.is_near:
        return False
    return than.nearest is None or found.nearest.distance < than.nearest.distance


def _weights(reference: Reference, number: int) -> Mapping[str, Tensor]:
    weights = reference.half(number).weights
    assert weights is not None
    return weights
