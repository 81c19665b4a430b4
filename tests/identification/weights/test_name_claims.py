"""What names of files say, and other VAEs by their shapes."""

import pytest
import torch
from diffusers import AsymmetricAutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage, AutoencoderKLWan

from vaelens.identification.weights.name_claims import NameClaim, claim_of, contradiction, format_contradiction
from vaelens.identification.weights.other_vaes import OTHERS, other_vae


@pytest.mark.parametrize(
    ("name", "vaes", "spaces"),
    [
        ("vae-ft-mse-840000-ema-pruned.safetensors", ("ft-mse",), ("sd1",)),
        ("my vae_ft_MSE (1).vae.pt", ("ft-mse",), ()),
        ("kl-f8-anime2.vae.safetensors", ("kl-f8-anime2",), ()),
        ("Pony-XL-v6-vae.safetensors", ("sdxl-fp16-fix",), ("sdxl",)),
        ("sdxl_vae.safetensors", ("sdxl", "sdxl-fp16-fix", "sdxl-0.9"), ("sdxl",)),
        ("sdxl-turbo-merge.safetensors", (), ("sdxl",)),
        ("animePastelXL_v1.safetensors", (), ()),
        ("pastel-xl.safetensors", (), ("sdxl",)),
        ("sd_v1-5_pruned.ckpt", (), ("sd1",)),
        ("diffusion_pytorch_model.safetensors", (), ()),
        ("vae.safetensors", (), ()),
        ("日本.safetensors", (), ()),
        ("sd15kl.safetensors", (), ("sd1",)),
        ("my-sd2.1-vae.safetensors", (), ("sd1",)),
        ("stable-diffusion-v1.5.safetensors", (), ("sd1",)),
        ("sd3.5-medium.safetensors", ("sd3.5",), ("sd3",)),
        ("flux1-dev.safetensors", (), ("flux1",)),
        ("FLUX.2-klein.safetensors", (), ("flux2",)),
        ("flux_10k.safetensors", (), ()),
        ("flux-1k.safetensors", (), ()),
        ("flux-2024-merge.safetensors", (), ()),
        ("sd-2048px.safetensors", (), ()),
        ("my-sd-20k-steps.safetensors", (), ()),
        ("sd_3k.safetensors", (), ()),
        ("stable-diffusion-10k.safetensors", (), ()),
        ("animev1-50.safetensors", (), ()),
        ("v1-5-pruned.safetensors", (), ("sd1",)),
        ("animePastelXL_v1-5.safetensors", (), ()),
        ("sdxl-v1-5.safetensors", (), ("sdxl",)),
        ("mine_diffusion_pytorch_model.fp16.safetensors", (), ()),
        ("soft-mse.safetensors", (), ()),
        ("AbyssOrangeMix2_sfw.safetensors", (), ()),
        ("flux-2nd.safetensors", (), ()),
        ("flux_1st_try.safetensors", (), ()),
        ("sd_3rd.safetensors", (), ()),
        ("sd3d.safetensors", (), ()),
        ("sd-3-epochs.safetensors", (), ()),
        ("msd3-merge.safetensors", (), ()),
        ("influx1.safetensors", (), ()),
        ("sd3medium.safetensors", (), ("sd3",)),
    ],
)
def test_what_a_name_says(name: str, vaes: tuple[str, ...], spaces: tuple[str, ...]) -> None:
    claim = claim_of(name)
    assert set(claim.vaes) == set(vaes)
    assert claim.spaces == spaces


def test_a_name_only_contradicts() -> None:
    assert contradiction("vae-ft-mse.safetensors", "ft-mse", "sd1", frozenset()) is None
    assert contradiction("mine.safetensors", "ft-mse", "sd1", frozenset()) is None
    assert contradiction("vae-ft-mse.safetensors", None, "sd1", frozenset()) is None
    wrong = contradiction("vae-ft-mse.safetensors", None, "sd1", frozenset({"ft-mse"}))
    assert wrong == "its name says ft-mse, but it has other weights."
    assert claim_of("MoistMix.vae.pt") == NameClaim(("kl-f8-anime2",), ("sd1",))


def test_a_checkpoints_name_is_no_vaes() -> None:
    """Models have VAEs named after them, and are used with others."""
    names = ("MoistMix.vae.safetensors", "moistmix-v2.safetensors", "kl-f8-anime2.ckpt")
    assert {claim_of(name, is_checkpoint=True) for name in names} == {NameClaim()}
    assert contradiction(names[1], "kl-f8", "sd1", frozenset()) is not None
    assert contradiction(names[1], "kl-f8", "sd1", frozenset(), is_checkpoint=True) is None
    wrong = contradiction("moistmix-sdxl.safetensors", "kl-f8", "sd1", frozenset(), is_checkpoint=True)
    assert wrong == "its name says sdxl, its content is of sd1."


@pytest.mark.parametrize(
    ("title", "build"),
    [
        ("FLUX.2's VAE", AutoencoderKLFlux2),
        (
            "FLUX.2's VAE with the small decoder",
            lambda: AutoencoderKLFlux2(decoder_block_out_channels=(96, 192, 384, 384)),
        ),
        ("Wan 2.1's or Qwen-Image's VAE", AutoencoderKLWan),
        ("Wan 2.1's or Qwen-Image's VAE", AutoencoderKLQwenImage),
        ("the asymmetric VAE", AsymmetricAutoencoderKL),
    ],
)
def test_vaes_that_vaelens_does_not_run_are_known_by_diffusers_own_shapes(title: str, build: object) -> None:
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}  # type: ignore[operator]
    assert other_vae(shapes) == next(one for one in OTHERS if one.title == title and one.fits(shapes))
    assert other_vae({f"vae.{name}": shape for name, shape in shapes.items()}) is not None


def test_full_vaes_and_other_files_are_none_of_these() -> None:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        full = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2)
        shapes = {name: tuple(t.shape) for name, t in full.state_dict().items()}
    assert other_vae(shapes) is None
    assert other_vae({}) is None


@pytest.mark.parametrize(
    ("name", "is_pickled", "said"),
    [
        ("a.safetensors", True, True),
        ("a.SFT", True, True),
        ("a.safetensors", False, False),
        ("a.safetensors.ckpt", True, False),
        ("a.ckpt", False, False),
    ],
)
def test_a_pickled_file_named_safetensors_is_said(name: str, is_pickled: bool, said: bool) -> None:
    sentence = format_contradiction(name, is_pickled=is_pickled)
    assert (sentence is not None and "its name says safetensors, but it is a pickled file" in sentence) == said
