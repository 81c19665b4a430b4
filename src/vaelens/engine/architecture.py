"""An AutoencoderKL as the steps that the engine runs, read from its modules: ours and diffusers' have the same names.

A step maps one map to the next. Normalisation and activation belong to the convolution that reads the map.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from vaelens.engine.plan import Direction
from vaelens.errors import UsageError
from vaelens.kernels.convolution import POINTWISE, Activation, Affine, Geometry, Kernel
from vaelens.kernels.moments import MapMoments, group_affine
from vaelens.kernels.paths import choose_kernel, map_dtype

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Norm(Protocol):
    """What the engine asks of a normalisation: to be an affine map of each channel, given the moments of the map."""

    def affine(self, moments: MapMoments) -> Affine: ...


@dataclass(frozen=True)
class Group:
    """Group normalisation."""

    module: nn.GroupNorm

    def affine(self, moments: MapMoments) -> Affine:
        """See `Norm`."""
        norm = self.module
        return group_affine(moments, norm.num_groups, norm.eps, norm.weight, norm.bias)


@dataclass(frozen=True)
class Layer:
    """A convolution: its shapes, the parameters that it depends on, and how its weights are made from them.

    `owner` is the module whose life the packed weights share. `weights` gives [out,in,height,width] and [out] or None.
    """

    name: str
    geometry: Geometry
    in_channels: int
    out_channels: int
    owner: nn.Module
    parameters: tuple[Tensor | None, ...]
    weights: Callable[[], tuple[Tensor, Tensor | None]]
    dtype: torch.dtype | None = None  # in which it is computed, where that isn't the network's
    exact: bool = False  # products as exact as the maps are, whatever those of the other layers

    def kernel(self, dtype: torch.dtype, device: torch.device) -> Kernel:
        """What computes it in a network of that dtype."""
        dtype = self.dtype or (map_dtype(dtype, device) if self.exact else dtype)
        return choose_kernel(self.geometry, self.in_channels, self.out_channels, dtype, device)


@dataclass(frozen=True)
class Convolve:
    """One convolution, of the normalised map where there is a norm."""

    name: str
    layer: Layer
    norm: Norm | None = None
    activation: Activation | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Its only one."""
        return (self.layer,)


@dataclass(frozen=True)
class Resnet:
    """x + conv2(silu(norm2(conv1(silu(norm1(x)))))), with a 1x1 convolution of x where the width changes."""

    name: str
    norm1: Norm
    conv1: Layer
    norm2: Norm
    conv2: Layer
    shortcut: Layer | None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The convolutions in the order in which they are named here, the shortcut's where there is one."""
        return (self.conv1, self.conv2, *([] if self.shortcut is None else [self.shortcut]))


@dataclass(frozen=True)
class Attend:
    """Attention over the whole map, added to it, with two folded projections instead of four.

    Let t be the normalised tokens. Scores are (query t_i) . t_j, since Wq t_i . Wk t_j = (Wk^T Wq t_i) . t_j; the bias
    of the keys adds the same to a query's every score, which softmax doesn't see. The result is output(sum_j p_ij t_j),
    since the weights p_ij of a query add up to 1. `query` holds the factor 1 / sqrt(c).
    """

    name: str
    norm: Norm
    query: Layer
    output: Layer

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The projections."""
        return self.query, self.output


Step = Convolve | Resnet | Attend


def reads_moments(step: Step | None) -> bool:
    """Whether a step normalises the map that it reads."""
    return isinstance(step, Resnet | Attend) or (isinstance(step, Convolve) and step.norm is not None)


def decoder_steps(network: nn.Module) -> list[Step]:
    """From raw z to raw pixels. Raises UsageError for a network of another kind."""
    decoder = _part(network, "decoder")
    steps = list[Step]()
    if (before := _optional(network, "post_quant_conv")) is not None:
        steps.append(Convolve("post_quant_conv", _layer("post_quant_conv", before, POINTWISE)))
    steps.append(Convolve("decoder.conv_in", _layer("decoder.conv_in", _part(decoder, "conv_in"), Geometry())))
    steps += _mid(decoder, "decoder")
    for i, block in enumerate(_children(decoder, "up_blocks")):
        name = f"decoder.up_blocks.{i}"
        steps += _resnets(block, name)
        for up in _children(block, "upsamplers"):
            # No residual path leads around these, and their input isn't normalised: nine tenths of kl-f8's error in
            # bfloat16 come from its three. Exact products in the first, on the smallest map, cost a thirtieth of time.
            steps.append(_resample(f"{name}.upsample", up, Geometry(upsample=2), exact=i == 0))
    last = _part(decoder, "conv_out")
    norm = _norm(_part(decoder, "conv_norm_out"))
    steps.append(Convolve("decoder.conv_out", _layer("decoder.conv_out", last, Geometry()), norm, "silu"))
    return steps


def encoder_steps(network: nn.Module) -> list[Step]:
    """From raw pixels to moments. Raises UsageError for a network of another kind."""
    encoder = _part(network, "encoder")
    down = Geometry(stride=2, padding=(0, 0), padding_after=(1, 1))
    steps: list[Step] = [Convolve("encoder.conv_in", _layer("encoder.conv_in", _part(encoder, "conv_in"), Geometry()))]
    for i, block in enumerate(_children(encoder, "down_blocks")):
        name = f"encoder.down_blocks.{i}"
        steps += _resnets(block, name)
        for one in _children(block, "downsamplers"):
            steps.append(_resample(f"{name}.downsample", one, down, exact=False))
    steps += _mid(encoder, "encoder")
    last = _part(encoder, "conv_out")
    after = _optional(network, "quant_conv")
    layer = _layer("encoder.conv_out", last, Geometry()) if after is None else _followed(last, after)
    steps.append(Convolve("encoder.conv_out", layer, _norm(_part(encoder, "conv_norm_out")), "silu"))
    return steps


def input_channels(network: nn.Module, direction: Direction) -> int:
    """Of z or of pixels. Raises UsageError for a network of another kind."""
    if direction == "encode":
        first = _part(_part(network, "encoder"), "conv_in")
    else:
        before = _optional(network, "post_quant_conv")
        first = _part(_part(network, "decoder"), "conv_in") if before is None else before
    return cast(nn.Conv2d, first).in_channels


def _mid(half: nn.Module, name: str) -> Iterator[Step]:
    block = _part(half, "mid_block")
    resnets = list(_resnets(block, f"{name}.mid_block"))
    attentions = [module for module in _children(block, "attentions") if cast(Any, module) is not None]
    yield resnets[0]
    for i, resnet in enumerate(resnets[1:]):
        if i < len(attentions):
            yield _attention(attentions[i], f"{name}.mid_block.attentions.{i}")
        yield resnet


def _resnets(block: nn.Module, name: str) -> Iterator[Step]:
    for i, module in enumerate(_children(block, "resnets")):
        where = f"{name}.resnets.{i}"
        if getattr(module, "output_scale_factor", 1.0) != 1.0 or getattr(module, "time_emb_proj", None) is not None:
            raise _unknown(where, "its output is scaled or depends on a time step")
        shortcut = _optional(module, "conv_shortcut")
        yield Resnet(
            where,
            _norm(_part(module, "norm1")),
            _layer(f"{where}.conv1", _part(module, "conv1"), Geometry()),
            _norm(_part(module, "norm2")),
            _layer(f"{where}.conv2", _part(module, "conv2"), Geometry()),
            None if shortcut is None else _layer(f"{where}.conv_shortcut", shortcut, POINTWISE),
        )


def _attention(module: nn.Module, name: str) -> Attend:
    if getattr(module, "heads", 1) != 1 or getattr(module, "rescale_output_factor", 1.0) != 1.0:
        raise _unknown(name, "it has several heads or scales its output")
    q, k, v, out = (_linear(module, part) for part in ("to_q", "to_k", "to_v", "to_out.0"))
    q_bias, v_bias, out_bias = (cast("Tensor | None", linear.bias) for linear in (q, v, out))
    width = q.in_features

    def query() -> tuple[Tensor, Tensor | None]:
        fold = k.weight.double().T / width**0.5
        return _pointwise(fold @ q.weight.double(), None if q_bias is None else fold @ q_bias.double())

    def output() -> tuple[Tensor, Tensor | None]:
        weight = out.weight.double()
        bias = weight.new_zeros(width) if v_bias is None else weight @ v_bias.double()
        return _pointwise(weight @ v.weight.double(), bias if out_bias is None else bias + out_bias.double())

    def layer(part: str, parameters: tuple[Tensor | None, ...], weights: Callable[..., Any]) -> Layer:
        return Layer(f"{name}.{part}", POINTWISE, width, width, module, parameters, weights, torch.float32)

    return Attend(
        name,
        _norm(_part(module, "group_norm")),
        layer("query", (q.weight, q_bias, k.weight), query),
        layer("output", (v.weight, v_bias, out.weight, out_bias), output),
    )


def _pointwise(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """In fp32, the dtype of attention."""
    return weight.float()[:, :, None, None], None if bias is None else bias.float()


def _layer(name: str, module: nn.Module, geometry: Geometry) -> Layer:
    if not isinstance(module, nn.Conv2d) or module.kernel_size != geometry.kernel or module.groups != 1:
        raise _unknown(name, f"it isn't a plain {geometry.kernel[0]}x{geometry.kernel[1]} convolution")
    if module.weight.dtype not in DTYPES:
        raise _unknown(name, f"its weights are {str(module.weight.dtype).removeprefix('torch.')}")
    weight, bias = module.weight, module.bias
    return Layer(
        name, geometry, module.in_channels, module.out_channels, module, (weight, bias), lambda: (weight, bias)
    )


def _followed(first: nn.Module, second: nn.Module) -> Layer:
    """A 3x3 convolution and the 1x1 convolution of its output as one, folded in float64."""
    one, two = _layer("encoder.conv_out", first, Geometry()), _layer("quant_conv", second, POINTWISE)
    (weight, bias), (after, shift) = one.weights(), two.weights()

    def weights() -> tuple[Tensor, Tensor | None]:
        fold = after.flatten(1).double()
        folded = torch.einsum("om,mihw->oihw", fold, weight.double())
        added = fold.new_zeros(len(fold)) if bias is None else fold @ bias.double()
        added = added if shift is None else added + shift.double()
        return folded.to(weight.dtype), added.to(weight.dtype)

    parameters = one.parameters + two.parameters
    return Layer(one.name, one.geometry, one.in_channels, two.out_channels, first, parameters, weights)


def _resample(name: str, module: nn.Module, geometry: Geometry, *, exact: bool) -> Convolve:
    return Convolve(name, replace(_layer(name, _part(module, "conv"), geometry), exact=exact))


def _norm(module: nn.Module) -> Norm:
    if not isinstance(module, nn.GroupNorm):
        raise _unknown(type(module).__name__, "it isn't a group normalisation")
    return Group(module)


def _linear(module: nn.Module, path: str) -> nn.Linear:
    found = module
    for part in path.split("."):
        found = _part(found, part)
    if not isinstance(found, nn.Linear):
        raise _unknown(path, "it isn't a linear layer")
    return found


def _part(module: nn.Module, name: str) -> nn.Module:
    if (found := _optional(module, name)) is None:
        raise _unknown(type(module).__name__, f"it has no {name}")
    return found


def _optional(module: nn.Module, name: str) -> nn.Module | None:
    return cast("nn.Module | None", getattr(module, name, None))


def _children(module: nn.Module, name: str) -> list[nn.Module]:
    found = _optional(module, name)
    return [] if found is None else list(found.children())


def _unknown(where: str, why: str) -> UsageError:
    return UsageError(f"{where}: {why}, so the engine can't run this network. It runs AutoencoderKL networks.")
