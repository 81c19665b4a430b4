"""Fields of config.json that vaelens doesn't use: whatever is saved still has them, whichever way it went."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import vaelens as vl
from support.commands import invoke
from support.vaes import TINY, random_vae
from vaelens.errors import BadInputError
from vaelens.loading import describe
from vaelens.vae import VAE
from vaelens.weights.registry import registry

UNKNOWN = {"_name_or_path": "../trained/ü", "made_by": {"who": ["a", 1, 0.5, None, True]}, "pixel_range": "wide"}
THEIRS: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {
        "block_out_channels": (4, 8), "down_block_types": ("DownEncoderBlock2D",) * 2, "norm_num_groups": 4,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "sample_size": 16, "scaling_factor": 0.5, "force_upcast": False,
    },
    "AutoencoderTiny": {
        "encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4, "latent_magnitude": 5,
    },
}  # fmt: skip


def theirs(kind: str, folder: Path) -> dict[str, Any]:
    """A VAE that diffusers saved, with fields that nobody knows; gives its config.json."""
    getattr(diffusers, kind)(**THEIRS[kind]).save_pretrained(folder)
    file = folder / "config.json"
    config = json.loads(file.read_text()) | UNKNOWN
    file.write_text(json.dumps(config))
    return config


@pytest.mark.parametrize(
    ("kind", "layout"),
    [("AutoencoderKL", "diffusers"), ("AutoencoderKL", "ldm"), ("AutoencoderTiny", "diffusers")],
)
def test_every_field_of_config_json_survives_a_folder_and_each_layout(kind: str, layout: str, tmp_path: Path) -> None:
    config = theirs(kind, tmp_path / "theirs")
    space = {"AutoencoderTiny": "sd1"}.get(kind)
    loaded = vl.load(tmp_path / "theirs", device="cpu", space=space)
    file = loaded.save(tmp_path / "file.safetensors", layout=layout)
    folders = [loaded.save(tmp_path / "one"), vl.load(file, device="cpu").save(tmp_path / "two")]
    folders.append(vl.load(file, device="cpu").to(torch.bfloat16).save(tmp_path / "three"))
    for folder in folders:
        assert json.loads((folder / "config.json").read_text()) == config
        assert (folder / "config.json").read_bytes() == (folders[0] / "config.json").read_bytes()


@pytest.mark.parametrize("layout", ["diffusers", "ldm"])
def test_diffusers_tiles_have_the_same_size_after_a_file(layout: str, tmp_path: Path) -> None:
    """Of another size they have other seams."""
    theirs("AutoencoderKL", tmp_path / "theirs")
    file = vl.load(tmp_path / "theirs", device="cpu").save(tmp_path / "file.safetensors", layout=layout)
    saved = vl.load(file, device="cpu").save(tmp_path / "saved")
    z = torch.randn(1, 4, 16, 16)
    decoded = []
    for folder in (tmp_path / "theirs", saved):
        model = diffusers.AutoencoderKL.from_pretrained(folder)
        model.enable_tiling()
        with torch.no_grad():
            decoded.append(model.decode(z).sample)
    assert torch.equal(*decoded)


def test_inspect_shows_what_is_kept_and_where_it_comes_from(tmp_path: Path) -> None:
    theirs("AutoencoderKL", tmp_path / "theirs")
    file = vl.load(tmp_path / "theirs", device="cpu").save(tmp_path / "file.safetensors", layout="ldm")
    for path, source in ((tmp_path / "theirs", "config.json"), (file, "the file's metadata")):
        found = describe(path)["other_fields"]
        assert found["sample_size"] == {"value": 16, "source": source}
        assert {name: found[name]["value"] for name in UNKNOWN} == UNKNOWN
        lines = [line.split() for line in invoke("inspect", path).stdout.splitlines()]
        assert ["sample_size", "16", *source.split()] in lines
        assert json.loads(invoke("inspect", path, "--json").stdout)["other_fields"] == found


def test_what_config_json_leaves_out_is_what_diffusers_means(tmp_path: Path) -> None:
    config = theirs("AutoencoderKL", tmp_path / "theirs")
    del config["sample_size"], config["force_upcast"]
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(config))
    found = describe(tmp_path / "theirs")["other_fields"]
    assert found["sample_size"] == {"value": 32, "source": "diffusers' default"}
    saved = vl.load(tmp_path / "theirs", device="cpu").save(tmp_path / "saved")
    assert json.loads((saved / "config.json").read_text()) == config | {"sample_size": 32, "force_upcast": True}


def test_config_json_comes_before_the_files_metadata(vae: VAE, tmp_path: Path) -> None:
    """One may edit it: two sources may differ in what vaelens doesn't use."""
    file = vae.save(tmp_path / "vae") / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sample_size": 128}))
    saved = vl.load(tmp_path / "vae", device="cpu").save(tmp_path / "again")
    assert json.loads((saved / "config.json").read_text())["sample_size"] == 128


@pytest.mark.parametrize(
    ("name", "field", "expected"),
    [
        ("ft-mse", "sample_size", 256),
        ("sdxl", "sample_size", 1024),
        ("flux1", "sample_size", 1024),
        ("sdxl-fp16-fix", "force_upcast", False),
    ],
)
def test_known_vaes_have_the_published_fields(name: str, field: str, expected: int) -> None:
    """Of a known VAE only the weights are downloaded."""
    spec = registry().spec(name)
    assert spec.family.to_config_json(spec)[field] == expected


def test_no_more_is_kept_than_can_be_read_again(vae: VAE, tmp_path: Path) -> None:
    """What is kept goes into a file's header, escaped twice, which has a limit of its own."""
    config = vae.save(tmp_path / "vae") / "config.json"
    stated = json.loads(config.read_text())
    config.write_text(json.dumps(stated | {"notes": '"ü' * 10_000}))
    loaded = vl.load(tmp_path / "vae", device="cpu")
    for layout in ("diffusers", "ldm"):
        again = vl.load(loaded.save(tmp_path / "a.safetensors", layout=layout), device="cpu")
        assert again.spec.other_fields == loaded.spec.other_fields
    config.write_text(json.dumps(stated | {"notes": '"ü' * 20_000}))
    with pytest.raises(BadInputError, match=r"vae.*: 160,\d+ bytes of fields that vaelens doesn't know, .* 100,000"):
        vl.load(tmp_path / "vae", device="cpu")


def test_fields_that_would_change_the_network_are_not_kept_silently(vae: VAE, tmp_path: Path, rewrite: Any) -> None:
    file = vae.save(tmp_path / "a.safetensors")
    values = json.loads(describe(file)["metadata"]["vaelens"])
    for other, message in (
        ({"latents_mean": [0.5]}, "metadata asks for latents_mean"),
        ({"act_fn": "relu"}, "metadata asks for act_fn"),
        ([1], "metadata is damaged"),
        ([[1, 2], ["a", 3]], "metadata is damaged"),
        ([], "metadata is damaged"),
        ("sample_size", "metadata is damaged"),
    ):
        text = json.dumps(values | {"other_fields": other})
        with pytest.raises(BadInputError, match=message):
            vl.load(rewrite(file, tmp_path / "b.safetensors", metadata={"vaelens": text}))


@pytest.mark.parametrize("field", ["anything", "block_out_channels", "scaling_factor"])
@pytest.mark.parametrize("place", ["config.json", "metadata"])
def test_json_that_nests_without_end_is_refused(vae: VAE, tmp_path: Path, rewrite: Any, field: str, place: str) -> None:
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    if place == "config.json":
        path = vae.save(tmp_path / "vae")
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {field: deep}))
    else:
        file = vae.save(tmp_path / "a.safetensors")
        values = json.loads(describe(file)["metadata"]["vaelens"])
        values |= {"other_fields": {field: deep}} if field == "anything" else {}
        values["config"] |= {field: deep} if field == "block_out_channels" else {}
        values |= {field: deep} if field == "scaling_factor" else {}
        path = rewrite(file, tmp_path / "b.safetensors", metadata={"vaelens": json.dumps(values)})
    with pytest.raises(BadInputError, match="more than 32 levels deep"):
        vl.load(path)


def test_a_tiny_autoencoder_gets_no_fields_of_a_full_one() -> None:
    """Its latent space is that of a full VAE."""
    for spec in (random_vae(TINY).spec, registry().spec("taesd")):
        assert "sample_size" not in spec.family.to_config_json(spec)
