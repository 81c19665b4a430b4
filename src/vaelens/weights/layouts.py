"""How files name a VAE's tensors, and the one table between the LDM layout and diffusers'.

LDM is the layout of CompVis' code and of single files for A1111 and ComfyUI; diffusers' is that of the
hub's VAE repositories and of our networks. `{i}` counts levels from the decoder's or encoder's input,
`{r}` is the same level counted from the other end (LDM numbers the decoder's levels backwards).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from torch import Tensor

Layout = Literal["diffusers", "ldm", "tiny", "taesd"]

PREFIXES = ("first_stage_model.", "vae.", "")
VAE_NAME = r"(encoder|decoder)\.(conv_in\.|down\.\d|up\.\d|down_blocks\.|up_blocks\.|layers\.)"
DROPPED = ("loss.", "model_ema.decay", "model_ema.num_updates")

SIDES = ("encoder.down.", "decoder.up.", "encoder.down_blocks.", "decoder.up_blocks.")

# LDM name, diffusers name: the beginning of a tensor's name.
TABLE = (
    ("encoder.down.{i}.block.{j}.", "encoder.down_blocks.{i}.resnets.{j}."),
    ("encoder.down.{i}.downsample.conv.", "encoder.down_blocks.{i}.downsamplers.0.conv."),
    ("decoder.up.{r}.block.{j}.", "decoder.up_blocks.{i}.resnets.{j}."),
    ("decoder.up.{r}.upsample.conv.", "decoder.up_blocks.{i}.upsamplers.0.conv."),
    *(
        (f"{side}.{ldm}.", f"{side}.{diffusers}.")
        for side in ("encoder", "decoder")
        for ldm, diffusers in (
            ("mid.block_1", "mid_block.resnets.0"),
            ("mid.block_2", "mid_block.resnets.1"),
            ("mid.attn_1.norm", "mid_block.attentions.0.group_norm"),
            ("mid.attn_1.q", "mid_block.attentions.0.to_q"),
            ("mid.attn_1.k", "mid_block.attentions.0.to_k"),
            ("mid.attn_1.v", "mid_block.attentions.0.to_v"),
            ("mid.attn_1.proj_out", "mid_block.attentions.0.to_out.0"),
            ("norm_out", "conv_norm_out"),
        )
    ),
)
SHORTCUT = (".nin_shortcut.", ".conv_shortcut.")
# LDM's attention projections are 1x1 convolutions [c,c,1,1]; diffusers' are linear layers [c,c].
PROJECTIONS = tuple(f"mid_block.attentions.0.{p}.weight" for p in ("to_q", "to_k", "to_v", "to_out.0"))
OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def vae_prefixes(names: Iterable[str]) -> list[str]:
    """The prefixes under which a file keeps a VAE: "" in a stand-alone file; more than one is ambiguous."""
    names = list(names)
    found = [p for p in PREFIXES if any(re.match(re.escape(p) + VAE_NAME, n) for n in names)]
    halved = bool(names) and all(re.match(r"\d{1,3}\.", n) for n in names)
    return [""] if halved else found


def layout_of(names: Iterable[str]) -> Layout | None:
    """The layout of a VAE's names, without their prefix; None if it is none of ours.

    `tiny` is diffusers' AutoencoderTiny, `taesd` half of it in the original's own numbering.
    """
    marks: tuple[tuple[str, Layout], ...] = (
        (r"(encoder\.down|decoder\.up)\.\d+\.", "ldm"),
        (r"(encoder\.down_blocks|decoder\.up_blocks)\.\d+\.", "diffusers"),
        (r"(encoder|decoder)\.layers\.\d+\.", "tiny"),
        (r"\d+\.", "taesd"),
    )
    names = list(names)
    for pattern, layout in marks:
        if any(re.match(pattern, n) for n in names):
            return layout
    return None


def levels(names: Iterable[str]) -> int:
    """How many levels a KL autoencoder's decoder or encoder has, by either layout's names, counted without a gap."""
    names, count = list(names), 0
    while any(n.startswith(tuple(f"{side}{count}." for side in SIDES)) for n in names):
        count += 1
    return count


def to_diffusers(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Tensors in LDM's or diffusers' layout to today's diffusers names and shapes.

    diffusers' own of 2022 said query, key, value and proj_attn. A name that isn't in the table stays, for
    the check to find. Raises ValueError where two names mean one tensor.
    """
    count = levels(tensors)
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = _renamed(name, count, 0) if layout == "ldm" else _modern_name(name)
        if new in out or (new != name and new in tensors):
            raise ValueError(f"{name} and {new} are two names for one tensor")
        linear = new.endswith(PROJECTIONS) and tensor.dim() == 4 and tensor.shape[2:] == (1, 1)
        out[new] = tensor[:, :, 0, 0] if linear else tensor
    return out


def to_ldm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' names and shapes to LDM's; the inverse of `to_diffusers`."""
    count = levels(tensors)
    return {
        _renamed(name, count, 1): tensor[:, :, None, None] if name.endswith(PROJECTIONS) else tensor
        for name, tensor in tensors.items()
    }


def _modern_name(name: str) -> str:
    if ".attentions.0." in name:
        for old, new in OLD_NAMES.items():
            name = name.replace(old, new)
    return name


def from_taesd(tensors: Mapping[str, Tensor], half: Literal["encoder", "decoder"]) -> dict[str, Tensor]:
    """One half of a TAESD in the original's numbering to diffusers': its decoder begins with a clamp."""
    offset = 1 if half == "decoder" else 0
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        index, rest = name.split(".", 1)
        out[f"{half}.layers.{int(index) - offset}.{rest}"] = tensor
    return out


def _renamed(name: str, count: int, source: Literal[0, 1]) -> str:
    """One name through the table; source 0 reads LDM, 1 reads diffusers."""
    for row in TABLE:
        match = re.match(_pattern(row[source]), name)
        if match:
            n = {k: int(v) for k, v in match.groupdict().items()}
            if "i" in n or "r" in n:
                n = {"i": count - 1 - n["r"], **n} if "r" in n else {"r": count - 1 - n["i"], **n}
            name = row[1 - source].format(**n) + name[match.end() :]
            break
    return name.replace(SHORTCUT[source], SHORTCUT[1 - source])


def _pattern(template: str) -> str:
    return re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d{1,3})", re.escape(template))
