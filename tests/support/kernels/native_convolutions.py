"""One strip of a native convolution through the C interface, and the same in PyTorch's operations in float64."""

import ctypes
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vaelens.kernels import library
from vaelens.kernels.library import Activation, Arithmetic, Instructions, Status


class Affine(NamedTuple):
    """(x - mean) * scale + shift, each [c]."""

    mean: Tensor
    scale: Tensor
    shift: Tensor


@dataclass
class Case:
    """A convolution and its input: map [h,w,ci], weight [co,ci,kh,kw], output [oh,ow,co]."""

    map: Tensor
    weight: Tensor
    bias: Tensor | None = None
    stride: int = 1
    upsample: int = 1
    padding: tuple[int, int] | None = None  # above and left; None: half of the kernel
    output_size: tuple[int, int] | None = None  # None: what equal padding on all sides gives
    affine: Affine | None = None
    activation: Activation = Activation.LINEAR
    residual: Tensor | None = None

    def __post_init__(self) -> None:
        _, _, height, width = self.weight.shape
        self.padding = self.padding or (height // 2, width // 2)
        if self.output_size is None:
            rows, columns = (n * self.upsample for n in self.map.shape[:2])
            self.output_size = (
                (rows + 2 * self.padding[0] - height) // self.stride + 1,
                (columns + 2 * self.padding[1] - width) // self.stride + 1,
            )

    def reference(self) -> Tensor:
        """The output in float64."""
        assert self.padding is not None
        assert self.output_size is not None
        x = self.map.double()
        if self.affine:
            x = (x - self.affine.mean.double()) * self.affine.scale.double() + self.affine.shift.double()
        x = {Activation.LINEAR: lambda x: x, Activation.SILU: F.silu, Activation.RELU: F.relu}[self.activation](x)
        x = x.repeat_interleave(self.upsample, 0).repeat_interleave(self.upsample, 1).permute(2, 0, 1)[None]
        (top, left), (rows, columns) = self.padding, self.output_size
        bottom = max(0, (rows - 1) * self.stride + self.weight.shape[2] - top - x.shape[2])
        right = max(0, (columns - 1) * self.stride + self.weight.shape[3] - left - x.shape[3])
        x = F.pad(x, (left, right, top, bottom))
        y = F.conv2d(x, self.weight.double(), None if self.bias is None else self.bias.double(), stride=self.stride)
        y = y[0, :, :rows, :columns].permute(1, 2, 0)
        return y if self.residual is None else y + self.residual.double()


def row_moments(output: Tensor) -> Tensor:
    """Mean and squared deviations of each row and channel of [h,w,c], in float64: [h,c,2]."""
    values = output.double()
    mean = values.mean(1, keepdim=True)
    return torch.stack([mean[:, 0], (values - mean).square().sum(1)], -1)


class NativeConvolution:
    """A case's weights packed for one path."""

    def __init__(self, case: Case, instructions: Instructions, arithmetic: Arithmetic = Arithmetic.FP32) -> None:
        assert case.padding is not None
        out_channels, in_channels, height, width = case.weight.shape
        self.case, self.native = case, library.load()
        self.kernel = library.Kernel(
            arithmetic,
            instructions,
            in_channels,
            out_channels,
            height,
            width,
            case.stride,
            case.upsample,
            *case.padding,
        )
        size = self.native.vaelens_packed_bytes(self.kernel)
        assert size > 0
        memory = torch.empty(size + 63, dtype=torch.uint8)
        self.packed = memory[-memory.data_ptr() % 64 :][:size]
        weight = case.weight.contiguous()
        assert self.native.vaelens_pack(self.kernel, weight.data_ptr(), 2, self.packed.data_ptr()) == Status.OK
        self.row_alignment = self.native.vaelens_row_alignment(self.kernel)

    def run(self, rows: tuple[int, int] | None = None, *, threads: int = 1) -> tuple[Tensor, Tensor]:
        """Output rows [first, end) (None: all) with their moments; a residual is given in the output itself.

        The window is copied, exactly as many rows as the output needs, so that AddressSanitizer sees any other read.
        """
        case = self.case
        assert case.padding is not None
        assert case.output_size is not None
        (height, columns), channels = case.output_size, case.weight.shape[0]
        first, end = rows or (0, height)
        assert first % self.row_alignment == 0
        top, kernel_height = case.padding[0], case.weight.shape[2]
        begin = max(0, (first * case.stride - top) // case.upsample)
        last = ((end - 1) * case.stride - top + kernel_height - 1) // case.upsample
        window = case.map[begin : max(begin, min(case.map.shape[0], last + 1))].clone()
        out = torch.full((end - first, columns, channels), torch.nan)
        if case.residual is not None:
            out.copy_(case.residual[first:end])
        moments = torch.full((end - first, channels, 2), torch.nan, dtype=torch.float64)
        pointers = [values.contiguous() for values in case.affine or ()]
        mean, scale, shift = [values.data_ptr() for values in pointers] or [None] * 3
        strip = library.Strip(
            input=window.data_ptr(),
            in_first=begin,
            in_rows=len(window),
            in_height=case.map.shape[0],
            in_width=case.map.shape[1],
            in_stride=case.map.shape[2],
            mean=mean,
            scale=scale,
            shift=shift,
            activation=case.activation,
            threads=threads,
            weights=self.packed.data_ptr(),
            bias=None if case.bias is None else case.bias.data_ptr(),
            residual=None if case.residual is None else out.data_ptr(),
            output=out.data_ptr(),
            out_first=first,
            out_rows=end - first,
            out_width=columns,
            moments=moments.data_ptr(),
        )
        assert self.native.vaelens_convolve(self.kernel, ctypes.byref(strip)) == Status.OK
        return out, moments
