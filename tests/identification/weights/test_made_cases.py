"""What `identify` says of files made for it: renamed, re-typed, re-laid-out, mixed, swapped, baked in, lying."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import vaelens as vl
from support.known_vaes import (
    FILE,
    SPACES,
    Tensors,
    World,
    cast,
    checkpoint_parts,
    made_world,
    mixed,
    moved,
)
from vaelens.families import kl
from vaelens.families.spec import VAESpec
from vaelens.identification.weights.closeness.half_verdict import TIMES
from vaelens.weights.registry import registry
from vaelens.weights.spec_sources import SPEC_KEY, metadata_text

FP16, BF16, FP32 = torch.float16, torch.bfloat16, torch.float32


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """All known VAEs that can be downloaded are here."""
    with made_world(tmp_path) as made:
        made.put_in_cache(*SPACES)
        yield made


@dataclass(frozen=True)
class Case:
    """A file made in a world; what is said of it, its latent space, and a part of a contradiction."""

    make: Callable[[World], Path]
    what: str
    space: str | None = "sd1"
    against: str = ""


def halves_of(encoder: Tensors, decoder: Tensors) -> Tensors:
    return {**encoder, **{name: t for name, t in decoder.items() if name.startswith(("decoder", "post_quant"))}}


def nudged(tensors: Tensors, name: str, by: float) -> Tensors:
    changed = tensors[name].clone()
    changed.view(-1)[0] += by
    return {**tensors, name: changed}


def spec_of(vae: str) -> VAESpec:
    return registry().spec(vae)


def of_2022(name: str) -> str:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, before in old.items():
        name = name.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
    return name


def prefixed(prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + name


NAMED = "vae-ft-mse-840000-ema-pruned.safetensors"
CASES = {
    "published": Case(lambda w: w.write_published("ft-mse", FILE), "ft-mse, the published file"),
    "renamed": Case(
        lambda w: w.write_published("sdxl-fp16-fix", "mine.safetensors"),
        f"sdxl-fp16-fix, the same file as someone/sdxl-fp16-fix/{FILE} under another name",
        "sdxl",
    ),
    "published in LDM layout": Case(
        lambda w: w.write(NAMED, w.tensors["ft-mse"], layout="ldm"), "ft-mse, the published file"
    ),
    "an alias": Case(
        lambda w: w.write_published("kl-f8-anime2", "MoistMix.vae.safetensors"),
        "kl-f8-anime2, the same file as kl-f8-anime2.safetensors under another name (by a sha256 from one source, "
        "unconfirmed)",
    ),
    "fp32 in LDM layout": Case(
        lambda w: w.write("a.safetensors", w.tensors["kl-f8"], layout="ldm"), "kl-f8, re-saved in fp32 in LDM layout"
    ),
    "fp16 in LDM layout": Case(
        lambda w: w.write("a.safetensors", w.tensors["ft-mse"], dtype=FP16, layout="ldm"),
        "ft-mse, re-saved in fp16 in LDM layout",
    ),
    "bf16 in diffusers layout": Case(
        lambda w: w.write("a.safetensors", w.tensors["ft-ema"], dtype=BF16),
        "ft-ema, re-saved in bf16 in diffusers layout",
    ),
    "fp32 after fp16": Case(
        lambda w: w.write("a.safetensors", {n: t.half().float() for n, t in w.tensors["sdxl"].items()}),
        "sdxl, re-saved in fp32 in diffusers layout, after rounding to fp16",
        "sdxl",
    ),
    "fp32 after bf16": Case(
        lambda w: w.write("a.safetensors", {n: t.bfloat16().float() for n, t in w.tensors["sdxl"].items()}),
        "sdxl, re-saved in fp32 in diffusers layout, after rounding to bf16",
        "sdxl",
    ),
    "fp64": Case(
        lambda w: w.write("a.safetensors", w.tensors["sdxl"], dtype=torch.float64),
        "sdxl, re-saved in fp64 in diffusers layout",
        "sdxl",
    ),
    "bf16 made from fp16": Case(
        lambda w: w.write("a.safetensors", {n: t.half() for n, t in w.tensors["kl-f8"].items()}, dtype=BF16),
        "kl-f8, equal up to rounding, re-saved in bf16 in diffusers layout",
    ),
    "names of 2022": Case(
        lambda w: w.write("a.safetensors", w.tensors["kl-f8"], rename=of_2022),
        "kl-f8, re-saved in fp32 in diffusers layout",
    ),
    "pickled": Case(
        lambda w: w.write_pickled("a.vae.pt", kl.to_ldm(w.tensors["ft-mse"])),
        "ft-mse, re-saved in fp32 in LDM layout, pickled",
    ),
    "pickled in fp16 as before 2020, in a wrapper": Case(
        lambda w: w.write_pickled("a.ckpt", {"state_dict": cast(w.tensors["sdxl"], FP16), "epoch": 3}, zipped=False),
        "sdxl, re-saved in fp16 in diffusers layout, pickled",
        "sdxl",
    ),
    "an average, pickled under a safetensors name": Case(
        lambda w: w.write_pickled("a.safetensors", mixed({"kl-f8": 0.7, "ft-mse": 0.3}, w.tensors)),
        "a weighted average of kl-f8 and ft-mse: 0.70 / 0.30",
        against="its name says safetensors, but it is a pickled file",
    ),
    "under vae.": Case(
        lambda w: w.write("a.safetensors", w.tensors["kl-f8"], dtype=FP16, rename=prefixed("vae.")),
        "kl-f8, re-saved in fp16 in diffusers layout",
    ),
    "compiled": Case(
        lambda w: w.write("a.safetensors", w.tensors["kl-f8"], rename=prefixed("_orig_mod.module.")),
        "kl-f8, re-saved in fp32 in diffusers layout",
    ),
    "training's leftovers": Case(
        lambda w: w.write(
            "a.safetensors",
            w.tensors["ft-ema"],
            layout="ldm",
            beside={"loss.logvar": torch.zeros(1), "model_ema.decay": torch.ones(1), "global_step": torch.ones(1)},
        ),
        "ft-ema, re-saved in fp32 in LDM layout",
    ),
    "an average": Case(
        lambda w: w.write("a.safetensors", mixed({"kl-f8": 0.7, "ft-mse": 0.3}, w.tensors)),
        "a weighted average of kl-f8 and ft-mse: 0.70 / 0.30",
    ),
    "an average in fp16": Case(
        lambda w: w.write("a.safetensors", mixed({"kl-f8": 0.4, "ft-mse": 0.6}, w.tensors), dtype=FP16, layout="ldm"),
        "a weighted average of ft-mse and kl-f8: 0.60 / 0.40",
    ),
    "an average in bf16": Case(
        lambda w: w.write("a.safetensors", mixed({"sdxl": 0.5, "sdxl-fp16-fix": 0.5}, w.tensors), dtype=BF16),
        "a weighted average of sdxl",
        "sdxl",
    ),
    "an average, named after a part": Case(
        lambda w: w.write("ft-ema-mix.safetensors", mixed({"kl-f8": 0.5, "ft-ema": 0.5}, w.tensors)),
        "a weighted average of",
    ),
    "an average of three": Case(
        lambda w: w.write("a.safetensors", mixed({"kl-f8": 0.5, "ft-ema": 0.3, "ft-mse": 0.2}, w.tensors)),
        "a weighted average of kl-f8, ft-ema and ft-mse: 0.50 / 0.30 / 0.20",
    ),
    "an average across spaces": Case(
        lambda w: w.write("a.safetensors", mixed({"kl-f8": 0.5, "sdxl": 0.5}, w.tensors)),
        "a weighted average of",
        None,
    ),
    "an average across spaces, near one of them": Case(
        lambda w: w.write("a.safetensors", mixed({"kl-f8": 0.8, "sdxl": 0.2}, w.tensors)),
        "a weighted average of kl-f8 and sdxl: 0.80 / 0.20",
        None,
    ),
    "a decoder mixed across spaces": Case(
        lambda w: w.write(
            "a.safetensors", halves_of(w.tensors["kl-f8"], mixed({"kl-f8": 0.6, "sdxl": 0.4}, w.tensors))
        ),
        "decoder: a weighted average of kl-f8 and sdxl: 0.60 / 0.40",
        "sd1",
        "its decoder mixes different latent spaces, sd1 and sdxl, and belongs to none.",
    ),
    "a checkpoint of a model that has given a VAE its name": Case(
        lambda w: w.write(
            "MoistMix.vae.safetensors",
            w.tensors["kl-f8"],
            rename=lambda name: f"vae.{name}",
            beside=checkpoint_parts("sd1"),
        ),
        "a checkpoint of SD 1.x or 2.x with kl-f8",
    ),
    "a difference merge": Case(
        lambda w: w.write("a.safetensors", mixed({"kl-f8": 1, "ft-mse": 0.5, "ft-ema": -0.5}, w.tensors)),
        f"kl-f8 + 0.50 {TIMES} (ft-mse - ft-ema)",
    ),
    "an extrapolation": Case(
        lambda w: w.write("a.safetensors", mixed({"sdxl-fp16-fix": 1.5, "sdxl": -0.5}, w.tensors)),
        f"1.50 {TIMES} sdxl-fp16-fix - 0.50 {TIMES} sdxl",
        "sdxl",
    ),
    "another encoder": Case(
        lambda w: w.write("a.safetensors", halves_of(w.tensors["sdxl"], w.tensors["ft-mse"])),
        "decoder: ft-mse, encoder: sdxl",
        "sd1",
        "encoder and decoder belong to different latent spaces",
    ),
    "another decoder, in fp16": Case(
        lambda w: w.write("a.safetensors", halves_of(w.tensors["sdxl"], w.tensors["sdxl-fp16-fix"]), dtype=FP16),
        "decoder: sdxl-fp16-fix, encoder: sdxl",
        "sdxl",
    ),
    "a fine-tuned decoder": Case(
        lambda w: w.write("a.safetensors", moved(w.tensors["ft-mse"], "decoder", 0.03, 9)),
        "unknown; nearest: ft-mse, decoder weights 3.0 % apart; the encoder is ft-mse's",
    ),
    "one tensor nudged": Case(
        lambda w: w.write("a.safetensors", nudged(w.tensors["sdxl"], "decoder.conv_out.bias", 1e-3)),
        "in 1 of 140 tensors (decoder.conv_out.bias); the encoder is sdxl's",
        "sdxl",
    ),
    "one value nudged by a millionth": Case(
        lambda w: w.write("a.safetensors", nudged(w.tensors["sdxl"], "decoder.conv_out.bias", 1e-6), layout="ldm"),
        "in 1 of 140 tensors (decoder.conv_out.bias); the encoder is sdxl's",
        "sdxl",
    ),
    "an encoder's tensor nudged": Case(
        lambda w: w.write("a.safetensors", nudged(w.tensors["sdxl"], "encoder.conv_in.bias", 1e-2)),
        "decoder: sdxl, encoder: unknown (nearest: sdxl, encoder weights",
        "sdxl",
    ),
    "SDXL's weights under SD 1's name": Case(
        lambda w: w.write("vae-ft-mse-840000.safetensors", w.tensors["sdxl"], dtype=FP16),
        "sdxl, re-saved in fp16 in diffusers layout",
        "sdxl",
        "its name says ft-mse, its content is sdxl.",
    ),
    "SD 1's weights under SDXL's name": Case(
        lambda w: w.write("sdxl_vae_fp16.safetensors", w.tensors["kl-f8"], dtype=FP16, layout="ldm"),
        "kl-f8, re-saved in fp16 in LDM layout",
        "sd1",
        "its name says sdxl or sdxl-fp16-fix, its content is kl-f8.",
    ),
    "unknown weights of SDXL under SD 1's name": Case(
        lambda w: w.write("my_sd15_vae.safetensors", moved(w.tensors["sdxl"], "decoder", 0.02, 12)),
        "unknown; nearest: sdxl, decoder weights 2.0 % apart; the encoder is sdxl's",
        "sdxl",
        "its name says sd1, its content is of sdxl.",
    ),
    "in a checkpoint": Case(
        lambda w: w.write(
            "a.safetensors",
            w.tensors["ft-mse"],
            dtype=FP16,
            layout="ldm",
            rename=prefixed("first_stage_model."),
            beside=checkpoint_parts("sd1"),
        ),
        "a checkpoint of SD 1.x or 2.x with ft-mse, in fp16",
    ),
    "of SD 1 in a checkpoint of SDXL": Case(
        lambda w: w.write(
            "a.safetensors",
            w.tensors["kl-f8"],
            layout="ldm",
            rename=prefixed("first_stage_model."),
            beside=checkpoint_parts("sdxl"),
        ),
        "a checkpoint of SDXL or PixArt-Sigma with kl-f8, in fp32",
        "sd1",
        "the checkpoint's other networks say sdxl, but its decoder is that of kl-f8, which means sd1.",
    ),
    "metadata that lie": Case(
        lambda w: w.write(
            "a.safetensors", w.tensors["kl-f8"], dtype=FP16, metadata={SPEC_KEY: metadata_text(spec_of("sdxl"))}
        ),
        "kl-f8, re-saved in fp16 in diffusers layout",
        "sd1",
        "the file's metadata says sdxl, but its decoder is that of kl-f8, which means sd1.",
    ),
    "nothing like it": Case(
        lambda w: w.write("a.safetensors", moved(moved(w.tensors["sdxl"], "decoder", 3, 1), "encoder", 3, 1)),
        "unknown; none of the VAEs at hand is near",
        None,
    ),
    "nothing like it, with true metadata": Case(
        lambda w: w.write(
            "kl-f8.safetensors",
            moved(moved(w.tensors["sdxl"], "decoder", 3, 1), "encoder", 3, 1),
            metadata={"modelspec.architecture": "stable-diffusion-xl-v1-base/vae"},
        ),
        "unknown; none of the VAEs at hand is near",
        "sdxl",
        "its name says kl-f8, but it has other weights.",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_a_file_is(world: World, case: Case) -> None:
    found = vl.identify(case.make(world))
    (file,) = found
    assert case.what in file.what
    assert file.latent_space.name == case.space
    if case.against:
        assert any(case.against in sentence for sentence in file.contradictions), file.contradictions
    else:
        assert file.contradictions == ()
    assert found.exit_code == 0


def test_there_are_as_many_cases_as_promised() -> None:
    assert len(CASES) >= 30
