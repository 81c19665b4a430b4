"""A VAE in a folder, whatever the variant, the number of files and their names; and the names to show for VAEs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersKL
from safetensors.torch import load_file, save_file

import vaelens as vl
from support.commands import invoke
from support.vaes import TINY, random_vae, same_bytes
from vaelens.errors import BadInputError, UsageError
from vaelens.networks.autoencoder_kl import AutoencoderKLConfig
from vaelens.text.numbers import counted
from vaelens.vae import VAE
from vaelens.weights.reading import read_vae

SMALL = AutoencoderKLConfig(block_out_channels=(4, 4), norm_num_groups=2, layers_per_block=1)
PLAIN = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def small() -> VAE:
    return random_vae(SMALL, space=None)


@pytest.fixture
def folder(small: VAE, tmp_path: Path) -> Path:
    """A folder as the hub has it: weights without metadata, which config.json describes."""
    folder = small.save(tmp_path / "some-vae")
    save_file(load_file(folder / PLAIN), folder / PLAIN, {"format": "pt"})
    return folder


def same(a: VAE, b: VAE) -> bool:
    return same_bytes(dict(a.network.state_dict()), dict(b.network.state_dict())) and a.spec.config == b.spec.config


@pytest.mark.parametrize(
    "name",
    [
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.bf16.safetensors",
        "vae-ft.safetensors",
        "model.ema.safetensors",
    ],
)
def test_a_folder_with_only_a_variant_or_another_name_loads_as_its_file_does(
    folder: Path, small: VAE, name: str
) -> None:
    (folder / PLAIN).rename(folder / name)
    for source in (folder, folder / name):
        loaded = vl.load(source, device="cpu")
        assert same(loaded, small)
        assert loaded.spec.scaling_factor == small.spec.scaling_factor


@pytest.mark.parametrize("variant", [None, "bf16"])
def test_shards_load_by_their_folder_and_by_their_index(tmp_path: Path, variant: str | None) -> None:
    """As diffusers writes them."""
    theirs = DiffusersKL.from_pretrained(random_vae().save(tmp_path / "whole"))
    theirs.save_pretrained(tmp_path / "vae", max_shard_size="40KB", variant=variant)
    (index,) = (tmp_path / "vae").glob("*.index*.json")
    for source in (tmp_path / "vae", index):
        read = read_vae(source)
        assert same_bytes(read.tensors, dict(theirs.state_dict()))
        assert len(read.files) > 2
    for name in json.loads(index.read_text())["weight_map"].values():
        shard = tmp_path / "vae" / name
    kept = shard.read_bytes()
    shard.unlink()
    with pytest.raises(BadInputError, match=shard.name):
        read_vae(index)
    tensors = load_file_bytes(kept, tmp_path)
    save_file(dict(list(tensors.items())[1:]), shard)
    with pytest.raises(BadInputError, match=rf"{shard.name} lacks '.*, which .* says\. Download all"):
        read_vae(index)


def load_file_bytes(content: bytes, folder: Path) -> dict[str, torch.Tensor]:
    (folder / "kept.safetensors").write_bytes(content)
    return load_file(folder / "kept.safetensors")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[]", "isn't a JSON object"),
        ("{}", "no weight_map table"),
        ('{"weight_map": []}', "no weight_map table"),
        ('{"weight_map": {}}', "lists 0 files"),
        ('{"weight_map": {"a": 1}}', "'a' lies in 1, which isn't a .safetensors file"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "which isn't a .safetensors file beside the index"),
        ('{"weight_map": {"a": "x.bin"}}', "isn't a .safetensors file beside"),
        ('{"weight_map": {"a": "x.safetensors"}}', r"x\.safetensors"),
    ],
)
def test_a_wrong_index_of_shards_is_refused(folder: Path, content: str, named: str) -> None:
    (folder / PLAIN).unlink()
    (folder / f"{PLAIN}.index.json").write_text(content)
    with pytest.raises(BadInputError, match=named):
        read_vae(folder)


def test_shards_that_are_missing_are_named_with_their_index(folder: Path) -> None:
    (folder / PLAIN).unlink()
    index = folder / f"{PLAIN}.index.json"
    for shards, here, named in (
        ("a", "", "its only file is missing, a.safetensors. Download it into the same folder."),
        ("ab", "a", "1 of its 2 files is missing, b.safetensors. Download it into the same folder."),
        ("ab", "", "2 of its 2 files are missing, first a.safetensors. Download them into the same folder."),
    ):
        index.write_text(json.dumps({"weight_map": {one: f"{one}.safetensors" for one in shards}}))
        (folder / "a.safetensors").unlink(missing_ok=True)
        for one in here:
            (folder / f"{one}.safetensors").touch()
        with pytest.raises(BadInputError) as error:
            read_vae(folder)
        assert str(error.value) == f"{index}: {named}"
    assert invoke("inspect", folder, code=3).stderr.endswith("Download them into the same folder.")


def test_a_whole_pipelines_folder_loads_its_vae(folder: Path, small: VAE, tmp_path: Path) -> None:
    pipeline = tmp_path / "sd-v1.5"
    pipeline.mkdir()
    folder.rename(pipeline / "vae")
    (pipeline / "model_index.json").write_text("{}")
    (pipeline / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    assert same(vl.load(pipeline, device="cpu"), small)
    assert same(vl.load(pipeline, subfolder="vae", device="cpu"), small)
    (pipeline / "vae").rename(pipeline / "decoder")
    assert same(vl.load(pipeline, subfolder="decoder", device="cpu"), small)
    ran = invoke("inspect", pipeline, "--subfolder", "decoder")
    assert "AutoencoderKL" in ran.stdout
    with pytest.raises(BadInputError, match="there is no folder vae_2 in it"):
        vl.load(pipeline, subfolder="vae_2")
    with pytest.raises(BadInputError, match=r"sd-v1\.5 holds no weights of a VAE"):
        vl.load(pipeline)


def test_a_folder_that_needs_a_choice_says_what_to_name(folder: Path, small: VAE, tmp_path: Path) -> None:
    (folder / PLAIN).rename(folder / "a.safetensors")
    small.save(folder / "b.safetensors")
    with pytest.raises(BadInputError, match=r"several files.*: a\.safetensors, b\.safetensors\. Name the one.*a\.safe"):
        vl.load(folder)
    assert same(vl.load(folder / "b.safetensors", device="cpu"), small)
    with pytest.raises(BadInputError, match=r"config\.json of its publisher beside it, in a folder without other VAEs"):
        vl.load(folder / "a.safetensors")
    alone = tmp_path / "alone"  # what the message asks for
    alone.mkdir()
    for name in ("a.safetensors", "config.json"):
        (folder / name).rename(alone / name)
    assert same(vl.load(alone / "a.safetensors", device="cpu"), small)
    assert same(vl.load(alone, device="cpu"), small)
    (folder / "b.safetensors").rename(folder / "b.ckpt")
    torch.save(dict(small.network.state_dict()), folder / "b.ckpt")
    (alone / "config.json").rename(folder / "config.json")
    assert same(vl.load(folder, device="cpu"), small)  # pickled, and the only one there
    (folder / "b.ckpt").rename(folder / "c.pt")
    torch.save({}, folder / "d.pt")
    with pytest.raises(BadInputError, match=r"several files.*: c\.pt, d\.pt\. Name the one.*c\.pt"):
        vl.load(folder)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda n: f"_orig_mod.{n}",
        lambda n: f"module.{n}",
        lambda n: f"ema.{n}",
        lambda n: f"module._orig_mod.{n}",
        lambda n: f"ema.module.first_stage_model.{n}",
        lambda n: n.replace("encoder.", "encoder._orig_mod.").replace("decoder.", "decoder.module."),
    ],
)
@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_names_that_training_programs_wrap_are_read(
    small: VAE, tmp_path: Path, layout: str, wrap: Callable[[str], str]
) -> None:
    plain = small.save(tmp_path / "plain.safetensors", layout=layout)
    metadata = read_vae(plain).metadata
    save_file({wrap(n): t for n, t in load_file(plain).items()}, tmp_path / "a.safetensors", metadata)
    assert same_bytes(read_vae(tmp_path / "a.safetensors").tensors, dict(small.network.state_dict()))


@pytest.mark.parametrize("config", [SMALL, TINY])
def test_numbers_that_training_leaves_are_said_to_be_no_weights(config: AutoencoderKLConfig, tmp_path: Path) -> None:
    vae = random_vae(config, space=None if config is SMALL else "sd1")
    plain, file = vae.save(tmp_path / "plain.safetensors"), tmp_path / "a.safetensors"
    left = {"epoch": torch.tensor(7), "global_step": torch.tensor([9]), "optimizer.lr": torch.tensor(0.1)}
    save_file({f"module.{n}": t for n, t in (load_file(plain) | left).items()}, file, read_vae(plain).metadata)
    read = read_vae(file)
    assert same_bytes(read.tensors, dict(vae.network.state_dict()))
    assert sorted(read.not_weights) == ["module.epoch", "module.global_step", "module.optimizer.lr"]
    assert read.prefix == "module."
    assert "not weights  module." in invoke("inspect", file).stdout
    save_file(load_file(plain) | {"optimizer.exp_avg": torch.zeros(3)}, file, read_vae(plain).metadata)
    with pytest.raises(BadInputError, match=r"1 unexpected \(optimizer\.exp_avg\)"):
        read_vae(file)


@pytest.mark.parametrize(("kind", "channels"), [("full", 4), ("full", 1), ("tiny", 4)])
def test_a_vae_of_other_images_than_rgb_is_refused_by_every_command_in_one_sentence(
    channels: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    counts = {"in_channels": channels, "out_channels": channels}
    config = AutoencoderKLConfig(block_out_channels=(4, 4), norm_num_groups=2, **counts) if kind == "full" else (
        type(TINY)(width=8, **counts)
    )  # fmt: skip
    file = random_vae(config, space=None if kind == "full" else "sd1").save(tmp_path / "odd.safetensors")
    photo = Path(__file__).parents[2] / "examples" / "chelsea.png"
    sentence = f"odd is a VAE of images with {counted(channels, 'channel')}"
    commands = (
        ("reconstruct", photo, "--vae", file, "-o", "a.png"),
        ("compare", "--photo", photo, "--vae", file, "-o", "b.png"),
        ("evaluate", "synthetic", "--take", 2, "--preset", "offline", "--vae", file, "-o", "c"),
        ("finetune", "synthetic", "--from", file, "--recipe", "tiny-ft-mse", "-o", "d"),
        ("inspect", file, "--health"),
    )
    for arguments in commands if (kind, channels) == ("full", 4) else commands[:1]:
        ran = invoke(*arguments, code=2)
        assert sentence in ran.stderr.splitlines()[-1], ran.stderr
    assert invoke("inspect", file).stdout
    with pytest.raises(UsageError, match=sentence):
        vl.load(file, device="cpu").encode(torch.rand(1, 3, 16, 16))
    with pytest.raises(UsageError, match=sentence):
        vl.load(file, device="cpu").decode(torch.rand(1, 4, 2, 2))


def test_a_vaes_name_is_that_of_the_folder_that_tells(folder: Path, small: VAE, tmp_path: Path) -> None:
    for name in ("sd-v1.4", "sd-v1.5"):
        small.save(tmp_path / name)
        small.save(tmp_path / "models" / name / "vae")
        small.save(tmp_path / f"file-{name}.safetensors")
    snapshot = tmp_path / "models--some--repo" / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot / "vae")  # the library writes into no cache
    names = {
        tmp_path / "sd-v1.4": "sd-v1.4",
        tmp_path / "sd-v1.5" / PLAIN: "sd-v1.5",
        tmp_path / "models" / "sd-v1.4": "sd-v1.4",
        tmp_path / "models" / "sd-v1.5" / "vae": "sd-v1.5",
        tmp_path / "models" / "sd-v1.4" / "vae" / PLAIN: "sd-v1.4",
        tmp_path / "file-sd-v1.5.safetensors": "file-sd-v1.5",
        snapshot / "vae": "some/repo",
    }
    assert {path: vl.load(path, device="cpu").name for path in names} == names


def test_two_vaes_of_one_name_are_told_apart_by_their_folders(
    small: VAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = random_vae(SMALL, seed=1, space=None)
    files = [small.save(tmp_path / "a" / "best.safetensors"), other.save(tmp_path / "b" / "best.safetensors")]
    photo = Path(__file__).parents[2] / "examples" / "chelsea.png"
    again = files[0]
    arguments = [part for file in (*files, again) for part in ("--vae", str(file))]
    ran = invoke("reconstruct", photo, *arguments, "--max-side", 32, "--json", "-o", "a.png")
    assert [row["vae"] for row in json.loads(ran.stdout)["rows"]] == ["best", "b/best", "best (2)"]


def test_config_json_beside_shards_of_any_name_describes_them(folder: Path, small: VAE) -> None:
    """Shards and their index are one VAE; another file beside them makes it a collection."""
    tensors = load_file(folder / PLAIN)
    (folder / PLAIN).unlink()
    listed: dict[str, str] = {}
    for number, part in enumerate((list(tensors)[::2], list(tensors)[1::2]), 1):
        name = f"model-{number:05}-of-00002.safetensors"
        save_file({n: tensors[n] for n in part}, folder / name)
        listed |= dict.fromkeys(part, name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    for source in (folder, index):
        loaded = vl.load(source, device="cpu")
        assert same(loaded, small)
        assert loaded.spec.scaling_factor == small.spec.scaling_factor
    save_file(tensors, folder / "other.safetensors")
    with pytest.raises(BadInputError, match="in a folder without other VAEs"):
        vl.load(index)
