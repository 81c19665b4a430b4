"""Which files are copies of which, and how whole checkpoints and links are told from them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import vaelens as vl
from support.known_vaes import Tensors, World, made_world
from vaelens.identification.weights import tables


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """No known VAE is here."""
    with made_world(tmp_path) as made:
        yield made


def keeps(world: World) -> dict[str, str]:
    return {file.path.name: str(file.keep) for file in vl.identify(world.folder)}


def ones(name: str) -> dict[str, Tensor]:
    return {name: torch.ones(2, 3)}


@pytest.mark.parametrize(
    ("prefix", "beside", "title"),
    [
        ("module.vae.", "module.model.diffusion_model.input_blocks.0.0.weight", "denoiser"),
        ("_orig_mod.vae.", "_orig_mod.text_model.embeddings.weight", "a text encoder"),
        ("vae.", "unet.down_blocks.0.resnets.0.conv1.weight", "other tensors"),
        ("vae.", "something.nobody.knows", "other tensors"),
    ],
)
def test_what_holds_other_tensors_is_a_checkpoint(world: World, prefix: str, beside: str, title: str) -> None:
    world.write("vae.safetensors", world.tensors["sdxl"])

    def renamed(name: str) -> str:
        return prefix + name

    world.write("whole.safetensors", world.tensors["sdxl"], rename=renamed, beside=ones(beside))
    assert keeps(world) == {"vae.safetensors": "yes: the only copy", "whole.safetensors": "-: a whole checkpoint"}
    whole = vl.identify(world.folder / "whole.safetensors").files[0]
    assert whole.what.startswith("a checkpoint")
    assert title in dict(tables.details(whole))["beside it"]


def test_a_link_is_no_copy_and_its_target_is_kept(world: World) -> None:
    world.write("long-real-name.safetensors", world.tensors["sdxl"], metadata={"unlike": "the published"})
    (world.folder / "a.safetensors").symlink_to("long-real-name.safetensors")
    assert keeps(world) == {
        "long-real-name.safetensors": "yes: the only copy",
        "a.safetensors": "-: a link to long-real-name.safetensors",
    }
    world.write("b.safetensors", world.tensors["sdxl"], dtype=torch.float16)
    assert keeps(world)["long-real-name.safetensors"] == "yes: full precision"
    assert keeps(world)["b.safetensors"] == "no"


def test_a_link_to_another_folder_says_where(world: World, tmp_path: Path) -> None:
    real = world.write("mine.safetensors", world.tensors["sdxl"], metadata={"a": "b"}).rename(tmp_path / "real")
    (world.folder / "a.safetensors").symlink_to(real)
    assert keeps(world) == {"a.safetensors": "yes: the only copy"}
    (world.folder / "b.safetensors").symlink_to(real)
    assert keeps(world)["b.safetensors"] == f"-: a link to {real.resolve()}"


def test_one_file_by_two_paths_is_one_row_and_a_link_another(world: World) -> None:
    path = world.write("a.safetensors", world.tensors["sdxl"])
    (world.folder / "d").mkdir()
    (world.folder / "folder").symlink_to(world.folder)
    link = world.folder / "link.safetensors"
    link.symlink_to(path)
    sources = [path, world.folder / "d" / ".." / path.name, world.folder / "folder" / path.name, link]
    assert [file.path for file in vl.identify(sources)] == [path, link]


def from_float16(values: Tensor) -> Tensor:
    return values.half().float()


def from_bfloat16(values: Tensor) -> Tensor:
    return values.bfloat16().float()


@pytest.mark.parametrize(
    ("rounded", "dtype"), [(from_float16, torch.float16), (from_bfloat16, torch.bfloat16)], ids=["float16", "bfloat16"]
)
def test_a_shared_rounded_copy_does_not_make_two_files_the_same(
    world: World, rounded: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    """Both are within the same steps of the half precision, and unlike each other."""

    def between(share: float) -> Tensors:
        return {name: t + share * (rounded(t) - t) for name, t in world.tensors["sdxl"].items()}

    world.write("a.safetensors", between(0))
    world.write("b.safetensors", between(0.5))
    world.write("c.safetensors", between(0), dtype=dtype)
    found = {file.path.name: file for file in vl.identify(world.folder)}
    assert found["b.safetensors"].same_weights_as is None
    assert str(found["a.safetensors"].keep) == "yes: full precision, the published file"
    assert str(found["b.safetensors"].keep) == "yes: the only copy"
    assert found["c.safetensors"].same_weights_as == world.folder / "a.safetensors"


def test_a_shared_bfloat16_copy_does_not_make_two_float16_files_the_same(world: World) -> None:
    large = {name: t.where(t.abs() > 2.0**-8, 0) for name, t in world.tensors["sdxl"].items()}
    base = {name: t.bfloat16().float() for name, t in large.items()}
    for name, share in (("b", 2.0**-9), ("c", 2.0**-10)):
        near = {key: t * (1 + share) for key, t in base.items()}
        world.write(f"{name}.safetensors", near, dtype=torch.float16)
    world.write("a.safetensors", base, dtype=torch.bfloat16)
    found = {file.path.name: file for file in vl.identify(world.folder)}
    roots = {name: file.same_weights_as or file.path for name, file in found.items()}
    assert roots["b.safetensors"] != roots["c.safetensors"]
    assert roots["a.safetensors"] in {roots["b.safetensors"], roots["c.safetensors"]}


def test_a_shared_rounded_copy_does_not_join_a_checkpoint_with_another_file(world: World) -> None:
    """A checkpoint, which is kept after the rounded copy, is grouped before it."""
    full = world.tensors["sdxl"]
    near = {name: t + 0.5 * (from_float16(t) - t) for name, t in full.items()}
    world.write("a.safetensors", near)
    world.write("b.safetensors", full, dtype=torch.float16)
    world.write("whole.safetensors", full, rename=lambda name: f"vae.{name}", beside=ones("something.nobody.knows"))
    found = {file.path.name: file for file in vl.identify(world.folder)}
    assert found["whole.safetensors"].same_weights_as is None
    assert found["b.safetensors"].same_weights_as == world.folder / "a.safetensors"


def test_a_copy_of_a_rounded_copy_is_a_copy(world: World) -> None:
    """Rounding twice isn't rounding once."""
    full = world.tensors["sdxl"]
    twice = {name: from_float16(t) for name, t in full.items()}
    assert any(not torch.equal(from_bfloat16(twice[name]), from_bfloat16(t)) for name, t in full.items())
    world.write("a.safetensors", full)
    world.write("b.safetensors", twice, dtype=torch.bfloat16)
    assert vl.identify(world.folder).files[1].same_weights_as is None
    world.write("c.safetensors", full, dtype=torch.float16)
    assert [file.path.name for file in vl.identify(world.folder)] == ["a.safetensors", "c.safetensors", "b.safetensors"]
    assert vl.identify(world.folder).files[2].same_weights_as == world.folder / "a.safetensors"
