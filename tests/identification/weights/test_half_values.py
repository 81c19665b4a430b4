"""Halves are told apart by a few values where that is enough, and by digests else: with the same result."""

import itertools

import pytest
import torch
from torch import Tensor

from vaelens.identification.weights import half_values as module
from vaelens.identification.weights.half_values import SAMPLED, HalfValues
from vaelens.weights.fingerprint import HalfContent, exact_in, half_content

Half = dict[str, Tensor]


def made(seed: int) -> Half:
    random = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=random) for name, shape in {"b": (7,), "a": (40, 31, 3, 3)}.items()}


def cast(half: Half, dtype: torch.dtype) -> Half:
    return {name: tensor.to(dtype) for name, tensor in half.items()}


def changed(half: Half, place: int, by: float) -> Half:
    other = {name: tensor.clone() for name, tensor in half.items()}
    other["a"].view(-1)[place] += by
    return other


def kinds() -> dict[str, Half]:
    first = made(0)
    half, brain = cast(first, torch.float16), cast(first, torch.bfloat16)
    return {
        "first": first,
        "double": cast(first, torch.float64),
        "float16": half,
        "bfloat16": brain,
        "float32 after float16": cast(half, torch.float32),
        "float32 after bfloat16": cast(brain, torch.float32),
        "bfloat16 after float16": cast(half, torch.bfloat16),
        "a sampled value": changed(first, 0, 0.1),
        "a little": changed(first, 0, 1e-7),
        "a late value": changed(first, SAMPLED + 1, 0.1),
        "a late value, in float16": cast(changed(first, SAMPLED + 1, 0.1), torch.float16),
        "another": made(1),
        "another's names": {name + "x": tensor for name, tensor in first.items()},
        "another's shapes": {name: tensor.reshape(-1) for name, tensor in first.items()},
        "minus zero": {name: torch.zeros_like(tensor) * -1 for name, tensor in first.items()},
        "zero": {name: torch.zeros_like(tensor) for name, tensor in first.items()},
    }


def test_the_result_is_that_of_digests() -> None:
    halves = kinds()
    equal: list[tuple[str, str]] = []
    for a, b in itertools.product(halves, repeat=2):
        by_digests = half_content(halves[a]).same_as(half_content(halves[b]))
        assert HalfValues.of(halves[a]).same_as(HalfValues.of(halves[b])) == by_digests, (a, b)
        recorded = half_content(halves[b])
        assert HalfValues.of(halves[a]).same_as(HalfValues(None, lambda held=recorded: held)) == by_digests, (a, b)
        equal += [(a, b)] if by_digests else []
    assert ("first", "float16") in equal
    assert ("first", "a late value") not in equal
    assert len(halves) < len(equal) < len(halves) ** 2 / 2


def test_precisions_are_known_without_digests() -> None:
    for name, half in kinds().items():
        assert HalfValues.of(half).exact_in == half_content(half).exact_in == exact_in(half), name


def test_digests_are_made_once_and_only_where_values_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(half: Half) -> HalfContent:
        asked.append(1)
        return half_content(half)

    monkeypatch.setattr(module, "half_content", counted)
    first, other = HalfValues.of(made(0)), HalfValues.of(made(1))
    assert not first.same_as(other)
    assert not asked
    assert first.same_as(HalfValues.of(cast(made(0), torch.float16)))
    assert first.same_as(first)
    assert len(asked) == 2
