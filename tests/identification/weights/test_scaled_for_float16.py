"""What `convert --fp16-safe` wrote is recognised by its values with the scaling undone, and by nothing less."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch

import vaelens as vl
from support.commands import invoke
from support.known_vaes import SPACES, World, made_world, mixed, moved
from support.overflowing import overflowing
from support.vaes import CONFIGS, random_vae
from vaelens.conversion.fp16_rescue import Scale, scaled
from vaelens.families.spec import VAESpec
from vaelens.identification.weights.results import IdentifiedWeights
from vaelens.networks.autoencoder_kl import AutoencoderKLConfig
from vaelens.networks.scaled_stages import Stage, norm_exponents, stage_exponents, stages
from vaelens.vae import VAE
from vaelens.weights.registry import registry

FP16, BF16, FP32 = torch.float16, torch.bfloat16, torch.float32
THREE_LEVELS = AutoencoderKLConfig(block_out_channels=(8, 16, 24), layers_per_block=1, norm_num_groups=4)


def everything(stage: Stage) -> bool:
    return True


def stream(stage: Stage) -> bool:
    return stage.name.endswith(("conv_in", ".conv", "conv_shortcut"))


def inside_blocks(stage: Stage) -> bool:
    return stage.name.endswith("conv1")


def attention(stage: Stage) -> bool:
    """No norm reads it: metadata don't have its exponent. One that a norm reads is scaled too."""
    return stage.name.endswith(("to_v", "decoder.conv_in"))


def of_decoder(stage: Stage) -> bool:
    return stage.name.startswith("decoder.")


PATTERNS = (everything, stream, inside_blocks, attention, of_decoder)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with made_world(tmp_path) as made:
        made.put_in_cache(*SPACES)
        yield made


def scaled_by(vae: VAE, chosen: Callable[[Stage], bool] = everything, k: int = 3) -> VAE:
    found = stages(vae.network)
    chosen_exponents = [k + n % 3 if chosen(stage) else 0 for n, stage in enumerate(found)]
    return scaled(vae, found, [Scale(s.name, 1.0, n) for s, n in zip(found, chosen_exponents, strict=True)])


def of_tensors(tensors: Mapping[str, torch.Tensor]) -> VAE:
    return VAE.from_tensors(tensors, registry().spec("ft-mse"), "made", device=torch.device("cpu"), dtype=FP32)


def one(*files: Path, **options: object) -> IdentifiedWeights:
    return vl.identify(list(files), **options).files[0]


@pytest.mark.parametrize("dtype", [FP32, FP16, BF16])
@pytest.mark.parametrize("chosen", PATTERNS)
def test_each_pattern_of_stages_is_undone(world: World, chosen: Callable[[Stage], bool], dtype: torch.dtype) -> None:
    path = (
        scaled_by(of_tensors(world.tensors["ft-mse"]), chosen)
        .to(dtype)
        .save(world.folder / "safe.safetensors", layout="ldm")
    )
    found = one(path)
    short = {FP32: "fp32", FP16: "fp16", BF16: "bf16"}[dtype]
    assert found.what == f"ft-mse, scaled for float16 (--fp16-safe), in {short} in LDM layout"
    assert (found.vae, found.latent_space.name, found.contradictions) == ("ft-mse", "sd1", ())
    assert found.encoder is not None
    assert found.encoder.is_scaled == (chosen is not of_decoder)
    assert found.encoder.same_as == ("kl-f8", "ft-ema", "ft-mse")
    assert str(found.decoder) == "ft-mse, scaled for float16"


@pytest.mark.parametrize("dtype", [FP32, FP16])
@pytest.mark.parametrize("config", [*CONFIGS.values(), THREE_LEVELS], ids=[*CONFIGS, "three levels"])
def test_networks_of_all_shapes(tmp_path: Path, config: AutoencoderKLConfig, dtype: torch.dtype) -> None:
    source = random_vae(config, seed=5)
    source.save(tmp_path / "source.safetensors")
    path = scaled_by(source).to(dtype).save(tmp_path / "safe.safetensors")
    short = "fp32" if dtype == FP32 else "fp16"
    found = one(path, against=[tmp_path / "source.safetensors"])
    assert found.what == f"source.safetensors, scaled for float16 (--fp16-safe), in {short} in diffusers layout"


def test_exponents_of_stages_are_those_of_their_norms() -> None:
    found = stages(random_vae(THREE_LEVELS).network)
    exponents = {stage.name: n % 4 for n, stage in enumerate(found)}
    read = {stage.name for stage in found if stage.norms}
    assert {stage.name for stage in found} - read == {
        "encoder.down_blocks.1.resnets.0.conv_shortcut",
        *(f"{half}.mid_block.attentions.0.to_v" for half in ("encoder", "decoder")),
    }
    of_norms = norm_exponents(found, exponents)
    assert stage_exponents(found, of_norms) == {name: k for name, k in exponents.items() if name in read}
    with pytest.raises(ValueError, match="several exponents"):
        stage_exponents(found, {"encoder.mid_block.resnets.0.norm1": 1})
    with pytest.raises(ValueError, match=r"no norm 'encoder\.x'"):
        stage_exponents(found, {"encoder.x": 1})


def test_the_fingerprint_and_the_copies_are_those_of_what_is_stored(world: World) -> None:
    world.write("source.safetensors", world.tensors["ft-mse"], metadata={"a": "b"})
    safe = scaled_by(of_tensors(world.tensors["ft-mse"]))
    for name, dtype, layout in (("wide", FP32, "diffusers"), ("half", FP16, "ldm")):
        safe.to(dtype).save(world.folder / f"{name}.safetensors", layout=layout)
    found = {file.path.name: file for file in vl.identify(world.folder)}
    assert {name: str(file.keep) for name, file in found.items()} == {
        "source.safetensors": "yes: the only copy",
        "wide.safetensors": "yes: full precision",
        "half.safetensors": "no",
    }
    assert found["half.safetensors"].same_weights_as == world.folder / "wide.safetensors"
    assert found["wide.safetensors"].what == "ft-mse, scaled for float16 (--fp16-safe), in fp32 in diffusers layout"
    assert found["wide.safetensors"].examined.vae is not None
    stored = found["wide.safetensors"].examined.vae.content.fingerprint
    assert stored.encoder.stored == safe.fingerprint.encoder.stored
    assert "scaled" not in found["source.safetensors"].what


def test_the_source_may_be_another_file_of_the_call(world: World) -> None:
    mine = moved(moved(world.tensors["ft-mse"], "decoder", 0.03, 9), "encoder", 0.03, 9)
    source = world.write("mine.safetensors", mine)
    path = scaled_by(of_tensors(mine)).to(FP16).save(world.folder / "safe.safetensors")
    found = {file.path.name: file for file in vl.identify([source, path])}
    assert found["safe.safetensors"].what == (
        "mine.safetensors, scaled for float16 (--fp16-safe), in fp16 in diffusers layout"
    )
    assert found["safe.safetensors"].same_weights_as is None
    assert found["mine.safetensors"].what.startswith("unknown; nearest: ft-mse, decoder weights 3.0 % apart")


def test_what_is_scaled_is_not_near_what_is_not(tmp_path: Path) -> None:
    with made_world(tmp_path) as world:
        mine = of_tensors(moved(moved(world.tensors["ft-mse"], "decoder", 0.03, 9), "encoder", 0.03, 9))
        mine.save(world.folder / "mine.safetensors")
        for name, k in (("safe", 1), ("safer", 3)):
            scaled_by(mine, k=k).save(world.folder / f"{name}.safetensors")
        found = {file.path.stem: file for file in vl.identify(world.folder)}
        assert found["mine"].what == "unknown; none of the VAEs at hand is near"
        assert str(found["mine"].encoder) == "unknown; none of the VAEs at hand is near"
        assert found["mine"].decoder is not None
        assert found["mine"].decoder.mixture is None
        assert "mine.safetensors, scaled for float16" in found["safer"].what
        near = moved(moved(mine.tensors(), "decoder", 0.7, 1), "encoder", 0.7, 1)
        world.write("near.safetensors", near)
        found = {file.path.stem: file for file in vl.identify(world.folder)}
        assert found["near"].what.startswith("unknown; nearest: mine.safetensors, decoder weights")
        assert found["mine"].what.startswith("unknown; nearest: near.safetensors, decoder weights")


def test_recorded_digests_are_enough_where_no_value_lost_digits(tmp_path: Path) -> None:
    with made_world(tmp_path) as world:
        vl.identify(world.write_published("sdxl", "sdxl.safetensors")).files[0].path.unlink()
        safe = scaled_by(of_tensors(world.tensors["sdxl"]), stream)
        assert one(safe.save(world.folder / "wide.safetensors")).what.startswith("sdxl, scaled for float16")
        brain = safe.to(BF16).save(world.folder / "bf16.safetensors")
        assert one(brain).what.startswith("sdxl, scaled for float16")
        half = one(safe.to(FP16).save(world.folder / "half.safetensors"))  # small weights became subnormal
        assert half.what.startswith("unknown")


def test_a_source_in_float16_is_equal_up_to_rounding(world: World) -> None:
    """Scaled in float32 and rounded once, its small weights lost other digits than those of the rounded source."""
    mine = moved(moved(world.tensors["sdxl"], "decoder", 3, 1), "encoder", 3, 1)
    rounded = world.write("source.safetensors", mine, dtype=FP16)
    path = scaled_by(of_tensors(mine)).to(FP16).save(world.folder / "safe.safetensors")
    found = one(path, against=[rounded])
    assert found.what.startswith(
        "source.safetensors, equal up to rounding, scaled for float16 (--fp16-safe), in fp16 in diffusers layout"
    )


def test_what_is_near_is_told_with_the_scaling_undone(world: World) -> None:
    mine = moved(world.tensors["ft-mse"], "decoder", 0.03, 9)
    path = scaled_by(of_tensors(mine)).to(FP16).save(world.folder / "safe.safetensors")
    found = one(path)
    near = "nearest: ft-mse, decoder weights, the scaling for float16 undone, 3.0 % apart"
    assert near in found.what
    assert found.what.startswith("unknown")
    assert found.latent_space.name == "sd1"
    merged = scaled_by(of_tensors(mixed({"kl-f8": 0.7, "ft-mse": 0.3}, world.tensors)))
    what = one(merged.to(FP16).save(world.folder / "merge.safetensors")).what
    assert what.startswith("a weighted average of kl-f8 and ft-mse: 0.70 / 0.30")
    assert what.endswith(", scaled for float16 (--fp16-safe)")


def claiming(spec: VAESpec, exponents: tuple[tuple[str, int], ...]) -> VAESpec:
    return dataclasses.replace(spec, config=dataclasses.replace(spec.config, norm_exponents=exponents))


def test_wrong_exponents_prove_nothing(world: World) -> None:
    safe = scaled_by(of_tensors(world.tensors["ft-mse"]))
    true = dict(safe.spec.config.norm_exponents)
    conv_in = next(stage for stage in stages(safe.network) if stage.name == "decoder.conv_in")
    wrong = {
        "one stage": {**true, **{norm: true[norm] + 1 for norm in conv_in.norms}},
        "every stage": {norm: k + 4 for norm, k in true.items()},
        "none of the decoder": {norm: k for norm, k in true.items() if norm.startswith("encoder.")},
        "not by stages": {norm: k + n % 2 for n, (norm, k) in enumerate(true.items())},
    }
    for name, exponents in wrong.items():
        lying = VAE.from_tensors(
            safe.tensors(), claiming(safe.spec, tuple(exponents.items())), "x", device=torch.device("cpu"), dtype=FP32
        )
        found = one(lying.save(world.folder / f"{name}.safetensors"))
        assert found.decoder is not None
        assert not found.decoder.same_as, name
        assert "unknown" in found.what, name
        assert found.vae is None, name


@pytest.mark.parametrize(
    "claimed",
    [
        [["encoder.x", 1]],
        [["decoder.conv_norm_out", 99]],
        [["decoder.conv_norm_out", -1]],
        [["decoder.conv_norm_out", 1], ["decoder.conv_norm_out", 2]],
        [["decoder.conv_norm_out", "many"]],
        {"decoder": 3},
        7,
    ],
)
def test_metadata_that_make_no_sense_are_no_claim(world: World, claimed: object) -> None:
    path = scaled_by(of_tensors(world.tensors["ft-mse"])).save(world.folder / "a.safetensors")
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header, tensors = json.loads(path.read_bytes()[8 : 8 + length]), path.read_bytes()[8 + length :]
    spec = json.loads(header["__metadata__"]["vaelens"])
    spec["config"]["norm_exponents"] = claimed
    header["__metadata__"]["vaelens"] = json.dumps(spec)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + tensors)
    assert one(path).what.startswith("unknown")


def test_the_claim_of_what_was_never_scaled_changes_nothing(world: World) -> None:
    vae = of_tensors(world.tensors["ft-mse"])
    lying = claiming(vae.spec, scaled_by(vae).spec.config.norm_exponents)
    path = VAE.from_tensors(vae.tensors(), lying, "x", device=torch.device("cpu"), dtype=FP32).save(
        world.folder / "a.safetensors"
    )
    assert one(path).what == "ft-mse, re-saved in fp32 in diffusers layout"


def test_weights_of_which_float16_left_nothing_are_nobodys(world: World) -> None:
    safe = scaled_by(of_tensors(world.tensors["ft-mse"]), stream, k=28)
    found = one(safe.to(FP16).save(world.folder / "a.safetensors"))
    assert found.decoder is not None
    assert not found.decoder.same_as
    assert found.what.startswith("unknown")


def test_what_convert_writes_is_recognised(tmp_path: Path) -> None:
    with made_world(tmp_path) as world:
        source = overflowing(CONFIGS["sd1"], 1e4).save(world.folder / "source.safetensors")
        safe = world.folder / "safe.safetensors"
        invoke("convert", source, "-o", safe, "--fp16-safe")
        shown = invoke("identify", safe, "--against", source).stdout
        assert "is           source.safetensors, scaled for float16 (--fp16-safe)" in shown
        report = json.loads(invoke("identify", safe, "--against", source, "--json").stdout)
        assert report["files"][0]["decoder"]["scaled_for_float16"] is True
