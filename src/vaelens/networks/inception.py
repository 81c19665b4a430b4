"""Inception v3 up to its last pooling: the feature network of the Frechet Inception distance.

Szegedy et al. 2015 (https://arxiv.org/abs/1512.00567), as TensorFlow's graph of 2015-12-05 has it, on which
FID is defined. It differs from torchvision's: average pools leave the padding out of the average, and the
last block pools by maximum. Tensors are named as in torchvision, as the ported weights are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH_NORM_EPS = 1e-3


@dataclass(frozen=True)
class Conv:
    """One convolution of a block: its name in the file, its output channels, its kernel."""

    name: str
    width: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1


Pool = Literal["average", "maximum", "maximum, halving"]
# A path is a pool or convolutions in a row; a tuple as its last step is a fork, whose outputs lie side by side.
Path = tuple[Pool | Conv | tuple[Conv, ...], ...]
ROW, COLUMN = (1, 7), (7, 1)


def _a(pooled: int) -> tuple[Path, ...]:
    return (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, 5)),
        (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, 3), Conv("branch3x3dbl_3", 96, 3)),
        ("average", Conv("branch_pool", pooled)),
    )


def _b() -> tuple[Path, ...]:
    return (
        (Conv("branch3x3", 384, 3, stride=2),),
        (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, 3), Conv("branch3x3dbl_3", 96, 3, stride=2)),
        ("maximum, halving",),
    )


def _c(inner: int) -> tuple[Path, ...]:
    return (
        (Conv("branch1x1", 192),),
        (Conv("branch7x7_1", inner), Conv("branch7x7_2", inner, ROW), Conv("branch7x7_3", 192, COLUMN)),
        (
            Conv("branch7x7dbl_1", inner),
            Conv("branch7x7dbl_2", inner, COLUMN),
            Conv("branch7x7dbl_3", inner, ROW),
            Conv("branch7x7dbl_4", inner, COLUMN),
            Conv("branch7x7dbl_5", 192, ROW),
        ),
        ("average", Conv("branch_pool", 192)),
    )


def _d() -> tuple[Path, ...]:
    return (
        (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, 3, stride=2)),
        (
            Conv("branch7x7x3_1", 192),
            Conv("branch7x7x3_2", 192, ROW),
            Conv("branch7x7x3_3", 192, COLUMN),
            Conv("branch7x7x3_4", 192, 3, stride=2),
        ),
        ("maximum, halving",),
    )


def _e(pool: Pool) -> tuple[Path, ...]:
    return (
        (Conv("branch1x1", 320),),
        (Conv("branch3x3_1", 384), (Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1)))),
        (
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, 3),
            (Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1))),
        ),
        (pool, Conv("branch_pool", 192)),
    )


BLOCKS: tuple[tuple[str, tuple[Path, ...]], ...] = (
    ("Mixed_5b", _a(32)),
    ("Mixed_5c", _a(64)),
    ("Mixed_5d", _a(64)),
    ("Mixed_6a", _b()),
    ("Mixed_6b", _c(128)),
    ("Mixed_6c", _c(160)),
    ("Mixed_6d", _c(160)),
    ("Mixed_6e", _c(192)),
    ("Mixed_7a", _d()),
    ("Mixed_7b", _e("average")),
    ("Mixed_7c", _e("maximum")),
)


class ConvNorm(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, width: int, to: int, kernel: int | tuple[int, int], stride: int, padding: int | tuple[int, int]):
        super().__init__()
        self.conv = nn.Conv2d(width, to, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(to, eps=BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Block(nn.Module):
    """Paths over one input, their outputs side by side: [b,width,h,w] to [b,self.width,h',w']."""

    def __init__(self, width: int, paths: tuple[Path, ...]) -> None:
        super().__init__()
        self.paths = paths
        self.width = 0
        for path in paths:
            into = width
            for step in path:
                fork = step if isinstance(step, tuple) else (step,)
                convs = [conv for conv in fork if isinstance(conv, Conv)]
                for conv in convs:
                    # A halving convolution looks only at whole windows, the others keep the size.
                    padding = (0, 0) if conv.stride > 1 else _half(conv.kernel)
                    self.add_module(conv.name, ConvNorm(into, conv.width, conv.kernel, conv.stride, padding))
                into = sum(conv.width for conv in convs) or into
            self.width += into

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([out for path in self.paths for out in self._along(path, x)], dim=1)

    def _along(self, path: Path, x: Tensor) -> Iterator[Tensor]:
        for step in path:
            if isinstance(step, tuple):
                for conv in step:
                    yield self.get_submodule(conv.name)(x)
                return
            x = self.get_submodule(step.name)(x) if isinstance(step, Conv) else _pool(step, x)
        yield x


class InceptionV3(nn.Module):
    """Pixels [b,3,299,299] around [-1,1], from `metrics.inception_input`, to features [b,2048] ("pool3")."""

    UNUSED: ClassVar[str] = r"fc\.(weight|bias)|.+\.bn\.num_batches_tracked"  # of the published file, and not needed
    WIDTH: ClassVar[int] = 2048

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, 2, 0)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3, 1, 0)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, 1, 1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1, 1, 0)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3, 1, 0)
        width = 192
        for name, paths in BLOCKS:
            block = Block(width, paths)
            self.add_module(name, block)
            width = block.width

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)
        for name, _ in BLOCKS:
            x = self.get_submodule(name)(x)
        return x.mean(dim=(2, 3))


def _half(kernel: int | tuple[int, int]) -> tuple[int, int]:
    h, w = (kernel, kernel) if isinstance(kernel, int) else kernel
    return h // 2, w // 2


def _pool(kind: Pool, x: Tensor) -> Tensor:
    if kind == "average":
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    return F.max_pool2d(x, 3, stride=2) if kind == "maximum, halving" else F.max_pool2d(x, 3, stride=1, padding=1)
