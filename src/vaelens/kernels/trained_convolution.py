"""A convolution of a normalised map, trained in little memory: what is cheap is computed again in the backward pass.

Autograd keeps a map for each of norm, activation and convolution. Here one function is all three and keeps its input
and the norm's statistics; the backward pass normalises again. No convolution is computed twice. A convolution of a map
enlarged by nearest x2 is one transposed convolution of the small map, so that the large one is never made.

On the CPU, products take the native path that `paths` chooses, channels last; elsewhere they are PyTorch's. Under
autocast the input is kept in autocast's dtype, in which the products read it: half the memory.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from vaelens.kernels.convolution import Affine, Geometry
from vaelens.kernels.group_norm import activated, denormalised, group_statistics, norm_silu_backward, normalised
from vaelens.kernels.paths import TORCH, choose_kernel, choose_path

BACK_FROM_ENLARGED = Geometry(kernel=(4, 4), stride=2)


@dataclass(frozen=True)
class GroupNormSilu:
    """silu(group_norm(x)): weight and bias [c]."""

    groups: int
    eps: float
    weight: Tensor
    bias: Tensor


def trained_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    *,
    norm: GroupNormSilu | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """The convolution of x [b,ci,h,w], after norm and activation where given, plus the residual: [b,co,oh,ow].

    weight [co,ci,height,width], bias [co]; residual has the result's shape. Autocast's dtype is that of the products;
    without it the weight's is. Differentiable once: RuntimeError where a gradient's gradient is computed.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    how = _How(geometry, dtype, choose_path(dtype, x.device) != TORCH, *((norm.groups, norm.eps) if norm else (0, 0.0)))
    of_norm = (None, None) if norm is None else (norm.weight, norm.bias)
    apply = cast(Any, _TrainedConvolution).apply
    with torch.autocast(device, enabled=False):
        return apply(x, *of_norm, weight, bias, residual, how)


class _How(NamedTuple):
    geometry: Geometry
    dtype: torch.dtype  # of the products
    native: bool
    groups: int  # of the norm; 0: there is none
    eps: float


class _Parameters(NamedTuple):
    norm_weight: Tensor
    norm_bias: Tensor
    weight: Tensor
    bias: Tensor | None


class _TrainedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> Tensor:
        norm_weight, norm_bias, weight, bias, residual, how = rest
        ctx.how, ctx.shape = how, x.shape
        convolve = _native_forward if how.native else _torch_forward
        out, x, statistics = convolve(x, _Parameters(norm_weight, norm_bias, weight, bias), residual, how)
        kept = x if how.groups or ctx.needs_input_grad[3] else None  # a frozen convolution doesn't need its input
        if kept is not None and how.native and how.dtype != torch.float32:
            kept = _narrowed(kept, statistics, how.dtype)
        ctx.save_for_backward(kept, norm_weight, norm_bias, weight, bias, *statistics)
        return out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = grad_outputs
        needs = ctx.needs_input_grad
        of_bias = gradient.sum(dim=(0, 2, 3)) if needs[4] else None
        with torch.autocast(gradient.device.type, enabled=False):
            of_input, of_weight = (_native_backward if ctx.how.native else _torch_backward)(ctx, gradient)
        return *of_input, of_weight, of_bias, gradient if needs[5] else None, None


Forward = tuple[Tensor, Tensor, tuple[Tensor, ...]]  # output, input as it is kept, statistics of the norm
OfInput = tuple[Tensor | None, Tensor | None, Tensor | None]  # gradients of x and of the norm's parameters
Backward = tuple[OfInput, Tensor | None]  # the last is the weight's


def _native_forward(x: Tensor, parameters: _Parameters, residual: Tensor | None, how: _How) -> Forward:
    maps, weight = _channels_last(x), parameters.weight
    height, width = maps.shape[1:3]
    size = how.geometry.output_size(height, width)
    # Not a view of a map [b,h,w,c]: who comes next may write into it.
    shape = len(maps), len(weight), *size
    out = torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=torch.channels_last)
    normal = group_statistics(maps, how.groups, how.eps) if how.groups else None
    kernel = choose_kernel(how.geometry, weight.shape[1], len(weight), how.dtype, weight.device)
    kernel.prepare(weight, parameters.bias).run(
        maps,
        0,
        height,
        rows=(0, size[0]),
        out=out.permute(0, 2, 3, 1),
        affine=None if normal is None else _affine(normal, parameters),
        activation=None if normal is None else "silu",
        residual=None if residual is None else _channels_last(residual),
    )
    statistics = () if normal is None else (normal.mean, normal.scale, normal.shift)
    return out, maps.permute(0, 3, 1, 2), statistics


def _native_backward(ctx: Any, gradient: Tensor) -> Backward:
    saved = cast(list[Any], ctx.saved_tensors)
    x, parameters, statistics = saved[0], _Parameters(*saved[1:5]), saved[5:]
    needs, how = ctx.needs_input_grad, ctx.how
    normal = Affine(*statistics) if statistics else None
    if normal is not None and x.dtype != torch.float32:
        x = denormalised(x.permute(0, 2, 3, 1), normal).permute(0, 3, 1, 2)
    g = _channels_last(gradient)
    of_weight = of_x = of_norm_weight = of_norm_bias = None
    if needs[3]:
        s = x.permute(0, 2, 3, 1)
        s = (s if normal is None else activated(s, _affine(normal, parameters))).permute(0, 3, 1, 2)
        of_weight = _convolution_backward(g.permute(0, 3, 1, 2), s, parameters.weight, how, (False, True))[1]
        del s
    if any(needs[:3]):
        of_s = _native_input_gradient(g, parameters.weight, ctx.shape, how)
        of_x = of_s.permute(0, 3, 1, 2)
        if normal is not None:
            affine = _affine(normal, parameters)
            sums = norm_silu_backward(of_s, x.permute(0, 2, 3, 1), normal, affine, how.groups)
            of_norm_weight, of_norm_bias = sums
    return (of_x, of_norm_weight, of_norm_bias), of_weight


def _narrowed(x: Tensor, statistics: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """What is kept of an input [b,c,h,w]. With a norm it is normalised first, so that a large mean costs no digits."""
    if not statistics:
        return x.to(dtype)
    return normalised(x.permute(0, 2, 3, 1), Affine(*statistics), dtype).permute(0, 3, 1, 2)


def _native_input_gradient(g: Tensor, weight: Tensor, shape: torch.Size, how: _How) -> Tensor:
    """Of a convolution's output g [b,oh,ow,co] to that of its input, [b,h,w,ci]."""
    geometry = how.geometry
    if geometry.stride > 1:
        of_out, zeros = g.permute(0, 3, 1, 2), g.new_zeros(()).expand(shape)
        return _channels_last(_convolution_backward(of_out, zeros, weight, how, (True, False))[0])
    if geometry.upsample > 1:
        turned, kernel = enlarged_weight(weight), BACK_FROM_ENLARGED
    else:
        turned = weight.flip(2, 3).transpose(0, 1)
        before, after = (
            (geometry.kernel[0] - 1 - p, geometry.kernel[1] - 1 - q)
            for p, q in (geometry.padding, geometry.padding_after)
        )
        kernel = Geometry(kernel=geometry.kernel, padding=before, padding_after=after)
    out = g.new_empty((len(g), *shape[2:], shape[1]))
    convolution = choose_kernel(kernel, len(weight), shape[1], how.dtype, g.device).prepare(turned, None)
    convolution.run(g, 0, g.shape[1], rows=(0, out.shape[1]), out=out)
    return out


def _torch_forward(x: Tensor, parameters: _Parameters, residual: Tensor | None, how: _How) -> Forward:
    x = x.contiguous()
    s, statistics, bias = x, (), parameters.bias
    if how.groups:
        s, *statistics = _group_norm(x, parameters, how)
        s = F.silu(s, inplace=True)
    out = _convolved(s.to(how.dtype), parameters.weight, None if bias is None else bias.to(how.dtype), how)
    return out if residual is None else out + residual, x, (*statistics,)


def _torch_backward(ctx: Any, gradient: Tensor) -> Backward:
    saved = cast(list[Any], ctx.saved_tensors)
    x, parameters, statistics = saved[0], _Parameters(*saved[1:5]), saved[5:]
    needs, how = ctx.needs_input_grad, ctx.how
    read = gradient.new_zeros(()).expand(ctx.shape) if x is None else x
    y = _group_norm(read, parameters, how)[0] if how.groups else read
    s = F.silu(y) if how.groups else y
    asked = any(needs[:3]), needs[3]
    of_s, of_weight = _convolution_backward(gradient.contiguous(), s, parameters.weight, how, asked)
    if not (how.groups and asked[0]):
        return (of_s, None, None), of_weight
    b, c, h, w = ctx.shape
    of_y = torch.ops.aten.silu_backward(of_s.to(y.dtype), y)
    of_norm = torch.ops.aten.native_group_norm_backward(
        of_y, read.to(y.dtype), *statistics, parameters.norm_weight, b, c, h * w, how.groups, needs[:3]
    )
    return of_norm, of_weight


def _group_norm(x: Tensor, parameters: _Parameters, how: _How) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised map, each group's mean and the reciprocal of its deviation, in the weights' dtype."""
    (b, c, h, w), (weight, bias, *_) = x.shape, parameters
    return torch.native_group_norm(x.to(weight.dtype), weight, bias, b, c, h * w, how.groups, how.eps)


def _convolved(s: Tensor, weight: Tensor, bias: Tensor | None, how: _How) -> Tensor:
    if how.geometry.upsample > 1:
        layout = torch.channels_last if s.device.type == "cpu" else torch.contiguous_format  # half the time there
        kernel = enlarged_weight(weight).to(how.dtype, memory_format=layout)
        return F.conv_transpose2d(s.contiguous(memory_format=layout), kernel, bias, stride=2, padding=1).contiguous()
    padding, s = _padding(s, how.geometry)
    return F.conv2d(s, weight.to(how.dtype), bias, how.geometry.stride, padding)


def _convolution_backward(
    gradient: Tensor, s: Tensor, weight: Tensor, how: _How, asked: tuple[bool, bool]
) -> tuple[Any, Any]:
    """Gradients of a convolution's input s [b,ci,h,w] and weight by PyTorch, None where not asked for."""
    backward, geometry, mask = torch.ops.aten.convolution_backward, how.geometry, [*asked, False]
    g, read = gradient.to(how.dtype), s.to(how.dtype)
    if not asked[0]:  # the weight's own gradient takes its shape alone; in this layout it isn't copied
        weight = torch.empty_like(weight, memory_format=torch.channels_last)
    if geometry.upsample > 1:
        kernel = enlarged_weight(weight) if asked[0] else weight.new_empty((weight.shape[1], len(weight), 4, 4))
        kernel = kernel.to(how.dtype)
        of_s, of_kernel, _ = backward(g, read, kernel, None, [2, 2], [1, 1], [1, 1], True, [0, 0], 1, mask)
        return of_s, None if of_kernel is None else _gradient_of_enlarged(of_kernel.to(weight.dtype))
    padding, padded = _padding(read, geometry)
    steps, narrow = [geometry.stride] * 2, weight.to(how.dtype)
    of_s, of_w, _ = backward(g, padded, narrow, None, steps, [*padding], [1, 1], False, [0, 0], 1, mask)
    if of_s is not None and padded is not read:
        (top, left), (height, width) = geometry.padding, s.shape[2:]
        of_s = of_s[:, :, top : top + height, left : left + width].contiguous()
    return of_s, None if of_w is None else of_w.to(weight.dtype)


def _padding(s: Tensor, geometry: Geometry) -> tuple[tuple[int, int], Tensor]:
    """What the convolution pads by itself, and the map padded where that isn't the same on all sides."""
    (top, left), (bottom, right) = geometry.padding, geometry.padding_after
    if (top, left) == (bottom, right):
        return geometry.padding, s
    return (0, 0), F.pad(s, (left, right, top, bottom))


def enlarged_weight(weight: Tensor) -> Tensor:
    """The weights of a 3x3 convolution [o,i,3,3] after nearest x2 as a transposed convolution's, [i,o,4,4].

    Its stride is 2 and its padding 1: row y of the small map goes to the rows 2y - 1 to 2y + 2. Of the kernel's rows
    the first of these reads the last, the second the last two, and so on.
    """
    return (weight.flatten(2) @ _sums(weight)).view(*weight.shape[:2], 4, 4).transpose(0, 1)


def _gradient_of_enlarged(gradient: Tensor) -> Tensor:
    """The transpose of `enlarged_weight`: from [i,o,4,4] to [o,i,3,3]."""
    found = gradient.contiguous().flatten(2) @ _sums(gradient).T
    return found.view(*gradient.shape[:2], 3, 3).transpose(0, 1)


def _sums(like: Tensor) -> Tensor:
    """Which taps of a 3x3 kernel are added for each of 4x4, [9,16] of 0 and 1."""
    rows = like.new_tensor([[0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]])
    return torch.kron(rows, rows)


def _affine(normal: Affine, parameters: _Parameters) -> Affine:
    """The normalisation with the norm's weight and bias."""
    weight, bias = parameters.norm_weight, parameters.norm_bias
    return Affine(normal.mean, normal.scale * weight, normal.shift * weight + bias)


def _channels_last(x: Tensor) -> Tensor:
    """[b,c,h,w] in any layout as fp32 [b,h,w,c], without a copy where it lies so already."""
    return x.permute(0, 2, 3, 1).to(torch.float32).contiguous()
