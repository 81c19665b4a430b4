"""Which rows a convolution reads, and the torch path against torch's own convolution of the whole map."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vaelens.kernels import torch_convolution
from vaelens.kernels.convolution import POINTWISE, Activation, Affine, Geometry
from vaelens.kernels.moments import row_moments
from vaelens.kernels.paths import choose_kernel

CPU = torch.device("cpu")
DOWN = Geometry(stride=2, padding=(0, 0), padding_after=(1, 1))
GEOMETRIES = {"3x3": Geometry(), "1x1": POINTWISE, "down": DOWN, "up": Geometry(upsample=2)}
SIZES = [(1, 1), (2, 3), (7, 5), (12, 9)]


@pytest.fixture(autouse=True)
def torch_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELENS_KERNELS", "torch")


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """The definition: enlarge, pad, convolve. x [b,c,h,w]."""
    (top, left), (bottom, right) = geometry.padding, geometry.padding_after
    x = F.interpolate(x, scale_factor=float(geometry.upsample), mode="nearest") if geometry.upsample > 1 else x
    return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, geometry.stride)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_output_rows_depend_on_just_the_rows_that_the_geometry_names(name: str) -> None:
    """By gradients: the rows of the input that a strip of the output depends on."""
    geometry = GEOMETRIES[name]
    for height in range(1, 10):
        x = torch.ones(1, 1, height, 3, requires_grad=True)
        h, w = geometry.output_size(height, 3)
        if h < 1:
            continue
        y = plain(x, torch.ones(1, 1, *geometry.kernel), None, geometry)
        assert y.shape == (1, 1, h, w)
        for y0, y1 in itertools.combinations(range(h + 1), 2):
            (found,) = torch.autograd.grad(y[:, :, y0:y1].sum(), x, retain_graph=True)
            used = found.sum(dim=(0, 1, 3)).nonzero().flatten().tolist()
            assert geometry.input_rows(y0, y1, height) == (used[0], used[-1] + 1)


@pytest.mark.parametrize("block", [1, 2**22])
@pytest.mark.parametrize("activation", [None, "silu", "relu"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_strips_are_the_rows_of_the_whole(
    name: str, activation: Activation | None, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one strip and in several, in one block and row by row, with a residual and without."""
    monkeypatch.setitem(torch_convolution.BLOCK_BYTES, "cpu", block)
    geometry, normalise = GEOMETRIES[name], activation == "silu"
    for (height, width), with_bias in itertools.product(SIZES, (True, False)):
        x, weight = torch.randn(2, height, width, 6), torch.randn(5, 6, *geometry.kernel)
        bias = torch.randn(5) if with_bias else None
        affine = Affine(torch.randn(2, 6), torch.rand(2, 6) + 0.5, torch.randn(2, 6)) if normalise else None
        loaded = x
        if affine is not None:
            loaded = (x - affine.mean[:, None, None]) * affine.scale[:, None, None] + affine.shift[:, None, None]
        loaded = F.silu(loaded) if activation == "silu" else F.relu(loaded) if activation == "relu" else loaded
        if min(geometry.output_size(height, width)) < 1:
            continue
        expected = plain(loaded.permute(0, 3, 1, 2), weight, bias, geometry).permute(0, 2, 3, 1)
        convolution = choose_kernel(geometry, 6, 5, torch.float32, CPU).prepare(weight, bias)
        before = x.clone()
        for rows in (2, 4, expected.shape[1]):
            residual = torch.randn_like(expected) if rows == 4 else None
            out, found = torch.full_like(expected, float("nan")), []
            if residual is not None:
                out = residual.clone()  # added in place
            for y0 in range(0, expected.shape[1], rows):
                y1 = min(expected.shape[1], y0 + rows)
                r0, r1 = geometry.input_rows(y0, y1, height)
                strip = out[:, y0:y1]
                moments = convolution.run(
                    x[:, r0:r1], r0, height, rows=(y0, y1), out=strip, affine=affine, activation=activation,
                    residual=None if residual is None else strip, moments=True,
                )  # fmt: skip
                assert moments is not None
                found.append(moments)
            wanted = expected if residual is None else expected + residual
            torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(torch.cat(found, dim=1), row_moments(out), rtol=1e-9, atol=1e-9)
        assert torch.equal(x, before)


def test_reduced_precision_normalises_in_fp32() -> None:
    """bf16 keeps 8 bits: at a mean of 200 and a deviation of 1 a difference in bf16 would be off by a half."""
    x = (200 + torch.randn(1, 8, 8, 4)).bfloat16()
    affine = Affine(torch.full((1, 4), 200.3), torch.ones(1, 4), torch.zeros(1, 4))
    eye = torch.eye(4).bfloat16()[:, :, None, None]
    out = torch.empty_like(x)
    convolution = choose_kernel(POINTWISE, 4, 4, torch.bfloat16, CPU).prepare(eye, None)
    convolution.run(x, 0, 8, rows=(0, 8), out=out, affine=affine)
    assert torch.equal(out, (x.float() - 200.3).bfloat16())


def test_what_the_library_has_no_code_for_is_computed_by_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAELENS_KERNELS")
    wide = Geometry(stride=5)
    for dtype in (torch.float32, torch.bfloat16):  # maps between native layers are fp32 in both
        kernel = choose_kernel(wide, 40, 40, dtype, CPU)
        assert kernel.path == "torch"
        weight, x = torch.randn(40, 40, 3, 3).to(dtype), torch.randn(1, 7, 7, 40)
        x = x if choose_kernel(Geometry(), 40, 40, dtype, CPU).path != "torch" else x.to(dtype)
        out = x.new_empty(1, 2, 2, 40)
        kernel.prepare(weight, None).run(x, 0, 7, rows=(0, 2), out=out)
        wanted = plain(x.permute(0, 3, 1, 2), weight.to(x.dtype), None, wide)
        torch.testing.assert_close(out.permute(0, 3, 1, 2), wanted)
