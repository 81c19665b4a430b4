"""The steps of a network on whole maps, by few large operations: for a GPU whose memory holds them.

Maps are [b,c,h,w] with the memory of [b,h,w,c] (channels last), in the network's dtype. A convolution is one call of
PyTorch; a map enlarged by nearest x2 is never made, since that and its 3x3 convolution are one transposed convolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vaelens.engine.architecture import Attend, Convolve, Layer, Norm, Resnet, Step
from vaelens.engine.gpu.norms import Normalise
from vaelens.kernels.convolution import Geometry
from vaelens.kernels.trained_convolution import enlarged_weight

SCORES = 2**24  # of a chunk of queries: 64 MB in fp32, enough work for each product
WORKSPACE = 2**28  # bytes for cuDNN and cuBLAS
FP32_MAPS = 3  # that PyTorch's operations make of a map to normalise it


@dataclass(frozen=True)
class Prepared:
    """A layer with its weights in the layout that it is run with."""

    geometry: Geometry
    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, layer: Layer, dtype: torch.dtype) -> "Prepared":
        """In the network's dtype, whatever the engine's plans compute the layer in."""
        weight, bias = layer.weights()
        if layer.geometry.upsample > 1:
            weight = enlarged_weight(weight.double())
        weight = weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)
        return cls(layer.geometry, weight, None if bias is None else bias.detach().to(dtype))

    def __call__(self, x: Tensor) -> Tensor:
        """Maps [b,ci,h,w] to [b,co,oh,ow]."""
        geometry, padding = self.geometry, self.geometry.padding
        if geometry.kernel == (1, 1):
            return self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if geometry.upsample > 1:
            return F.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)
        if padding != geometry.padding_after:
            (top, left), (bottom, right) = padding, geometry.padding_after
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        return F.conv2d(x, self.weight, self.bias, geometry.stride, padding)

    def linear(self, rows: Tensor) -> Tensor:
        """A 1x1 kernel, of rows [...,ci]."""
        return F.linear(rows, self.weight.flatten(1), self.bias)


class WholeMaps:
    """One half of a network, its weights copied as they are now; norms read theirs at each call."""

    def __init__(self, steps: Sequence[Step], dtype: torch.dtype) -> None:
        self._steps, self._dtype = steps, dtype
        self._layers: dict[str, Prepared] = {
            layer.name: Prepared.of(layer, dtype) for step in steps for layer in _layers(step)
        }

    def run(self, image: Tensor, normalise: Normalise) -> Tensor:
        """Raw z [b,c,h/f,w/f] to raw pixels, or raw pixels [b,3,h,w] to moments: float32."""
        x = image.to(self._dtype).contiguous(memory_format=torch.channels_last)
        for step in self._steps:
            if isinstance(step, Resnet):
                x = self._resnet(x, step, normalise)
            elif isinstance(step, Attend):
                self._attend(x, step, normalise)
            else:
                x = self._convolved(_normalised(x, step.norm, normalise, step.activation == "silu"), step.layer)
        return x.to(torch.float32, memory_format=torch.contiguous_format)

    def _resnet(self, x: Tensor, step: Resnet, normalise: Normalise) -> Tensor:
        h = self._convolved(_normalised(x, step.norm1, normalise), step.conv1)
        residual = x if step.shortcut is None else self._convolved(x, step.shortcut)
        h = _normalised(h, step.norm2, normalise)
        out = self._convolved(h, step.conv2)
        out += residual
        return out

    def _convolved(self, x: Tensor, layer: Layer) -> Tensor:
        return self._layers[layer.name](x)

    def _attend(self, x: Tensor, step: Attend, normalise: Normalise) -> None:
        """In place, by the folded projections of `architecture.Attend`."""
        tokens = _normalised(x, step.norm, normalise, silu=False).permute(0, 2, 3, 1).flatten(1, 2)
        queries = self._layers[step.query.name].linear(tokens)
        mixed = torch.empty_like(tokens)
        chunk = _chunk(tokens.shape[1])
        for image in range(len(tokens)):
            of_image = tokens[image]
            for first in range(0, len(of_image), chunk):
                weights = _scores(queries[image, first : first + chunk], of_image).softmax(dim=1).to(self._dtype)
                torch.mm(weights, of_image, out=mixed[image, first : first + chunk])
        rows = x.permute(0, 2, 3, 1)
        rows += self._layers[step.output.name].linear(mixed).view(rows.shape)


def whole_bytes(
    steps: Sequence[Step], size: tuple[int, int], batch: int, dtype: torch.dtype, *, fp32_norms: bool
) -> int:
    """What `WholeMaps` takes beside the network and the image: weights, maps at the peak, and the result.

    `fp32_norms`: norms are PyTorch's operations, which make maps in fp32.
    """
    peak, extra = 0, FP32_MAPS * 4 if fp32_norms else 0
    for step in steps:
        pixels, read = batch * size[0] * size[1], next(iter(_layers(step))).in_channels
        if isinstance(step, Attend):
            values = pixels * 5 * read
            beside = min(SCORES, (pixels // batch) ** 2) * (8 + dtype.itemsize)
        elif isinstance(step, Resnet):
            made = step.conv1.out_channels
            values = pixels * (3 * read if step.shortcut is None else max(2 * read + made, read + 3 * made))
            beside = pixels * max(read, made) * extra
        else:
            size = step.layer.geometry.output_size(*size)
            values = pixels * 2 * read + batch * size[0] * size[1] * step.layer.out_channels
            beside = 0 if step.norm is None else pixels * read * extra
        peak = max(peak, values * dtype.itemsize + beside)
    last = list(_layers(steps[-1]))[-1]
    weights = sum(_weight_values(layer) for step in steps for layer in _layers(step)) * dtype.itemsize
    return peak + weights + 4 * batch * size[0] * size[1] * last.out_channels + WORKSPACE


def _layers(step: Step) -> Sequence[Layer]:
    """The layers that there are, the first one the widest read."""
    if isinstance(step, Convolve):
        return (step.layer,)
    if isinstance(step, Attend):
        return step.query, step.output
    return (step.conv1, step.conv2) if step.shortcut is None else (step.conv1, step.conv2, step.shortcut)


def _weight_values(layer: Layer) -> int:
    taps = 16 if layer.geometry.upsample > 1 else layer.geometry.kernel[0] * layer.geometry.kernel[1]
    return layer.in_channels * layer.out_channels * taps


def _normalised(x: Tensor, norm: Norm | None, normalise: Normalise, silu: bool = True) -> Tensor:
    if norm is None:
        return x
    return normalise(x.permute(0, 2, 3, 1).contiguous(), norm, silu).permute(0, 3, 1, 2)


def _chunk(tokens: int) -> int:
    return max(1, min(tokens, SCORES // tokens))


def _scores(queries: Tensor, tokens: Tensor) -> Tensor:
    """Products [n,m] in fp32: half the digits of a score are digits of its exponential."""
    if queries.dtype == torch.float32:
        return queries @ tokens.T
    if queries.device.type == "cuda":
        return torch.mm(queries, tokens.T, out_dtype=torch.float32)
    return queries.float() @ tokens.float().T
