"""The native fp32 convolutions on every path that this processor has, against float64, in strips and on threads."""

import itertools

import pytest
import torch
from torch import Tensor

from support.kernels.native_convolutions import Affine, Case, NativeConvolution, row_moments
from vaelens.kernels import library
from vaelens.kernels.library import Activation, Arithmetic, Instructions

pytestmark = pytest.mark.skipif(library.unavailable() is not None, reason="no native library")


def fp32_paths() -> list[Instructions]:
    """Each path below the best one runs too."""
    if library.unavailable():
        return [Instructions.PORTABLE]
    best = library.load().vaelens_instructions(Arithmetic.FP32)
    return [path for path in Instructions if path <= best]


each_path = pytest.mark.parametrize("path", fp32_paths(), ids=lambda path: path.name.lower())


def random_weight(out_channels: int, in_channels: int, height: int, width: int) -> Tensor:
    return torch.randn(out_channels, in_channels, height, width) / (in_channels * height * width) ** 0.5


def random_affine(channels: int) -> Affine:
    return Affine(torch.randn(channels), torch.rand(channels) + 0.5, torch.randn(channels))


def relative_error(values: Tensor, reference: Tensor) -> float:
    return ((values.double() - reference).norm() / reference.norm()).item()


def check(case: Case, path: Instructions, tolerance: float = 2e-6) -> None:
    """The output and its moments, the same bytes from 1, 2 and 3 threads and in strips of several heights."""
    assert case.output_size is not None
    convolution = NativeConvolution(case, path)
    out, moments = convolution.run()
    assert relative_error(out, case.reference()) < tolerance
    expected = row_moments(out)
    scale = out.abs().max().item()
    assert (moments[..., 0] - expected[..., 0]).abs().max() <= 1e-6 * scale
    torch.testing.assert_close(moments[..., 1], expected[..., 1], rtol=1e-5, atol=1e-9 * scale**2)
    for threads in (2, 3):
        again, again_moments = convolution.run(threads=threads)
        assert torch.equal(again, out)
        assert torch.equal(again_moments, moments)
    height = case.output_size[0]
    for step in (1, 3):
        rows = step * convolution.row_alignment
        strips = [convolution.run((y, min(height, y + rows)), threads=2) for y in range(0, height, rows)]
        assert torch.equal(torch.cat([strip for strip, _ in strips]), out)
        assert torch.equal(torch.cat([strip_moments for _, strip_moments in strips]), moments)


@each_path
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 7), (7, 1), (5, 5), (2, 2)], ids=str)
def test_every_geometry(path: Instructions, kernel: tuple[int, int]) -> None:
    for stride, upsample in itertools.product((1, 2), (1, 2)):
        case = Case(
            torch.randn(9, 11, 24),
            random_weight(20, 24, *kernel),
            torch.randn(20),
            stride=stride,
            upsample=upsample,
            affine=random_affine(24),
            activation=Activation.SILU,
        )
        check(case, path)


@each_path
@pytest.mark.parametrize("in_channels", [1, 3, 4, 16, 24, 96])
def test_every_number_of_channels(path: Instructions, in_channels: int) -> None:
    for out_channels in (1, 3, 16, 24, 40, 130):
        case = Case(torch.randn(7, 10, in_channels), random_weight(out_channels, in_channels, 3, 3))
        case.affine, case.activation = random_affine(in_channels), Activation.RELU
        case.residual = torch.randn(7, 10, out_channels)
        check(case, path)


@each_path
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (13, 1), (5, 64), (4, 65), (23, 150)], ids=str)
@pytest.mark.parametrize("in_channels", [8, 32])
def test_every_size(path: Instructions, size: tuple[int, int], in_channels: int) -> None:
    for upsample in (1, 2):
        case = Case(
            torch.randn(*size, in_channels), random_weight(24, in_channels, 3, 3), torch.randn(24), upsample=upsample
        )
        case.affine, case.activation = random_affine(in_channels), Activation.SILU
        check(case, path)
    case.output_size = (2 * size[0], 2 * size[1] - 1)  # of odd columns there is one less
    check(case, path)


@each_path
@pytest.mark.parametrize("in_channels", [8, 32])
def test_the_padding_may_lie_on_one_side(path: Instructions, in_channels: int) -> None:
    case = Case(torch.randn(12, 13, in_channels), random_weight(16, in_channels, 3, 3), torch.randn(16), stride=2)
    case.padding, case.output_size = (0, 0), (6, 7)  # the encoder's: one row and column of zeros below and right
    check(case, path)
    case.stride, case.output_size = 1, (10, 11)  # none at all
    check(case, path)


@each_path
@pytest.mark.parametrize(("channels", "out_channels"), [(512, 64), (400, 250)])
def test_wide_layers(path: Instructions, channels: int, out_channels: int) -> None:
    """The second one's weights are so many that they are transformed while it computes."""
    case = Case(torch.randn(9, 6, channels), random_weight(out_channels, channels, 3, 3), torch.randn(out_channels))
    case.affine, case.activation = random_affine(channels), Activation.SILU
    check(case, path)
    case.stride, case.output_size = 2, (5, 3)
    check(case, path)
    case.stride, case.upsample, case.output_size = 1, 2, (18, 12)
    check(case, path)
    case.output_size = (17, 11)  # of odd rows and columns there is one less
    check(case, path)


@each_path
@pytest.mark.parametrize("in_channels", [4, 32])
def test_zeros_around_the_map_stay_zeros(path: Instructions, in_channels: int) -> None:
    """An affine and an activation that turn zero into something else must not touch the padding."""
    one = torch.ones(in_channels)
    case = Case(torch.zeros(3, 3, in_channels), torch.ones(1, in_channels, 3, 3), affine=Affine(-one, one, one))
    out, _ = NativeConvolution(case, path).run()
    counted = torch.tensor([[4.0, 6, 4], [6, 9, 6], [4, 6, 4]])[..., None] * 2 * in_channels
    torch.testing.assert_close(out, counted, rtol=1e-5, atol=0)


@each_path
def test_silu_from_end_to_end_of_fp32(path: Instructions) -> None:
    x = torch.cat([torch.linspace(-120, 120, 5001), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 3e38, -3e38])])
    case = Case(x[None, :, None], torch.ones(1, 1, 1, 1), activation=Activation.SILU)
    out, _ = NativeConvolution(case, path).run()
    expected = case.reference()
    assert ((out - expected).abs() <= 1e-6 * expected.abs() + 1e-30).all()


@each_path
def test_nan_stays_nan(path: Instructions) -> None:
    for activation in Activation:
        case = Case(torch.full((1, 1, 16), torch.nan), random_weight(16, 16, 3, 3), activation=activation)
        out, moments = NativeConvolution(case, path).run()
        assert out.isnan().all()
        assert moments.isnan().all()


@each_path
@pytest.mark.parametrize("in_channels", [4, 32])
def test_moments_about_a_large_mean(path: Instructions, in_channels: int) -> None:
    """Mean 1,000, deviation 1; and a constant output, whose deviations are exactly zero."""
    case = Case(torch.randn(4, 300, in_channels), random_weight(16, in_channels, 3, 3), torch.full((16,), 1000.0))
    out, moments = NativeConvolution(case, path).run()
    torch.testing.assert_close(moments, row_moments(out), rtol=1e-6, atol=0)
    case.map = torch.zeros_like(case.map)
    _, moments = NativeConvolution(case, path).run()
    assert (moments == torch.tensor([1000.0, 0.0], dtype=torch.float64)).all()


@each_path
def test_a_chain_of_layers_stays_exact(path: Instructions) -> None:
    """Ten normalised layers of 64 channels: what an engine's decode adds up to."""
    x = torch.randn(24, 24, 64)
    expected = x.double()
    for _ in range(10):
        weight, bias = random_weight(64, 64, 3, 3), torch.randn(64)

        def affine_of(values: Tensor) -> Affine:
            flat = values.double().reshape(-1, 64)
            return Affine(flat.mean(0), 1 / flat.std(0), torch.zeros(64, dtype=torch.float64))

        ours = Affine(*(values.float() for values in affine_of(x)))
        x, _ = NativeConvolution(Case(x, weight, bias, affine=ours, activation=Activation.SILU), path).run()
        case = Case(expected, weight, bias, affine=affine_of(expected), activation=Activation.SILU)
        expected = case.reference()
    assert relative_error(x, expected) < 1e-5


def test_what_no_path_supports_is_said() -> None:
    kernel = library.Kernel(Arithmetic.FP32, Instructions.PORTABLE, 4, 4, 3, 3, 3, 1, 1, 1)  # a stride of 3
    assert library.load().vaelens_packed_bytes(kernel) == -1
