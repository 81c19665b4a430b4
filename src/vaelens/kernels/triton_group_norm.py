"""Group normalisation and SiLU of maps on a GPU, channels last, in two passes over the map: kernels in Triton.

The first pass reads the map once and leaves the mean and the sum of squared deviations (M2) of each channel in each
chunk of pixels. A small kernel merges them (Chan, Golub and LeVeque 1979) into one affine map for each channel. The
second pass applies that. Moments are merged in float64 from deviations in fp32, as in `moments`: a mean of a thousand
deviations costs no digits. What is computed depends on the map's shape alone.

Triton comes with PyTorch's CUDA wheels for Linux; elsewhere this module can't be imported.
"""

# pyright: basic, reportArgumentType=false, reportReturnType=false
import torch
import triton
import triton.language as tl
from torch import Tensor

from vaelens.kernels.convolution import Affine

TILE = 4096  # values of the map that a program holds at once
TILE_CHANNELS = 128  # at most: whole sectors of memory in every dtype
CHUNKS = 512  # of an image at most, for each block of channels: enough programs for a large GPU
MERGED = 64  # chunks that the merging kernel reads at once


def norm_affine(
    maps: Tensor, groups: int, eps: float, weight: Tensor | None, bias: Tensor | None, *, chunks: int = CHUNKS
) -> Affine:
    """The group normalisation of maps [b,h,w,c], contiguous, as an affine map of each channel."""
    b, pixels, c = len(maps), maps.shape[1] * maps.shape[2], maps.shape[3]
    tile = _tile(c)
    length = _ceil(_ceil(pixels, chunks), tile[0]) * tile[0]
    count = _ceil(pixels, length)
    moments = torch.empty((b, 2, count, c), dtype=torch.float64, device=maps.device)
    affine = torch.empty((3, b, c), dtype=torch.float32, device=maps.device)
    with torch.cuda.device_of(maps):
        _chunk_moments[count, _ceil(c, tile[1]), b](maps, moments, pixels, c, count, length, *tile)
        width = c // groups
        _group_affine[groups, b](
            moments, weight, bias, affine, pixels, c, count, length, eps, width, triton.next_power_of_2(width), MERGED
        )
    return Affine(*affine.unbind())


def normalise(maps: Tensor, affine: Affine, *, silu: bool) -> Tensor:
    """(x - mean) * scale + shift of maps [b,h,w,c], contiguous, and its SiLU where asked for: a new map."""
    (b, h, w, c), out = maps.shape, torch.empty_like(maps)
    tile = _tile(c)
    grid = _ceil(h * w, tile[0]), _ceil(c, tile[1]), b
    with torch.cuda.device_of(maps):
        _normalise[grid](maps, affine.mean, affine.scale, affine.shift, out, h * w, c, silu, *tile)
    return out


def _tile(channels: int) -> tuple[int, int]:
    """Pixels and channels that a program holds at once, powers of two."""
    width = min(TILE_CHANNELS, triton.next_power_of_2(channels))
    return TILE // width, width


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)


@triton.jit
def _chunk_moments(
    maps, moments, pixels, channels, chunks, length, TILE_PIXELS: tl.constexpr, TILE_CHANNELS: tl.constexpr
):
    """Of `length` pixels of one image, for a block of channels: moments [b,2,chunks,c]."""
    chunk, image = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * TILE_CHANNELS + tl.arange(0, TILE_CHANNELS)
    inside = channel < channels
    base = maps + image * pixels * channels + channel
    first = chunk * length
    end = tl.minimum(first + length, pixels)
    mean = tl.zeros([TILE_CHANNELS], tl.float64)
    squares = tl.zeros([TILE_CHANNELS], tl.float64)
    for start in range(first, end, TILE_PIXELS):
        pixel = start + tl.arange(0, TILE_PIXELS)
        valid = (pixel < end)[:, None] & inside[None, :]
        at = base[None, :] + pixel.to(tl.int64)[:, None] * channels
        x = tl.load(at, mask=valid, other=0.0).to(tl.float32)
        seen = (start - first).to(tl.float64)
        new = tl.minimum(end - start, TILE_PIXELS).to(tl.float64)
        near = tl.sum(x, axis=0) / new.to(tl.float32)
        difference = tl.where(valid, x - near[None, :], 0.0)
        offset = tl.sum(difference, axis=0).to(tl.float64) / new
        within = tl.sum(difference * difference, axis=0).to(tl.float64) - new * offset * offset
        delta = near.to(tl.float64) + offset - mean
        mean += delta * (new / (seen + new))
        squares += within + delta * delta * (seen * new / (seen + new))
    at = moments + (image * 2 * chunks + chunk) * channels + channel
    tl.store(at, mean, mask=inside)
    tl.store(at + chunks * channels, squares, mask=inside)


@triton.jit
def _group_affine(
    moments, weight, bias, affine, pixels, channels, chunks, length, eps,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, MERGED: tl.constexpr,
):  # fmt: skip
    """Of one group of WIDTH channels of one image: mean, scale and shift, affine [3,b,c]."""
    group, image, images = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    channel = group * WIDTH + tl.arange(0, PADDED)
    inside = tl.arange(0, PADDED) < WIDTH
    means = moments + image * 2 * chunks * channels + channel
    values = (pixels * WIDTH).to(tl.float64)
    total = tl.zeros([PADDED], tl.float64)
    for start in range(0, chunks, MERGED):
        chunk = start + tl.arange(0, MERGED)
        valid = (chunk < chunks)[:, None] & inside[None, :]
        size = tl.minimum(length, pixels - chunk * length).to(tl.float64)
        found = tl.load(means[None, :] + chunk[:, None] * channels, mask=valid, other=0.0)
        total += tl.sum(tl.where(valid, found * size[:, None], 0.0), axis=0)
    mean = tl.sum(total, axis=0) / values
    squares = tl.zeros([PADDED], tl.float64)
    for start in range(0, chunks, MERGED):
        chunk = start + tl.arange(0, MERGED)
        valid = (chunk < chunks)[:, None] & inside[None, :]
        size = tl.minimum(length, pixels - chunk * length).to(tl.float64)
        at = means[None, :] + chunk[:, None] * channels
        delta = tl.load(at, mask=valid, other=0.0) - mean
        within = tl.load(at + chunks * channels, mask=valid, other=0.0)
        squares += tl.sum(tl.where(valid, within + delta * delta * size[:, None], 0.0), axis=0)
    scale = tl.zeros([PADDED], tl.float64) + 1.0 / tl.sqrt(tl.sum(squares, axis=0) / values + eps)
    if weight is not None:
        scale *= tl.load(weight + channel, mask=inside, other=0.0).to(tl.float64)
    rounded = mean.to(tl.float32)
    shift = (rounded.to(tl.float64) - mean) * scale  # what the rounding of the mean left
    if bias is not None:
        shift += tl.load(bias + channel, mask=inside, other=0.0).to(tl.float64)
    at = affine + image * channels + channel
    tl.store(at, tl.zeros([PADDED], tl.float32) + rounded, mask=inside)
    tl.store(at + images * channels, scale.to(tl.float32), mask=inside)
    tl.store(at + 2 * images * channels, shift.to(tl.float32), mask=inside)


@triton.jit
def _normalise(
    maps, mean, scale, shift, out, pixels, channels,
    SILU: tl.constexpr, TILE_PIXELS: tl.constexpr, TILE_CHANNELS: tl.constexpr,
):  # fmt: skip
    """A tile of pixels and channels of one image; mean, scale and shift are [b,c]."""
    image = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * TILE_CHANNELS + tl.arange(0, TILE_CHANNELS)
    pixel = tl.program_id(0) * TILE_PIXELS + tl.arange(0, TILE_PIXELS)
    inside = channel < channels
    valid = (pixel < pixels)[:, None] & inside[None, :]
    of_image = image * channels + channel
    at = image * pixels * channels + pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    x = tl.load(maps + at, mask=valid, other=0.0).to(tl.float32)
    y = x - tl.load(mean + of_image, mask=inside, other=0.0)[None, :]
    y = y * tl.load(scale + of_image, mask=inside, other=0.0)[None, :]
    y = y + tl.load(shift + of_image, mask=inside, other=0.0)[None, :]
    if SILU:
        y = y / (1.0 + tl.exp(-y))
    tl.store(out + at, y.to(out.dtype.element_ty), mask=valid)
