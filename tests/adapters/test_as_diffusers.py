"""The article's snippet: a VAE of vaelens in diffusers' own pipelines, with the same pixels as diffusers' VAE."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vaelens
from support import pipelines
from support.vaes import TINY, random_vae
from vaelens.networks.autoencoder_kl import AutoencoderKLConfig

SAME = AutoencoderKLConfig(block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4)


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = getattr(pipelines, request.param)()
    return pipelines.write(made, tmp_path_factory.mktemp("models") / request.param)


def kind(folder: Path, job: str = "") -> Any:
    name = {"sd": "StableDiffusion", "sdxl": "StableDiffusionXL"}[folder.name]
    return getattr(pipelines.diffusers(), f"{name}{job}Pipeline")


def run(pipe: Any, **options: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    with warnings.catch_warnings():  # diffusers' on its own options
        warnings.simplefilter("ignore")
        seed = torch.Generator("cpu").manual_seed(0)
        return pipe("a cat", num_inference_steps=4, generator=seed, output_type="np", **options).images


def test_the_snippet_gives_diffusers_own_pixels(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours = vaelens.as_diffusers(vaelens.load(folder / "vae"))
    with_ours = kind(folder).from_pretrained(folder, vae=ours)
    assert with_ours.vae is ours
    assert caplog.records == []
    np.testing.assert_allclose(run(with_ours), run(kind(folder).from_pretrained(folder)), atol=2e-6)


@pytest.mark.parametrize("job", ["Img2Img", "Inpaint"])
def test_img2img_and_inpaint(folder: Path, job: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    options = {"image": image, "strength": 0.8}
    if job == "Inpaint":
        options |= {"mask_image": Image.fromarray(np.tri(64, dtype=np.uint8) * 255), "height": 64, "width": 64}
    ours = vaelens.as_diffusers(vaelens.load(folder / "vae"))
    made = run(kind(folder, job).from_pretrained(folder, vae=ours), **options)
    expected = run(kind(folder, job).from_pretrained(folder), **options)
    np.testing.assert_allclose(made, expected, atol=5e-6)


def test_it_follows_the_pipelines_dtype_and_device(folder: Path) -> None:
    vae = vaelens.load(folder / "vae")
    ours = vaelens.as_diffusers(vae)
    pipe = kind(folder).from_pretrained(folder, vae=ours).to(torch.bfloat16)
    assert ours.dtype == vae.dtype == torch.bfloat16
    assert ours.device.type == vae.device.type == "cpu"
    assert np.isfinite(run(pipe)).all()
    pipe.to("meta", torch.float32)
    assert ours.device.type == "meta"


def test_it_encodes_and_decodes_as_diffusers_autoencoder(folder: Path) -> None:
    theirs = pipelines.diffusers().AutoencoderKL.from_pretrained(folder / "vae").eval()
    ours = vaelens.as_diffusers(vaelens.load(folder / "vae"))
    pixels = torch.rand(2, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        a, b = ours.encode(pixels).latent_dist, theirs.encode(pixels).latent_dist
        torch.testing.assert_close(a.mode(), b.mode(), rtol=0, atol=1e-5)
        draws = [d.sample(torch.Generator().manual_seed(1)) for d in (a, b)]
        torch.testing.assert_close(*draws, rtol=0, atol=1e-5)
        z = torch.randn(2, 4, 4, 6)
        torch.testing.assert_close(ours.decode(z).sample, theirs.decode(z).sample, rtol=0, atol=1e-5)
        assert torch.equal(ours.decode(z, return_dict=False)[0], ours.decode(z).sample)
        assert torch.isfinite(a.sample()).all()
    for name in ("scaling_factor", "latent_channels", "block_out_channels", "shift_factor", "force_upcast"):
        assert getattr(ours.config, name) == (tuple(v) if isinstance(v := theirs.config[name], list) else v), name


def test_hooks_run_and_slices_have_the_same_pixels(folder: Path) -> None:
    ours = vaelens.as_diffusers(vaelens.load(folder / "vae"))
    called: list[str] = []
    ours._hf_hook = SimpleNamespace(pre_forward=lambda module: called.append("moved"))
    z = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = ours.decode(z).sample
        ours.encode(whole)
        ours.enable_slicing()
        np.testing.assert_allclose(ours.decode(z).sample, whole, atol=2e-5)
        assert torch.equal(ours.decode(z).sample[1:2], ours.decode(z[1:2]).sample)
    assert called == ["moved"] * 5
    with pytest.raises(NotImplementedError, match="doesn't decode in tiles"):
        ours.enable_tiling()


def test_a_tiny_autoencoders_pixels_are_between_minus_one_and_one() -> None:
    vae = random_vae(TINY)
    ours = vaelens.as_diffusers(vae)
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        z = ours.encode(image * 2 - 1).latent_dist.sample()
        decoded = (ours.decode(z).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(z, vae.encode(image).mode(), rtol=0, atol=1e-6)
    torch.testing.assert_close(decoded, vae.decode(z), rtol=0, atol=1e-6)
    assert 2 ** (len(ours.config.block_out_channels) - 1) == vae.spec.factor
