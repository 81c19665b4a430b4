"""Distances and least squares from inner products, against NumPy on the whole vectors."""

import numpy as np
import pytest
import torch
from torch import Tensor

from vaelens.identification.weights.closeness import distances as module
from vaelens.identification.weights.closeness.distances import distances
from vaelens.identification.weights.closeness.half_verdict import Nearest, nearest_text
from vaelens.identification.weights.closeness.mixtures import Mixture, find_mixture
from vaelens.identification.weights.closeness.rounding import TYPICAL, differing_tensors

SHAPES = {"b": (7, 3), "a": (501,), "c": (2, 5, 3, 3)}
FINE = TYPICAL["float32"]


def vae(seed: int, near: dict[str, Tensor] | None = None, share: float = 0.05) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(shape, generator=random) for name, shape in SHAPES.items()}
    return made if near is None else {name: near[name] + share * t for name, t in made.items()}


def flat(tensors: dict[str, Tensor]) -> np.ndarray:
    return np.concatenate([tensors[name].double().numpy().ravel() for name in sorted(tensors)])


def combined(weights: list[float], vaes: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {n: sum((w * v[n] for w, v in zip(weights, vaes, strict=True)), torch.zeros(())) for n in SHAPES}


def found(target: dict[str, Tensor], others: list[dict[str, Tensor]], rounding: float = FINE) -> Mixture | None:
    candidates = list(range(1, len(others) + 1))
    return find_mixture(distances([target, *others]), 0, candidates, rounding, only_averages=lambda _: False)


def test_distances_are_those_of_numpy_on_whole_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 100)
    vaes = [vae(0), vae(1), vae(2, vae(0), 1e-3)]
    vaes[1] = {name: tensor.half() for name, tensor in vaes[1].items()}
    measured = distances(vaes)
    for a in range(3):
        for b in range(3):
            expected = np.linalg.norm(flat(vaes[a]) - flat(vaes[b])) / np.linalg.norm(flat(vaes[b]))
            assert measured.between(a, b) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_distances_of_a_ten_millionth_are_resolved() -> None:
    far, first = vae(5), {name: tensor.double() for name, tensor in vae(0).items()}
    near = {name: tensor * (1 + 1e-7) for name, tensor in first.items()}
    assert distances([first, near]).between(1, 0) == pytest.approx(1e-7, rel=1e-6)
    assert distances([far, first, near]).between(2, 1) == pytest.approx(1e-7, rel=0.2)


@pytest.mark.parametrize("weights", [[0.7, 0.3], [0.5, 0.5], [0.05, 0.95]])
def test_an_average_of_two_is_found_with_its_weights(weights: list[float]) -> None:
    first = vae(0)
    parts = [first, vae(1, first), vae(2, first), vae(3, first)]
    mixture = found(combined(weights, parts[:2]), parts)
    assert mixture is not None
    assert mixture.kind == "average"
    assert dict(mixture.parts) == pytest.approx({1: weights[0], 2: weights[1]}, abs=1e-4)
    assert mixture.residual < 1e-6


def test_weights_and_residual_are_those_of_numpys_least_squares() -> None:
    first = vae(0)
    parts = [first, vae(1, first), vae(2, first)]
    target = vae(9, combined([0.5, 0.3, 0.2], parts), 1e-4)
    mixture = found(target, parts, rounding=1e-4)
    assert mixture is not None
    differences = np.stack([flat(parts[1]) - flat(first), flat(parts[2]) - flat(first)], axis=1)
    solved, *_ = np.linalg.lstsq(differences, flat(target) - flat(first), rcond=None)
    left = flat(target) - flat(first) - differences @ solved
    expected = {1: 1 - solved.sum(), 2: solved[0], 3: solved[1]}
    assert dict(mixture.parts) == pytest.approx(expected, abs=1e-6)
    assert mixture.residual == pytest.approx(np.linalg.norm(left) / np.linalg.norm(flat(target)), rel=1e-3)


def test_a_difference_merge_is_found_and_told_from_other_sums() -> None:
    first = vae(0)
    parts = [first, vae(1, first), vae(2, first)]
    mixture = found(combined([1, 0.6, -0.6], parts), parts)
    assert mixture is not None
    assert mixture.kind == "difference"
    other = found(combined([1.4, 0.2, -0.6], parts), parts)
    assert other is not None
    assert other.kind == "sum"


def test_only_averages_of_untrusted_candidates_count() -> None:
    first = vae(0)
    parts = [first, vae(1, first)]
    measured = distances([combined([1.5, -0.5], parts), *parts])
    assert find_mixture(measured, 0, [1, 2], FINE, only_averages=lambda n: n == 2) is None
    assert find_mixture(measured, 0, [1, 2], FINE, only_averages=lambda _: False) is not None


def test_what_is_no_mixture_isnt_called_one() -> None:
    first = vae(0)
    parts = [first, vae(1, first), vae(2, first)]
    assert found(vae(7, first), parts) is None  # a fine-tune of its own
    assert found(vae(7), parts) is None  # trained apart
    assert found(vae(7, combined([0.5, 0.5], parts[:2]), 0.02), parts) is None  # an average, trained further
    close = [first, vae(1, first, 0.03)]
    assert found(vae(7, combined([0.5, 0.5], close), 0.004), close, rounding=0.01) is None  # too close to tell


def test_an_average_in_bfloat16_is_found_though_rounding_hides_small_weights() -> None:
    first = vae(0)
    parts = [first, vae(1, first, 0.3)]
    target = {n: t.bfloat16() for n, t in combined([0.8, 0.2], parts).items()}
    mixture = found(target, parts, TYPICAL["bfloat16"])
    assert mixture is not None
    assert dict(mixture.parts) == pytest.approx({1: 0.8, 2: 0.2}, abs=0.01)


def test_rounding_explains_casts_and_nothing_else() -> None:
    tensors = vae(0) | {"tiny": torch.tensor([3e-8, -6e-9, 1e-6])}
    half = {name: tensor.half() for name, tensor in tensors.items()}
    brain = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    assert differing_tensors(tensors, half, ("float32", "float16")) == []
    assert differing_tensors(half, brain, ("float16", "bfloat16")) == []
    assert differing_tensors(tensors, {n: t.bfloat16() for n, t in half.items()}, ("float32", "bfloat16")) == []
    sums = {name: 0.7 * tensor + 0.3 * tensor for name, tensor in tensors.items()}
    assert differing_tensors(tensors, sums, ("float32", "float32")) == []
    assert differing_tensors(tensors, half, ("float32", "float32")) != []
    changed = tensors | {"c": tensors["c"].clone()}
    changed["c"].view(-1)[4] *= 1.02
    assert differing_tensors(changed, brain, ("float32", "bfloat16")) == ["c"]


@pytest.mark.parametrize(
    ("differing", "end"),
    [(2, ", in 2 of 110 tensors (t0, t1)"), (5, ", in 5 of 110 tensors (t0, t1, t2, ...)"), (108, "")],
)
def test_tensors_that_differ_are_named_where_they_are_few(differing: int, end: str) -> None:
    nearest = Nearest("ft-mse", "sd1", 0.03, tuple(f"t{n}" for n in range(differing)), 110)
    assert nearest_text(nearest, "decoder weights") == f"nearest: ft-mse, decoder weights 3.0 % apart{end}"
