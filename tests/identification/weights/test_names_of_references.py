"""What files are compared with has names of its own, and only known VAEs count as known."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import vaelens as vl
from support.known_vaes import FILE, SPACES, Tensors, World, made_world, mixed, moved
from vaelens.identification.weights.closeness.half_verdict import HalfVerdict
from vaelens.identification.weights.examined_file import examine_file
from vaelens.identification.weights.findings import finding
from vaelens.weights.names import distinct_names


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """No known VAE is here."""
    with made_world(tmp_path) as made:
        yield made


def halves_of(encoder: Tensors, decoder: Tensors) -> Tensors:
    return {**encoder, **{name: t for name, t in decoder.items() if name.startswith(("decoder", "post_quant"))}}


def apart(tensors: Tensors, share: float) -> Tensors:
    return moved(moved(tensors, "decoder", share, 1), "encoder", share, 1)


def test_two_files_of_one_name_are_two_vaes(world: World) -> None:
    one = apart(world.tensors["kl-f8"], 0.1)
    other = apart(world.tensors["sdxl"], 0.1)
    against = [world.write("a/vae.safetensors", one), world.write("b/vae.safetensors", other)]
    mine = world.write("c/mine.safetensors", halves_of(one, other))
    assert vl.identify(mine, against=against).files[0].what == "decoder: b/vae.safetensors, encoder: vae.safetensors"
    merge = world.write("c/merge.safetensors", mixed({"a": 0.6, "b": 0.4}, {"a": one, "b": other}))
    what = "a weighted average of vae.safetensors and b/vae.safetensors: 0.60 / 0.40"
    assert vl.identify(merge, against=against).files[0].what.startswith(what)
    assert any(file.what.startswith(what) for file in vl.identify([world.folder]))


def test_one_file_named_twice_is_one(world: World) -> None:
    path = world.write("a.safetensors", moved(world.tensors["kl-f8"], "decoder", 0.1, 1))
    copy = world.write("b.safetensors", moved(world.tensors["kl-f8"], "decoder", 0.1, 1), dtype=torch.float16)
    found = vl.identify([path, copy], against=[path, path])
    assert found.files[1].decoder is not None
    assert found.files[1].decoder.same_as == ("a.safetensors",)


def test_a_longer_name_begins_with_the_folder_that_it_lies_in(tmp_path: Path) -> None:
    for place in (f"a/vae/{FILE}", f"b/vae/{FILE}", "b/vae.safetensors", "c/vae.safetensors"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    folders = [tmp_path / "a" / "vae" / FILE, tmp_path / "b" / "vae" / FILE]
    assert distinct_names(["vae", "vae"], folders) == ["vae", "b/vae"]
    files = [tmp_path / "b" / "vae.safetensors", tmp_path / "c" / "vae.safetensors"]
    assert distinct_names(["vae.safetensors"] * 2, files) == ["vae.safetensors", "c/vae.safetensors"]
    assert distinct_names([f"vae/{FILE}"] * 2, folders) == [f"vae/{FILE}", f"b/vae/{FILE}"]


@pytest.mark.parametrize("name", ["sdxl", f"sdxl/{FILE}"])
def test_what_is_called_like_a_known_vae_is_not_it(world: World, name: str) -> None:
    world.put_in_cache("sdxl")
    weights = apart(world.tensors["kl-f8"], 0.02)
    path = world.write(name, weights)
    copy = world.write("copy.safetensors", weights, dtype=torch.float16)
    source = path if name == "sdxl" else path.parent
    file = vl.identify(copy, against=[source]).files[0]
    assert (file.vae, file.what) == (None, "files/sdxl, re-saved in fp16 in diffusers layout")
    near = world.write("near.safetensors", moved(weights, "decoder", 0.01, 2))
    found = {one.path: one for one in vl.identify([path, near])}
    assert "nearest: sdxl," not in found[near].what


def test_only_a_known_vae_is_the_files_vae(world: World) -> None:
    world.put_in_cache("ft-mse")
    tuned = apart(world.tensors["kl-f8"], 0.02)
    mine = world.write("mine.safetensors", tuned)
    path = world.write("kl-f8-anime2-copy.safetensors", tuned, dtype=torch.float16)
    (file,) = vl.identify(path, against=[mine])
    assert (file.vae, file.what) == (None, "mine.safetensors, re-saved in fp16 in diffusers layout")
    copy = world.write("copy.safetensors", world.tensors["ft-mse"], dtype=torch.float16)
    also = world.write("also.safetensors", world.tensors["ft-mse"], metadata={"unlike": "the published"})
    assert vl.identify(copy, against=[also, "ft-mse"]).files[0].vae == "ft-mse"


def test_a_name_is_only_contradicted_by_vaes_whose_weights_were_compared(world: World) -> None:
    published = world.write_published("ft-mse", "published.safetensors")
    vl.identify(published)
    published.unlink()
    path = world.write("my-ft-mse.safetensors", apart(world.tensors["ft-mse"], 1e-7))
    assert vl.identify(path).files[0].contradictions == ()
    world.put_in_cache("ft-mse")
    other = world.write("my-ft-mse.safetensors", apart(world.tensors["ft-mse"], 0.1))
    assert vl.identify(other).files[0].contradictions == ("its name says ft-mse, but it has other weights.",)


def test_unknown_files_that_share_halves_do_not_tell_what_is_missing(world: World) -> None:
    vaes = world.tensors["sdxl"], apart(world.tensors["kl-f8"], 0.1)
    for n, encoder in enumerate(vaes):
        for m, decoder in enumerate(vaes):
            tensors = halves_of(encoder, decoder)
            world.write(f"{n}{m}.safetensors", tensors, metadata={"unlike": "the published"})
    found = vl.identify(world.folder)
    assert all(half is not None and half.same_as for file in found for half in (file.encoder, file.decoder))
    assert found.not_here == tuple(SPACES)


def test_what_is_shared_is_said_where_nothing_else_has_its_shapes(world: World) -> None:
    file = examine_file(world.write("a.safetensors", world.tensors["sdxl"], metadata={"unlike": "the published"}))
    what, _ = finding(file, HalfVerdict(("b.safetensors",)), HalfVerdict())
    assert (
        what == "unknown, with the encoder of b.safetensors; there is no other VAE of its shapes here to compare with"
    )
