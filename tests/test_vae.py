"""The one object: ranges, scaling, sizes, seeds, and what it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersKL

import vaelens as vl
from support.vaes import NARROW, TINY, random_vae
from vaelens.errors import BadInputError, CheckFailedError, UsageError
from vaelens.networks.autoencoder_kl import AutoencoderKL
from vaelens.report.record import vae_record
from vaelens.vae import VAE


@pytest.mark.usefixtures("torch_kernels")
def test_encode_and_decode_follow_diffusers_conventions() -> None:
    """[0,1] to [-1,1], (z - shift) * scale, and a seed's meaning, against the calls of a diffusers pipeline."""
    vae = random_vae(space="sd3", scale=1.5305, shift=0.0609)
    theirs = DiffusersKL.from_config(vae.spec.family.to_config_json(vae.spec))
    theirs.load_state_dict(vae.network.state_dict())
    image = torch.rand(2, 3, 32, 24)
    with torch.no_grad():
        posterior = theirs.encode(image * 2 - 1).latent_dist
        generators = [torch.Generator("cpu").manual_seed(s) for s in (5, 7)]
        noise = torch.cat([torch.randn(1, 4, 4, 3, generator=g) for g in generators])
        drawn = (posterior.mean + posterior.std * noise - 0.0609) * 1.5305
        mode = (posterior.mode() - 0.0609) * 1.5305
        decoded = (theirs.decode(mode / 1.5305 + 0.0609).sample / 2 + 0.5).clamp(0, 1)
    encoded = vae.encode(image)
    torch.testing.assert_close(encoded.mode(), mode, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoded.sample([5, 7]), drawn, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vae.decode(mode), decoded, rtol=1e-4, atol=1e-5)


def test_a_tiny_autoencoder_takes_pixels_and_latents_as_they_are() -> None:
    vae = random_vae(TINY)
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        expected = vae.network.encoder(image)
        assert torch.equal(vae.encode(image).mode(), expected)
        assert torch.equal(vae.encode(image).sample(3), expected)
        assert torch.equal(vae.decode(expected), vae.network.decoder(expected).clamp(0, 1))


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 8), (41, 67), (1, 300), (513, 31)])
def test_any_size_comes_back_as_it_was(vae: VAE, size: tuple[int, int]) -> None:
    image = torch.rand(1, 3, *size)
    encoded = vae.encode(image)
    assert encoded.size == size
    assert encoded.posterior.mean.shape[2:] == (-(-size[0] // 8), -(-size[1] // 8))
    again = vae.reconstruct(image)
    assert again.shape == image.shape
    assert 0 <= again.min() <= again.max() <= 1


def test_padding_repeats_the_edge_at_the_right_and_bottom(vae: VAE) -> None:
    image = torch.rand(1, 3, 7, 9)
    rows, columns = [*range(7), 6], [*range(9), *[8] * 7]
    assert torch.equal(vae.encode(image).mode(), vae.encode(image[:, :, rows][..., columns]).mode())
    assert torch.equal(vae.decode(vae.encode(image).mode(), (7, 9)), vae.decode(vae.encode(image).mode())[..., :7, :9])


def test_a_seed_means_the_same_alone_and_in_company(vae: VAE) -> None:
    image = torch.rand(3, 3, 16, 16)
    encoded = vae.encode(image)
    together = encoded.sample(0)
    posterior = encoded.posterior
    for i in range(3):
        noise = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
        expected = (posterior.mean[i : i + 1] + posterior.std[i : i + 1] * noise) * vae.spec.scaling_factor
        assert torch.equal(together[i : i + 1], expected)
    assert not torch.equal(encoded.sample(1), together)
    assert not torch.equal(encoded.mode(), together)
    with pytest.raises(UsageError, match="2 seeds for 3 images"):
        encoded.sample([0, 1])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(1, 3, 8, 8) * 2 - 1, r"go from -"),
        (torch.rand(1, 3, 8, 8) * 255, r"values in \[0,1\]"),
        (torch.full((1, 3, 8, 8), float("nan")), "nan"),
        (torch.rand(1, 4, 8, 8), r"\[1, 4, 8, 8\]"),
        (torch.rand(3, 8, 8), r"\[3, 8, 8\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "uint8"),
    ],
)
def test_what_is_no_image_is_refused(vae: VAE, image: torch.Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        vae.encode(image)


def test_latents_of_another_space_are_refused(vae: VAE) -> None:
    with pytest.raises(UsageError, match=r"\[b,4,h,w\] of the latent space sd1, not \[1, 16, 4, 4\]"):
        vae.decode(torch.zeros(1, 16, 4, 4))
    with pytest.raises(UsageError, match="33x32 can't be cropped from 32x32"):
        vae.decode(torch.zeros(1, 4, 4, 4), (33, 32))


def test_a_network_that_overflows_is_an_error_not_a_black_image(vae: VAE) -> None:
    with torch.no_grad():
        vae.network.decoder.conv_out.bias.fill_(float("inf"))
    with pytest.raises(CheckFailedError, match=r"decoding in float32 gave NaN .* Look for such values in its input"):
        vae.reconstruct(torch.rand(1, 3, 8, 8))


def test_an_encoder_that_overflows_is_an_error_too(vae: VAE) -> None:
    with torch.no_grad():
        vae.network.encoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(CheckFailedError, match="encoding in float32 gave NaN or infinite"):
        vae.encode(torch.rand(1, 3, 8, 8))


def test_half_precision_runs_close_to_single(vae: VAE, tmp_path: Path) -> None:
    file = vae.save(tmp_path / "a.safetensors")
    image = torch.rand(1, 3, 32, 32)
    full = vl.load(file, device="cpu").reconstruct(image)
    for dtype, tolerance in (("bfloat16", 0.1), ("float16", 0.02)):
        half = vl.load(file, device="cpu", dtype=dtype)
        again = half.reconstruct(image)
        assert str(half.dtype) == f"torch.{dtype}"
        assert again.dtype == torch.float32
        assert 0 < (again - full).abs().max() < tolerance
        assert half.fingerprint == vae.fingerprint  # of the stored weights, not of the cast


def test_another_precision_is_a_copy_without_the_hooks(vae: VAE) -> None:
    vae.network.register_forward_hook(lambda *_: pytest.fail("the copy runs the hook"))
    vae.network.decoder.register_forward_hook(lambda *_: pytest.fail("the copy runs the hook"))
    before = vae.fingerprint
    for dtype in (torch.bfloat16, torch.float32):
        other = vae.to(dtype)
        assert (other.dtype, other.spec, other.name) == (dtype, vae.spec, vae.name)
        other.reconstruct(torch.rand(1, 3, 8, 8))
        with torch.no_grad():
            other.network.decoder.conv_out.bias.add_(1)
    assert vae.fingerprint == before


@pytest.mark.parametrize("layout", ["diffusers", "ldm"])
def test_saving_and_loading_changes_nothing(vae: VAE, tmp_path: Path, layout: str) -> None:
    image = torch.rand(1, 3, 16, 16)
    again = vl.load(vae.save(tmp_path / "a.safetensors", layout=layout), device="cpu")  # type: ignore[arg-type]
    assert again.spec == vae.spec
    assert torch.equal(again.reconstruct(image), vae.reconstruct(image))
    assert "'a', latent space sd1, cpu, float32" in repr(again)


def test_saving_over_the_file_it_was_loaded_from(vae: VAE, tmp_path: Path) -> None:
    file = vae.save(tmp_path / "a.safetensors")
    loaded = vl.load(file, device="cpu")
    loaded.save(file, layout="ldm", notes={"made by": "a test"})
    assert vl.load(file, device="cpu").fingerprint == vae.fingerprint


def test_layouts_that_can_not_be_saved_are_refused(vae: VAE, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"end its name in \.safetensors"):
        vae.save(tmp_path / "folder", layout="ldm")
    with pytest.raises(UsageError, match=r"a tiny autoencoder.* saved in the layout diffusers, not ldm"):
        random_vae(TINY).save(tmp_path / "a.safetensors", layout="ldm")
    with pytest.raises(UsageError, match="ldm or diffusers, not lmd"):
        vae.save(tmp_path / "a.safetensors", layout="lmd")
    with pytest.raises(UsageError, match="writes no pickled files"):
        vae.save(tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match="notes can't be called"):
        vae.save(tmp_path / "a.safetensors", notes={"vaelens": "mine"})
    assert list(tmp_path.iterdir()) == []


def test_seeds_that_torch_does_not_take(vae: VAE) -> None:
    with pytest.raises(UsageError, match="a seed lies between"):
        vae.encode(torch.rand(1, 3, 8, 8)).sample(2**64)


def test_network_and_spec_must_agree(vae: VAE) -> None:
    with pytest.raises(UsageError, match="isn't the spec's"):
        VAE(AutoencoderKL(NARROW), random_vae(TINY).spec, "mixed")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("ft-mes", UsageError, "Did you mean ft-mse"),
        ("qqqqqq", UsageError, "Known: kl-f8"),
        ("no/such/file.safetensors", BadInputError, "no such file or folder"),
        ("nowhere.safetensors", BadInputError, "no such file or folder"),
    ],
)
def test_unknown_sources(source: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        vl.load(source)


def test_a_space_must_be_known_even_where_it_is_not_needed() -> None:
    with pytest.raises(UsageError, match="no latent space is called 'nonsense'"):
        vl.load("tiny-kl-f8", space="nonsense")


def test_unknown_devices_and_dtypes() -> None:
    for device in ("tpu", "cuda:99", "gpu"):
        with pytest.raises(UsageError, match="usable: auto, cpu"):
            vl.load("tiny-kl-f8", device=device)
    with pytest.raises(UsageError, match="Did you mean float16"):
        vl.load("tiny-kl-f8", dtype="flaot16")


def test_importing_vaelens_brings_in_no_torch() -> None:
    code = (
        "import sys, vaelens; vaelens.__version__; assert 'torch' not in sys.modules; "
        "vaelens.load; print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "True"


def test_every_public_name_loads() -> None:
    for name in vl.__all__:
        assert getattr(vl, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        vl.laod  # noqa: B018


@pytest.mark.parametrize("through", ["no_grad", "data", "numpy"])
def test_the_fingerprint_is_that_of_the_weights_in_the_network(vae: VAE, tmp_path: Path, through: str) -> None:
    """However they are changed in place: torch counts no change through .data or NumPy."""
    loaded = vl.load(vae.save(tmp_path / "a.safetensors"), device="cpu")
    before = loaded.fingerprint
    weight = loaded.network.decoder.conv_out.weight
    if through == "no_grad":
        with torch.no_grad():
            weight.mul_(1.5)
    elif through == "data":
        weight.data.mul_(1.5)
    else:
        weight.detach().numpy()[:] *= 1.5
    after = loaded.fingerprint
    assert (before.encoder == after.encoder, before.decoder == after.decoder) == (True, False)
    assert vl.load(loaded.save(tmp_path / "b.safetensors"), device="cpu").fingerprint == after
    assert vae_record(loaded)["weights"] == after.short
    with torch.no_grad():
        weight.copy_(vae.network.decoder.conv_out.weight)
    assert loaded.fingerprint == before


def test_weights_that_did_not_change_are_hashed_once(vae: VAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = vl.load(vae.save(tmp_path / "a.safetensors"), device="cpu", dtype="bfloat16")
    monkeypatch.setattr("vaelens.vae.fingerprint", lambda *_: pytest.fail("hashed again"))
    assert loaded.fingerprint == vl.load(tmp_path / "a.safetensors", device="cpu").fingerprint
