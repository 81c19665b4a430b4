"""bfloat16 on the native paths: products of rounded factors, while the weights and all else keep float32's digits."""

import copy
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersKL
from torch import Tensor

import vaelens as vl
from support.vaes import CONFIGS, TINY, random_vae, relative, same_bytes
from vaelens.doctor.checks import check_vae
from vaelens.engine.architecture import decoder_steps
from vaelens.kernels.paths import TORCH, VARIABLE, available_paths
from vaelens.loading import describe
from vaelens.vae import VAE

LATENTS = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    vae = random_vae(CONFIGS["sd1"])
    with torch.no_grad():
        for module in vae.network.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.weight.uniform_(0.5, 1.5)
    return vae.save(tmp_path / "single.safetensors")


@pytest.fixture
def half(file: Path, monkeypatch: pytest.MonkeyPatch) -> VAE:
    """On the path "tiles-bf16", which every processor has."""
    if "tiles" not in available_paths():
        pytest.skip("this machine has no native kernels")
    monkeypatch.setenv(VARIABLE, "tiles")
    return vl.load(file, device="cpu", dtype="bfloat16")


@torch.no_grad()
def in_double(vae: VAE, latents: Tensor) -> Tensor:
    z = latents.double() / vae.spec.scaling_factor
    return (copy.deepcopy(vae.network).double().decode(z) / 2 + 0.5).clamp(0, 1)


def test_its_error_is_half_of_pytorch_s(half: VAE, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = in_double(vl.load(file, device="cpu"), LATENTS)
    error = relative(half.decode(LATENTS), exact)
    assert half.engine.plans["decode", (8, 8)].path == "tiles-bf16"
    monkeypatch.setenv(VARIABLE, TORCH)
    theirs = vl.load(file, device="cpu", dtype="bfloat16")
    assert (theirs.weight_dtype, theirs.dtype) == (torch.bfloat16, torch.bfloat16)
    assert 1e-4 < error < 0.6 * relative(theirs.decode(LATENTS), exact)


def test_the_first_upsampling_convolution_takes_three_products(half: VAE) -> None:
    """No norm divides its rounding, and its map is the smallest of the upsampled ones."""
    where = torch.bfloat16, torch.device("cpu")
    steps = [step for step in decoder_steps(half.network) if "upsample" in step.name]
    assert [step.layer.kernel(*where).path for step in steps] == ["tiles", "tiles-bf16", "tiles-bf16"]  # type: ignore[union-attr]


def test_the_vae_is_bfloat16_and_its_weights_are_not(half: VAE, file: Path) -> None:
    assert (half.dtype, half.weight_dtype) == (torch.bfloat16, torch.float32)
    assert "bfloat16" in repr(half)
    assert half.fingerprint == vl.load(file, device="cpu").fingerprint
    for other in (half.named("other"), half.within(10**9), half.to(torch.bfloat16)):
        assert torch.equal(other.decode(LATENTS), half.decode(LATENTS))
        assert other.dtype == torch.bfloat16
    assert half.to(torch.float16).weight_dtype == half.to(torch.float16).dtype == torch.float16
    assert half.to(torch.float32).dtype == torch.float32


def test_a_network_that_was_converted_runs_in_its_own_precision(half: VAE) -> None:
    half.network.to(torch.float16)
    assert half.dtype == torch.float16


def test_what_is_saved_is_bfloat16(half: VAE, file: Path, tmp_path: Path) -> None:
    saved = half.save(tmp_path / "half.safetensors")
    again = vl.load(saved, device="cpu")
    rounded = {n: t.bfloat16() for n, t in vl.load(file, device="cpu").network.state_dict().items()}
    assert describe(saved)["file"]["stored as"] == "bfloat16"
    assert same_bytes({n: t.float() for n, t in rounded.items()}, again.tensors())
    assert half.to(torch.bfloat16).fingerprint == again.fingerprint  # of the weights as they would be saved


def test_diffusers_gets_a_bfloat16_model(half: VAE, tmp_path: Path) -> None:
    model = vl.as_diffusers(half)
    theirs = DiffusersKL.from_pretrained(half.save(tmp_path / "vae"), torch_dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    z = LATENTS.bfloat16()
    with torch.no_grad():
        assert torch.equal(model.decode(z).sample, theirs.decode(z).sample)
    assert all(p.requires_grad for p in model.parameters())


def test_a_network_with_hooks_runs_in_bfloat16(half: VAE) -> None:
    seen = list[torch.dtype]()
    half.network.decoder.conv_in.register_forward_hook(lambda _, __, made: seen.append(made.dtype))
    exact = in_double(half, LATENTS)
    seen.clear()
    assert 1e-4 < relative(half.decode(LATENTS), exact) < 0.05
    half.encode(torch.rand(1, 3, 16, 16))
    assert (half.engine.path, seen) == ("plain", [torch.bfloat16])


def test_a_network_that_the_engine_does_not_run_has_bfloat16_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, available_paths()[0])
    tiny = vl.load(random_vae(TINY).save(tmp_path / "tiny.safetensors"), device="cpu", dtype="bfloat16")
    assert (tiny.dtype, tiny.weight_dtype) == (torch.bfloat16, torch.bfloat16)
    assert tiny.reconstruct(torch.rand(1, 3, 16, 16)).isfinite().all()


def test_doctor_compares_it_with_a_bfloat16_network(half: VAE, file: Path) -> None:
    found = check_vae(file, side=64, device="cpu", dtype="bfloat16")
    assert (found.dtype, found.path) == ("bfloat16", half.engine.path)
    assert 1e-4 < found.decode.error < 0.7 * found.decode.plain_error
