"""Latents files of other programs: ComfyUI's, which hold raw z and don't name their space."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import vaelens as vl
from support.commands import invoke
from support.vaes import TINY, random_vae
from vaelens.errors import BadInputError, UsageError
from vaelens.latents import read_latents

NONE = torch.zeros(0)


def write(file: Path, tensor: torch.Tensor, *, first_format: bool = False, **more: torch.Tensor) -> Path:
    """As ComfyUI's SaveLatent does, with the metadata of a workflow."""
    mark = {} if first_format else {"latent_format_version_0": NONE}
    save_file(
        {"latent_tensor": tensor, **mark, **more}, file, {"prompt": json.dumps({"3": {"class_type": "KSampler"}})}
    )
    return file


@pytest.mark.parametrize(
    ("space", "channels", "scale", "shift"),
    [("sd1", 4, 0.18215, 0.0), ("sdxl", 4, 0.13025, 0.0), ("sd3", 16, 1.5305, 0.0609), ("flux1", 16, 0.3611, 0.1159)],
)
def test_comfyuis_latents_are_raw_z_and_become_scaled_ones(
    tmp_path: Path, space: str, channels: int, scale: float, shift: float
) -> None:
    z = torch.randn(2, channels, 3, 5)
    found = read_latents(write(tmp_path / "a.latent", z, noise_mask=torch.ones(1, 1, 3, 5)), space)
    assert [latent.space for latent in found] == [space, space]
    expected = (z - shift) * scale
    torch.testing.assert_close(torch.cat([latent.tensor for latent in found]), expected)
    first = read_latents(write(tmp_path / "b.latent", z[:1] * 0.18215, first_format=True), space)
    torch.testing.assert_close(first[0].tensor, expected[:1])


def test_comfyuis_first_format_is_of_sd1(tmp_path: Path) -> None:
    tensor = torch.randn(1, 4, 3, 5).half()
    (latent,) = read_latents(write(tmp_path / "a.latent", tensor, first_format=True))
    assert latent.space == "sd1"
    assert torch.equal(latent.tensor, tensor.float())


def test_compare_decodes_comfyuis_latents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    vae = random_vae()
    encoded = vae.encode(torch.rand(1, 3, 32, 48))
    write(tmp_path / "comfyui.latent", encoded.posterior.mode())
    (latent,) = read_latents("comfyui.latent", "sd1")
    torch.testing.assert_close(latent.tensor, encoded.mode())
    (image,) = vl.compare(latents="comfyui.latent", space="sd1", vaes=[vae]).images
    expected = (vae.decode(encoded.mode())[0].permute(1, 2, 0) * 255).round().to(torch.uint8)
    assert int((torch.from_numpy(image.decoded[0].pixels).int() - expected.int()).abs().max()) <= 1
    tiny = random_vae(TINY).save(tmp_path / "tiny.safetensors")
    invoke("compare", "--latents", "comfyui.latent", "--space", "sd1", "--vae", tiny, "-o", "x.png")
    record = json.loads((tmp_path / "x.run.json").read_text())
    assert record["images"][0]["latents_sha256"] == latent.sha256
    ran = invoke("compare", "--latents", "comfyui.latent", "--vae", tiny, "-o", "y.png", code=2)
    assert "ComfyUI's latents don't say their latent space" in ran.stderr
    assert "--space sd1" in ran.stderr


@pytest.mark.parametrize(
    ("shape", "space", "error", "message"),
    [
        ((1, 16, 3, 4, 4), None, BadInputError, r"are \[1, 16, 3, 4, 4\], not \[b,c,h,w\] of images"),
        ((1, 16, 4, 4), "sd1", UsageError, "16 channels, but latents of sd1 have 4"),
        ((1, 16, 4, 4), None, UsageError, "e.g. --space (sd3|flux1)"),
        ((1, 4, 4, 4), "sd9", UsageError, "no latent space is called 'sd9'"),
    ],
)
def test_latent_files_that_cant_be_used_say_why(
    tmp_path: Path, shape: tuple[int, ...], space: str | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_latents(write(tmp_path / "a.latent", torch.zeros(shape)), space)
