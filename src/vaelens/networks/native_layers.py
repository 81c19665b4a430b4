"""The convolutions of a metric network on the native kernels, where that pays: fp32, on the CPU, without gradients.

Weights are packed and batch norms folded once, when a network is prepared; the network's own code stays as it is.
"""

from typing import cast

import torch
from torch import Tensor, nn

from vaelens.kernels.convolution import Convolution
from vaelens.kernels.native_convolution import NativeKernel
from vaelens.kernels.paths import TORCH, choose_fp32_path
from vaelens.networks.inception import ConvNorm
from vaelens.networks.memory_saving import geometry_of


class NativeConv2d(nn.Module):
    """What `nn.Conv2d` computes, without gradients: fp32 [b,c,h,w] to [b,c',h',w'], channels last in memory.

    Each image is computed by itself, so that it is bit-identical alone and in company.
    """

    def __init__(self, convolution: Convolution) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        """See the class. A map that isn't channels last is copied."""
        kernel, (batch, _, height, width) = self.convolution.kernel, x.shape
        rows, columns = kernel.geometry.output_size(height, width)
        shape = batch, rows, columns, kernel.out_channels
        out = torch.empty(shape, dtype=torch.float32, device="cpu")
        self.convolution.run(x.permute(0, 2, 3, 1).contiguous(), 0, height, rows=(0, rows), out=out)
        return out.permute(0, 3, 1, 2)


def use_native_convolutions(network: nn.Module, device: torch.device) -> str:
    """Replace layers of a network, which is frozen, in fp32 and on `device`; gives the path that they run on.

    Where that is `torch` nothing is changed. Else maps lie channels last, and there are no gradients any more. Raises
    UsageError as `choose_fp32_path` does.
    """
    path = choose_fp32_path(device)
    if path != TORCH:
        _replace_layers(network, path)
    return path


def _replace_layers(parent: nn.Module, path: str) -> None:
    for name, child in list(parent.named_children()):
        if isinstance(child, ConvNorm):
            setattr(parent, name, nn.Sequential(_fastest(_folded(child), path), nn.ReLU(inplace=True)))
        elif isinstance(child, nn.Conv2d):
            setattr(parent, name, _fastest(child, path))
        else:
            _replace_layers(child, path)


def _fastest(layer: nn.Conv2d, path: str) -> nn.Module:
    """On the native path where that is Winograd's algorithm; elsewhere PyTorch, on channels-last maps, is as fast."""
    kernel = NativeKernel(geometry_of(layer), layer.in_channels, layer.out_channels, path)
    if kernel.row_alignment > 1:  # without upsampling only Winograd's tiles have more than one row
        return NativeConv2d(kernel.prepare(layer.weight, layer.bias))
    channels_last = layer.weight.contiguous(memory_format=torch.channels_last)
    layer.weight = nn.Parameter(channels_last, requires_grad=False)
    return layer


def _folded(layer: ConvNorm) -> nn.Conv2d:
    """The convolution with its batch norm in weights and bias, computed in float64."""
    conv, norm = layer.conv, layer.bn
    scale = norm.weight.double() / (cast(Tensor, norm.running_var).double() + norm.eps).sqrt()
    weight = conv.weight.double() * scale[:, None, None, None]
    bias = norm.bias.double() - cast(Tensor, norm.running_mean).double() * scale
    kernel_size, stride, padding = (cast(tuple[int, int], v) for v in (conv.kernel_size, conv.stride, conv.padding))
    with torch.device("meta"):
        folded = nn.Conv2d(conv.in_channels, conv.out_channels, kernel_size, stride, padding)
    folded.load_state_dict({"weight": weight.float(), "bias": bias.float()}, assign=True)
    return folded.eval().requires_grad_(False)
