"""Which networks the engine may run in place of their own modules: an AutoencoderKL with nothing added to it.

Programs put hooks on modules, replace them by adapters (LoRA) or compiled ones, or change how they pad. The engine
reads weights and calls no module, so it would pass over all that: such a network runs as it is.
"""

import weakref
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from vaelens.engine.architecture import DTYPES, decoder_steps, encoder_steps
from vaelens.engine.examined_modules import ExaminedModules
from vaelens.errors import UsageError
from vaelens.networks import autoencoder_kl as ours
from vaelens.networks.memory_saving import HOOKS

DEVICES = ("cpu", "cuda")
LAYERS = (nn.Conv2d, nn.GroupNorm, nn.Linear, nn.SiLU, nn.Dropout, nn.Identity, nn.ModuleList)
OUR_BLOCKS = (
    ours.AutoencoderKL, ours.Encoder, ours.Decoder, ours.DownBlock, ours.UpBlock, ours.MidBlock, ours.ResnetBlock,
    ours.Attention, ours.Downsample, ours.Upsample,
)  # fmt: skip
DIFFUSERS_BLOCKS = {
    "AutoencoderKL", "Encoder", "Decoder", "DownEncoderBlock2D", "UpDecoderBlock2D", "UNetMidBlock2D", "ResnetBlock2D",
    "Attention", "Downsample2D", "Upsample2D",
}  # fmt: skip
# They compute the same attention, each in its own way.
DIFFUSERS_PROCESSORS = {"AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor"}
# The modules of networks that the engine runs, as they were when that was found out.
_clear: "weakref.WeakKeyDictionary[nn.Module, ExaminedModules]" = weakref.WeakKeyDictionary()
# Kernel, stride and padding of the convolutions that there are.
CONVOLUTIONS = {((3, 3), (1, 1), (1, 1)), ((3, 3), (2, 2), (0, 0)), ((1, 1), (1, 1), (0, 0))}


def obstacle(network: Any, *inputs: Tensor) -> str | None:
    """Why a network has to run as it is, in words that follow "because"; None where the engine runs it.

    It may depend on the moment: gradients, autocast and torch.compile are looked at as they are now, for `inputs` too.
    """
    if not is_autoencoder_kl(network):
        return f"the engine runs AutoencoderKL networks, and this one is {type(network).__name__}"
    if (why := next(_now(network, inputs), None)) is not None:
        return why
    if (known := _clear.get(network)) is not None and known.are_those_of(network):
        return None
    examined = ExaminedModules(network)  # before they are looked at: what changes meanwhile is seen by the next call
    why = next(_modules(network), None) or _architecture(network)
    if why is None:
        _clear[network] = examined
    else:
        _clear.pop(network, None)
    return why


def is_autoencoder_kl(network: Any) -> bool:
    """Whether it is vaelens' or diffusers' class of that name, and not one derived from it."""
    kind = cast("type[Any]", type(network))
    return kind is ours.AutoencoderKL or (kind.__name__ == "AutoencoderKL" and _is_of_diffusers(kind))


def _now(network: nn.Module, inputs: tuple[Tensor, ...]) -> Iterator[str]:
    """What depends on the moment, the parameters' whereabouts included, and what is said of the network as a whole."""
    tensors = list(network.parameters())
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        yield "it is being compiled or traced"
    if any(getattr(torch.nn.modules.module, f"_global{name}") for name in HOOKS):
        yield "there are hooks on all modules"
    if vars(network).get("_compiled_call_impl") is not None:
        yield "it is compiled"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*tensors, *inputs)):
        yield "gradients are on; torch.no_grad() turns them off"
    if any(type(tensor) not in (nn.Parameter, Tensor) for tensor in tensors):
        yield "its weights are tensors of another kind"
    if len({(tensor.device, tensor.dtype) for tensor in tensors}) != 1:
        yield "its weights are on several devices or in several dtypes"
    device, dtype = tensors[0].device.type, tensors[0].dtype
    if device not in DEVICES:
        yield f"it is on the device {device}, and the engine runs on {' and '.join(DEVICES)}"
    if dtype not in DTYPES:
        yield f"its weights are {str(dtype).removeprefix('torch.')}"
    if torch.is_autocast_enabled(device):
        yield "autocast is on"


def _modules(network: nn.Module) -> Iterator[str]:
    """What was added to the modules inside, or replaced. Hooks of the network itself are called all the same."""
    for name, module in cast("Iterable[tuple[str, nn.Module]]", network.named_modules()):
        kind, values = type(module), vars(module)
        if module is not network:
            if any(values.get(hooks) for hooks in HOOKS):
                yield f"{name} has hooks"
            if "forward" in values:
                yield f"{name} has another forward"
        if values.get("_compiled_call_impl") is not None:
            yield f"{name} is compiled"
        if kind not in LAYERS and kind not in OUR_BLOCKS and not _is_block_of_diffusers(kind):
            yield f"{name} is {kind.__module__}.{kind.__name__}"
        if isinstance(module, nn.Conv2d) and not _is_plain(module):
            yield f"{name} is a convolution with other padding, stride or dilation"
        if isinstance(module, nn.Dropout) and module.p and module.training:
            yield f"{name} drops values in training mode"
        processor: object = getattr(module, "processor", None)
        if processor is not None and type(processor).__name__ not in DIFFUSERS_PROCESSORS:
            yield f"{name} has the attention processor {type(processor).__name__}"


def _is_block_of_diffusers(kind: type[nn.Module]) -> bool:
    return kind.__name__ in DIFFUSERS_BLOCKS and _is_of_diffusers(kind)


def _is_of_diffusers(kind: type[Any]) -> bool:
    return kind.__module__.startswith("diffusers.models.")


def _is_plain(layer: nn.Conv2d) -> bool:
    shape = layer.kernel_size, layer.stride, layer.padding
    return layer.padding_mode == "zeros" and layer.dilation == (1, 1) and layer.groups == 1 and shape in CONVOLUTIONS


def _architecture(network: nn.Module) -> str | None:
    """What the engine's reader of networks says."""
    try:
        decoder_steps(network)
        encoder_steps(network)
    except UsageError as error:
        return str(error)
    return None
