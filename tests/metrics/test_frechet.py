"""The Frechet distance against scipy's square root of a matrix, torch-fidelity, pytorch-fid and closed forms."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from support import oracles
from vaelens.metrics.frechet import Jackknife, Moments, frechet_distance, jackknife


def features(n: int, d: int, seed: int, of: Tensor | None = None) -> Tensor:
    """Unequal variances over a factor of 1000, correlated, not negative on average; like `of`, or on their own."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * torch.logspace(0, -1.5, d)
    x = x + 0.5 * x.roll(1, dims=1) + 0.4
    return x if of is None else 0.8 * of[:n] + 0.5 * x


def by_square_root(x: Tensor, y: Tensor) -> float:
    a, b = x.double().numpy(), y.double().numpy()
    with oracles.silence():
        root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False))
    apart = a.mean(0) - b.mean(0)
    return float(apart @ apart + a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum() - 2 * np.trace(root).real)


def by_torch_fidelity(x: Tensor, y: Tensor) -> float:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    statistics = [fid_features_to_statistics(features) for features in (x, y)]
    with oracles.silence():
        return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


def by_pytorch_fid(x: Tensor, y: Tensor) -> float:
    from pytorch_fid.fid_score import calculate_frechet_distance

    a, b = x.numpy(), y.numpy()
    with oracles.silence():
        return calculate_frechet_distance(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))


def distance(x: Tensor, y: Tensor) -> float:
    return frechet_distance(Moments.of(x), Moments.of(y))


def relative(value: float, expected: float) -> float:
    assert expected > 1, f"{expected} is too small to prove anything"
    return abs(value / expected - 1)


@pytest.mark.parametrize(("n", "d"), [(600, 256), (512, 256), (200, 64), (50, 2)])
def test_against_scipy(n: int, d: int) -> None:
    x = 4 * features(n, d, 0)
    y = 4 * features(n + 17, d, 1) + 1
    assert relative(distance(x, y), by_square_root(x, y)) < 1e-6
    assert relative(distance(x, y), distance(y, x)) < 1e-12


def test_rank_deficient_against_scipy() -> None:
    x, y = 4 * features(100, 256, 0), 4 * features(120, 256, 1)
    assert relative(distance(x, y), by_square_root(x, y)) < 1e-4
    assert relative(distance(x, y), distance(y, x)) < 1e-12
    full = 4 * features(800, 256, 2)
    assert relative(distance(x, full), by_square_root(x, full)) < 1e-4
    assert relative(distance(full, x), distance(x, full)) < 1e-9


def test_rank_deficient_closed_form() -> None:
    """Two images each: one direction of spread, so the trace of the root is |a.b|."""
    a, b, apart = (torch.randn(300, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(3))
    expected = apart @ apart + 2 * (a @ a) + 2 * (b @ b) - 4 * abs(a @ b)
    value = distance(torch.stack([a, -a]), torch.stack([apart + b, apart - b]))
    assert relative(value, float(expected)) < 1e-12


def test_channels_that_are_constant_or_equal() -> None:
    x, y = 4 * features(300, 40, 0), 4 * features(300, 40, 1)
    x[:, 3], y[:, 3] = 0, 0
    x[:, 7], y[:, 9] = 2, 5
    x[:, 11] = x[:, 12]
    assert relative(distance(x, y), by_square_root(x, y)) < 1e-4


def test_against_torch_fidelity_and_pytorch_fid() -> None:
    x, y = 4 * features(300, 96, 0).double(), 4 * features(300, 96, 1).double() + 0.5
    assert relative(distance(x, y), by_torch_fidelity(x, y)) < 1e-6
    assert relative(distance(x, y), by_pytorch_fid(x, y)) < 1e-6


def diagonal(means: Tensor, deviations: Tensor) -> Moments:
    """Exactly those moments: images at mean +/- a multiple of each axis."""
    d = len(means)
    axes = torch.diag(deviations * math.sqrt((2 * d - 1) / 2))
    return Moments.of(torch.cat([means + axes, means - axes]))


def test_closed_form_of_diagonal_gaussians() -> None:
    generator = torch.Generator().manual_seed(0)
    m, n, s, t = (torch.rand(30, generator=generator, dtype=torch.float64) + 0.1 for _ in range(4))
    expected = float(((m - n) ** 2).sum() + ((s - t) ** 2).sum())
    assert relative(frechet_distance(diagonal(m, s), diagonal(n, t)), expected) < 1e-12


@pytest.mark.parametrize(("n", "d", "decades"), [(20, 20, 0), (12, 20, 0), (80, 20, 4), (80, 20, 8), (15, 20, 4)])
def test_as_exact_as_from_the_images_themselves(n: int, d: int, decades: int) -> None:
    """tr (S1 S2)^(1/2) is the sum of the singular values of X1 X2' of the centred features, with nothing squared.

    So what singular covariances and spreads over decades cost shows, where the matrix's square root is worse.
    """
    for seed in range(10):
        decay = torch.logspace(0, -decades, d, dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed)
        turn = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
        x, y = (torch.randn(n, d, generator=generator, dtype=torch.float64) * decay @ turn for _ in range(2))
        x, y = 200 * (x - x.mean(dim=0)), 200 * (y - y.mean(dim=0))
        root = torch.linalg.svdvals(x @ y.T).sum()
        expected = float((x.square().sum() + y.square().sum() - 2 * root) / (n - 1))
        assert relative(distance(x, y), expected) < 1e-10


@pytest.mark.parametrize(("n", "decay"), [(400, 0.0), (400, -6.0), (60, 0.0), (60, -6.0), (2, 0.0)])
def test_of_a_set_from_itself_is_zero_and_never_negative(n: int, decay: float) -> None:
    x = 10 * features(n, 128, 3) * torch.logspace(0, decay, 128)
    assert 0 <= distance(x, x) <= 1e-6
    assert 0 <= distance(x, x[torch.randperm(n, generator=torch.Generator().manual_seed(0))]) <= 1e-6


def test_of_a_set_from_itself_with_spreads_over_decades() -> None:
    """Eigenvalues of squares lose the smallest directions; here that alone would come to 2e-6."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        turn = torch.linalg.qr(torch.randn(20, 20, generator=generator, dtype=torch.float64))[0]
        x = 5000 * torch.randn(80, 20, generator=generator, dtype=torch.float64)
        x = x * torch.logspace(0, -3.5, 20, dtype=torch.float64) @ turn
        assert 0 <= distance(x, x) <= 1e-6


def test_moments_merge_by_adding() -> None:
    x = features(300, 50, 0)
    y = Moments.of(features(300, 50, 1))
    whole = frechet_distance(Moments.of(x), y)
    for parts in (2, 3, 7):
        first, *rest = [Moments.of(part) for part in x.tensor_split(parts)]
        for part in rest:
            first = first + part
        assert first.count == 300
        assert math.isclose(frechet_distance(first, y), whole, rel_tol=1e-10)
    without = Moments.of(x) - Moments.of(x[100:])
    assert torch.allclose(without.covariance, torch.cov(x[:100].double().T), rtol=1e-10, atol=1e-12)


def test_covariance_of_features_far_from_zero() -> None:
    x = features(1000, 20, 0).double()
    shifted = Moments.of(x + 1000)
    error = (shifted.covariance - Moments.of(x).covariance).abs().max()
    assert 0 < error < 1e-8
    many = features(4000, 8, 0)  # float32, summed in float64
    assert torch.allclose(Moments.of(many).covariance, torch.cov(many.double().T), rtol=1e-12, atol=1e-14)


def test_too_few_images_and_nan_have_no_distance() -> None:
    x = Moments.of(features(10, 4, 0))
    with pytest.raises(ValueError, match="at least 2 images, not 1"):
        frechet_distance(x, Moments.of(features(1, 4, 0)))
    broken = features(10, 4, 0)
    broken[3, 2] = math.nan
    with pytest.raises(ValueError, match="aren't finite"):
        frechet_distance(x, Moments.of(broken))


def groups(x: Tensor, count: int = 20) -> list[Moments]:
    return [Moments.of(x[i::count]) for i in range(count)]


@pytest.mark.parametrize("n", [200, 30])
def test_jackknife_leaves_out_each_group(n: int) -> None:
    original = features(n, 24, 0)
    sets = {"a": features(n, 24, 1, of=original), "b": features(n, 24, 2, of=original) + 0.1}
    steps: list[tuple[int, int]] = []
    result = jackknife(groups(original), {k: groups(v) for k, v in sets.items()}, lambda *step: steps.append(step))
    assert steps == [(i, 42) for i in range(42)]
    for name, x in sets.items():
        assert math.isclose(result[name].value, distance(x, original), rel_tol=1e-9)
        for i, value in enumerate(result[name].left_out):
            others = torch.arange(n) % 20 != i
            assert math.isclose(value, distance(x[others], original[others]), rel_tol=1e-8)


def test_interval_by_hand() -> None:
    first, second = Jackknife(5.0, (5.0, 6.0, 4.0)), Jackknife(4.0, (4.0, 4.5, 2.5))
    interval = first.interval()
    half = 4.302652729911275 * math.sqrt(2 / 3 * 2)  # t with 2 degrees of freedom
    assert interval.value == 5
    assert math.isclose(interval.high - 5, half, rel_tol=1e-9)
    assert math.isclose(5 - interval.low, half, rel_tol=1e-9)
    apart = first.minus(second)
    assert apart == Jackknife(1.0, (1.0, 1.5, 1.5))
    assert math.isclose(apart.interval().high - 1, 4.302652729911275 * math.sqrt(2 / 3 * (1 / 6)), rel_tol=1e-9)


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    """Leaving out single values of a mean gives s / sqrt(n), the textbook's check of the formula."""
    values = np.random.default_rng(0).normal(size=20)
    left_out = tuple(float((values.sum() - value) / 19) for value in values)
    interval = Jackknife(float(values.mean()), left_out).interval()
    assert math.isclose(interval.high - interval.value, 2.093024054 * values.std(ddof=1) / math.sqrt(20), rel_tol=1e-8)


def test_the_interval_of_a_difference_is_narrower_than_its_parts() -> None:
    """What the images have in common drops out, and a VAE that is worse is told from one that is better."""
    original = features(400, 16, 0)
    noise = features(400, 16, 5) - 0.4
    sets = {"worse": groups(original + 0.9 * noise), "better": groups(original + 0.8 * noise)}
    result = jackknife(groups(original), sets)
    difference = result["worse"].minus(result["better"]).interval()
    alone = result["worse"].interval()
    assert difference.excludes_zero
    assert difference.low > 0
    assert difference.high - difference.low < 0.5 * (alone.high - alone.low)
    assert not result["worse"].minus(result["worse"]).interval().excludes_zero


def test_jackknife_covers_the_truth() -> None:
    """Of 60 draws of images, the 95 % interval of the distance holds the mean distance in most."""
    values, intervals = [], []
    for seed in range(60):
        x = features(300, 4, 2 * seed)
        estimate = jackknife(groups(x), {"a": groups(features(300, 4, 2 * seed + 1) + 1)})["a"]
        values.append(estimate.value)
        intervals.append(estimate.interval())
    truth = sum(values) / 60
    assert 50 <= sum(i.low < truth < i.high for i in intervals) < 60


def test_jackknife_refuses_what_it_cannot_compare() -> None:
    x = features(40, 4, 0)
    with pytest.raises(ValueError, match="groups of kl-f8 don't hold the same images"):
        jackknife(groups(x), {"kl-f8": groups(x[:39])})
    with pytest.raises(ValueError, match="only 1 holds images"):
        jackknife(groups(x, 1), {"a": groups(x, 1)})
    empty = [*groups(x, 4), Moments.of(x[:0])]
    assert len(jackknife(empty, {"a": empty})["a"].left_out) == 4
