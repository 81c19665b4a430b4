"""Moments merged from rows, and the group norm made from them, against torch in float64 on the whole map."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vaelens.kernels.moments import group_affine, merge_rows, row_moments

MAPS = {
    "ordinary": torch.randn(2, 9, 7, 12, generator=torch.Generator().manual_seed(0)),
    "one value": torch.full((1, 3, 2, 12), 0.7),
    "one position": torch.randn(3, 1, 1, 12, generator=torch.Generator().manual_seed(1)),
    "offset 1000": 1000 + torch.randn(1, 64, 64, 12, generator=torch.Generator().manual_seed(2)),
    "strips with different means": torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(3))
    + torch.arange(16.0)[None, :, None, None] * 50,
}


def by_strips(x: Tensor, rows: int) -> Tensor:
    return torch.cat([row_moments(x[:, y : y + rows]) for y in range(0, x.shape[1], rows)], dim=1)


@pytest.mark.parametrize("name", MAPS)
def test_moments_are_those_of_the_whole_map(name: str) -> None:
    x = MAPS[name]
    found = merge_rows(by_strips(x, 2), x.shape[2])
    wide = x.double()
    torch.testing.assert_close(found.mean, wide.mean(dim=(1, 2)), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found.variance, wide.var(dim=(1, 2), correction=0), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", MAPS)
def test_strips_change_no_bit(name: str) -> None:
    x = MAPS[name]
    found = [merge_rows(by_strips(x, rows), x.shape[2]) for rows in (1, 3, 64)]
    assert all(torch.equal(f.mean, found[0].mean) and torch.equal(f.variance, found[0].variance) for f in found)


@pytest.mark.parametrize("name", MAPS)
def test_group_norm_is_that_of_torch_in_float64(name: str) -> None:
    """At an offset of 1000 torch's own on channels-last fp32 is off by 1e-3."""
    x, weight, bias = MAPS[name], torch.randn(12), torch.randn(12)
    affine = group_affine(merge_rows(row_moments(x), x.shape[2]), 4, 1e-6, weight, bias)
    found = (x - affine.mean[:, None, None]) * affine.scale[:, None, None] + affine.shift[:, None, None]
    wide = F.group_norm(x.double().permute(0, 3, 1, 2), 4, weight.double(), bias.double(), 1e-6).permute(0, 2, 3, 1)
    # a constant's deviation is that of rounding: its normalised values are of the order of 1e-7 / sqrt(1e-6)
    torch.testing.assert_close(found.double(), wide, rtol=2e-6, atol=2e-6 if name != "one value" else 1e-3)


def test_a_norm_without_weights() -> None:
    x = MAPS["ordinary"]
    affine = group_affine(merge_rows(row_moments(x), 7), 3, 1e-6, None, None)
    found = (x - affine.mean[:, None, None]) * affine.scale[:, None, None] + affine.shift[:, None, None]
    wanted = F.group_norm(x.permute(0, 3, 1, 2).contiguous(), 3, None, None, 1e-6).permute(0, 2, 3, 1)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
