"""A VAE into a checkpoint: every prefix, layout and precision; everything else stays byte for byte."""

import dataclasses
import errno
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vaelens as vl
from support.checkpoints import (
    names_of_2022,
    narrow_networks,
    other_tensors,
    raw,
    space_vae,
    stored_vae,
    write_checkpoint,
)
from support.commands import invoke
from support.vaes import NARROW, TINY, random_vae, same_bytes
from vaelens.errors import BadInputError, ResourceError, UsageError
from vaelens.tensors import checkpoint_copy
from vaelens.weights.reading import read_vae

PREFIXES = ("first_stage_model.", "vae.", "ema.first_stage_model.", "module.first_stage_model.", "_orig_mod.vae.")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def _narrow() -> Generator[None]:
    with narrow_networks():
        yield


def saved(path: Path, seed: int = 1, space: str = "sd1") -> Path:
    return space_vae(space, seed).save(path)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("layout", ["ldm", "diffusers", "2022"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_only_the_vae_changes(tmp_path: Path, prefix: str, layout: str, dtype: torch.dtype) -> None:
    before = write_checkpoint(tmp_path / "in.safetensors", space_vae(), prefix=prefix, layout=layout, dtype=dtype)
    baked = vl.bake(saved(tmp_path / "vae.safetensors"), before, tmp_path / "out.safetensors")
    old, new = raw(before), raw(tmp_path / "out.safetensors")
    assert (baked.replaced, baked.added, baked.kept) == (248, 0, len(other_tensors()))
    assert (old[0], old[2]) == (new[0], new[2])  # metadata and order
    assert all(new[1][name] == old[1][name] for name in other_tensors())
    wanted = raw(
        write_checkpoint(tmp_path / "w.safetensors", space_vae(seed=1), prefix=prefix, layout=layout, dtype=dtype)
    )
    assert new[1] == wanted[1]
    assert (tmp_path / "out.safetensors").stat().st_size == before.stat().st_size


@pytest.mark.parametrize(
    ("space", "prefix"),
    [("sd1", "first_stage_model."), ("sdxl", "first_stage_model."), ("sd3", "first_stage_model."), ("flux1", "vae.")],
)
def test_bake_then_extract_gives_the_same_bytes(tmp_path: Path, space: str, prefix: str) -> None:
    config = read_vae(saved(tmp_path / "x.safetensors", space=space)).spec.latent_space
    assert config == space
    kind = {"space": space, "prefix": prefix, "dtype": torch.float16}
    first = write_checkpoint(tmp_path / "1.safetensors", space_vae(space, 1), **kind)
    second = write_checkpoint(tmp_path / "2.safetensors", space_vae(space, 2), **kind)
    vl.extract(first, tmp_path / "vae.safetensors")
    vl.bake(tmp_path / "vae.safetensors", second, tmp_path / "baked.safetensors")
    vl.extract(tmp_path / "baked.safetensors", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "vae.safetensors").read_bytes()
    # A checkpoint's own VAE baked into it again: the same file.
    vl.extract(second, tmp_path / "own.safetensors")
    vl.bake(tmp_path / "own.safetensors", second, tmp_path / "same.safetensors")
    assert (tmp_path / "same.safetensors").read_bytes() == second.read_bytes()


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_wrapped_checkpoint_says_its_latent_space(tmp_path: Path, wrapper: str) -> None:
    """The wrapper stands before every name of the model, those by which it is recognised too."""
    whole = load_file(write_checkpoint(tmp_path / "plain.safetensors", space_vae("sdxl"), space="sdxl"))
    before = tmp_path / "in.safetensors"
    save_file({wrapper + name: tensor for name, tensor in whole.items()}, before)
    baked = vl.bake(saved(tmp_path / "vae.safetensors", space="sdxl"), before, tmp_path / "out.safetensors")
    assert (baked.latent_space, baked.prefix) == ("sdxl", f"{wrapper}first_stage_model.")
    old, new = raw(before), raw(tmp_path / "out.safetensors")
    assert {n for n in old[1] if old[1][n] == new[1][n]} >= {wrapper + n for n in other_tensors("sdxl")}
    assert vl.extract(tmp_path / "out.safetensors", tmp_path / "own.safetensors").spec.latent_space == "sdxl"
    assert same_bytes(read_vae(tmp_path / "own.safetensors").tensors, read_vae(tmp_path / "vae.safetensors").tensors)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_another_dtype_moves_what_follows(tmp_path: Path, dtype: str) -> None:
    before = write_checkpoint(tmp_path / "in.safetensors", space_vae(), dtype=torch.float16)
    vl.bake(saved(tmp_path / "vae.safetensors"), before, tmp_path / "out.safetensors", dtype=dtype)
    old, new = raw(before), raw(tmp_path / "out.safetensors")
    assert (old[0], old[2]) == (new[0], new[2])
    assert all(new[1][name] == old[1][name] for name in other_tensors())
    again = read_vae(tmp_path / "out.safetensors").tensors
    assert all(
        torch.equal(t, space_vae(seed=1).network.state_dict()[n].to(getattr(torch, dtype))) for n, t in again.items()
    )


def test_a_checkpoint_without_a_vae_gets_one(tmp_path: Path) -> None:
    before = write_checkpoint(tmp_path / "in.safetensors", space="sdxl")
    baked = vl.bake(saved(tmp_path / "vae.safetensors", space="sdxl"), before, tmp_path / "out.safetensors")
    assert (baked.replaced, baked.added, baked.prefix) == (0, 248, "first_stage_model.")
    old, new = raw(before), raw(tmp_path / "out.safetensors")
    assert new[0] == old[0]
    assert new[2][: len(old[2])] == old[2]
    wanted = {f"first_stage_model.{n}" for n in stored_vae(space_vae("sdxl"), "ldm")}
    assert set(new[1]) - set(old[1]) == wanted
    assert read_vae(tmp_path / "out.safetensors").spec.latent_space == "sdxl"


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_new_vae_is_wrapped_as_all_else_is(tmp_path: Path, wrapper: str) -> None:
    others = {wrapper + n: t for n, t in other_tensors("sdxl").items()}
    before = write_checkpoint(tmp_path / "in.safetensors", others=others)
    vae = saved(tmp_path / "vae.safetensors", space="sdxl")
    assert vl.bake(vae, before, tmp_path / "out.safetensors").prefix == f"{wrapper}first_stage_model."
    vl.extract(tmp_path / "out.safetensors", tmp_path / "again.safetensors", layout="diffusers")
    assert raw(tmp_path / "again.safetensors")[1] == raw(vae)[1]


def test_remains_of_a_vae_are_not_mixed_with_a_new_one(tmp_path: Path) -> None:
    others = other_tensors() | {"first_stage_model.encoder.something.weight": torch.ones(3)}
    before = write_checkpoint(tmp_path / "in.safetensors", others=others)
    with pytest.raises(UsageError, match="not a whole one that vaelens knows"):
        vl.bake(saved(tmp_path / "vae.safetensors"), before, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_what_training_left_beside_the_vae_stays(tmp_path: Path) -> None:
    others = other_tensors() | {"first_stage_model.loss.logvar": torch.ones(3)}
    before = write_checkpoint(tmp_path / "in.safetensors", space_vae(), others=others)
    vl.bake(saved(tmp_path / "vae.safetensors"), before, tmp_path / "out.safetensors")
    key = "first_stage_model.loss.logvar"
    assert raw(tmp_path / "out.safetensors")[1][key] == raw(before)[1][key]


def test_diffusers_loads_the_result(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    import support.torchvision_operators  # noqa: F401

    before = write_checkpoint(tmp_path / "in.safetensors", space_vae())
    vl.bake(saved(tmp_path / "vae.safetensors"), before, tmp_path / "out.safetensors")
    space_vae(seed=1).save(tmp_path / "folder")
    vl.extract(tmp_path / "out.safetensors", tmp_path / "extracted.safetensors")
    theirs = AutoencoderKL.from_single_file(
        str(tmp_path / "extracted.safetensors"), config=str(tmp_path / "folder"), local_files_only=True
    )
    z = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = vl.load(tmp_path / "out.safetensors").network.decode(z)
        assert torch.allclose(theirs.decode(z).sample, ours, atol=1e-5)


def test_refusals_leave_nothing(tmp_path: Path) -> None:
    before = write_checkpoint(tmp_path / "in.safetensors", space_vae())
    vae, out = saved(tmp_path / "vae.safetensors"), tmp_path / "out.safetensors"
    with pytest.raises(UsageError, match=r"latent space sdxl, and .*in\.safetensors is a model of sd1"):
        vl.bake(saved(tmp_path / "xl.safetensors", space="sdxl"), before, out)
    with pytest.raises(UsageError, match="the checkpoint itself"):
        vl.bake(vae, before, before)
    with pytest.raises(UsageError, match="the VAE itself"):
        vl.bake(vae, before, vae)
    with pytest.raises(UsageError, match=r"End the name in \.safetensors"):
        vl.bake(vae, before, tmp_path / "out.ckpt")
    with pytest.raises(UsageError, match="a VAE by itself"):
        vl.bake(vae, saved(tmp_path / "alone.safetensors"), out)
    torch.save(other_tensors(), tmp_path / "pickled.ckpt")
    with pytest.raises(UsageError, match=r"safetensors checkpoints only"):
        vl.bake(vae, tmp_path / "pickled.ckpt", out)
    wider = random_vae(dataclasses.replace(NARROW, block_out_channels=(8, 8, 16, 16)))
    with pytest.raises(UsageError, match="networks of different sizes"):
        vl.bake(wider.save(tmp_path / "wider.safetensors"), before, out)
    tiny = random_vae(TINY, scale=1.0).save(tmp_path / "tiny.safetensors")
    with pytest.raises(UsageError, match="the same kind"):
        vl.bake(tiny, before, out)
    save_file({"model.something": torch.ones(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="don't tell which model"):
        vl.bake(vae, tmp_path / "other.safetensors", out)
    huge = space_vae(seed=1)
    with torch.no_grad():
        huge.network.decoder.conv_in.weight[0, 0, 0, 0] = 1e6
    half = write_checkpoint(tmp_path / "half.safetensors", space_vae(), dtype=torch.float16)
    with pytest.raises(
        UsageError, match=r"decoder\.conv_in\.weight has values up to 1e\+06, and float16 ends at 65504"
    ):
        vl.bake(huge.save(tmp_path / "huge.safetensors"), half, out)
    assert not out.exists()
    assert not list(tmp_path.glob(".vaelens*"))


def test_two_vaes_in_a_checkpoint_are_ambiguous(tmp_path: Path) -> None:
    others = other_tensors() | {f"vae.{n}": t for n, t in stored_vae(space_vae(seed=3), "ldm").items()}
    before = write_checkpoint(tmp_path / "in.safetensors", space_vae(), others=others)
    with pytest.raises((UsageError, BadInputError), match="more than one VAE"):
        vl.bake(saved(tmp_path / "vae.safetensors"), before, tmp_path / "out.safetensors")


def test_only_a_complete_vae_of_the_same_depth_is_replaced(tmp_path: Path) -> None:
    whole = load_file(write_checkpoint(tmp_path / "in.safetensors", space_vae()))
    vae, out = saved(tmp_path / "vae.safetensors"), tmp_path / "out.safetensors"
    save_file({n: t for n, t in whole.items() if ".decoder.up.3." not in n}, tmp_path / "part.safetensors")
    with pytest.raises(UsageError, match=r"lacks \d+ of the 248 tensors .* It is incomplete"):
        vl.bake(vae, tmp_path / "part.safetensors", out)
    deeper = random_vae(dataclasses.replace(NARROW, layers_per_block=3))
    before = write_checkpoint(tmp_path / "deeper.safetensors", deeper)
    with pytest.raises(UsageError, match=r"tensors that the one named lacks, first .*resnets\.3"):
        vl.bake(vae, before, out)
    assert not out.exists()


def test_a_pipelines_folder_is_refused_with_what_to_do(tmp_path: Path) -> None:
    vae = saved(tmp_path / "vae.safetensors")
    space_vae(seed=2).save(tmp_path / "pipeline" / "vae")
    with pytest.raises(UsageError, match=r"vaelens convert VAE -o .*pipeline/vae`"):
        vl.bake(vae, tmp_path / "pipeline", tmp_path / "out.safetensors")
    with pytest.raises(UsageError, match=r"a file by itself already. Use `vaelens convert`"):
        vl.extract(tmp_path / "pipeline", tmp_path / "out.safetensors")
    vl.convert(vae, tmp_path / "pipeline" / "vae")  # as the message says
    assert same_bytes(read_vae(tmp_path / "pipeline").tensors, read_vae(vae).tensors)


def test_a_full_disk_is_noticed_before_and_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write_checkpoint(tmp_path / "in.safetensors", space_vae())
    vae, out = saved(tmp_path / "vae.safetensors"), tmp_path / "out.safetensors"
    out.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_copy.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
        with pytest.raises(ResourceError, match="are needed for the new file"):
            vl.bake(vae, before, out)
    written = checkpoint_copy.tensor_bytes
    left = iter(range(100))

    def full(tensor: torch.Tensor) -> object:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(tensor)

    monkeypatch.setattr(checkpoint_copy, "tensor_bytes", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        vl.bake(vae, before, out)
    assert out.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"in.safetensors", "vae.safetensors", "out.safetensors"}


def test_hashes_of_the_old_file_are_named(tmp_path: Path) -> None:
    whole = write_checkpoint(tmp_path / "in.safetensors", space_vae())
    save_file(load_file(whole), tmp_path / "hashed.safetensors", {"sshs_model_hash": "12", "note": "x"})
    notes: list[str] = []
    for file in (whole, tmp_path / "hashed.safetensors"):
        vl.bake(saved(tmp_path / "vae.safetensors"), file, tmp_path / f"out-{file.name}", notify=notes.append)
    assert [note for note in notes if "hashes" in note] == [
        "Note: the metadata stay as they are, with hashes of the old file that are wrong for the new one: "
        "sshs_model_hash."
    ]


def test_a_name_in_place_of_a_checkpoint_is_explained(tmp_path: Path) -> None:
    file = write_checkpoint(tmp_path / "in.safetensors", space_vae())
    with pytest.raises(BadInputError, match=r"knows by name: the VAE comes first, the checkpoint second\.$"):
        vl.bake(file, "tiny-ft-mse", tmp_path / "out.safetensors")
    with pytest.raises(BadInputError, match=r"^tiny-ft-mse: there is no such file.* `vaelens convert tiny-ft-mse -o "):
        vl.extract("tiny-ft-mse", tmp_path / "out.safetensors")
    with pytest.raises(BadInputError, match=r"^none\.safetensors: there is no such file\. Check the path"):
        vl.extract("none.safetensors", tmp_path / "out.safetensors")


def test_links_stay_and_their_targets_are_replaced(tmp_path: Path) -> None:
    before = write_checkpoint(tmp_path / "in.safetensors", space_vae())
    vae = saved(tmp_path / "vae.safetensors")
    (tmp_path / "to-input.safetensors").symlink_to(before)
    with pytest.raises(UsageError, match="the checkpoint itself"):
        vl.bake(vae, before, tmp_path / "to-input.safetensors")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "elsewhere" / "out.safetensors")
    baked = vl.bake(vae, before, tmp_path / "link.safetensors")
    assert (tmp_path / "link.safetensors").is_symlink()
    assert baked.written == (tmp_path / "elsewhere" / "out.safetensors").resolve()
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    with pytest.raises(UsageError, match="Hugging Face cache"):
        vl.bake(vae, before, blobs / "out.safetensors")


def test_the_command_prints_what_it_did(tmp_path: Path) -> None:
    before = write_checkpoint(tmp_path / "in.safetensors", space_vae(), dtype=torch.float16)
    vae, out = saved(tmp_path / "vae.safetensors"), tmp_path / "out.safetensors"
    done = invoke("bake", vae, before, "-o", out)
    assert "float16, ldm layout, under first_stage_model." in done.stdout
    assert "248 replaced and read back, 4 kept byte for byte" in done.stdout
    xl = saved(tmp_path / "xl.safetensors", space="sdxl")
    assert "is a model of sd1" in invoke("bake", xl, before, "-o", out, code=2).stderr


def test_names_of_2022_differ_from_todays() -> None:
    assert names_of_2022("a.attentions.0.to_q.weight") == "a.attentions.0.query.weight"
