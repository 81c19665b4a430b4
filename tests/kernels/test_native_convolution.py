"""Every native path computes PyTorch's convolution in float64, whatever the strips and threads."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vaelens.errors import UsageError
from vaelens.kernels import library
from vaelens.kernels.convolution import POINTWISE, Affine, Geometry
from vaelens.kernels.native_convolution import PATHS, NativeConvolution, NativeKernel
from vaelens.kernels.paths import available_paths, choose_path

NATIVE = [path for path in available_paths() if path in PATHS]
TOLERANCES = {"amx": 1e-5, "tiles": 1e-5, "amx-bf16": 6e-3, "tiles-bf16": 6e-3}  # relative, of one layer; else 2e-6

pytestmark = pytest.mark.skipif(not NATIVE, reason=library.unavailable() or "")

DOWN = Geometry(stride=2, padding=(0, 0), padding_after=(1, 1))
CASES = {  # geometry, channels in and out, height and width
    "even": (Geometry(), 32, 32, 8, 32),
    "odd": (Geometry(), 64, 96, 13, 37),
    "from few channels": (Geometry(), 4, 40, 7, 5),
    "to few channels": (Geometry(), 40, 3, 20, 70),
    "one pixel": (Geometry(), 24, 24, 1, 1),
    "wide windows": (Geometry(), 160, 33, 18, 97),
    "pairs of rows": (Geometry(), 128, 80, 21, 70),
    "upsampled": (Geometry(upsample=2), 48, 48, 9, 33),
    "one pixel upsampled": (Geometry(upsample=2), 32, 32, 1, 1),
    "downsampled": (DOWN, 64, 64, 16, 66),
    "downsampled odd channels": (DOWN, 17, 33, 6, 4),
    "pointwise": (POINTWISE, 64, 64, 5, 77),
    "pointwise, padded": (Geometry(kernel=(1, 1)), 40, 16, 4, 9),
    "pointwise, a long row": (POINTWISE, 48, 40, 1, 150),
    "a row": (Geometry(kernel=(1, 7), padding=(0, 3), padding_after=(0, 3)), 33, 17, 9, 40),
    "strided 5x5": (Geometry(kernel=(5, 5), stride=2, padding=(2, 2), padding_after=(2, 2)), 16, 16, 15, 21),
    "without padding": (Geometry(padding=(0, 0), padding_after=(0, 0)), 20, 40, 9, 11),
}


class Case:
    """Random input, weights, bias, affine and residual, and the output by PyTorch in float64."""

    def __init__(self, name: str, activation: str | None, offset: float = 0.0) -> None:
        self.geometry, self.ci, self.co, self.h, self.w = CASES[name]
        g = torch.Generator().manual_seed(len(name))
        normal = lambda *shape: torch.randn(shape, generator=g)  # noqa: E731
        self.x = normal(1, self.h, self.w, self.ci) + offset
        area = self.geometry.kernel[0] * self.geometry.kernel[1]
        self.weight = normal(self.co, self.ci, *self.geometry.kernel) / (self.ci * area) ** 0.5
        self.bias = normal(self.co)
        self.affine = Affine(normal(1, self.ci) + offset, normal(1, self.ci), normal(1, self.ci))
        self.activation = activation
        oh, ow = self.geometry.output_size(self.h, self.w)
        self.residual = normal(1, oh, ow, self.co)
        self.size = oh, ow

    def expected(self) -> Tensor:
        x = (self.x.double() - self.affine.mean) * self.affine.scale + self.affine.shift
        x = {"silu": F.silu, "relu": F.relu, None: lambda t: t}[self.activation](x).permute(0, 3, 1, 2)
        x = F.interpolate(x, scale_factor=self.geometry.upsample, mode="nearest")
        (top, left), (bottom, right) = self.geometry.padding, self.geometry.padding_after
        x = F.pad(x, (left, right, top, bottom))
        y = F.conv2d(x, self.weight.double(), self.bias.double(), self.geometry.stride)
        return y.permute(0, 2, 3, 1) + self.residual

    def convolution(self, path: str) -> NativeConvolution:
        return NativeKernel(self.geometry, self.ci, self.co, path).prepare(self.weight, self.bias)

    def run(self, convolution: NativeConvolution, strip: int | None = None) -> tuple[Tensor, Tensor]:
        """The output and the moments of its rows, in strips of so many rows that are given only what they read."""
        oh, ow = self.size
        out, found = torch.full((1, oh, ow, self.co), torch.nan), list[Tensor]()
        step = oh if strip is None else -(-strip // convolution.kernel.row_alignment) * convolution.kernel.row_alignment
        for y0 in range(0, oh, step):
            y1 = min(oh, y0 + step)
            r0, r1 = self.geometry.input_rows(y0, y1, self.h)
            target = out[:, y0:y1]
            target.copy_(self.residual[:, y0:y1])
            moments = convolution.run(
                self.x[:, r0:r1].clone(),
                r0,
                self.h,
                rows=(y0, y1),
                out=target,
                affine=self.affine,
                activation=self.activation,
                residual=target,
                moments=True,
            )
            assert moments is not None
            found.append(moments)
        return out, torch.cat(found, dim=1)


@pytest.mark.parametrize("path", NATIVE)
def test_a_path_computes_the_convolution(path: str) -> None:
    for name, activation in [*((name, "silu") for name in CASES), ("odd", "relu"), ("odd", None)]:
        check(path, name, activation)


def check(path: str, name: str, activation: str | None) -> None:
    case = Case(name, activation)
    y, moments = case.run(case.convolution(path))
    expected = case.expected()
    error = float((y - expected).norm() / expected.norm())
    assert error <= TOLERANCES.get(path, 2e-6), f"{name}: relative error {error:.2e}"
    wide = y.double()
    mean = wide.mean(dim=2)
    torch.testing.assert_close(moments[..., 0], mean, rtol=1e-6, atol=1e-6)
    squares = (wide - mean.unsqueeze(2)).square().sum(dim=2)
    torch.testing.assert_close(moments[..., 1], squares, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", NATIVE)
def test_neither_strips_nor_threads_change_a_bit(path: str) -> None:
    for name in CASES:
        check_bits(path, name)


@pytest.mark.parametrize("path", NATIVE)
@pytest.mark.parametrize("name", ["pointwise", "pointwise, padded", "pointwise, a long row"])
def test_a_pointwise_convolution_without_moments_is_the_same(path: str, name: str) -> None:
    case = Case(name, "silu")
    convolution = case.convolution(path)
    expected, _ = case.run(convolution)
    out = case.residual.clone()
    convolution.run(
        case.x, 0, case.h, rows=(0, case.size[0]), out=out, affine=case.affine, activation="silu", residual=out
    )
    assert torch.equal(out, expected)


def check_bits(path: str, name: str) -> None:
    case = Case(name, "silu")
    convolution = case.convolution(path)
    before = torch.get_num_threads()
    results = list[tuple[Tensor, Tensor]]()
    try:
        for threads, strip in ((1, None), (1, 1), (1, 5), (3, None), (2, 8)):
            torch.set_num_threads(threads)
            results.append(case.run(convolution, strip))
    finally:
        torch.set_num_threads(before)
    for y, moments in results[1:]:
        assert torch.equal(y, results[0][0]), name
        assert torch.equal(moments, results[0][1]), name


@pytest.mark.parametrize("path", NATIVE)
def test_an_offset_of_a_thousand_deviations_keeps_the_moments(path: str) -> None:
    case = Case("odd", None)
    case.bias += 1000.0
    y, moments = case.run(case.convolution(path))
    wide = y.double()
    squares = (wide - wide.mean(dim=2, keepdim=True)).square().sum(dim=2)
    torch.testing.assert_close(moments[..., 1], squares, rtol=1e-4, atol=0)


@pytest.mark.parametrize("path", NATIVE)
def test_an_offset_of_a_thousand_deviations_is_normalised_away(path: str) -> None:
    case = Case("odd", "silu", offset=1000.0)
    y, _ = case.run(case.convolution(path))
    expected = case.expected()
    assert float((y - expected).norm() / expected.norm()) <= TOLERANCES.get(path, 2e-6)


@pytest.mark.parametrize("path", NATIVE)
def test_nan_and_infinity_are_kept(path: str) -> None:
    case = Case("even", "silu")
    case.x[0, 4, 10, 3] = torch.nan
    case.x[0, 1, 30, 3] = torch.inf
    y, moments = case.run(case.convolution(path))
    assert not torch.isfinite(y[0, 3:6, 9:12]).any()
    assert not torch.isfinite(y[0, 0:3, 29:32]).any()
    assert torch.isfinite(y[0, :, 16:24]).all()  # farther than a tile of Winograd's transform
    assert not torch.isfinite(moments[0, 4]).any()


@pytest.mark.parametrize("path", NATIVE)
def test_pointwise_convolutions_of_very_many_channels_are_sums_of_parts(path: str) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 40, 5000, generator=g)
    weight = torch.randn(33, 5000, 1, 1, generator=g) / 70
    convolution = NativeKernel(POINTWISE, 5000, 33, path).prepare(weight, None)
    out = torch.empty(1, 1, 40, 33)
    convolution.run(x, 0, 1, rows=(0, 1), out=out)
    expected = x.double() @ weight.double()[:, :, 0, 0].T
    assert len(convolution.packed) == 2
    assert float((out - expected).norm() / expected.norm()) <= TOLERANCES.get(path, 2e-6)


def test_rows_that_begin_elsewhere_are_refused() -> None:
    case = Case("upsampled", None)
    convolution = case.convolution("portable")
    with pytest.raises(ValueError, match=f"don't begin at a multiple of {convolution.kernel.row_alignment}"):
        convolution.run(case.x, 0, case.h, rows=(1, 5), out=torch.empty(1, 4, case.size[1], case.co))


def test_maps_of_another_dtype_or_size_are_refused() -> None:
    convolution = NativeKernel(POINTWISE, 4, 4, NATIVE[-1]).prepare(torch.zeros(4, 4, 1, 1), None)
    x, out = torch.zeros(1, 2, 2, 4), torch.zeros(1, 2, 2, 4)
    for window, target in ((x.double(), out), (x, out.bfloat16()), (x, out[:, :1]), (x, out[..., :3])):
        with pytest.raises(ValueError, match=r"native convolutions compute|can't be"):
            convolution.run(window, 0, 2, rows=(0, 2), out=target)
    for window, first in ((x[..., :3], 0), (torch.zeros(1, 2, 2, 8), 0), (x[:, :1], 0), (x, 1)):
        with pytest.raises(ValueError, match=r"can't be read by|read more than the"):
            convolution.run(window, first, 3, rows=(0, 2), out=out)


def test_scratch_and_weights_take_what_the_kernel_says() -> None:
    kernel = NativeKernel(Geometry(), 64, 64, NATIVE[-1])
    packed = kernel.prepare(torch.zeros(64, 64, 3, 3), None).packed
    assert sum(tensor.untyped_storage().nbytes() for tensor in packed) == kernel.packed_bytes
    assert 0 < kernel.scratch_bytes(64) < 2**26


def test_a_path_may_be_forced_and_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setenv("VAELENS_KERNELS", "tiles")
    assert choose_path(torch.float32, cpu) == "tiles"
    assert choose_path(torch.bfloat16, cpu) == "tiles-bf16"
    assert choose_path(torch.float16, cpu) == "torch"
    monkeypatch.setenv("VAELENS_KERNELS", "sse")
    with pytest.raises(UsageError, match=r"sse isn't a path of this machine\. Set .*torch, or leave"):
        choose_path(torch.float32, cpu)
