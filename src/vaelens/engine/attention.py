"""Attention over a whole map, a chunk of queries at a time: exact, and never with all scores in memory.

The products with the tokens are 1x1 convolutions whose weights are the tokens, so that they take the path of all
others. They are fp32 in every dtype of the network: half the digits of a score are digits of its exponential.
"""

import torch
from torch import Tensor

from vaelens.kernels.convolution import POINTWISE, Affine, Convolution, Kernel
from vaelens.kernels.moments import empty_moments, row_moments
from vaelens.kernels.paths import choose_kernel

SCORES = 2**22  # of a chunk: 16 MB in fp32
# Below the largest score. Its exponential is 1, and 2e-22 beside it changes no digit of a sum, of any number of tokens.
# Smaller ones, and their products, could be denormal numbers: processors are thirty times as slow with those.
LOWEST = -50.0
FEWEST = 64  # queries of a chunk: with fewer, each product reads all tokens for too little work


def chunk_size(tokens: int) -> int:
    """Queries of a chunk. It depends on the number of tokens alone, so that no budget changes a bit."""
    return min(tokens, max(FEWEST, SCORES // tokens))


def attend(x: Tensor, affine: Affine, query: Convolution, output: Convolution, moments: bool) -> Tensor | None:
    """Add attention over each image of the map [b,h,w,c] to it, in place; the moments of its rows [b,h,c,2].

    `query` and `output` are the folded projections of `architecture.Attend`.
    """
    for i in range(len(x)):
        _attend_image(x[i], affine.image(i), query, output)
    if not moments:
        return None
    found = empty_moments(x.shape, x.device)
    for y in range(x.shape[1]):
        found[:, y : y + 1] = row_moments(x[:, y : y + 1])
    return found


def attention_bytes(tokens: int, channels: int, device: torch.device) -> int:
    """What `attend` takes beside the map, all scratch, and the projections' packed weights."""
    packed = sum(kernel.packed_bytes for kernel in products(tokens, channels, device))
    return 4 * (2 * tokens * channels + chunk_size(tokens) * (tokens + 4 * channels)) + packed


def attention_operations(tokens: int, channels: int) -> int:
    """Of the products of one image."""
    return 2 * tokens * (2 * tokens * channels + 2 * channels**2)


def products(tokens: int, channels: int, device: torch.device) -> tuple[Kernel, Kernel]:
    """Scores of queries with each token, and means of the tokens by their scores."""
    scoring = choose_kernel(POINTWISE, channels, tokens, torch.float32, device)
    return scoring, choose_kernel(POINTWISE, tokens, channels, torch.float32, device)


def _attend_image(x: Tensor, affine: Affine, query: Convolution, output: Convolution) -> None:
    """One image [h,w,c]."""
    flat = x.view(-1, x.shape[2])
    n, c = flat.shape
    tokens = ((flat.float() - affine.mean) * affine.scale).add_(affine.shift)
    score, mix = products(n, c, x.device)
    scoring, mixing = score.prepare(tokens[:, :, None, None], None), mix.prepare(tokens.T[:, :, None, None], None)
    # Made once: of a new one for each chunk two would be there at a time, and small tensors would part what they leave.
    all_scores, all_mixed, all_projected = (tokens.new_empty((chunk_size(n), width)) for width in (n, c, c))
    for first in range(0, n, chunk_size(n)):
        chunk = tokens[first : first + chunk_size(n)]
        scores = _product(scoring, _product(query, chunk, all_projected), all_scores)
        scores.sub_(scores.amax(dim=1, keepdim=True)).clamp_(min=LOWEST).exp_()
        total = scores.sum(dim=1, keepdim=True)
        mixed = _product(mixing, scores, all_mixed).div_(total)
        flat[first : first + len(chunk)] += _product(output, mixed, all_projected).to(x.dtype)


def _product(convolution: Convolution, rows: Tensor, into: Tensor) -> Tensor:
    """Rows [n,ci] through a 1x1 convolution to the first rows of `into`, [n,co]."""
    out = into[: len(rows)]
    convolution.run(rows[None, None], 0, 1, rows=(0, 1), out=out[None, None])
    return out
