"""What to keep: a file is advised against only where a kept one holds all that it holds, and nothing else needs it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import vaelens as vl
from support.known_vaes import Tensors, World, made_world, moved
from support.vaes import NARROW, random_vae
from vaelens.families import kl
from vaelens.networks.tiny import TinyAutoencoderConfig
from vaelens.vae import VAE


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """No known VAE is here."""
    with made_world(tmp_path) as made:
        yield made


@pytest.fixture
def mine(world: World) -> Tensors:
    """A VAE that nobody knows."""
    return moved(moved(world.tensors["kl-f8"], "decoder", 0.1, 9), "encoder", 0.1, 9)


def keeps(world: World) -> dict[str, str]:
    return {file.path.relative_to(world.folder).as_posix(): str(file.keep) for file in vl.identify(world.folder)}


def halved(tensors: Tensors, parts: frozenset[str]) -> Tensors:
    return {name: t.half().float() if name.split(".")[0] in parts else t for name, t in tensors.items()}


@pytest.mark.parametrize(
    "left",
    [{"loss.discriminator.main.0.weight": torch.ones(3)}, {"model_ema.decoderconv_inweight": torch.ones(3)}],
    ids=["discriminator", "averaged weights"],
)
def test_what_training_left_is_lost_with_no_advice(world: World, mine: Tensors, left: dict[str, Tensor]) -> None:
    world.write("clean.safetensors", mine)
    world.write(
        "training.safetensors", mine, beside=left, metadata={"sshs_model_hash": "that it is the larger one" * 99}
    )
    assert keeps(world) == {
        "clean.safetensors": "yes: the smallest",
        "training.safetensors": "-: also holds training state",
    }
    (world.folder / "again.safetensors").write_bytes((world.folder / "training.safetensors").read_bytes())
    (world.folder / "clean.safetensors").unlink()
    assert sorted(keeps(world).values()) == ["no", "yes: any of these will do"]


def test_single_numbers_of_training_are_no_loss(world: World, mine: Tensors) -> None:
    world.write("clean.safetensors", mine)
    numbers = {"global_step": torch.ones(()), "model_ema.decay": torch.ones(1)}
    world.write(
        "trained.safetensors", mine, beside=numbers, metadata={"sshs_model_hash": "that it is the larger one" * 99}
    )
    assert keeps(world)["trained.safetensors"] == "no"


@pytest.mark.parametrize("prefix", ["", "vae."])
def test_an_optimizer_is_lost_with_no_advice(world: World, mine: Tensors, prefix: str) -> None:
    world.write("clean.safetensors", mine)
    held: dict[str, Any] = {"state_dict": {prefix + name: t for name, t in mine.items()}, "epoch": 3}
    world.write_pickled("plain.ckpt", held)
    world.write_pickled("last.ckpt", {**held, "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(4)}}}]})
    assert keeps(world) == {
        "clean.safetensors": "yes: safetensors",
        "plain.ckpt": "no",
        "last.ckpt": "-: also holds training state",
    }


def test_the_finer_of_two_half_precisions_is_kept(world: World, mine: Tensors) -> None:
    world.write("a.safetensors", mine, dtype=torch.bfloat16)
    world.write_pickled("b.pt", {name: t.half() for name, t in mine.items()})
    assert keeps(world) == {"b.pt": "yes: the finer precision", "a.safetensors": "no"}


def test_of_two_files_with_one_full_half_each_both_are_kept(world: World, mine: Tensors) -> None:
    world.write("a.safetensors", halved(mine, kl.FAMILY.encoder_parts))
    world.write("b.safetensors", halved(mine, kl.FAMILY.decoder_parts))
    assert keeps(world) == {"a.safetensors": "yes: the finer decoder", "b.safetensors": "yes: the finer encoder"}
    world.write("c.safetensors", mine)
    assert keeps(world) == {"c.safetensors": "yes: full precision", "a.safetensors": "no", "b.safetensors": "no"}


def test_a_file_with_one_half_rounded_is_finer_than_one_with_both(world: World, mine: Tensors) -> None:
    world.write("a.safetensors", halved(mine, kl.FAMILY.encoder_parts | kl.FAMILY.decoder_parts))
    world.write("b.safetensors", halved(mine, kl.FAMILY.encoder_parts))
    assert keeps(world) == {"b.safetensors": "yes: the finer precision", "a.safetensors": "no"}


def test_float64_is_finer_only_where_values_need_it(world: World, mine: Tensors) -> None:
    world.write("wide.safetensors", mine, dtype=torch.float64)
    world.write("a.safetensors", mine)
    assert keeps(world) == {"a.safetensors": "yes: the smallest", "wide.safetensors": "no"}
    needed = {name: t.double() * (1 + 1e-9) for name, t in mine.items()}
    world.write("wide.safetensors", needed, dtype=torch.float64)
    world.write("a.safetensors", needed)
    assert keeps(world) == {"wide.safetensors": "yes: the finer precision", "a.safetensors": "no"}


def test_unlike_float64_files_of_equal_float32_values_are_both_kept(world: World, mine: Tensors) -> None:
    for name, share in (("a", 1e-9), ("b", 2e-9)):
        world.write(f"{name}.safetensors", {n: t.double() * (1 + share) for n, t in mine.items()}, dtype=torch.float64)
    assert set(keeps(world).values()) == {"yes: other values"}
    world.write("c.safetensors", mine)
    assert keeps(world)["c.safetensors"] == "no"
    (world.folder / "again.safetensors").write_bytes((world.folder / "a.safetensors").read_bytes())
    assert sorted(keeps(world).values()) == [
        "no",
        "no",
        "yes: the finer precision",
        "yes: the finer precision, any of 2 alike will do",
    ]


def test_a_copy_byte_for_byte_with_another_config_json_is_kept(world: World) -> None:
    vae = random_vae(NARROW, seed=5)
    for name, scale in (("a", 0.5), ("b", 0.25), ("c", 0.25)):
        VAE(vae.network, replace(vae.spec, scaling_factor=scale, latent_space=None), name).save(world.folder / name)
        world.write(f"{name}/diffusion_pytorch_model.safetensors", vae.network.state_dict())
    assert [keep.split(",")[0] for keep in keeps(world).values()] == ["yes: another spec", "yes: another spec", "no"]


def test_files_that_state_unlike_specs_are_all_kept(world: World) -> None:
    vae = random_vae(NARROW, seed=5)
    for name, scale in (("a", 0.5), ("b", 0.25), ("c", 0.25)):
        spec = replace(vae.spec, scaling_factor=scale, latent_space=None)
        VAE(vae.network, spec, name).save(world.folder / f"{name}.safetensors")
    assert sorted(keeps(world).items()) == [
        ("a.safetensors", "yes: another spec"),
        ("b.safetensors", "yes: another spec, any of 2 alike will do"),
        ("c.safetensors", "no"),
    ]


def test_a_spec_that_contradicts_itself_is_unlike_another(world: World) -> None:
    vae = random_vae(NARROW, seed=5)
    for name, scale in (("a", 0.5), ("b", 0.18215)):  # 0.5 isn't the scale of sd1, which both claim
        VAE(vae.network, replace(vae.spec, scaling_factor=scale), name).save(world.folder / f"{name}.safetensors")
    assert set(keeps(world).values()) == {"yes: another spec"}


def test_of_equals_the_one_that_states_its_spec_is_kept(world: World) -> None:
    vae = random_vae(NARROW, seed=5)
    vae.save(world.folder / "mine")
    (folder,) = (world.folder / "mine").glob("*.safetensors")
    tensors: Tensors = dict(vae.network.state_dict())
    world.write("b.safetensors", tensors)
    inside = folder.relative_to(world.folder).as_posix()
    assert keeps(world) == {inside: "yes: states its spec", "b.safetensors": "no"}
    world.write("b.safetensors", {name: t.double() * (1 + 1e-9) for name, t in tensors.items()}, dtype=torch.float64)
    assert keeps(world) == {"b.safetensors": "yes: the finer precision", inside: "yes: states its spec"}


def test_what_a_link_leads_to_is_never_advised_against(world: World, mine: Tensors) -> None:
    world.write("good.safetensors", mine)
    world.write("half.safetensors", mine, dtype=torch.float16)
    assert keeps(world)["half.safetensors"] == "no"
    (world.folder / "used.safetensors").symlink_to("half.safetensors")
    assert keeps(world) == {
        "good.safetensors": "yes: full precision",
        "half.safetensors": "-: used.safetensors needs it",
        "used.safetensors": "-: a link to half.safetensors",
    }


def test_of_several_links_the_first_is_named(world: World, mine: Tensors) -> None:
    world.write("good.safetensors", mine)
    world.write("half.safetensors", mine, dtype=torch.float16)
    for name in ("y", "x", "z"):
        (world.folder / f"{name}.safetensors").symlink_to("half.safetensors")
    assert keeps(world)["half.safetensors"] == "-: x.safetensors and 2 more need it"


def test_the_only_copy_of_metadata_is_lost_with_no_advice(world: World, mine: Tensors) -> None:
    notes = {"license": "CC0", "author": "somebody"}
    world.write("a.safetensors", mine)
    world.write("b.safetensors", mine, metadata={**notes, "format": "pt", "sshs_model_hash": "b" * 64})
    world.write("c.safetensors", mine, metadata={"license": "CC0", "format": "pt", "sshs_model_hash": "c" * 64})
    world.write("d-half.safetensors", mine, dtype=torch.float16, metadata={"ss_training_comment": "only here"})
    world.write("e-half.safetensors", mine, dtype=torch.float16, metadata={"license": "of another kind"})
    assert keeps(world) == {
        "b.safetensors": "yes: full precision, metadata of its own",
        "a.safetensors": "no",
        "c.safetensors": "no",
        "d-half.safetensors": "-: its metadata hold more",
        "e-half.safetensors": "-: its metadata hold more",
    }


def test_of_files_with_unlike_metadata_none_is_advised_against(world: World, mine: Tensors) -> None:
    world.write("a.safetensors", mine, metadata={"license": "CC0"})
    world.write("b.safetensors", mine, metadata={"author": "somebody"})
    assert keeps(world) == {
        "a.safetensors": "yes: metadata of its own",
        "b.safetensors": "-: its metadata hold more",
    }


def test_linked_shards_are_no_copy_of_theirs(world: World, mine: Tensors) -> None:
    real, linked = world.folder / "z", world.folder / "a"
    names = sorted(mine)
    shards = {"m-1.safetensors": names[::2], "m-2.safetensors": names[1::2]}
    index = json.dumps({"metadata": {}, "weight_map": {n: file for file, held in shards.items() for n in held}})
    for folder in (real, linked):
        folder.mkdir()
        (folder / "m.safetensors.index.json").write_text(index)
    for file, held in shards.items():
        save_file({n: mine[n].contiguous() for n in held}, real / file)
        (linked / file).symlink_to(real / file)
    assert keeps(world) == {
        "z/m.safetensors.index.json": "yes: the only copy",
        "a/m.safetensors.index.json": f"-: a link to {(real / 'm-1.safetensors').resolve()}",
    }
    world.write("better.safetensors", {name: t.double() * (1 + 1e-9) for name, t in mine.items()}, dtype=torch.float64)
    assert keeps(world)["z/m.safetensors.index.json"] == (
        f"-: {world.folder / 'a' / 'm.safetensors.index.json'} needs it"
    )


def test_a_pair_with_a_linked_half_goes_after_the_pair_with_its_own(world: World) -> None:
    tensors = random_vae(TinyAutoencoderConfig(), space="sd1", scale=1.0, seed=1).network.state_dict()
    for half, offset in (("encoder", 0), ("decoder", 1)):
        parts = [(n.split(".", 3), t) for n, t in tensors.items() if n.startswith(half)]
        numbered = {f"{int(number) + offset}.{rest}": t for (_, _, number, rest), t in parts}
        world.write(f"b_{half}.safetensors", numbered)
    (world.folder / "a_encoder.safetensors").symlink_to("b_encoder.safetensors")
    (world.folder / "a_decoder.safetensors").write_bytes((world.folder / "b_decoder.safetensors").read_bytes())
    assert keeps(world) == {
        "b_decoder.safetensors": "yes: the only copy",
        "a_decoder.safetensors": "-: a link to b_encoder.safetensors",
    }


def test_the_vae_of_a_pipeline_is_part_of_it(world: World, mine: Tensors) -> None:
    world.write("a.safetensors", mine)
    world.write("pipe/vae/diffusion_pytorch_model.safetensors", mine)
    assert keeps(world)["pipe/vae/diffusion_pytorch_model.safetensors"] == "no"
    (world.folder / "pipe" / "model_index.json").write_text("{}")
    assert keeps(world) == {
        "a.safetensors": "yes: the only copy",
        "pipe/vae/diffusion_pytorch_model.safetensors": "-: part of a pipeline",
    }
    (world.folder / "linked").symlink_to(world.folder / "pipe" / "vae")
    found = vl.identify(
        [world.folder / "a.safetensors", world.folder / "linked" / "diffusion_pytorch_model.safetensors"]
    )
    assert str(found.files[1].keep) == "-: part of a pipeline"
