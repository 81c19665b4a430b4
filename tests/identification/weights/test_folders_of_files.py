"""Folders: copies grouped, what to keep, files that can't be read, and what isn't there to compare with."""

import json
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import vaelens as vl
from support.commands import invoke
from support.known_vaes import FILE, SPACES, World, checkpoint_parts, made_world, mixed, moved
from support.standins.hub import HubStandin, set_endpoint
from support.vaes import random_vae
from vaelens.errors import BadInputError, UsageError
from vaelens.files import sha256_file
from vaelens.identification.weights import tables
from vaelens.identification.weights.results import Identification, IdentifiedWeights
from vaelens.networks.tiny import TinyAutoencoderConfig
from vaelens.weights.recorded_contents import recorded_contents


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """No known VAE is here."""
    with made_world(tmp_path) as made:
        yield made


def by_name(found: Identification) -> dict[str, IdentifiedWeights]:
    return {file.path.name: file for file in found}


def test_copies_are_grouped_and_the_best_one_is_kept(world: World) -> None:
    weights = world.tensors["ft-mse"]
    world.write("b-fp16.safetensors", weights, dtype=torch.float16)
    world.write("c-bf16.safetensors", weights, dtype=torch.bfloat16, layout="ldm")
    world.write("a-padded.safetensors", {n: t.half().float() for n, t in weights.items()})
    world.write_published("ft-mse", "z.safetensors")
    world.write(
        "y-again.safetensors", weights, layout="ldm", metadata={"sshs_model_hash": "longer than the published one" * 99}
    )
    world.write("other.safetensors", world.tensors["kl-f8"])
    found = vl.identify(world.folder)
    assert [file.path.name for file in found] == [
        "other.safetensors", "z.safetensors", "y-again.safetensors",
        "b-fp16.safetensors", "a-padded.safetensors", "c-bf16.safetensors",
    ]  # fmt: skip
    assert [str(file.keep) for file in found] == [
        "yes: the only copy", "yes: full precision, the published file", "no", "no", "no", "no",
    ]  # fmt: skip
    assert {file.same_weights_as for file in found.files[2:]} == {world.folder / "z.safetensors"}
    assert {file.vae for file in found.files[1:]} == {"ft-mse"}
    row = tables.summary(found).rows[5]
    assert row[:6] == ("c-bf16.safetensors", "the same weights as z.safetensors", "sd1", "bf16", "LDM", "0.2 MB")


def test_float16_and_bfloat16_copies_are_the_same_without_the_original(world: World) -> None:
    world.write("a.safetensors", world.tensors["sdxl"], dtype=torch.float16)
    world.write("b.safetensors", world.tensors["sdxl"], dtype=torch.bfloat16)
    world.write("c.safetensors", moved(world.tensors["sdxl"], "decoder", 0.01, 1), dtype=torch.bfloat16)
    found = by_name(vl.identify(world.folder))
    assert found["b.safetensors"].same_weights_as == world.folder / "a.safetensors"
    assert found["c.safetensors"].same_weights_as is None


def test_a_checkpoint_is_never_to_be_removed_for_its_vae(world: World) -> None:
    world.write("vae.safetensors", world.tensors["sdxl"], dtype=torch.float16)
    parts = checkpoint_parts("sdxl")
    world.write("whole.safetensors", world.tensors["sdxl"], rename=lambda name: f"vae.{name}", beside=parts)
    found = by_name(vl.identify(world.folder))
    assert str(found["vae.safetensors"].keep) == "yes: the only copy"
    assert str(found["whole.safetensors"].keep) == "-: a whole checkpoint"
    assert (
        tables.summary(vl.identify(world.folder)).rows[1][1] == "a checkpoint with the same weights as vae.safetensors"
    )


def test_a_recorded_content_identifies_copies_where_the_weights_are_gone(world: World) -> None:
    copy = world.write("copy.safetensors", world.tensors["ft-mse"], dtype=torch.bfloat16, layout="ldm")
    assert vl.identify(copy).files[0].vae is None
    published = world.write_published("ft-mse", "published.safetensors")
    vl.identify(published)
    published.unlink()
    assert [one.vae for one in recorded_contents()] == ["ft-mse"]
    found = vl.identify(copy)
    assert found.files[0].what == "ft-mse, re-saved in bf16 in LDM layout"
    assert found.files[0].latent_space.evidence == "its decoder is that of ft-mse"


def test_a_damaged_record_counts_as_none(world: World) -> None:
    vl.identify(world.write_published("ft-mse", "published.safetensors"))
    (record,) = (world.folder.parent / "vaelens-cache").glob("*.json")
    record.write_text(record.read_text().replace("ft-mse", "ft-ema"))
    assert recorded_contents() == ()


def test_what_can_not_be_told_is_said(world: World) -> None:
    file = world.write("sdxl_vae.safetensors", world.tensors["kl-f8"], dtype=torch.float16)
    found = vl.identify(file)
    assert found.files[0].what == "unknown; there is no VAE of its shapes here to compare with"
    assert found.files[0].latent_space.name is None
    assert found.files[0].latent_space.evidence == "can't tell: its shapes fit sd1 and sdxl"
    assert found.not_here == tuple(SPACES)
    assert [*tables.remarks(found)] == [
        "Not compared with kl-f8, ft-ema, ft-mse, sdxl, sdxl-fp16-fix, which are not on this machine. "
        "--against kl-f8 downloads it."
    ]


def test_files_of_one_call_and_named_ones_are_compared_with(world: World) -> None:
    first = world.write("a.safetensors", world.tensors["kl-f8"], layout="ldm")
    second = world.write("b.safetensors", world.tensors["sdxl"], metadata={"another": "sha256"})
    merge = world.write("c.safetensors", mixed({"kl-f8": 0.25, "sdxl": 0.75}, world.tensors))
    found = by_name(vl.identify([first, second, merge]))
    assert found["c.safetensors"].what.startswith(
        "a weighted average of b.safetensors and a.safetensors: 0.75 / 0.25 (residual"
    )
    assert found["a.safetensors"].what.startswith("unknown; nearest: c.safetensors, decoder weights")
    alone = vl.identify(merge, against=[first, second]).files[0]
    assert alone.what.startswith("a weighted average of b.safetensors and a.safetensors: 0.75 / 0.25 (residual")
    folder = world.write(f"folder/{FILE}", world.tensors["sdxl"], layout="ldm").parent
    assert vl.identify(merge, against=[first, folder]).files[0].what.startswith("a weighted average of")
    copy = world.write("d.safetensors", world.tensors["kl-f8"], dtype=torch.float16, layout="ldm")
    assert vl.identify(copy, against=[first]).files[0].what == "a.safetensors, re-saved in fp16 in LDM layout"


def test_what_can_not_be_read_is_a_row_and_stops_nothing(world: World) -> None:
    good = world.write("good.safetensors", world.tensors["kl-f8"])
    content = good.read_bytes()
    (world.folder / "cut.safetensors").write_bytes(content[:-1])
    (world.folder / "page.safetensors").write_bytes(b"<!doctype html><html>")
    (world.folder / "empty.pt").write_bytes(b"")
    (world.folder / "readme.txt").write_text("not looked at")
    (world.folder / ".hidden.safetensors").write_bytes(b"not looked at")
    nan = {**world.tensors["sdxl"], "decoder.conv_out.bias": torch.full((3,), torch.nan)}
    world.write("sub/nan.safetensors", nan)
    world.write("lora.safetensors", {"lora_unet_down.lora_up.weight": torch.zeros(2, 2)})
    found = vl.identify(world.folder)
    codes = {file.path.name: file.exit_code for file in found}
    assert codes == {
        "good.safetensors": 0, "cut.safetensors": 3, "page.safetensors": 3, "empty.pt": 3,
        "nan.safetensors": 7, "lora.safetensors": 3,
    }  # fmt: skip
    assert found.exit_code == 7
    assert "is incomplete" in by_name(found)["cut.safetensors"].what
    assert "is a LoRA without a VAE" in by_name(found)["lora.safetensors"].what
    ran = invoke("identify", world.folder, code=7)
    assert "good.safetensors" in ran.stdout
    assert "holds 3 values that are NaN or infinite" in ran.stdout


def test_a_published_file_that_can_not_be_read_is_still_known(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = world.write_published("kl-f8-anime2", "kl-f8-anime2.ckpt")
    monkeypatch.setattr(
        "vaelens.identification.weights.examined_file.read_raw",
        lambda path, **_: (_ for _ in ()).throw(BadInputError(f"{path} is damaged.")),
    )
    file = vl.identify(path).files[0]
    assert file.vae == "kl-f8-anime2"
    assert file.latent_space.name == "sd1"
    assert "kl-f8-anime2" in file.what


def test_usage(world: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to identify"):
        vl.identify([])
    with pytest.raises(BadInputError, match="holds no file of weights"):
        vl.identify(world.folder)
    with pytest.raises(BadInputError, match="there is no such file or folder"):
        vl.identify(tmp_path / "none.safetensors")
    with pytest.raises(BadInputError, match=r"`vaelens inspect ft-mse` describes it"):
        vl.identify("ft-mse")


def test_the_command_shows_one_file_in_detail_and_json_all_of_it(world: World) -> None:
    world.put_in_cache(*SPACES)
    path = world.write("mine.safetensors", world.tensors["ft-mse"], dtype=torch.float16, layout="ldm")
    shown = dict(line.split(maxsplit=1) for line in invoke("identify", path).stdout.splitlines() if line)
    assert shown["is"] == "ft-mse, re-saved in fp16 in LDM layout"
    assert shown["encoder"] == "kl-f8 (as published: ft-mse has its encoder)"
    assert shown["decoder"] == "ft-mse"
    (file,) = json.loads(invoke("identify", path, "--json").stdout)["files"]
    assert file["short_hash"] == file["sha256"][:10]
    assert shown["short"] == f"hash   {file['short_hash']} (as AUTOMATIC1111 and model sites show it)"
    assert (file["vae"], file["layout"], file["stored_as"]) == ("ft-mse", "ldm", "float16")
    assert file["latent_space"] == {"name": "sd1", "evidence": "its decoder is that of ft-mse"}
    assert file["decoder"]["same_as"] == ["ft-mse"]
    assert file["encoder"]["same_as"] == ["kl-f8", "ft-ema", "ft-mse"]
    assert file["fingerprint"]["decoder"]["fp16"] == file["fingerprint"]["decoder"]["stored"]


def test_a_hub_folder_named_file_is_found_in_folders_of_vaes(world: World) -> None:
    """A diffusers folder in a folder: its file has the name that all of them have."""
    world.write(f"mine/{FILE}", world.tensors["ft-ema"])
    world.write(f"yours/{FILE}", world.tensors["ft-ema"], dtype=torch.float16)
    rows = tables.summary(vl.identify(world.folder)).rows
    assert [row[0] for row in rows] == [f"mine/{FILE}", f"yours/{FILE}"]
    assert rows[1][1] == f"the same weights as mine/{FILE}"


def test_a_network_in_two_files_is_one_row(world: World) -> None:
    """TAESD's halves in the original numbering, as vaelens' own reader takes them."""
    tensors = random_vae(TinyAutoencoderConfig(), space="sd1", scale=1.0).network.state_dict()
    for half, offset in (("encoder", 0), ("decoder", 1)):
        numbered = {
            f"{int(name.split('.')[2]) + offset}.{name.split('.', 3)[3]}": t
            for name, t in tensors.items()
            if name.startswith(half)
        }
        world.write(f"taesd_{half}.safetensors", numbered)
    (file,) = vl.identify(world.folder)
    assert (file.exit_code, file.examined.vae is not None and file.examined.vae.raw.layout.name) == (0, "taesd")
    assert file.examined.size == sum(path.stat().st_size for path in world.folder.iterdir())
    both = sorted(world.folder.iterdir())
    lines = [line.split(maxsplit=1) for line in invoke("identify", world.folder).stdout.splitlines() if line]
    assert ["file", f"{both[0]} + {both[1]}"] in lines
    assert [said for label, said in lines if label == "sha256"] == [f"{sha256_file(p)} of {p.name}" for p in both]
    world.write("other.safetensors", world.tensors["kl-f8"])
    assert f"{both[0].name} + {both[1].name}" in {row[0] for row in tables.summary(vl.identify(world.folder)).rows}


def test_shards_are_one_row(world: World) -> None:
    tensors = world.tensors["ft-mse"]
    first = {name: t for name, t in tensors.items() if name.startswith(("encoder", "quant"))}
    parts = {"a-00001-of-00002.safetensors": first, "a-00002-of-00002.safetensors": tensors.keys() - first.keys()}
    for name, names in parts.items():
        world.write(name, {n: tensors[n] for n in names})
    listed = {n: part for part, names in parts.items() for n in names}
    (world.folder / "a.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    world.put_in_cache("ft-mse")
    (file,) = vl.identify(world.folder)
    assert file.what == "ft-mse, re-saved in fp32 in diffusers layout"
    assert file.examined.sha256 is None


def test_vaes_that_vaelens_does_not_run_are_named(world: World) -> None:
    flux2 = {"bn.running_mean": torch.zeros(128), "decoder.conv_in.weight": torch.zeros(512, 32, 3, 3)}
    (file,) = vl.identify(world.write("some-vae.safetensors", flux2))
    assert file.what == "FLUX.2's VAE, which vaelens doesn't run; its weights weren't compared"
    assert (file.latent_space.name, file.exit_code) == ("flux2", 0)


def test_a_named_vae_that_is_not_here_is_a_network_error_offline(world: World) -> None:
    path = world.write("a.safetensors", moved(world.tensors["kl-f8"], "decoder", 0.02, 1))
    ran = invoke("identify", path, "--against", "kl-f8", "--offline", code=5)
    assert "kl-f8" in ran.stderr
    world.put_in_cache("kl-f8")
    found = vl.identify(path, against=["kl-f8"], offline=True)
    assert found.files[0].what.startswith("unknown; nearest: kl-f8, decoder weights 2.0 % apart")


def test_a_damaged_copy_in_the_cache_is_nobodys(world: World) -> None:
    world.put_in_cache("ft-mse")
    (blob,) = world.cache.glob("models--*/blobs/*")
    blob.write_bytes(blob.read_bytes()[:-4] + b"\0\0\0\0")
    (file,) = vl.identify(world.write("a.safetensors", world.tensors["ft-mse"], dtype=torch.float16))
    assert file.vae is None
    assert "ft-mse" in vl.identify(file.path).not_here
    assert file.decoder is not None
    assert file.decoder.nearest is None


def test_nothing_is_downloaded_to_compare_with(world: World) -> None:
    with HubStandin() as hub, pytest.MonkeyPatch.context() as patch:
        set_endpoint(patch, hub.endpoint)
        vl.identify(world.write("a.safetensors", world.tensors["sdxl"], dtype=torch.float16))
        assert hub.requests == []


def test_a_pickled_copy_is_kept_after_a_safetensors_one(world: World) -> None:
    world.write_pickled("a.ckpt", world.tensors["ft-mse"])
    world.write("longer-name.safetensors", world.tensors["ft-mse"], layout="ldm", metadata={"unlike": "the published"})
    found = vl.identify(world.folder)
    assert [(file.path.name, str(file.keep)) for file in found] == [
        ("longer-name.safetensors", "yes: safetensors"),
        ("a.ckpt", "no"),
    ]


def test_of_equal_files_the_one_with_a_wrong_name_goes_last(world: World) -> None:
    world.put_in_cache("sdxl", "ft-mse")
    weights = world.tensors["ft-mse"]
    world.write("xl.safetensors", weights, metadata={"unlike": "the published"})
    world.write("someones-own.safetensors", weights, metadata={"unlike": "the published"})
    world.write_pickled("a.ckpt", weights)
    found = vl.identify(world.folder)
    assert [(file.path.name, str(file.keep)) for file in found] == [
        ("someones-own.safetensors", "yes: safetensors, not misnamed"), ("xl.safetensors", "no"), ("a.ckpt", "no"),
    ]  # fmt: skip


def test_the_reason_to_keep_says_what_decided(world: World) -> None:
    weights = world.tensors["ft-mse"]
    world.write("b.safetensors", weights, metadata={"sshs_model_hash": "unlike"})
    world.write("c.safetensors", weights, metadata={"sshs_model_hash": "unlike"})
    assert [str(file.keep) for file in vl.identify(world.folder)] == ["yes: any of these will do", "no"]
    world.write_pickled("a.ckpt", weights)
    assert str(vl.identify(world.folder).files[0].keep) == "yes: safetensors, any of 2 alike will do"
    world.write("b.safetensors", weights, metadata={"sshs_model_hash": "longer" * 99})
    assert str(vl.identify(world.folder).files[0].keep) == "yes: safetensors, the smaller"


def test_the_error_of_one_file_is_said_once(world: World) -> None:
    path = world.write("cut.safetensors", world.tensors["kl-f8"])
    path.write_bytes(path.read_bytes()[:-1])
    shown = invoke("identify", path, code=3).stdout
    assert shown.count("is incomplete") == 1
    assert "nothing tells" not in shown


def test_a_pickle_with_code_is_a_row_and_nothing_runs(world: World) -> None:
    ran = world.folder / "ran"
    (world.folder / "bad.pt").write_bytes(pickle.dumps(Hostile(ran)))
    world.write("good.safetensors", world.tensors["kl-f8"])
    found = vl.identify(world.folder)
    assert {file.path.name: file.exit_code for file in found} == {"good.safetensors": 0, "bad.pt": 4}
    assert found.exit_code == 4
    assert not ran.exists()


def test_what_a_pickle_holds_beside_tensors_is_named(world: World) -> None:
    held = {"state_dict": world.tensors["kl-f8"], "epoch": Path("a"), "optimizer": {"state": {}}}
    path = world.write_pickled("a.ckpt", held)
    shown = invoke("identify", path).stdout
    assert re.search(r"dropped +pathlib\.PosixPath, optimizer \(not tensors; nothing in the file was run\)", shown)
    assert json.loads(invoke("identify", path, "--json").stdout)["files"][0]["dropped"] == [
        "pathlib.PosixPath", "optimizer",
    ]  # fmt: skip
    many = world.write_pickled("b.ckpt", {"a": torch.ones(1), **{f"t{i}": {"optimizer": {}} for i in range(15)}})
    assert "t11.optimizer and 3 more (--json has them)" in invoke("identify", many, code=3).stdout
    world.write_pickled("a.ckpt", world.tensors["kl-f8"])
    assert "dropped" not in invoke("identify", path).stdout
    assert vl.identify(path).as_dict()["files"][0]["dropped"] == []


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)
