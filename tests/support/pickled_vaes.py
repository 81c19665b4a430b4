"""VAEs in every file that programs have written: layouts, key generations, prefixes, wrappers, dtypes and formats.

The key lists are written from the formats' descriptions, without vaelens' own tables.
"""

import io
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

State = dict[str, Tensor]
LEVELS = 4
PROJECTIONS = {
    "to_q": ("q", "query"),
    "to_k": ("k", "key"),
    "to_v": ("v", "value"),
    "to_out.0": ("proj_out", "proj_attn"),
}


def ldm_names() -> list[str]:
    """CompVis' 248 names, level by level as ldm/modules/diffusionmodules/model.py builds them."""

    def both(name: str) -> list[str]:
        return [f"{name}.weight", f"{name}.bias"]

    def block(name: str, shortcut: bool) -> list[str]:
        parts = ["norm1", "conv1", "norm2", "conv2", *(["nin_shortcut"] if shortcut else [])]
        return [n for part in parts for n in both(f"{name}.{part}")]

    def middle(half: str) -> list[str]:
        attention = [n for part in ("norm", "q", "k", "v", "proj_out") for n in both(f"{half}.mid.attn_1.{part}")]
        return [*block(f"{half}.mid.block_1", False), *attention, *block(f"{half}.mid.block_2", False)]

    names = both("encoder.conv_in")
    for level in range(LEVELS):
        for number in range(2):
            names += block(f"encoder.down.{level}.block.{number}", number == 0 and level in {1, 2})
        names += both(f"encoder.down.{level}.downsample.conv") if level < 3 else []
    names += [*middle("encoder"), *both("encoder.norm_out"), *both("encoder.conv_out"), *both("decoder.conv_in")]
    names += middle("decoder")
    for level in range(LEVELS):
        for number in range(3):
            names += block(f"decoder.up.{level}.block.{number}", number == 0 and level in {0, 1})
        names += both(f"decoder.up.{level}.upsample.conv") if level else []
    return [*names, *both("decoder.norm_out"), *both("decoder.conv_out"), *both("quant_conv"), *both("post_quant_conv")]


def ldm_name(name: str) -> str:
    """CompVis' name for one of diffusers' names."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    name = name.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
    for new, (ldm, _) in PROJECTIONS.items():
        name = name.replace(f"mid_block.attentions.0.{new}.", f"mid.attn_1.{ldm}.")
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0\.conv", r"down.\1.downsample.conv", name)
    up = re.compile(r"up_blocks\.(\d)\.(?:resnets\.(\d)|(upsamplers)\.0\.conv)")
    return up.sub(lambda m: f"up.{3 - int(m[1])}." + ("upsample.conv" if m[3] else f"block.{m[2]}"), name)


def name_of_2022(name: str) -> str:
    """diffusers' former name."""
    for new, (_, old) in PROJECTIONS.items():
        name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
    return name


def as_ldm(state: State) -> State:
    """In CompVis' layout, where attention is by convolutions."""
    projections = tuple(f".attentions.0.{new}.weight" for new in PROJECTIONS)
    return {ldm_name(n): t[:, :, None, None] if n.endswith(projections) else t for n, t in state.items()}


LAYOUTS: Mapping[str, Callable[[State], State]] = {
    "diffusers": dict,
    "diffusers of 2022": lambda state: {name_of_2022(n): t for n, t in state.items()},
    "ldm": as_ldm,
}
PREFIXES = (
    "", "first_stage_model.", "vae.", "ema.", "module.", "_orig_mod.", "module.first_stage_model.", "state_dict.",
    "state_dict.first_stage_model.",
)  # fmt: skip


class Callback:
    """Stands for a training program's class; its instances are pickled by this module's name."""

    def __init__(self) -> None:
        self.best = 0.5


# What stands around the tensors in a pickled file.
WRAPPERS: Mapping[str, Callable[[State], object]] = {
    "none": dict,
    "ordered": OrderedDict,
    "state_dict": lambda state: {"state_dict": state},
    "model": lambda state: {"epoch": 3, "model": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
    "parameters": lambda state: {name: torch.nn.Parameter(tensor) for name, tensor in state.items()},
    "lightning": lambda state: {
        "epoch": 1,
        "global_step": 9,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": OrderedDict(state),
        "callbacks": {Callback: {"best": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]}],
        "lr_schedulers": [Callback()],
        "hyper_parameters": {"path": Path("x"), "callback": Callback()},
    },
    "ldm's own": lambda state: {
        "state_dict": state
        | {
            "loss.logvar": torch.zeros(1),
            "model_ema.decay": torch.ones(1),
            "model_ema.num_updates": torch.ones(1).int(),
        }
        | {"model_ema.encoderconv_inweight": torch.ones(2)}
    },
}


def written(held: object, form: str, metadata: dict[str, str] | None = None) -> bytes:
    """A file's bytes: "safetensors", "zip" or "legacy"."""
    if form == "safetensors":
        assert isinstance(held, dict)
        return save({n: t.contiguous() for n, t in held.items()}, metadata)
    out = io.BytesIO()
    torch.save(held, out, _use_new_zipfile_serialization=form == "zip")
    return out.getvalue()
