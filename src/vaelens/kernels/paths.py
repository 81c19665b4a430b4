"""Which path computes a convolution: a rule of shapes, dtype and device, never of a measurement."""

import torch

from vaelens.kernels.convolution import Geometry, Kernel
from vaelens.kernels.torch_convolution import TorchKernel


def choose_kernel(
    geometry: Geometry, in_channels: int, out_channels: int, dtype: torch.dtype, device: torch.device
) -> Kernel:
    """The kernel for these shapes on this device."""
    return TorchKernel(geometry, in_channels, out_channels, dtype, device.type)
