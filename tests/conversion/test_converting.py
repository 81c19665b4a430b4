"""A VAE to another layout and precision: the same bits where the dtype stays, checked against the source."""

import json
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vaelens as vl
from support.checkpoints import METADATA, narrow_networks, raw, space_vae, stored_vae, write_checkpoint
from support.commands import invoke
from support.vaes import TINY, random_vae, same_bytes, tiny_halves
from vaelens.conversion import converting
from vaelens.conversion.verification import Differences
from vaelens.errors import BadInputError, CheckFailedError, UsageError
from vaelens.weights.reading import read_vae


@pytest.fixture(autouse=True)
def _narrow() -> Generator[None]:
    with narrow_networks():
        yield


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return space_vae(seed=1).save(tmp_path / "source.safetensors")


def test_there_and_back_is_the_same_file(tmp_path: Path, source: Path) -> None:
    there = vl.convert(source, tmp_path / "ldm.safetensors", layout="ldm")
    back = vl.convert(tmp_path / "ldm.safetensors", tmp_path / "back.safetensors", layout="diffusers")
    assert (tmp_path / "back.safetensors").read_bytes() == source.read_bytes()
    assert there.differences == back.differences == Differences(0.0, 0.0, 0.0, 4)
    expected = stored_vae(space_vae(seed=1), "ldm")
    save_file(expected, tmp_path / "expected.safetensors")
    assert raw(tmp_path / "ldm.safetensors")[1] == raw(tmp_path / "expected.safetensors")[1]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_each_value_is_rounded_to_the_nearest(tmp_path: Path, source: Path, dtype: str, layout: str) -> None:
    done = vl.convert(source, tmp_path / "out.safetensors", layout=layout, dtype=dtype)
    wanted = {n: t.to(getattr(torch, dtype)) for n, t in read_vae(source).tensors.items()}
    found = read_vae(tmp_path / "out.safetensors")
    assert same_bytes(
        {n: t.view(torch.uint8) for n, t in found.tensors.items()}, {n: t.view(torch.uint8) for n, t in wanted.items()}
    )
    assert (found.layout, done.layout, done.stored) == (layout, layout, dtype)
    assert (done.differences.pixels_largest == 0) == (dtype == "float32")
    assert done.differences.pixels_mean < 0.002


def test_a_layout_that_one_file_can_not_have_is_changed_with_a_note(tmp_path: Path) -> None:
    halves = tiny_halves(random_vae(TINY, space="sdxl"), tmp_path)
    notes: list[str] = []
    done = vl.convert(halves[0], tmp_path / "out.safetensors", space="sdxl", notify=notes.append)
    assert (done.source_layout, done.layout) == ("taesd", "diffusers")
    assert [note for note in notes if "layout" in note] == [
        "Note: the layout taesd has encoder and decoder in files of their own, so out.safetensors gets the layout "
        "diffusers."
    ]
    notes.clear()
    vl.convert(halves[1], tmp_path / "named.safetensors", space="sdxl", layout="diffusers", notify=notes.append)
    assert notes == []


def test_diffusers_loads_the_folder(tmp_path: Path, source: Path) -> None:
    from diffusers import AutoencoderKL

    import support.torchvision_operators  # noqa: F401

    done = vl.convert(source, tmp_path / "folder")
    assert [path.name for path in done.written] == ["diffusion_pytorch_model.safetensors", "config.json"]
    theirs = AutoencoderKL.from_pretrained(tmp_path / "folder")
    z = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(theirs.decode(z).sample, space_vae(seed=1).network.decode(z), atol=1e-5)


def test_metadata_stay_but_for_hashes_of_the_old_file(tmp_path: Path) -> None:
    held = {**METADATA, "modelspec.hash_sha256": "0x12", "ss_steps": "10"}
    tensors = stored_vae(space_vae(), "ldm")
    save_file(tensors, tmp_path / "in.safetensors", held)
    done = vl.convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", space="sd1")
    found = raw(tmp_path / "out.safetensors")[0]
    assert {k: found[k] for k in ("modelspec.title", "note", "ss_steps")} == {
        "modelspec.title": "made up", "note": "ünï ☃", "ss_steps": "10",
    }  # fmt: skip
    assert "modelspec.hash_sha256" not in found
    assert done.dropped == ("metadata modelspec.hash_sha256",)
    assert read_vae(tmp_path / "out.safetensors").spec.latent_space == "sd1"  # which it says of itself now


def test_extract_leaves_the_models_metadata_behind(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "in.safetensors", space_vae(seed=2), dtype=torch.float16)
    done = vl.extract(checkpoint, tmp_path / "vae.safetensors")
    assert (done.layout, done.stored, done.tensors) == ("ldm", "float16", 248)
    assert set(raw(tmp_path / "vae.safetensors")[0]) == {"format", "vaelens"}
    vl.convert(checkpoint, tmp_path / "same.safetensors")
    assert (tmp_path / "same.safetensors").read_bytes() == (tmp_path / "vae.safetensors").read_bytes()


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_files_give_the_same_file_as_safetensors(tmp_path: Path, zipped: bool) -> None:
    whole = load_file(write_checkpoint(tmp_path / "in.safetensors", space_vae(seed=2), dtype=torch.float16))
    held = {"state_dict": whole, "global_step": 840001, "optimizer_states": [{"exp_avg": torch.ones(3)}]}
    torch.save(held, tmp_path / "in.ckpt", _use_new_zipfile_serialization=zipped)
    vl.extract(tmp_path / "in.safetensors", tmp_path / "expected.safetensors")
    vl.extract(tmp_path / "in.ckpt", tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "expected.safetensors").read_bytes()
    alone = stored_vae(space_vae(seed=2), "ldm", torch.float16) | {"loss.logvar": torch.ones(())}
    torch.save({"state_dict": alone}, tmp_path / "vae.pt", _use_new_zipfile_serialization=zipped)
    done = vl.convert(tmp_path / "vae.pt", tmp_path / "vae.safetensors", space="sd1")
    assert done.dropped == ("loss.logvar",)
    assert raw(tmp_path / "vae.safetensors")[1] == raw(tmp_path / "expected.safetensors")[1]


def test_a_wrong_call_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"broken")
    for output, layout, message in (("x.ckpt", None, "no pickled files"), ("x.safetensors", "a1111", "no layout")):
        for convert in (vl.convert, vl.extract):
            with pytest.raises(UsageError, match=message):
                convert(broken, tmp_path / output, layout=layout)


def test_a_file_that_is_replaced_is_named(tmp_path: Path, source: Path) -> None:
    notes: list[str] = []
    for _ in range(2):
        vl.convert(source, tmp_path / "out.safetensors", notify=notes.append)
    assert notes == [f"Note: {tmp_path / 'out.safetensors'} exists and is replaced."]


def test_extract_names_what_it_drops_of_a_pickle(tmp_path: Path) -> None:
    held = {"state_dict": {f"first_stage_model.{n}": t for n, t in stored_vae(space_vae(), "ldm").items()}}
    held["state_dict"]["cond_stage_model.x"] = torch.ones(1)
    torch.save(held | {"optimizer_states": [{"lr": 0.1}]}, tmp_path / "in.ckpt")
    notes: list[str] = []
    done = vl.extract(tmp_path / "in.ckpt", tmp_path / "vae.safetensors", notify=notes.append)
    assert done.dropped == ("optimizer_states",)
    assert len(notes) == 1
    assert "Dropped: optimizer_states." in notes[0]


def test_photos_are_what_is_compared(tmp_path: Path, source: Path) -> None:
    photo = Path(__file__).parents[2] / "examples/astronaut.png"
    done = vl.convert(source, tmp_path / "out.safetensors", dtype="float16", photos=[photo])
    assert (done.images, done.differences.images) == ("1 photo", 1)
    with pytest.raises(BadInputError):
        vl.convert(source, tmp_path / "out2.safetensors", photos=[tmp_path / "none.png"])
    assert not (tmp_path / "out2.safetensors").exists()


def test_refusals_leave_nothing_and_the_old_file(tmp_path: Path, source: Path) -> None:
    old = tmp_path / "old.safetensors"
    old.write_bytes(b"old")
    vae = space_vae()
    with torch.no_grad():
        vae.network.encoder.conv_in.bias[0] = -7e4
    vae.save(tmp_path / "large.safetensors")
    with pytest.raises(UsageError, match=r"encoder\.conv_in\.bias has values up to 7e\+04, and float16 ends at 65504"):
        vl.convert(tmp_path / "large.safetensors", old, dtype="float16")
    with pytest.raises(UsageError, match="source itself"):
        vl.convert(source, source, dtype="float16")
    (tmp_path / "link.safetensors").symlink_to(source)
    with pytest.raises(UsageError, match="source itself"):
        vl.convert(source, tmp_path / "link.safetensors")
    for target, layout, message in (
        ("x.ckpt", None, "no pickled files"),
        ("folder", "ldm", "is a single file"),
        ("x.safetensors", "comfy", "no layout is called 'comfy'"),
    ):
        with pytest.raises(UsageError, match=message):
            vl.convert(source, tmp_path / target, layout=layout)
    with pytest.raises(UsageError, match="by itself"):
        vl.extract(source, old)
    assert old.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {
        "old.safetensors", "source.safetensors", "large.safetensors", "link.safetensors",
    }  # fmt: skip


def test_a_refusal_comes_before_all_notes(tmp_path: Path, source: Path) -> None:
    (tmp_path / "link.safetensors").symlink_to(source)
    (tmp_path / "file").write_bytes(b"old")
    notes: list[str] = []
    for given, target in ((source, source), (tmp_path / "link.safetensors", source), (source, tmp_path / "file")):
        with pytest.raises(UsageError, match=r"source itself|is a file"):
            vl.convert(given, target, notify=notes.append)
    assert notes == []


def test_only_a_vaes_folder_is_replaced(tmp_path: Path, source: Path) -> None:
    pipeline = tmp_path / "pipeline"
    for place in (pipeline / "vae", pipeline / "unet"):
        space_vae().save(place)
    (pipeline / "model_index.json").write_text("{}")
    config = json.loads((pipeline / "vae/config.json").read_text()) | {"_class_name": "UNet2DConditionModel"}
    (pipeline / "unet/config.json").write_text(json.dumps(config))
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(b"image")
    for folder, message in (
        (pipeline, f"name that, -o {pipeline / 'vae'}"),
        (pipeline / "unet", f"{pipeline / 'unet'} isn't empty and holds no VAE"),
        (tmp_path / "images", r"isn't empty and holds no VAE, but a\.png\."),
    ):
        before = sorted(path.name for path in folder.iterdir())
        with pytest.raises(UsageError, match=message):
            vl.convert(source, folder)
        assert sorted(path.name for path in folder.iterdir()) == before
    notes: list[str] = []
    vl.convert(source, pipeline / "vae", notify=notes.append)
    assert same_bytes(read_vae(pipeline / "vae").tensors, read_vae(source).tensors)
    assert notes == [f"Note: {pipeline / 'vae'} exists and is replaced."]
    (pipeline / "vae/config.json").unlink()  # as a kill leaves it
    vl.convert(source, pipeline / "vae")
    assert (pipeline / "vae/config.json").is_file()


def test_a_folder_where_the_layout_was_another_is_named(tmp_path: Path, source: Path) -> None:
    notes: list[str] = []
    vl.convert(source, tmp_path / "ldm.safetensors", layout="ldm")
    done = vl.convert(tmp_path / "ldm.safetensors", tmp_path / "folder", notify=notes.append)
    assert done.layout == "diffusers"
    assert len(notes) == 1
    assert "becomes a folder for diffusers, in the layout diffusers instead of ldm." in notes[0]
    done = vl.convert(tmp_path / "ldm.safetensors", tmp_path / "UPPER.SafeTensors", notify=notes.append)
    assert (done.layout, done.written, len(notes)) == ("ldm", (tmp_path / "UPPER.SafeTensors",), 1)
    assert (tmp_path / "UPPER.SafeTensors").is_file()


def test_a_result_that_differs_is_not_left(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for found in (Differences(0.0, 1e-3, 1e-5, 4), Differences(1e-3, 0.0, 0.0, 4)):
        monkeypatch.setattr(converting, "verify", lambda *_, found=found: found)
        with pytest.raises(CheckFailedError, match=r"gave other latents or pixels, by 0\.001"):
            vl.convert(source, tmp_path / "out.safetensors")
    written = converting.vae_files

    def damaged(*given: object, **more: object) -> dict[Path, bytes]:
        (path, content), *_ = written(*given, **more).items()
        return {path: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]}

    monkeypatch.setattr(converting, "vae_files", damaged)
    with pytest.raises(CheckFailedError, match="was read back otherwise"):
        vl.convert(source, tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["source.safetensors"]


def test_the_commands_print_the_difference(tmp_path: Path, source: Path) -> None:
    done = invoke("convert", source, "-o", tmp_path / "out.safetensors", "--layout", "ldm", "--dtype", "fp16")
    assert "written as   ldm, float16: 248 tensors" in done.stdout
    assert "of 255 at most" in done.stdout
    checkpoint = write_checkpoint(tmp_path / "in.safetensors", space_vae(seed=2))
    done = invoke("extract", checkpoint, "-o", tmp_path / "vae.safetensors", "--json")
    assert '"pixels_largest": 0' in done.stdout
