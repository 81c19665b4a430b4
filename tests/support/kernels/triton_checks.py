"""Triton's kernels under its interpreter, against PyTorch in float64; writes the errors of each case as JSON.

It runs in a process of its own: Triton reads TRITON_INTERPRET once, when it is imported.
"""

import copy
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from support.vaes import CONFIGS, random_network, relative
from vaelens.engine.gpu import whole_network
from vaelens.engine.gpu.ways import Way
from vaelens.kernels.triton_group_norm import CHUNKS, norm_affine, normalise

EPS = 1e-6


@dataclass
class Case:
    """Maps [b,h,w,c] and their groups; `chunks` is the most that an image is taken in."""

    maps: Tensor
    groups: int
    silu: bool = True
    chunks: int = CHUNKS
    weighted: bool = True

    def errors(self) -> dict[str, Any]:
        """Relative L2 of the result, and the largest error of the affine maps, in deviations of a group."""
        channels = self.maps.shape[3]
        weight, bias = (torch.rand(channels) + 0.5, torch.randn(channels)) if self.weighted else (None, None)
        affine = norm_affine(self.maps, self.groups, EPS, weight, bias, chunks=self.chunks)
        found = normalise(self.maps, affine, silu=self.silu)
        wide = self.maps.double().permute(0, 3, 1, 2)
        wanted = F.group_norm(wide, self.groups, *(None if t is None else t.double() for t in (weight, bias)), EPS)
        mean, scale, shift = (t.double()[:, :, None, None] for t in (affine.mean, affine.scale, affine.shift))
        of_affine = ((wide - mean) * scale + shift - wanted).abs().max()
        wanted = (F.silu(wanted) if self.silu else wanted).permute(0, 2, 3, 1)
        of_result = (found.double() - wanted).norm() / wanted.norm()
        same = found.dtype == self.maps.dtype and found.shape == self.maps.shape and found.is_contiguous()
        return {"result": of_result.item(), "affine": of_affine.item(), "form": same}


def cases() -> dict[str, Case]:
    strips = torch.randn(1, 40, 5, 8) + torch.tensor([0.0, 1000.0]).repeat_interleave(20)[None, :, None, None]
    return {
        "fp32": Case(torch.randn(3, 13, 17, 24), 4),
        "bf16": Case(torch.randn(1, 13, 17, 24).bfloat16(), 4),
        "fp16": Case(torch.randn(1, 13, 17, 24).half(), 4),
        "96 channels": Case(torch.randn(1, 9, 11, 96), 8),
        "384 channels": Case(torch.randn(1, 5, 7, 384).bfloat16(), 4),
        "one position": Case(torch.randn(2, 1, 1, 8), 2),
        "several tiles of each chunk": Case(torch.randn(2, 40, 33, 16), 2, chunks=2),
        "more chunks than are merged at once": Case(torch.randn(1, 66, 32, 128), 2),
        "without SiLU": Case(torch.randn(1, 6, 5, 8), 2, silu=False),
        "without weight and bias": Case(torch.randn(1, 6, 5, 8), 2, weighted=False),
        "mean of a thousand deviations": Case(torch.randn(1, 40, 33, 8) + 1000, 2, chunks=2),
        "the same in fp16": Case((torch.randn(1, 13, 17, 24) + 1000).half(), 4),
        "constant": Case(torch.full((1, 5, 5, 8), 0.3), 2),
        "strips with different means": Case(strips, 2, chunks=3),
    }


def network_errors() -> dict[str, float]:
    """Of a network run on whole maps with these norms."""
    network, way = random_network(CONFIGS["no attention"]), Way(triton=True)
    z, pixels = torch.randn(1, 4, 3, 2), torch.rand(1, 3, 4, 6)
    wide = copy.deepcopy(network).double()
    decoded, encoded = (whole_network.run(network, d, x, way) for d, x in (("decode", z), ("encode", pixels)))
    return {
        "decode": relative(decoded, wide.decode(z.double())),
        "encode": relative(encoded, wide.moments(pixels.double())),
    }


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with np.errstate(over="ignore"):  # exp(-y) of a large negative y is infinite, and y / inf is 0
        found = {name: case.errors() for name, case in cases().items()}
        found["network"] = network_errors()
    Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
