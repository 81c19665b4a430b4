"""The maps of a full VAE that must share a scale, and what scaling them by powers of two does to its tensors.

An AutoencoderKL's maps grow along the residual stream, in some VAEs beyond float16's 65,504. What reads the stream is
either a group norm, which sees its scale only through epsilon, or a convolution without a nonlinearity before it, whose
weights can take a scale back. A `Stage` is what must share one scale: a stretch of the stream between two such
convolutions; what the first convolution of a block gives to its second norm; the values of attention. To multiply a
stage by 2^-k,

- the weights that write it are multiplied by 2^-k, and by 2^j where they read a stage that is multiplied by 2^-j,
- their biases by 2^-k,
- the epsilon of the norms that read it by 2^-2k (`norm_exponents` of the config).

That is exact in float32, where no weight becomes subnormal.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from torch import Tensor, nn

from vaelens.networks.autoencoder_kl import Attention, AutoencoderKL, Downsample, ResnetBlock, Upsample


@dataclass
class Stage:
    """Maps that share a scale, while a network is read.

    `writers` are the layers that write them, each with the stage that it reads without a norm, if any; `sums` the
    blocks that add to them, and `norms` the group norms that read them.
    """

    name: str
    writers: list[tuple[str, "Stage | None"]] = field(default_factory=list[tuple[str, "Stage | None"]])
    sums: list[str] = field(default_factory=list[str])
    norms: list[str] = field(default_factory=list[str])


def stages(network: AutoencoderKL) -> list[Stage]:
    """The stages of a network in the order of execution, the encoder's first."""
    return [*_half(network.encoder, "encoder"), *_half(network.decoder, "decoder")]


def tensor_exponents(found: Sequence[Stage], exponents: Mapping[str, int]) -> dict[str, int]:
    """The exponent n of each tensor that is multiplied by 2^-n where stages, by name, are multiplied by 2^-k."""
    of_tensors: dict[str, int] = {}
    for stage in found:
        k = exponents[stage.name]
        for layer, reads in stage.writers:
            of_tensors[f"{layer}.weight"] = k - (0 if reads is None else exponents[reads.name])
            of_tensors[f"{layer}.bias"] = k
    return of_tensors


def norm_exponents(found: Sequence[Stage], exponents: Mapping[str, int]) -> dict[str, int]:
    """The exponent k of each norm that reads a stage which is multiplied by 2^-k, where that isn't 0."""
    return {norm: exponents[stage.name] for stage in found for norm in stage.norms if exponents[stage.name]}


def stage_exponents(found: Sequence[Stage], of_norms: Mapping[str, int]) -> dict[str, int]:
    """The inverse of `norm_exponents`, of the stages that a norm reads: the values of attention, for one, have none.

    Raises ValueError for exponents that aren't those of a network scaled by stages.
    """
    exponents: dict[str, int] = {}
    for stage in found:
        read = {of_norms.get(norm, 0) for norm in stage.norms}
        if len(read) > 1:
            raise ValueError(f"the norms that read {stage.name} have several exponents")
        exponents |= dict.fromkeys([stage.name], *read) if read else {}
    if unknown := of_norms.keys() - {norm for stage in found for norm in stage.norms}:
        raise ValueError(f"the network has no norm {min(unknown)!r:.80}")
    return exponents


def scaled_tensors(tensors: Mapping[str, Tensor], of_tensors: Mapping[str, int]) -> dict[str, Tensor]:
    """All the tensors, those that are named multiplied by 2^-n in their own precision."""
    return {name: t * 2.0 ** -of_tensors[name] if name in of_tensors else t for name, t in tensors.items()}


def _half(half: nn.Module, name: str) -> list[Stage]:
    """The stages of an encoder or a decoder.

    Modules come in the order of execution, except for a middle block's attention, whose place in its stage is the same.
    """
    stream = Stage(f"{name}.conv_in", [(f"{name}.conv_in", None)])
    found = [stream]
    for inner, module in cast("Iterable[tuple[str, nn.Module]]", half.named_modules()):
        where = f"{name}.{inner}"
        if isinstance(module, ResnetBlock):
            found.append(Stage(f"{where}.conv1", [(f"{where}.conv1", None)], norms=[f"{where}.norm2"]))
            stream.norms.append(f"{where}.norm1")
            if module.conv_shortcut is not None:
                stream = Stage(f"{where}.conv_shortcut", [(f"{where}.conv_shortcut", stream)])
                found.append(stream)
            stream.writers.append((f"{where}.conv2", None))
            stream.sums.append(where)
        elif isinstance(module, Attention):
            values = Stage(f"{where}.to_v", [(f"{where}.to_v", None)])
            found.append(values)
            stream.norms.append(f"{where}.group_norm")
            stream.writers.append((f"{where}.to_out.0", values))
            stream.sums.append(where)
        elif isinstance(module, Downsample | Upsample):
            stream = Stage(f"{where}.conv", [(f"{where}.conv", stream)])
            found.append(stream)
    stream.norms.append(f"{name}.conv_norm_out")
    return found
