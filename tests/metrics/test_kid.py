"""KID against torch-fidelity on the same features, and by a plain loop."""

import math

import pytest
import torch
from torch import Tensor

from support import oracles  # noqa: F401 - makes torch-fidelity importable
from vaelens.metrics.kid import Kid, kid_each


def kid(x: Tensor, y: Tensor, *options: int, **named: int) -> Kid:
    return kid_each({"x": x}, y, *options, **named)["x"]


def features(n: int, seed: int, scale: float = 3.0, d: int = 40) -> Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + 0.1 * seed


def torch_fidelity_kid(x: Tensor, y: Tensor, subsets: int, size: int, seed: int) -> tuple[float, float]:
    from torch_fidelity.metric_kid import kid_features_to_metric

    result = kid_features_to_metric(
        x, y, kid_subsets=subsets, kid_subset_size=size, kid_degree=3, kid_gamma=None, kid_coef0=1, rng_seed=seed,
        verbose=False,
    )  # fmt: skip
    return result["kernel_inception_distance_mean"], result["kernel_inception_distance_std"]


@pytest.mark.parametrize(("n", "m", "subsets", "size"), [(300, 250, 20, 60), (130, 150, 30, 100), (90, 90, 40, 5)])
def test_against_torch_fidelity(n: int, m: int, subsets: int, size: int) -> None:
    """Few large subsets go through one kernel of all images, many small ones through one each."""
    x, y = features(n, 1).double(), features(m, 2, scale=4.0).double()
    mean, std = torch_fidelity_kid(x, y, subsets, size, seed=2020)
    assert mean > 1
    ours = kid(x, y, subsets, size)
    assert math.isclose(ours.mean, mean, rel_tol=1e-9)
    assert math.isclose(ours.std, std, rel_tol=1e-9)
    assert (ours.subset_size, len(ours.values)) == (size, subsets)
    assert not math.isclose(kid(x, y, subsets, size, seed=2021).mean, mean, rel_tol=1e-6)


def test_float32_features_as_stored_against_torch_fidelity() -> None:
    x, y = features(200, 1), features(200, 2, scale=4.0)
    assert math.isclose(kid(x, y, 10, 50).mean, torch_fidelity_kid(x, y, 10, 50, seed=2020)[0], rel_tol=1e-5)
    assert math.isclose(kid(x, y, 10, 50).mean, kid(x.double(), y.double(), 10, 50).mean, rel_tol=1e-15)


def test_fewer_images_than_a_subset() -> None:
    x, y = features(30, 1), features(30, 2)
    ours = kid(x, y)
    assert (ours.subset_size, ours.std, len(ours.values)) == (30, None, 1)

    def kernel(a: Tensor, b: Tensor) -> float:
        return (float(a.double() @ b.double()) / 40 + 1) ** 3

    same = sum(kernel(p[i], p[j]) for p in (x, y) for i in range(30) for j in range(30) if i != j) / (30 * 29)
    assert math.isclose(ours.mean, same - 2 * sum(kernel(a, b) for a in x for b in y) / 900, rel_tol=1e-9)
    assert kid(x, features(60, 2)).subset_size == 30


def draw(seed: int) -> Tensor:
    return torch.randn(40, 20, generator=torch.Generator().manual_seed(seed))


def test_unbiased() -> None:
    """Over draws from one distribution, the mean is 0 within its error: the Frechet distance's never is."""
    values = torch.tensor([kid(draw(seed), draw(seed + 500)).mean for seed in range(60)])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(60)
    assert values.min() < 0 < values.max()


def test_differences_on_the_same_subsets() -> None:
    original = features(200, 1)
    sets = {"a": original + 0.5 * features(200, 7), "b": original + 0.4 * features(200, 8)}
    together = kid_each(sets, original, subsets=15, subset_size=50)
    for name, x in sets.items():
        assert together[name] == kid(x, original, 15, 50)
    a, b = together["a"], together["b"]
    difference = a.minus(b)
    assert math.isclose(difference.mean, a.mean - b.mean, rel_tol=1e-9)
    assert difference.values == tuple(p - q for p, q in zip(a.values, b.values, strict=True))
    assert 0 < difference.std < a.std
    whole = kid(original, original).minus(kid(original, original))
    assert (whole.mean, whole.std) == (0, None)


def test_what_cannot_be_compared() -> None:
    x = features(50, 0)
    with pytest.raises(ValueError, match="at least 2 images, not 1"):
        kid(x[:1], x)
    with pytest.raises(ValueError, match="from the same images"):
        kid_each({"a": x, "b": x[:40]}, x)
    with pytest.raises(ValueError, match="same subsets"):
        kid(x, x, 5, 10).minus(kid(x, x, 5, 11))
