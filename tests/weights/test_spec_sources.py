"""Where a VAE's spec comes from: config.json, metadata, the registry or the caller, and what happens if they differ."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import vaelens as vl
from support.vaes import TINY, random_vae
from vaelens.errors import BadInputError, UsageError
from vaelens.families.discovery import build_network
from vaelens.families.kl import to_ldm
from vaelens.files import sha256_file
from vaelens.vae import VAE
from vaelens.weights.reading import read_vae
from vaelens.weights.registry import PublishedFile, Registry, registry

Rewrite = Callable[..., Path]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The registry with narrow networks for sd1, sdxl and flux1: real ones have 160 MB."""
    narrow = {"block_out_channels": [4, 8, 16, 16], "norm_num_groups": 4}
    configs = {name: {**registry().configs[name], **narrow} for name in ("sd", "sd16")}
    return use(registry().model_copy(update={"configs": {**registry().configs, **configs}}), monkeypatch)


def use(known: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    for module in ("reading", "spec_sources"):
        monkeypatch.setattr(f"vaelens.weights.{module}.registry", lambda: known)
    return known


def without_metadata(file: Path, rewrite: Rewrite) -> Path:
    """As others publish their files."""
    return rewrite(file, file.with_name("plain.safetensors"), metadata={"format": "pt"})


def test_values_that_shapes_do_not_tell_are_never_guessed(vae_file: Path, rewrite: Rewrite) -> None:
    with pytest.raises(BadInputError, match=r"doesn't say norm_eps, norm_num_groups, .*scaling_factor"):
        read_vae(without_metadata(vae_file, rewrite))


def test_shapes_of_one_space_alone_are_not_taken_for_granted(tmp_path: Path, rewrite: Rewrite) -> None:
    file = vl.load("tiny-ft-mse").save(tmp_path / "a.safetensors")
    said = r"which tensor shapes don't tell\. A VAE of tiny has such shapes: if it is one, .* --space tiny\."
    with pytest.raises(BadInputError, match=said):
        read_vae(without_metadata(file, rewrite))


def test_shapes_name_the_spaces_that_fit(known: Registry, tmp_path: Path) -> None:
    """Both SD 1.x and SDXL have these shapes; only the caller can say which."""
    with torch.device("meta"):
        names = to_ldm(build_network(known.spec("kl-f8").config).state_dict())
    tensors = {n: torch.zeros(t.shape, dtype=torch.float16) for n, t in names.items()}
    file = tmp_path / "someones.safetensors"
    save_file(tensors, file)
    advice = rf"VAEs of sd1 and sdxl have such shapes: .* --space sd1; `vaelens identify {file}` may tell which\."
    with pytest.raises(BadInputError, match=advice):
        read_vae(file)
    assert read_vae(file, space="sdxl").spec == known.space_spec("sdxl")
    with pytest.raises(BadInputError, match=r"latent_channels is 4 by the tensors' shapes, but 16 by the space named"):
        read_vae(file, space="flux1")
    with pytest.raises(UsageError, match="no latent space is called 'sd2'"):
        read_vae(file, space="sd2")
    # A whole checkpoint says it by its other tensors.
    checkpoint = tmp_path / "model.safetensors"
    others = {"conditioner.embedders.0.x": torch.zeros(1), "model.diffusion_model.x": torch.zeros(1)}
    save_file({f"first_stage_model.{n}": t for n, t in tensors.items()} | others, checkpoint)
    with pytest.raises(BadInputError, match=r"sd1 by the space named \(sd1\).* sdxl by the checkpoint's other tensors"):
        read_vae(checkpoint, space="sd1")
    read = read_vae(checkpoint)
    assert read.spec.latent_space == "sdxl"
    assert read.source_of["scaling_factor"] == "the checkpoint's other tensors (sdxl)"


def test_a_published_file_is_recognised_by_its_content(
    vae_file: Path, rewrite: Rewrite, known: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = without_metadata(vae_file, rewrite)
    published = (PublishedFile(name="x", sha256=sha256_file(file)),)
    vae = known.vaes["ft-mse"].model_copy(update={"other_files": published})
    use(known.model_copy(update={"vaes": {**known.vaes, "ft-mse": vae}}), monkeypatch)
    read = read_vae(file)
    assert (read.known_as, read.spec.latent_space) == ("ft-mse", "sd1")
    assert "sha256 is ft-mse's" in read.source_of["scaling_factor"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("latent_channels", 16, "latent_channels is 4 by the tensors' shapes, but 16 by config.json"),
        ("scaling_factor", 0.13025, "scaling_factor is 0.13025 by config.json, but 0.18215 by the file's metadata"),
        ("norm_num_groups", 2, "norm_num_groups is 2 by config.json, but 4 by the file's metadata"),
        ("act_fn", "relu", "asks for act_fn = 'relu'"),
        ("latents_mean", [0.0], r"asks for latents_mean = \[0.0\]"),
        ("_class_name", "AutoencoderDC", "describes AutoencoderDC"),
        ("_class_name", "AutoencoderTiny", "asks for act_fn = 'silu'"),
        ("norm_num_groups", "4", "in config.json, field 'norm_num_groups': expected a whole number .found '4'"),
        ("norm_num_groups", [4], r"expected a whole number .found \[4\]"),
        ("norm_num_groups", True, "expected a whole number .found true"),
        ("block_out_channels", 4, "expected a list .found 4"),
        ("scaling_factor", "0.18215", "expected a number .found '0.18215'"),
        ("scaling_factor", 0, "expected more than 0"),
        ("scaling_factor", float("nan"), "NaN isn't valid JSON"),
        ("down_block_types", None, "asks for down_block_types = None"),
        ("down_block_types", [["DownEncoderBlock2D"]], "asks for down_block_types"),
    ],
)
def test_a_contradicting_config_json_is_refused(
    vae: VAE, tmp_path: Path, field: str, value: object, message: str
) -> None:
    folder = vae.save(tmp_path / "vae")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(BadInputError, match=message):
        read_vae(folder)


def test_without_a_scale_in_config_json_diffusers_default_is_used(vae: VAE, tmp_path: Path, rewrite: Rewrite) -> None:
    folder = vae.save(tmp_path / "vae")
    weights = folder / "diffusion_pytorch_model.safetensors"
    rewrite(weights, folder / "x", metadata={"format": "pt"}).replace(weights)
    config = json.loads((folder / "config.json").read_text())
    del config["scaling_factor"], config["shift_factor"]
    (folder / "config.json").write_text(json.dumps(config))
    read = read_vae(folder)
    assert (read.spec.scaling_factor, read.source_of["scaling_factor"]) == (0.18215, "diffusers' default")
    assert read_vae(folder, space=None).spec.latent_space == "sd1"


def test_a_tiny_folder_of_another_depth_or_kind_is_refused(vae: VAE, tmp_path: Path) -> None:
    tiny, full = random_vae(TINY).save(tmp_path / "tiny"), vae.save(tmp_path / "full")
    described = json.loads((tiny / "config.json").read_text())
    for change, message in (
        ({"num_encoder_blocks": [1, 2, 3, 3]}, "num_encoder_blocks is|don't fit the network"),
        ({"scaling_factor": 2.0}, "scaling_factor is 2.0 by config.json"),
        ({"encoder_block_out_channels": [8, 8, 16, 8]}, r"asks for encoder_block_out_channels"),
        ({"decoder_block_out_channels": None}, r"asks for decoder_block_out_channels"),
    ):
        (tiny / "config.json").write_text(json.dumps(described | change))
        with pytest.raises(BadInputError, match=message):
            read_vae(tiny)
    (full / "config.json").write_text(json.dumps(described))
    with pytest.raises(BadInputError, match=r"config\.json describes a tiny .*, the tensors are those of a full VAE"):
        read_vae(full)


def test_damaged_metadata_is_refused(vae_file: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    whole = json.loads(read_vae(vae_file).metadata["vaelens"])
    cases = [
        ("{", "damaged"),
        ('{"version": 99}', "version 99"),
        ('{"version": 1}', "damaged"),
        ("[" * 100_000, "damaged"),
        *(
            (json.dumps(whole | change), message)
            for change, message in (
                ({"pixel_range": [1, 1]}, "the lower bound must lie below"),
                ({"pixel_range": None}, "in the file's metadata, field 'pixel_range': expected a list .found null"),
                ({"latent_space": {"a": 1}}, "expected text"),
                ({"kind": "tiny"}, "describes a tiny autoencoder"),
                ({"latent_space": "sdxl"}, "the latent space is sdxl by the file's metadata, but .* those of sd1"),
                ({"scaling_factor": 0.13025}, "the latent space is sd1 by the file's metadata, but .* those of sdxl"),
            )
        ),
    ]
    for text, message in cases:
        with pytest.raises(BadInputError, match=message):
            read_vae(rewrite(vae_file, tmp_path / "b.safetensors", metadata={"vaelens": text}))
