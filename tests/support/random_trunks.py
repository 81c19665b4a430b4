"""Random weights for the metric networks, in the published files' names, whose features vary as real ones do.

Default initialisation gives features near 3e-8, on which any code agrees with any other. Here the variance
is kept from layer to layer, and batch statistics are made up.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vaelens.networks.alexnet import AlexNet
from vaelens.networks.inception import InceptionV3
from vaelens.networks.vgg import VGG16

State = dict[str, Tensor]


def random_vgg16(seed: int = 0) -> State:
    """`features.*`; the published file's `classifier.*` is left out, as 494 MB that nobody reads."""
    return _rectified(VGG16, seed)


def random_alexnet(seed: int = 0) -> State:
    """`features.*`, without `classifier.*`."""
    return _rectified(AlexNet, seed)


def random_inception(seed: int = 0) -> State:
    """All tensors of the published file, `fc.*` included."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for name, shape in _shapes(InceptionV3).items():
        if name.endswith("conv.weight"):
            state[name] = _normal(shape, math.sqrt(1 / math.prod(shape[1:])), generator)
        elif name.endswith("bn.weight"):  # about the square root of 2, which makes up for what the ReLU cuts
            state[name] = 1.2 + 0.4 * torch.rand(shape, generator=generator)
        elif name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(shape, generator=generator)
        elif name.endswith(("bn.bias", "running_mean")):
            state[name] = _normal(shape, 0.2, generator)
    state["fc.weight"] = _normal((1008, InceptionV3.WIDTH), InceptionV3.WIDTH**-0.5, generator)
    state["fc.bias"] = torch.zeros(1008)
    return state


def random_heads(widths: Sequence[int], seed: int = 0) -> State:
    """LPIPS' linear heads: not negative, some of them zero, as large as gives distances above 1."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"lin{i}.model.1.weight": (torch.rand(1, width, 1, 1, generator=generator) * 4 - 1).clamp(min=0)
        for i, width in enumerate(widths)
    }


def write_trunks(folder: Path) -> dict[str, Path]:
    """A .pth file of each metric network, by its name in `networks.toml`: what `load_networks` takes as paths."""
    states = {
        "inception": random_inception(),
        "vgg16": random_vgg16(),
        "alexnet": random_alexnet(),
        "lpips-vgg": random_heads(VGG16.WIDTHS),
        "lpips-alex": random_heads(AlexNet.WIDTHS),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.pth" for name in states}
    for name, state in states.items():
        torch.save(state, paths[name])
    return paths


def _rectified(network: type[VGG16 | AlexNet], seed: int) -> State:
    """For convolutions each followed by a ReLU (He et al. 2015)."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: _normal(shape, math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.1, generator)
        for name, shape in _shapes(network).items()
    }


def _shapes(network: type[torch.nn.Module]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in network().state_dict().items()}


def _normal(shape: tuple[int, ...], std: float, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator) * std
