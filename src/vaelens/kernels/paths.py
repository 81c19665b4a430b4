"""Which path computes a convolution: a rule of shapes, dtype, device and instruction set, never of a measurement.

| path | maps | products | where |
|---|---|---|---|
| `amx` | fp32 | three of bf16 halves, as exact as fp32 in another order; fp32 for narrow layers | fp32 with AMX |
| `amx-bf16` | fp32 | one of bf16; three for 1x1 kernels, fp32 for narrow layers | bfloat16 with AMX |
| `avx512`, `avx2` | fp32 | fp32 | fp32 without AMX |
| `portable` | fp32 | fp32, in plain C++ | for tests |
| `tiles`, `tiles-bf16` | fp32 | those of `amx` and `amx-bf16`, in plain C++ | for tests |
| `torch` | the network's dtype | PyTorch's | everything else |

`VAELENS_KERNELS=<path>` takes another path on the CPU.
"""

import os

import torch

from vaelens.errors import UsageError
from vaelens.kernels import library
from vaelens.kernels.convolution import Geometry, Kernel
from vaelens.kernels.library import Arithmetic, Instructions
from vaelens.kernels.native_convolution import PATHS, NativeKernel, best_instructions, supported
from vaelens.kernels.torch_convolution import TorchKernel

VARIABLE = "VAELENS_KERNELS"
TORCH = "torch"
TILE_CHANNELS = 32
# The path in fp32 that every processor of a path has too.
FP32_BESIDE = {"amx": "avx512", "amx-bf16": "avx512", "tiles": "portable", "tiles-bf16": "portable"}


def choose_kernel(
    geometry: Geometry, in_channels: int, out_channels: int, dtype: torch.dtype, device: torch.device
) -> Kernel:
    """The kernel for these shapes and a network's dtype on this device. Raises as `choose_path` does.

    On a native path PyTorch's operations compute what the library has no code for.
    """
    path = choose_path(dtype, device)
    if path == TORCH:
        return TorchKernel(geometry, in_channels, out_channels, dtype, device.type)
    kernel = NativeKernel(geometry, in_channels, out_channels, _layer_path(path, geometry, in_channels, out_channels))
    return kernel if supported(kernel) else TorchKernel(geometry, in_channels, out_channels, torch.float32, device.type)


def choose_path(dtype: torch.dtype, device: torch.device) -> str:
    """The path of a network's dtype on a device.

    Raises UsageError where VAELENS_KERNELS names one that isn't there.
    """
    if device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return TORCH
    if forced := os.environ.get(VARIABLE):
        return _forced(forced, dtype)
    if library.unavailable():
        return TORCH
    if best_instructions(Arithmetic.SPLIT_BF16) == Instructions.AMX:
        return "amx" if dtype == torch.float32 else "amx-bf16"
    if dtype != torch.float32:
        return TORCH
    # Plain C++ is slower than PyTorch's operations; it is there for tests.
    return {Instructions.AVX512: "avx512", Instructions.AVX2: "avx2"}.get(best_instructions(Arithmetic.FP32), TORCH)


def choose_fp32_path(device: torch.device) -> str:
    """The path on a device of networks that are defined in fp32, as those of the metrics: of fp32 products alone.

    Raises as `choose_path` does.
    """
    path = choose_path(torch.float32, device)
    return FP32_BESIDE.get(path, path)


def _layer_path(path: str, geometry: Geometry, in_channels: int, out_channels: int) -> str:
    """The path of one layer: the few products that matter most for the digits are made in more of them."""
    if path in FP32_BESIDE and min(in_channels, out_channels) < TILE_CHANNELS:
        return FP32_BESIDE[path]  # most of a tile would be zeros
    if geometry.kernel == (1, 1):
        return path.removesuffix("-bf16")  # a ninth of the products, also of sums that nothing normalises
    return path


def map_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of the maps between a network's layers: on native paths fp32, whatever the products are."""
    return dtype if choose_path(dtype, device) == TORCH else torch.float32


def available_paths() -> list[str]:
    """All paths that this processor, system and library have, whatever they are good for."""
    if library.unavailable():
        return [TORCH]
    return [path for path in PATHS if _has(path)] + [TORCH]


def _has(path: str) -> bool:
    arithmetic, instructions = PATHS[path]
    built = supported(NativeKernel(Geometry(), 32, 32, path))
    return built and instructions <= best_instructions(arithmetic)


def _forced(path: str, dtype: torch.dtype) -> str:
    """The path that VAELENS_KERNELS names; for bfloat16 its variant of one product, where it has one."""
    if path != TORCH and (why := library.unavailable()):
        raise UsageError(f"{VARIABLE}={path}: {why}")
    paths = available_paths()
    if path not in paths:
        raise UsageError(f"{VARIABLE}={path} isn't a path of this machine. Set {', '.join(paths)}, or leave it unset.")
    narrow = f"{path}-bf16"
    return narrow if dtype == torch.bfloat16 and narrow in PATHS else path
