"""Gradients of a convolution that normalises again in its backward pass, against plain modules in float64."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vaelens.kernels.convolution import POINTWISE, Affine, Geometry
from vaelens.kernels.group_norm import activated, group_statistics, norm_silu_backward
from vaelens.kernels.paths import VARIABLE, available_paths
from vaelens.kernels.trained_convolution import GroupNormSilu, trained_convolution

DOWN = Geometry(stride=2, padding=(0, 0), padding_after=(1, 1))
GEOMETRIES = {"3x3": Geometry(), "1x1": POINTWISE, "down": DOWN, "up": Geometry(upsample=2)}
ALLOWED = {"amx": 2e-5, "tiles": 2e-5}  # relative L2 of the paths of bf16 halves
EPS = 1e-6


def plain(x: Tensor, geometry: Geometry, groups: int, given: list[Tensor]) -> Tensor:
    """The definition: normalise, activate, enlarge, pad, convolve, add."""
    norm_weight, norm_bias, weight, bias, *residual = given
    (top, left), (bottom, right) = geometry.padding, geometry.padding_after
    x = F.silu(F.group_norm(x, groups, norm_weight, norm_bias, EPS)) if groups else x
    x = F.interpolate(x, scale_factor=2.0, mode="nearest") if geometry.upsample > 1 else x
    out = F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, geometry.stride)
    return out + residual[0] if residual else out


def trained(x: Tensor, geometry: Geometry, groups: int, given: list[Tensor]) -> Tensor:
    norm_weight, norm_bias, weight, bias, *residual = given
    norm = GroupNormSilu(groups, EPS, norm_weight, norm_bias) if groups else None
    return trained_convolution(x, weight, bias, geometry, norm=norm, residual=residual[0] if residual else None)


def tensors(geometry: Geometry, shape: tuple[int, ...], out: int, residual: bool, offset: float = 0.0) -> list[Tensor]:
    """x, the norm's weight and bias, weight, bias, residual, in float64."""
    c = shape[1]
    torch.manual_seed(0)
    made = [torch.randn(shape) + offset, torch.randn(c), torch.randn(c)]
    made += [torch.randn(out, c, *geometry.kernel) / c, torch.randn(out)]
    made += [torch.randn(shape[0], out, *geometry.output_size(*shape[2:]))] if residual else []
    return [t.float().double().requires_grad_() for t in made]


def gradients(
    function: object, made: list[Tensor], geometry: Geometry, groups: int, dtype: torch.dtype
) -> list[Tensor]:
    """The output and the gradient of each tensor."""
    made = [t.detach().to(dtype).requires_grad_() for t in made]
    out = function(made[0], geometry, groups, made[1:])  # type: ignore[operator]
    asked = made if groups else [made[0], *made[3:]]
    weights = torch.linspace(-1, 1, out.numel()).sin().view(out.shape).to(dtype)
    return [out.detach(), *torch.autograd.grad(out, asked, weights)]


def check(found: list[Tensor], expected: list[Tensor], allowed: float) -> None:
    for number, (one, right) in enumerate(zip(found, expected, strict=True)):
        error = float((one.double() - right).norm() / right.norm())
        assert error < allowed, f"tensor {number}: {error:.2g} > {allowed}"


@pytest.mark.parametrize("path", available_paths())
@pytest.mark.parametrize("name", GEOMETRIES)
def test_gradients_are_those_of_float64_on_every_path(name: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, path)
    geometry = GEOMETRIES[name]
    for (b, h, w), (c, out, groups), residual in itertools.product(
        [(1, 2, 3), (3, 8, 5)], [(24, 8, 8), (32, 40, 0)], (True, False)
    ):
        made = tensors(geometry, (b, c, h, w), out, residual)
        expected = gradients(plain, made, geometry, groups, torch.float64)
        if path.endswith("-bf16"):
            with torch.autocast("cpu", torch.bfloat16):
                check(gradients(trained, made, geometry, groups, torch.float32), expected, 2e-2)
        else:
            check(gradients(trained, made, geometry, groups, torch.float32), expected, ALLOWED.get(path, 5e-6))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_gradcheck(name: str) -> None:
    geometry = GEOMETRIES[name]
    for groups, residual in ((2, True), (0, False)):
        made = tensors(geometry, (2, 4, 2, 4), 2, residual)
        made = made if groups else [made[0], *(t.detach() for t in made[1:3]), *made[3:]]
        run = lambda x, *given: trained(x, geometry, groups, [*given])  # noqa: B023, E731
        assert torch.autograd.gradcheck(run, made)


@pytest.mark.parametrize("path", available_paths())
def test_autocast_makes_products_and_gradients_of_bf16(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weight's gradient stays in the weight's dtype, and the result isn't that of fp32."""
    monkeypatch.setenv(VARIABLE, path)
    made = tensors(Geometry(), (1, 32, 6, 7), 16, False)
    wide = gradients(trained, made, Geometry(), 8, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = gradients(trained, made, Geometry(), 8, torch.float32)
    assert all(one.dtype == torch.float32 for one in narrow[1:])
    error = float((narrow[4] - wide[4]).norm() / wide[4].norm())
    assert 1e-4 < error < 2e-2


def test_a_mean_that_is_a_thousand_deviations_costs_no_digits() -> None:
    """Of the statistics and the norm's own gradients, which are sums of differences from the mean."""
    made = tensors(Geometry(), (2, 16, 9, 7), 8, False, offset=1000.0)
    x, weight, bias = (t.detach().float() for t in made[:3])
    inputs = [t.double().requires_grad_() for t in (x, weight, bias)]
    right = F.silu(F.group_norm(inputs[0], 4, inputs[1], inputs[2], EPS))
    gradient = torch.randn_like(right)
    expected = torch.autograd.grad(right, inputs, gradient)
    maps, of_out = x.permute(0, 2, 3, 1).contiguous(), gradient.float().permute(0, 2, 3, 1).contiguous()
    normal = group_statistics(maps, 4, EPS)
    affine = Affine(normal.mean, normal.scale * weight, normal.shift * weight + bias)
    out = activated(maps, affine)
    of_norm = norm_silu_backward(of_out, maps, normal, affine, 4)
    found = [out.permute(0, 3, 1, 2), of_out.permute(0, 3, 1, 2), *of_norm]
    check(found, [right.detach(), *expected], 3e-6)


def test_a_gradient_s_gradient_is_refused() -> None:
    x, *given = tensors(Geometry(), (1, 4, 3, 3), 2, False)
    (first,) = torch.autograd.grad(trained(x, Geometry(), 2, given).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.sum().backward()


def test_a_frozen_convolution_keeps_no_map() -> None:
    kept = list[Tensor]()
    x = torch.randn(1, 32, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        trained_convolution(x, torch.randn(16, 32, 3, 3), None, Geometry())
    assert [t.shape for t in kept] == [(16, 32, 3, 3)]


@pytest.mark.parametrize("groups", [8, 0])
def test_under_autocast_the_input_is_kept_in_bfloat16(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Normalised where there is a norm: a mean of a thousand deviations would take all of bfloat16's digits."""
    if "tiles" not in available_paths():
        pytest.skip("this machine has no native kernels")
    monkeypatch.setenv(VARIABLE, "tiles")
    made = tensors(Geometry(), (2, 32, 6, 7), 16, False, offset=1000.0 if groups else 0.0)
    expected, kept = gradients(plain, made, Geometry(), groups, torch.float64), list[Tensor]()
    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
    ):
        found = gradients(trained, made, Geometry(), groups, torch.float32)
    assert [t.dtype for t in kept if t.shape == made[0].shape] == [torch.bfloat16]
    check(found, expected, 2e-2)
