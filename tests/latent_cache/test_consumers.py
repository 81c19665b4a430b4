"""Evaluating and fine-tuning from a cache: what the images give, with the same posteriors."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from support.latents import FAST
from support.training import SMALL_CONFIG, json_lines, small_presets, train
from support.vaes import random_vae
from vaelens.errors import UsageError
from vaelens.evaluation.presets import PRESETS
from vaelens.evaluation.results import Results
from vaelens.evaluation.run import evaluate
from vaelens.finetuning import training
from vaelens.finetuning.data.batches import Batch
from vaelens.images.datasets.opening import open_dataset
from vaelens.latent_cache.cache import LatentCache, open_cache
from vaelens.latent_cache.encoding import encode_dataset
from vaelens.latent_cache.index import is_cache
from vaelens.networks.autoencoder_kl import DiagonalGaussian
from vaelens.tensors.safetensors_file import open_safetensors
from vaelens.vae import VAE

Encode = Callable[..., LatentCache]
FIXED = {"data.crop": [1, 1], "data.flip": 0, "data.color_jitter": 0, "run.preset": "small"}
SIX = {"run.steps": 6, "run.evaluate_every": 6}


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[None]:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path / "vaelens"))
    monkeypatch.setattr("vaelens.evaluation.run.make_examples", lambda chosen, run: [])
    monkeypatch.setattr("vaelens.evaluation.report.report_files.report_html", lambda results, examples: "")
    with small_presets():
        yield


def measure(vaes: Sequence[VAE], source: Any, output: Path, posterior: str = "mode", **more: Any) -> Results:
    preset = replace(PRESETS["small"], posterior=posterior)
    results = evaluate(vaes, source, preset=preset, output=output, batch=2, threads=1, device="cpu", **more)
    assert results is not None
    return results


@pytest.mark.parametrize("posterior", ["mode", "sample"])
@pytest.mark.parametrize("images", [True, False])
def test_rows_are_those_of_the_images_within_the_rounding(
    posterior: str, images: bool, encode: Encode, vae: VAE, other_decoder: VAE, photos: Path, tmp_path: Path
) -> None:
    """Also of a VAE that didn't make the cache; noise is drawn by the images' own hashes."""
    cache = encode(rule="bicubic", images=images)
    both = [vae, other_decoder]
    found = measure(both, cache.path, tmp_path / "from-cache", posterior)
    wanted = measure(both, photos, tmp_path / "from-images", posterior)
    assert len(found.rows) == len(wanted.rows) == 28
    for a, b in zip(found.rows, wanted.rows, strict=True):
        assert (a.id, a.vae, a.sha256) == (b.id, b.vae, b.sha256)
        assert a.scores["psnr"] == pytest.approx(b.scores["psnr"], abs=2e-3)
        assert a.scores["ssim"] == pytest.approx(b.scores["ssim"], abs=2e-4)
    assert found.record["settings"]["latents"] == cache.identity
    assert "latents" not in wanted.record["settings"]


def test_nothing_is_encoded(encode: Encode, vae: VAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = encode(rule="bicubic")
    monkeypatch.setattr(VAE, "encode", lambda *_: pytest.fail("encoded"))
    results = measure([vae], cache, tmp_path / "run", take=5)
    assert [row.id for row in results.rows] == [item.id for item in cache.dataset(take=5).items]


def test_a_run_on_images_is_not_resumed_from_a_cache(encode: Encode, vae: VAE, photos: Path, tmp_path: Path) -> None:
    measure([vae], photos, tmp_path / "run")
    with pytest.raises(UsageError, match="holds a run with other settings: latents"):
        measure([vae], encode(rule="bicubic"), tmp_path / "run")


def test_another_encoder_is_refused_in_one_sentence_that_names_both(
    encode: Encode, vae: VAE, stranger: VAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the networks are loaded, which takes seconds or a download."""
    for name in (
        "evaluation.run.load_preset",
        "finetuning.training.load_preset",
        "finetuning.training.load_perceptual",
    ):
        monkeypatch.setattr(f"vaelens.{name}", lambda *_, **__: pytest.fail("loaded"))
    cache = encode(rule="bicubic")
    with pytest.raises(UsageError) as refused:
        measure([vae, stranger], cache.path, tmp_path / "run")
    ours, other = vae.fingerprint.encoder.stored[:12], stranger.fingerprint.encoder.stored[:12]
    assert f"made with the encoder of random ({ours}), and the encoder of stranger ({other}) is another" in str(
        refused.value
    )
    assert not (tmp_path / "run").exists()
    narrow = stranger.save(tmp_path / "stranger.safetensors")
    with pytest.raises(UsageError, match="is another one"):
        train(narrow, encode("area").path, tmp_path / "tuned", overrides=FIXED)


def test_an_encoder_of_the_same_weights_with_other_settings_is_another(encode: Encode, vae: VAE) -> None:
    cache = encode()
    other = VAE(vae.network, replace(vae.spec, pixel_range=(0.0, 1.0)), "darker")
    with pytest.raises(UsageError, match=r"of the same weights, but its pixel_range is \[0\.0, 1\.0\], not \[-1\.0, 1"):
        cache.check_encoder(other)
    cache.check_encoder(vae.to(torch.float16))  # a re-typed copy is the same


@pytest.mark.parametrize(("norm", "same"), [("decoder.conv_norm_out", True), ("encoder.conv_norm_out", False)])
def test_scaled_norms_of_the_decoder_are_no_other_encoder(norm: str, same: bool, encode: Encode, vae: VAE) -> None:
    """As `convert --fp16-safe` may leave them."""
    cache = encode()
    scaled = random_vae(replace(SMALL_CONFIG, norm_exponents=((norm, 2),)), seed=1)
    assert scaled.fingerprint == vae.fingerprint
    if same:
        cache.check_encoder(scaled)
    else:
        with pytest.raises(UsageError, match="of the same weights, but its norm_exponents"):
            cache.check_encoder(scaled)


def test_a_copy_in_half_precision_is_the_same_encoder(encode: Encode, vae: VAE, tmp_path: Path) -> None:
    from vaelens.loading import load

    cache = encode()
    half = load(vae.to(torch.float16).save(tmp_path / "half.safetensors"), device="cpu")
    assert half.fingerprint.encoder.stored != vae.fingerprint.encoder.stored
    cache.check_encoder(half)
    with pytest.raises(UsageError, match="is another one: one is the other in bfloat16"):
        cache.check_encoder(load(vae.to(torch.bfloat16).save(tmp_path / "bf.safetensors"), device="cpu"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "area"}, "by the size rule area to 32x32, but bicubic to 32x32 is needed here"),
        ({"rule": "bicubic", "size": 40}, "Encode the images again with --rule bicubic --size 32"),
    ],
)
def test_a_preset_that_reads_images_otherwise_is_refused(
    options: dict[str, Any], message: str, encode: Encode, vae: VAE, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as refused:
        measure([vae], encode(**options).path, tmp_path / "run")
    assert message in str(refused.value)


def test_a_cache_is_checked_before_networks_are_announced(
    encode: Encode, vae: VAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaelens.evaluation.run.check_networks", lambda *_: pytest.fail("announced"))
    with pytest.raises(UsageError, match="but bicubic to 32x32 is needed here"):
        measure([vae], encode(rule="area").path, tmp_path / "run")


def test_options_that_made_the_cache_are_refused(encode: Encode, vae: VAE, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--split is an option of `vaelens encode`, which made it"):
        measure([vae], encode(rule="bicubic").path, tmp_path / "run", split="test")


def weights(folder: Path) -> dict[str, Tensor]:
    file = open_safetensors(folder / "vae" / "diffusion_pytorch_model.safetensors")
    return file.read(file.shapes)


class RoundedPosteriors:
    """What the images' run uses in the comparison: each image encoded by itself and rounded, without any file."""

    def __init__(self, vae: VAE) -> None:
        self._vae = vae

    def posterior(self, batch: Batch) -> DiagonalGaussian:
        of = self._vae.encode(batch.image).posterior
        assert of.logvar is not None
        return DiagonalGaussian(of.mean.half().float(), of.logvar.half().float())


@pytest.mark.parametrize("images", [True, False])
def test_a_training_from_the_cache_is_the_one_from_the_images(
    images: bool, vae: VAE, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, with the same posterior draws, where the images' posteriors are rounded to float16 as well."""
    file = vae.save(tmp_path / "vae.safetensors")
    cache = encode_dataset(file, photos, output=tmp_path / "latents", images=images, **FAST | {"batch": 1})
    assert cache is not None
    options: dict[str, Any] = {"overrides": FIXED | SIX | {"data.batch_size": 1, "model.posterior": "sample"}}
    from_cache = train(file, cache.path, tmp_path / "a", **options)
    assert len({line["loss"] for line in json_lines(tmp_path / "a" / "log.jsonl")}) == 6
    plain = train(file, photos, tmp_path / "c", **options)
    with monkeypatch.context() as patch:
        patch.setattr(training, "_posteriors", lambda *_: RoundedPosteriors(vae))
        train(file, photos, tmp_path / "b", **options)
    tuned, rounded, unrounded = (weights(tmp_path / name) for name in "abc")
    start = vae.network.state_dict()
    moved = [name for name in tuned if name in start and not torch.equal(tuned[name], start[name])]
    assert len(moved) > 20
    assert all(torch.equal(tuned[name], rounded[name]) for name in tuned)
    assert json_lines(tmp_path / "a" / "log.jsonl") == json_lines(tmp_path / "b" / "log.jsonl")
    # The rounding alone changes little of what is learned, although Adam enlarges tiny gradients.
    off, whole = (sum(float((tuned[n] - of[n]).square().sum()) for n in moved) ** 0.5 for of in (unrounded, start))
    assert off < 0.06 * whole
    losses = [[line["loss"] for line in json_lines(tmp_path / name / "log.jsonl")] for name in "ac"]
    assert losses[0] == pytest.approx(losses[1], rel=5e-5)
    assert from_cache.record["settings"]["sources"][0]["latents"] == cache.identity
    assert (
        from_cache.record["settings"]["held_out"]["manifest_sha256"]
        == plain.record["settings"]["held_out"]["manifest_sha256"]
    )


def test_a_training_from_a_cache_never_encodes_and_resumes(
    encode: Encode, vae: VAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, file = encode(), vae.save(tmp_path / "vae.safetensors")
    options: dict[str, Any] = {"overrides": FIXED | SIX}
    train(file, cache.path, tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        patch.setattr("vaelens.networks.autoencoder_kl.AutoencoderKL.posterior", lambda *_: pytest.fail("encoded"))
        patch.setattr("vaelens.networks.autoencoder_kl.AutoencoderKL.moments", lambda *_: pytest.fail("encoded"))
        patch.setattr("vaelens.finetuning.loop.evaluate", lambda _: None)
        with pytest.raises(training.Interrupted):
            train(file, cache.path, tmp_path / "run", should_stop=_after(3), **options)
    train(file, cache, tmp_path / "run", **options)
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(a[name], b[name]) for name in a)


def _after(steps: int) -> Callable[[], bool]:
    calls = iter(range(1, 1000))
    return lambda: next(calls) == steps


@pytest.mark.parametrize(
    ("overrides", "more", "message"),
    [
        (
            {"data.crop": [0.5, 1]},
            {},
            "holds one square of 32 pixels per image, but this recipe changes each image at random in each epoch. Add "
            "--set data.crop=[1,1]; or name the images.",
        ),
        ({"data.flip": 0.5}, {}, "epoch. Add --set data.flip=0; or name"),
        ({"data.size": 64}, {}, "trains on 64. Add --set data.size=32, or encode the images with --size 64."),
        (
            {"data.flip": 0.5, "data.color_jitter": 0.1, "data.size": 64},
            {},
            "epoch and trains on 64. Add --set data.flip=0 --set data.color_jitter=0 and --set data.size=32, or encode "
            "the images with --size 64; or name",
        ),
        ({}, {"cache": True}, "already holds what --cache would keep"),
        ({}, {"recipe": "tiny-kl-f8"}, "of a frozen encoder, but this recipe trains the encoder"),
    ],
)
def test_recipes_whose_crops_a_cache_does_not_hold_are_refused(
    overrides: dict[str, Any], more: dict[str, Any], message: str, encode: Encode, vae: VAE, tmp_path: Path
) -> None:
    file = vae.save(tmp_path / "vae.safetensors")
    with pytest.raises(UsageError) as refused:
        train(file, encode().path, tmp_path / "run", overrides=FIXED | overrides, **more)
    assert message in str(refused.value)


def test_caches_are_not_mixed_with_images(encode: Encode, vae: VAE, photos: Path, tmp_path: Path) -> None:
    file = vae.save(tmp_path / "vae.safetensors")
    with pytest.raises(UsageError, match="can't be mixed with images"):
        train(file, [encode().path, photos], tmp_path / "run", overrides=FIXED)
    with pytest.raises(UsageError, match="reads its images by the rule area"):
        train(file, encode("x", rule="bicubic", images=False).path, tmp_path / "run", overrides=FIXED)
    with pytest.raises(UsageError, match=r"by the size rule area to 32x32, but .* by bicubic to 32x32"):
        train(file, [encode().path, encode("y", rule="bicubic").path], tmp_path / "run", overrides=FIXED)


def test_a_cache_is_named_by_its_path_where_it_is_too_small(encode: Encode, vae: VAE, tmp_path: Path) -> None:
    file, cache = vae.save(tmp_path / "vae.safetensors"), encode()
    with pytest.raises(UsageError, match=rf"holds out 14 images of {cache.path}, but at most half"):
        train(file, cache, tmp_path / "run", overrides=FIXED | {"run.held_out": 14})


def test_held_out_images_of_a_cache_are_part_of_the_plan(
    encode: Encode, vae: VAE, photos: Path, tmp_path: Path
) -> None:
    """Their squares aren't those that the preset makes of the images, though the hashes are."""
    file = vae.save(tmp_path / "vae.safetensors")
    for path in sorted(photos.iterdir())[:3]:
        (tmp_path / "some").mkdir(exist_ok=True)
        (tmp_path / "some" / path.name).write_bytes(path.read_bytes())
    held_out = encode("held-out", images_of=tmp_path / "some")
    tuned = train(file, photos, tmp_path / "run", overrides=FIXED | SIX, held_out=held_out)
    assert tuned.record["settings"]["held_out"]["latents"] == held_out.identity
    train(file, photos, tmp_path / "run", overrides=FIXED | SIX, held_out=held_out.path)
    with pytest.raises(UsageError, match=r"other settings: held_out\.latents"):
        train(file, photos, tmp_path / "run", overrides=FIXED | SIX, held_out=tmp_path / "some")


def test_a_folder_of_images_with_a_foreign_cache_json_is_no_cache(
    encode: Encode, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "00.png").write_bytes((photos / "00.png").read_bytes())
    (folder / "cache.json").write_text("{}")
    assert not is_cache(folder)
    cache = encode("synthetic")
    monkeypatch.chdir(tmp_path)
    assert is_cache(cache.path)
    assert is_cache("./synthetic")
    assert not is_cache("synthetic")  # the dataset, as for every command
    monkeypatch.setenv("HOME", str(tmp_path))
    assert is_cache("~/synthetic")


def test_posteriors_of_another_precision_are_noted(encode: Encode) -> None:
    cache = encode("bf16", of=random_vae(SMALL_CONFIG, seed=1).to(torch.bfloat16))
    assert any("encoded before in bfloat16, by" in note for note in cache.dataset().notes)
    assert "run in bfloat16" in cache.summary()["encoder"]
    assert any("encoded before, by" in note for note in encode().dataset().notes)


def test_synthetic_images_stay_apart(vae: VAE, tmp_path: Path) -> None:
    """Those for evaluation aren't trained on, and those for training aren't measured."""
    file = vae.save(tmp_path / "vae.safetensors")
    for training_set in (False, True):
        made = tmp_path / str(training_set)
        cache = encode_dataset(vae, "synthetic", output=made, rule="bicubic", take=4, training=training_set, **FAST)
        assert cache is not None
        assert cache.items == open_dataset("synthetic", take=4, training=training_set).items or cache.items[0].boxes
    with pytest.raises(UsageError, match="are for evaluation"):
        train(file, tmp_path / "False", tmp_path / "run", overrides=FIXED | {"run.held_out": 1})
    with pytest.raises(UsageError, match="for training, which are never measured on"):
        measure([vae], open_cache(tmp_path / "True"), tmp_path / "run")


def test_boxes_lie_where_the_squares_show_them(vae: VAE, tmp_path: Path) -> None:
    from vaelens.images.resizing import placement

    cache = encode_dataset(vae, "synthetic-faces", output=tmp_path / "c", rule="bicubic", take=2, **FAST)
    assert cache is not None
    for item, whole in zip(cache.items, open_dataset("synthetic-faces", take=2).items, strict=True):
        mapped = [placement(256, 256, 32).map(box) for box in whole.boxes]
        assert item.boxes == tuple(box for box in mapped if box is not None)
        assert item.boxes
