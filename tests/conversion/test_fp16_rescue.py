"""Scaling a VAE into float16: the same function in float32, finite in float16, here and in diffusers."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL as DiffusersKL
from PIL import Image
from safetensors.torch import load_file

from support.commands import invoke
from support.overflowing import EVERY_STAGE, overflowing, photo_like, with_quiet_group
from support.vaes import CONFIGS, TINY, random_network, random_vae, same_bytes
from vaelens import as_diffusers, load, read_image
from vaelens.conversion.converting import convert
from vaelens.conversion.fp16_checks import SAME, rescue
from vaelens.conversion.fp16_rescue import HEADROOM, choose_scales, scaled
from vaelens.conversion.half_arithmetic import as_in_half, weight_rounding
from vaelens.errors import BadInputError, CheckFailedError, UsageError
from vaelens.families.kl import FAMILY as KL
from vaelens.health.activations import HALF_LIMIT
from vaelens.networks.autoencoder_kl import AutoencoderKLConfig
from vaelens.networks.scaled_stages import stages
from vaelens.weights.registry import registry
from vaelens.weights.spec_sources import metadata_source, metadata_text, resolve, spec_source

SMALL = CONFIGS["sd1"]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_each_norm_reads_one_stage_and_each_layer_writes_one_at_most(config: AutoencoderKLConfig) -> None:
    network = random_network(config)
    found = stages(network)
    norms = [name for name, module in network.named_modules() if isinstance(module, torch.nn.GroupNorm)]
    assert sorted(name for stage in found for name in stage.norms) == sorted(norms)
    written = [name for stage in found for name, _ in stage.writers]
    assert len(set(written)) == len(written)
    layers = {n for n, m in network.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)}
    queries = {f"{half}.mid_block.attentions.0.to_{one}" for half in ("encoder", "decoder") for one in "qk"}
    outside = {"encoder.conv_out", "decoder.conv_out", "quant_conv", "post_quant_conv", *queries}
    assert layers - set(written) == layers & outside


@pytest.mark.parametrize("layers", [("conv_in", "conv2"), EVERY_STAGE], ids=["stream", "every stage"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_vae_beyond_float16_is_finite_there_and_the_same_in_float32(
    config: AutoencoderKLConfig, layers: tuple[str, ...]
) -> None:
    vae = overflowing(config, 1e5, layers)
    before = {name: tensor.clone() for name, tensor in vae.tensors().items()}
    found = rescue(vae, photo_like())
    assert found.largest[1] > HALF_LIMIT
    assert found.largest_after[1] <= HALF_LIMIT / HEADROOM
    assert found.half_before is None
    assert max(found.exact.latents_largest, found.exact.pixels_largest) <= SAME
    assert found.half.pixels_mean < 2e-3
    assert found.half_stock_epsilon is not None
    assert same_bytes(before, vae.tensors())
    exponents = {scale.name: scale.exponent for scale in found.scaled}
    assert exponents["encoder.conv_in"] >= 4
    norms = dict(found.vae.spec.config.norm_exponents)
    assert norms["encoder.down_blocks.0.resnets.0.norm1"] == exponents["encoder.conv_in"]


def test_the_exponents_are_the_smallest_with_headroom() -> None:
    found = stages(random_network(SMALL))
    layers = {name: 1.0 for stage in found for name in [*(layer for layer, _ in stage.writers), *stage.sums]}
    limit = HALF_LIMIT / HEADROOM
    stream = {"decoder.conv_in": limit * 4.1, "decoder.mid_block.resnets.1": 2.0, "encoder.conv_in": limit}
    chosen = {scale.name: scale.exponent for scale in choose_scales(found, layers | stream)}
    assert {name: k for name, k in chosen.items() if k} == {"decoder.conv_in": 3}
    assert not any(scale.exponent for scale in choose_scales(found, dict.fromkeys(layers, 0.0)))
    with pytest.raises(CheckFailedError, match="float32 already"):
        choose_scales(found, layers | {"decoder.mid_block.attentions.0": float("inf")})
    with pytest.raises(CheckFailedError, match="too large"):
        choose_scales(found, layers | {"decoder.conv_in": 1e30})


def test_the_epsilon_counts_where_a_group_is_quiet() -> None:
    """With the scaled one nothing changes; the fixed one of other programs does, and by how much is measured."""
    vae = with_quiet_group(SMALL)
    found = rescue(vae, photo_like())
    assert found.exact.pixels_largest <= SAME
    assert found.stock_epsilon.pixels_largest > 1e-3
    assert found.half_stock_epsilon.pixels_largest > 1e-3


def test_a_vae_that_fits_stays_as_it_is() -> None:
    vae = random_vae(SMALL)
    found = rescue(vae, photo_like())
    assert not found.scaled
    assert found.vae.spec == vae.spec
    assert same_bytes(found.vae.tensors(), vae.tensors())
    assert found.half_before == found.half


def test_scaling_twice_is_scaling_once() -> None:
    vae = overflowing(SMALL)
    once = rescue(vae, photo_like())
    twice = rescue(once.vae, photo_like())
    assert not twice.scaled
    found = stages(once.vae.network)
    scales = [dataclasses.replace(scale, exponent=2) for scale in twice.scales]
    further = scaled(once.vae, found, scales)
    image = photo_like()[0]
    assert torch.equal(further.reconstruct(image), vae.reconstruct(image))
    assert dict(further.spec.config.norm_exponents)["decoder.conv_norm_out"] == (
        dict(once.vae.spec.config.norm_exponents)["decoder.conv_norm_out"] + 2
    )


def test_what_cannot_be_rescued_is_refused() -> None:
    with pytest.raises(UsageError, match="only full VAEs"):
        rescue(random_vae(TINY), photo_like())
    with pytest.raises(UsageError, match="measured in float32"):
        rescue(random_vae(SMALL).to(torch.float16), photo_like())
    with pytest.raises(UsageError, match="no image"):
        rescue(random_vae(SMALL), [])
    vae = random_vae(SMALL)
    with torch.no_grad():  # no norm reads it
        vae.network.quant_conv.weight *= 1e7
    with pytest.raises(CheckFailedError, match="quant_conv"):
        rescue(vae, photo_like())


def test_float16_by_rounding_is_float16() -> None:
    vae = random_vae(CONFIGS["no attention"])
    image = photo_like(16)[0]
    ours = as_in_half(vae).encode(image).posterior.mean
    with torch.no_grad():
        theirs = vae.to(torch.float16).network.posterior((image * 2 - 1).half()).mean.float()
    exact = vae.encode(image).posterior.mean
    assert 0 < (ours - exact).abs().max() < 2e-3 * exact.abs().max()
    assert (ours - theirs).abs().max() < 2e-3 * exact.abs().max()


def test_weights_that_lose_digits_are_counted() -> None:
    vae = random_vae(SMALL)
    with torch.no_grad():
        vae.network.decoder.conv_in.weight.fill_(2.0**-26)
    found = weight_rounding(vae)
    assert found.subnormal >= vae.network.decoder.conv_in.weight.numel()
    assert found.worst == "decoder.conv_in.weight"
    assert found.error == 1.0
    assert found.total == sum(tensor.numel() for tensor in vae.tensors().values())


@pytest.mark.parametrize(
    ("where", "layout"), [("x", "diffusers"), ("x.safetensors", "diffusers"), ("x.safetensors", "ldm")]
)
def test_the_epsilon_is_kept_in_what_is_saved(tmp_path: Path, where: str, layout: str) -> None:
    vae = with_quiet_group(SMALL)
    other = rescue(vae, photo_like()).vae
    again = load(other.save(tmp_path / where, layout), device="cpu")
    assert again.spec == other.spec
    image = photo_like(number=2)[1]
    assert torch.equal(again.reconstruct(image), vae.reconstruct(image))
    half = load(other.to(torch.float16).save(tmp_path / "half.safetensors"), device="cpu")
    assert half.network.decoder.conv_norm_out.eps < 1e-7


def test_a_latent_space_that_is_named_does_not_contradict_it() -> None:
    full = registry().space_spec("sd1")
    exponents = (("decoder.conv_norm_out", 3),)
    mine = dataclasses.replace(full, config=dataclasses.replace(full.config, norm_exponents=exponents))
    sources = [metadata_source(metadata_text(mine), KL, "a"), spec_source("the space named", full)]
    assert resolve(KL, sources, "a").spec == mine
    assert resolve(KL, sources[1:], "a").spec == full
    other = dataclasses.replace(mine, config=dataclasses.replace(mine.config, norm_exponents=(("encoder.x", 1),)))
    with pytest.raises(BadInputError, match="norm_exponents"):
        resolve(KL, [*sources, metadata_source(metadata_text(other), KL, "b")], "a")


def test_a_norm_that_is_not_there_is_a_bad_file(tmp_path: Path) -> None:
    vae = rescue(overflowing(SMALL), photo_like()).vae
    path = vae.save(tmp_path / "vae.safetensors")
    content = path.read_bytes()
    path.write_bytes(content.replace(b'decoder.conv_norm_out\\", ', b'decoder.conv_norm_oux\\", '))
    with pytest.raises(BadInputError, match=r"norm_exponents names 'decoder\.conv_norm_oux'"):
        load(path)
    for wrong in ((("a", 1), ("a", 2)), (("a", 0),), (("a", 99),)):
        with pytest.raises(ValueError, match="norm_exponents"):
            dataclasses.replace(SMALL, norm_exponents=wrong)


def test_diffusers_is_finite_in_float16_on_what_is_written(tmp_path: Path) -> None:
    """diffusers has its own epsilon, which makes no difference here."""
    vae, image = overflowing(SMALL, 1e5), photo_like(32)[0]
    pixels = image * 2 - 1
    other = rescue(vae, [image]).vae
    wanted = vae.encode(image).posterior.mean
    expected = vae.reconstruct(image)
    with torch.no_grad():
        plain = as_diffusers(vae).half()  # whose weights are vae's own
        assert not torch.isfinite(plain.encode(pixels.half()).latent_dist.mean).all()
        folder = other.to(torch.float16).save(tmp_path / "vae")
        theirs = DiffusersKL.from_pretrained(folder, torch_dtype=torch.float16)
        latents = theirs.encode(pixels.half()).latent_dist.mean.float()
        assert (latents - wanted).abs().max() < 5e-3 * wanted.abs().max()
        again = theirs.decode(wanted.half()).sample.float()
    assert ((again / 2 + 0.5).clamp(0, 1) - expected).abs().mean() < 2e-3


def test_as_diffusers_has_the_scaled_epsilon() -> None:
    vae = with_quiet_group(SMALL)
    model = as_diffusers(rescue(vae, photo_like()).vae)
    latents = vae.encode(photo_like()[0]).mode()
    with torch.no_grad():
        theirs = (model.decode(latents / vae.spec.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    assert (theirs - vae.decode(latents)).abs().max() < 1e-4


def test_convert_writes_a_vae_that_float16_holds(tmp_path: Path, sides: tuple[Path, Path]) -> None:
    source, photo = sides
    out = tmp_path / "safe.safetensors"
    ran = invoke("convert", source, "-o", out, "--fp16-safe", "--layout", "ldm", "--photo", photo)
    for line in ("65504 that float16 holds", "sets of maps, by 2^-", "in float32   latents 0, pixels 0 of 255 at most"):
        assert line in ran.stdout
    assert "before NaN or infinite" in ran.stdout
    assert "below float16's normal numbers" in ran.stdout
    stored = load_file(out)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    half = as_in_half(load(out, device="cpu"))
    image = read_image(photo)
    assert (half.reconstruct(image) - load(source, device="cpu").reconstruct(image)).abs().mean() < 2e-3

    wide = json.loads(
        invoke("convert", source, "-o", out, "--fp16-safe", "--dtype", "fp32", "--photo", photo, "--json").stdout
    )
    assert wide["stored"] == "float32"
    assert wide["differences"]["pixels_largest"] <= SAME
    assert wide["fp16_safe"]["half_before"] is None
    assert len(wide["fp16_safe"]["scales"]) > 20
    assert "fp16_safe" not in invoke("convert", source, "-o", out, "--photo", photo).stdout


@pytest.mark.parametrize("fp16_safe", [False, True])
def test_the_progress_of_convert_is_counted_once(fp16_safe: bool, tmp_path: Path, sides: tuple[Path, Path]) -> None:
    seen: list[tuple[int, int, str]] = []
    convert(
        sides[0], tmp_path / "out.safetensors", fp16_safe=fp16_safe, photos=[sides[1]], device="cpu",
        progress=lambda *step: seen.append(step),
    )  # fmt: skip
    total = 8 if fp16_safe else 3
    assert [(done, of) for done, of, _ in seen] == [(done, total) for done in range(total)]
    assert [seen[0][2], seen[-2][2], seen[-1][2]] == ["reading", "writing", "comparing"]


def test_what_can_not_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaelens.conversion.converting.rescue", lambda *_: pytest.fail("measured"))
    with pytest.raises(UsageError, match="the layout ldm is a single file"):
        convert(sides[0], tmp_path / "folder", fp16_safe=True, layout="ldm", photos=[sides[1]], device="cpu")


def test_an_output_that_can_not_be_written_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for safe in (False, True):
        with pytest.raises(UsageError, match="Not a directory"):
            convert(tmp_path / "none", tmp_path / "file" / "out.safetensors", fp16_safe=safe)


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_convert_warns_of_values_that_float16_does_not_hold(
    dtype: str, tmp_path: Path, sides: tuple[Path, Path]
) -> None:
    vae = overflowing(SMALL, 3e4)  # whose weights float16 holds
    file = vae.save(tmp_path / "large.safetensors")
    ran = invoke("convert", file, "-o", tmp_path / "x.safetensors", "--dtype", dtype, "--photo", sides[1])
    layer, _ = rescue(vae, [read_image(sides[1])]).largest
    assert (f"{layer} reaches " in ran.stderr) == (dtype == "fp16")
    assert ("float16 ends at 65,504. `vaelens convert --fp16-safe`" in ran.stderr) == (dtype == "fp16")
    random_vae(SMALL).save(tmp_path / "fits.safetensors")
    ran = invoke("convert", tmp_path / "fits.safetensors", "-o", tmp_path / "x.safetensors", "--dtype", dtype)
    assert "65,504" not in ran.stderr


def test_convert_says_where_nothing_has_to_be_scaled(tmp_path: Path, sides: tuple[Path, Path]) -> None:
    source = random_vae(SMALL).save(tmp_path / "fits.safetensors")
    ran = invoke("convert", source, "-o", tmp_path / "out.safetensors", "--fp16-safe", "--photo", sides[1])
    assert "nothing was scaled" in ran.stdout
    assert load(tmp_path / "out.safetensors", device="cpu").spec.config == SMALL
    tiny = random_vae(TINY).save(tmp_path / "tiny.safetensors")
    invoke("convert", tiny, "-o", tmp_path / "no.safetensors", "--fp16-safe", "--photo", sides[1], code=2)
    assert not (tmp_path / "no.safetensors").exists()


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    """A file of a VAE beyond float16, and a photo."""
    pixels = (photo_like()[0][0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return overflowing(SMALL).save(tmp_path / "source.safetensors"), tmp_path / "photo.png"


@pytest.mark.slow
def test_a_full_size_vae_is_rescued(capsys: pytest.CaptureFixture[str]) -> None:
    """83.7 million parameters, pushed to a hundred times float16's limit."""
    found = rescue(overflowing(AutoencoderKLConfig(), 1e6), photo_like(128))
    with capsys.disabled():
        print(f"\nfloat32, scaled epsilon: {found.exact}\nfloat32, stock epsilon: {found.stock_epsilon}")
        print(f"float16: {found.half}\nfloat16, stock epsilon: {found.half_stock_epsilon}")
    assert found.largest[1] > 50 * HALF_LIMIT
    assert found.half_before is None
    assert max(found.exact.latents_largest, found.exact.pixels_largest) <= SAME
    assert found.stock_epsilon.pixels_largest < 1e-4
    assert found.half.pixels_mean < 2e-3
