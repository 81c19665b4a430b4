"""The convolution in PyTorch's operations: any device, any dtype, and the reference of the native paths.

Rows are computed in blocks of about BLOCK_BYTES, so that what lies between two operations stays small.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vaelens.kernels.convolution import Activation, Affine, Geometry
from vaelens.kernels.moments import empty_moments, row_moments

# Of the larger of a block's input and output. On the CPU a few megabytes: beyond that nothing is gained, and each
# buffer is fetched from memory again. A GPU wants enough work for each launch.
BLOCK_BYTES = {"cpu": 8 * 2**20}
DEVICE_BLOCK_BYTES = 256 * 2**20
# Output channels whose weights become those of phases at a time: in float64 all would take several times the weights.
PHASED_CHANNELS = 32

Rows = tuple[int, int]


@dataclass(frozen=True)
class TorchKernel:
    """See `Kernel`."""

    geometry: Geometry
    in_channels: int
    out_channels: int
    dtype: torch.dtype
    device_type: str
    path: str = "torch"
    keeps_scratch: bool = False

    @property
    def row_alignment(self) -> int:
        """The phases of an upsampling convolution are computed together."""
        return self.geometry.upsample

    @property
    def packed_bytes(self) -> int:
        """Only the kernels of the phases and a GPU's channels-last copy are made; else the weights stay as they are."""
        return 0 if self._as_given else self._weight_bytes

    def block_rows(self, width: int, batch: int) -> int:
        """Output rows that are computed at once, at least one step of the alignment."""
        out_width = self.geometry.output_size(1, width)[1]
        scale = self.geometry.upsample / self.geometry.stride
        row = max(out_width * self.out_channels, int(width * self.in_channels / scale)) * self.dtype.itemsize * batch
        rows = BLOCK_BYTES.get(self.device_type, DEVICE_BLOCK_BYTES) // max(1, row)
        return max(1, rows // self.row_alignment) * self.row_alignment

    def scratch_bytes(self, width: int, batch: int = 1) -> int:
        """Of one block: the loaded input, its padded copy, the result and, for the moments, its differences."""
        rows = self.block_rows(width, batch)
        read = (rows - 1) * self.geometry.stride // self.geometry.upsample + self.geometry.kernel[0]
        exact = self.dtype.itemsize >= 4
        loaded = batch * read * width * self.in_channels * (4 if exact else 10)
        result = batch * rows * self.geometry.output_size(1, width)[1] * self.out_channels * (4 if exact else 6)
        if self.geometry.kernel == (1, 1):
            return loaded + result
        padded = batch * (read + 2) * (width + 2) * self.in_channels * self.dtype.itemsize
        reordered = 2 * self._weight_bytes  # oneDNN's and cuDNN's own copies
        return loaded + padded + 2 * result + reordered

    def prepare(self, weight: Tensor, bias: Tensor | None) -> "TorchConvolution":
        """See `Kernel`. The weights may be of any dtype."""
        if self.geometry.upsample > 1:
            weight = phase_weights(weight)
        elif not self._as_given:
            weight = weight.contiguous(memory_format=torch.channels_last)
        return TorchConvolution(self, weight.to(self.dtype), None if bias is None else bias.to(self.dtype))

    @property
    def _as_given(self) -> bool:
        return self.geometry.upsample == 1 and (self.device_type == "cpu" or self.geometry.kernel == (1, 1))

    @property
    def _weight_bytes(self) -> int:
        taps = 16 if self.geometry.upsample > 1 else self.geometry.kernel[0] * self.geometry.kernel[1]
        return self.in_channels * self.out_channels * taps * self.dtype.itemsize


@dataclass(frozen=True)
class TorchConvolution:
    """See `Convolution`."""

    kernel: TorchKernel
    weight: Tensor
    bias: Tensor | None

    def run(
        self,
        window: Tensor,
        first_row: int,
        height: int,
        *,
        rows: tuple[int, int],
        out: Tensor,
        affine: Affine | None = None,
        activation: Activation | None = None,
        residual: Tensor | None = None,
        moments: bool = False,
    ) -> Tensor | None:
        """See `Convolution`."""
        geometry = self.kernel.geometry
        found = empty_moments(out.shape, out.device) if moments else None
        step = self.kernel.block_rows(window.shape[2], window.shape[0])
        for y0 in range(rows[0], rows[1], step):
            y1 = min(rows[1], y0 + step)
            r0, r1 = geometry.input_rows(y0, y1, height)
            block = loaded(window[:, r0 - first_row : r1 - first_row], affine, activation)
            target = out[:, y0 - rows[0] : y1 - rows[0]]
            added = None if residual is None else residual[:, y0 - rows[0] : y1 - rows[0]]
            if geometry.upsample > 1:
                self._upsampled(block, r0, (y0, y1), added, target)
            elif geometry.kernel == (1, 1) and geometry.stride == 1:
                self._pointwise(block, added, target)
            else:
                self._convolved(block, r0, (y0, y1), added, target)
            if found is not None:
                found[:, y0 - rows[0] : y1 - rows[0]] = row_moments(target)
        return found

    def _pointwise(self, block: Tensor, residual: Tensor | None, out: Tensor) -> None:
        """A matrix product, straight into the output where nothing is added to it."""
        weight = self.weight.flatten(1)
        if residual is not None or not out.is_contiguous():
            return _put(F.linear(block, weight, self.bias), residual, out)
        rows, products = block.reshape(-1, block.shape[3]), out.view(-1, out.shape[3])
        if self.bias is None:
            torch.mm(rows, weight.T, out=products)
        else:
            torch.addmm(self.bias, rows, weight.T, out=products)
        return None

    def _convolved(self, block: Tensor, first: int, rows: Rows, residual: Tensor | None, out: Tensor) -> None:
        geometry = self.kernel.geometry
        top = rows[0] * geometry.stride - geometry.padding[0]
        bottom = (rows[1] - 1) * geometry.stride - geometry.padding[0] + geometry.kernel[0]
        columns = (geometry.padding[1], geometry.padding_after[1])
        padded = _padded(block, (first - top, bottom - first - block.shape[1]), columns)
        y = F.conv2d(padded.permute(0, 3, 1, 2), self.weight, self.bias, geometry.stride)
        _put(y.permute(0, 2, 3, 1), residual, out)

    def _upsampled(self, block: Tensor, first: int, rows: Rows, residual: Tensor | None, out: Tensor) -> None:
        """Four 2x2 convolutions of the small input in one call, each the weights of one phase of the output."""
        i0, i1 = rows[0] // 2, rows[1] // 2
        padded = _padded(block, (first - i0 + 1, i1 + 1 - first - block.shape[1]), (1, 1))
        y = F.conv2d(padded.permute(0, 3, 1, 2), self.weight, None if self.bias is None else self.bias.repeat(4))
        y = y.permute(0, 2, 3, 1)
        n, w, c = i1 - i0, block.shape[2], self.kernel.out_channels
        for py in (0, 1):
            for px in (0, 1):
                phase = y[:, py : py + n, px : px + w, (2 * py + px) * c : (2 * py + px + 1) * c]
                added = None if residual is None else residual[:, py::2, px::2]
                _put(phase, added, out[:, py::2, px::2])


def phase_weights(weight: Tensor) -> Tensor:
    """The weights of a 3x3 convolution [o,i,3,3] after nearest x2 as four 2x2 ones of the small input, [4*o,i,2,2].

    Phase (py,px), at 2*py + px, gives the output rows 2k + py and columns 2l + px. Of the three rows that the kernel
    reads there two are the same row of the small input: their weights are added, in float64.
    """
    phases = weight.new_empty((2, 2, *weight.shape[:2], 2, 2))
    for first in range(0, len(weight), PHASED_CHANNELS):
        some = slice(first, first + PHASED_CHANNELS)
        for py, rows in enumerate(_phase_taps(weight[some].double(), 2)):
            for px, taps in enumerate(_phase_taps(rows, 3)):
                phases[py, px, some] = taps
    return phases.flatten(0, 2)


def _phase_taps(weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Three taps of the enlarged map along an axis as two of the small one, for its even and its odd pixels."""
    first, second, third = weight.unbind(axis)
    return torch.stack([first, second + third], dim=axis), torch.stack([first + second, third], dim=axis)


def loaded(block: Tensor, affine: Affine | None, activation: Activation | None) -> Tensor:
    """The block after affine and activation, computed in fp32; a new tensor unless neither is given."""
    if affine is None and activation is None:
        return block
    x = block.to(torch.promote_types(block.dtype, torch.float32))
    if affine is not None:
        mean, scale, shift = (t[:, None, None, :] for t in (affine.mean, affine.scale, affine.shift))
        x = (x - mean).mul_(scale).add_(shift)
    elif x is block:
        x = x.clone()
    x = F.silu(x, inplace=True) if activation == "silu" else F.relu_(x) if activation == "relu" else x
    return x.to(block.dtype)


def _padded(block: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """Zeros around a block, or fewer rows where the numbers are negative."""
    return F.pad(block, (0, 0, *columns, *rows)) if any((*rows, *columns)) else block


def _put(values: Tensor, residual: Tensor | None, out: Tensor) -> None:
    if residual is None:
        out.copy_(values)
    else:
        torch.add(values, residual, out=out)
