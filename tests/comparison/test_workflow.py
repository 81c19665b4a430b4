"""One latent, every decoder: one latent under all, as many UNet calls for five as for one, interrupts, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support import pipelines
from support.comparisons import PROMPT, named, run, save_latents
from support.vaes import random_vae
from vaelens.adapters.pipelines import DiffusionPipeline
from vaelens.comparison.workflow import compare
from vaelens.errors import CheckFailedError, ResourceError, UsageError
from vaelens.images.drawing import Box
from vaelens.latents import Latent, PromptProvenance
from vaelens.loading import load
from vaelens.replay.reproduction import replay
from vaelens.vae import VAE


def test_five_vaes_cost_no_more_unet_calls_than_one(model: Path, vaes: list[VAE], monkeypatch: Any) -> None:
    calls: list[str] = []
    pipelines.count_unet_calls(monkeypatch, calls)
    run(model, vaes[:1], seeds=(0, 1))
    one = len(calls)
    calls.clear()
    made = run(model, vaes, seeds=(0, 1))
    assert repr(made) == "Comparison(2 latents, 5 VAEs: v0, v1, v2, v3, v4)"
    assert len(calls) == one == 2 * 4  # PNDM calls once more than it has steps
    for image, described in zip(made.images, made.record["images"], strict=True):
        of_rows = {row["latents_sha256"] for row in made.record["rows"] if row["image"] == image.title}
        assert of_rows == {described["latents_sha256"]} == {image.latent.sha256}
    assert made.images[0].latent.sha256 != made.images[1].latent.sha256
    assert all(not np.array_equal(made.images[0].decoded[0].pixels, d.pixels) for d in made.images[0].decoded[1:])


def test_a_seed_gives_the_same_image_alone_and_in_company(model: Path, vaes: list[VAE]) -> None:
    company = run(model, vaes[:3], seeds=(5, 0, 9))
    alone = run(model, vaes[1], seeds=(0,))
    assert alone.images[0].latent.sha256 == company.images[1].latent.sha256
    assert np.array_equal(alone.images[0].decoded[0].pixels, company.images[1].decoded[1].pixels)
    library = pipelines.diffusers().StableDiffusionPipeline.from_pretrained(model)
    library.set_progress_bar_config(disable=True)
    theirs = library(PROMPT, num_inference_steps=3, generator=torch.Generator().manual_seed(0), output_type="latent")
    assert torch.equal(theirs.images, company.images[1].latent.tensor)
    expected = vaes[1].decode(theirs.images).mul(255).round().to(torch.uint8)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(alone.images[0].decoded[0].pixels, expected)


def test_seed_0_and_guidance_scale_0_are_taken_literally(model: Path, vaes: list[VAE]) -> None:
    made = run(model, vaes[0], seeds=(0,), guidance_scale=0.0)
    source = made.images[0].latent.provenance
    assert isinstance(source, PromptProvenance)
    assert (source.seed, source.sampling.guidance_scale) == (0, 0.0)
    again = run(model, vaes[0], seeds=(0,), guidance_scale=1.0)
    assert again.images[0].latent.sha256 == made.images[0].latent.sha256
    assert run(model, vaes[0], guidance_scale=7.5).images[0].latent.sha256 != made.images[0].latent.sha256


def test_a_photo_is_encoded_once(photo: Path, monkeypatch: Any) -> None:
    first, second, other = random_vae(seed=0), random_vae(seed=1), random_vae(seed=2)
    second.network.encoder.load_state_dict(first.network.encoder.state_dict())
    second.network.quant_conv.load_state_dict(first.network.quant_conv.state_dict())
    encoded: list[str] = []
    encode = VAE.encode
    monkeypatch.setattr(VAE, "encode", lambda self, image: encoded.append(self.name) or encode(self, image))
    made = compare(photos=photo, vaes=[named(first, "a"), named(second, "b")])
    assert encoded == ["a"]
    assert "the same encoder" in made.notes[0]
    assert made.images[0].decoded[0].pixels.shape == made.images[0].original.shape == (36, 40, 3)
    for score, one in zip(made.images[0].scores, made.images[0].decoded, strict=True):
        gap = one.pixels.astype(np.float64) - made.images[0].original
        assert score.psnr == pytest.approx(10 * np.log10(255**2 / np.mean(gap**2)), abs=1e-4)
    (note,) = compare(photos=[photo], vaes=[named(first, "a"), named(other, "c")]).notes
    assert note.startswith("c: not the encoder of a")


def test_prompt_photo_and_latents_in_one(model: Path, vaes: list[VAE], photo: Path, tmp_path: Path) -> None:
    run(model, vaes[0]).save(tmp_path / "first")
    saved = tmp_path / "first" / "001-seed-0.safetensors"
    made = run(model, vaes[:2], latents=saved, photos=[photo])
    assert [s.title for s in made.images] == ["seed 0", "latents 1, seed 0", "face.png"]
    assert made.images[0].latent.sha256 == made.images[1].latent.sha256
    assert np.array_equal(made.images[0].decoded[1].pixels, made.images[1].decoded[1].pixels)
    names = [path.name for path in made.save(tmp_path / "all")]
    assert names[:3] == ["index.html", "sheet.png", "run.json"]
    assert {"001-seed-0-1-v0.png", "002-latents-1-2-v1.png", "003-face-1-v0.png", "003-face.safetensors"} <= set(names)
    record = json.loads((tmp_path / "all" / "run.json").read_text())
    assert [row.get("psnr") is not None for row in record["rows"]] == [False] * 4 + [True] * 2


def test_the_page_jumps_to_labelled_boxes(model: Path, vaes: list[VAE], photo: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(
        "id,label,left,top,right,bottom\nface.png,eye,10,8,20,18\nface.png,eye,50,8,60,18\n"
        "face.png,mouth,30,20,60,30\nseed 4,letter,8,8,40,48\nnobody.png,eye,1,1,2,2\n"
    )
    notices: list[str] = []
    made = run(model, vaes[:1], seeds=(4,), photos=photo, max_side=20, boxes=boxes, notify=notices.append)
    assert made.images[0].boxes == (Box("letter", 8, 8, 40, 48),)
    # What goes beyond the image is cut, what lies outside left out.
    assert made.images[1].boxes == (Box("eye", 5, 4, 10, 9), Box("mouth", 15, 10, 20, 15))
    assert made.notes == (
        f"1 of the 3 ids in {boxes} matches no image.",
        "1 box lies outside of face.png and is left out.",
    )
    assert set(made.notes) <= set(notices)
    page = made.save(tmp_path / "page.html")[0].read_text()
    assert '"label": "mouth"' in page
    boxes.write_text("id,label,left,top,right,bottom\nnobody.png,eye,1,1,2,2\n")
    with pytest.raises(UsageError, match="no image has one of its ids"):
        run(model, vaes[:1], seeds=(4,), boxes=boxes)


def test_the_safety_checker_sees_every_image(model: Path, vaes: list[VAE], monkeypatch: Any) -> None:
    shapes: list[tuple[int, ...]] = []

    def flags_the_second(_pipe: Any, image: torch.Tensor, *_: object) -> tuple[torch.Tensor, list[bool]]:
        assert -1.0 <= float(image.min()) <= float(image.max()) <= 1.0
        shapes.append(tuple(image.shape))
        return image, [len(shapes) == 2]

    monkeypatch.setattr(pipelines.diffusers().StableDiffusionPipeline, "run_safety_checker", flags_the_second)
    made = run(model, vaes[:3], safety_checker=True)
    assert shapes == [(1, 3, 64, 64)] * 3
    flagged = [one.flagged for one in made.images[0].decoded]
    assert flagged == [False, True, False]
    assert made.images[0].decoded[1].pixels.max() == 0
    assert made.images[0].decoded[0].pixels.max() > 0
    assert [row["flagged"] for row in made.record["rows"]] == flagged
    assert "safety checker" in made.gallery().rows[0].cells[1].note
    assert "1 of 3 images" in " ".join(made.warnings())
    run(model, vaes[:1])
    assert len(shapes) == 3, "it is turned off"


def test_the_models_own_safety_checker_runs(model: Path, vaes: list[VAE], monkeypatch: Any) -> None:
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker

    flags: list[bool] = []
    forward = StableDiffusionSafetyChecker.forward

    def counted(self: Any, *given: Any, **more: Any) -> Any:
        found = forward(self, *given, **more)
        flags.append(found[1][0])
        return found

    monkeypatch.setattr(StableDiffusionSafetyChecker, "forward", counted)
    made = run(model, vaes[:2], safety_checker=True)
    assert made.record["sampling"]["safety_checker"] is True
    assert flags == [one.flagged for one in made.images[0].decoded]
    assert len(flags) == 2


def test_an_overflow_in_fp16_is_decoded_again_in_fp32(model: Path, tmp_path: Path) -> None:
    loud = random_vae(seed=0)
    with torch.no_grad():
        loud.network.decoder.conv_norm_out.weight.mul_(3e4)
        loud.network.decoder.conv_out.weight.div_(3e4)
    file = loud.save(tmp_path / "loud.safetensors")
    quiet = random_vae(seed=1).save(tmp_path / "quiet.safetensors")
    run(model, file).save(tmp_path / "one")
    saved = tmp_path / "one" / "001-seed-0.safetensors"
    half = compare(latents=saved, vaes=[file, quiet], dtype="float16")
    full = compare(latents=saved, vaes=file)
    first, second = half.images[0].decoded
    assert (first.retried_in_float32, first.dtype) == (True, "float32")
    assert (second.retried_in_float32, second.dtype) == (False, "float16")
    assert np.array_equal(first.pixels, full.images[0].decoded[0].pixels)
    assert [row["retried_in_float32"] for row in half.record["rows"]] == [True, False]
    assert "float16 overflowed" in half.gallery().rows[0].cells[0].caption
    assert "loud overflowed in float16" in " ".join(half.warnings())
    image = half.save(tmp_path / "half")[3]
    again = replay(image, latents=saved, vae=str(file))
    assert (again.largest, json.loads(again.text["vaelens"])["decoded_in"]) == (0, "float32")
    loaded = compare(latents=saved, vaes=[load(file, dtype="float16")])
    assert loaded.images[0].decoded[0].retried_in_float32


def test_an_overflow_in_fp32_is_an_error(vaes: list[VAE], photo: Path) -> None:
    with torch.no_grad():
        vaes[0].network.decoder.conv_out.weight.fill_(float("inf"))
    with pytest.raises(CheckFailedError, match="NaN or infinite"):
        compare(photos=photo, vaes=vaes[0])


@pytest.mark.parametrize("stop", [KeyboardInterrupt, None])
def test_an_interrupt_leaves_what_was_finished(model: Path, vaes: list[VAE], tmp_path: Path, stop: Any) -> None:
    steps: list[str] = []

    def progress(done: int, total: int, what: str) -> None:
        steps.append(what)
        assert 0 <= done < total == 3 * (4 + 2)
        if stop and what == "seed 2, step 2 of 4":
            raise stop

    def should_stop() -> bool:
        return stop is None and steps[-1:] == ["seed 2, step 1 of 4"]

    made = run(model, vaes[:2], seeds=(0, 2, 4), progress=progress, should_stop=should_stop)
    assert made.interrupted
    assert made.record["interrupted"]
    assert [s.title for s in made.images] == ["seed 0"]
    assert len(made.save(tmp_path / "out")) == 3 + 2 + 1
    with pytest.raises(KeyboardInterrupt):
        run(model, vaes[:2], should_stop=lambda: True)


def test_a_stop_within_an_image_leaves_what_was_decoded(model: Path, vaes: list[VAE]) -> None:
    heard: list[tuple[int, int, str]] = []

    def should_stop() -> bool:
        return bool(heard) and heard[-1][2].startswith("seed 0, v1, decoding")

    made = run(model, vaes[:3], seeds=(0,), progress=lambda *step: heard.append(step), should_stop=should_stop)
    assert made.interrupted
    assert len(made.images[0].decoded) == 1
    first = heard.index((4, 7, "seed 0, v0"))
    assert heard[first + 1] == (4, 7, "seed 0, v0, decoding 0 %")
    assert heard[-1] == (5, 7, "seed 0, v1, decoding 0 %")


def test_a_stop_between_decoders_leaves_what_was_decoded(model: Path, vaes: list[VAE], tmp_path: Path) -> None:
    def progress(_done: int, _total: int, what: str) -> None:
        if what == "seed 2, v2":
            raise KeyboardInterrupt

    made = run(model, vaes[:4], seeds=(0, 2, 4), progress=progress)
    assert made.interrupted
    assert [len(s.decoded) for s in made.images] == [4, 2]
    assert made.images[1].latent.sha256 == run(model, vaes[0], seeds=(2,)).images[0].latent.sha256
    assert len(made.record["rows"]) == len(made.table().rows) == 6
    written = made.save(tmp_path / "out")
    names = [path.name for path in written if path.name.startswith("002-")]
    assert names == ["002-seed-2-1-v0.png", "002-seed-2-2-v1.png", "002-seed-2.safetensors"]
    for output in (tmp_path / "x.html", tmp_path / "x.png"):
        assert made.save(output)


def test_a_late_error_leaves_finished_images(model: Path, vaes: list[VAE], tmp_path: Path, monkeypatch: Any) -> None:
    latents = DiffusionPipeline.latents

    def fails(self: Any, sampling: Any, seed: int, on_step: Any) -> torch.Tensor:
        if seed == 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes")
        return latents(self, sampling, seed, on_step)

    monkeypatch.setattr(DiffusionPipeline, "latents", fails)
    made = run(model, vaes[:2], seeds=(0, 2, 4))
    assert isinstance(made.failure, ResourceError)
    assert [s.title for s in made.images] == ["seed 0"]
    assert "out of memory denoising 64x64 pixels with narrow-sd" in made.record["notes"][0]
    made.save(tmp_path / "out")
    with pytest.raises(ResourceError):
        run(model, vaes[:2], seeds=(2,))


Refuse = Callable[[Path, list[VAE]], object]


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda m, v: compare(vaes=v), "nothing to decode"),
        (lambda m, v: run(m, []), "no VAE named"),
        (lambda m, v: run(m, v, seeds=()), "no seed named"),
        (lambda m, v: run(m, v, seeds=(2**70,)), "a seed lies between"),
        (lambda m, v: compare(PROMPT, [v[0], "sdxl"], model=str(m)), "no latent fits both"),
        (lambda m, v: run(m, ["sdxl"]), "narrow-sd has the latent space sd1 .* sdxl decodes that of sdxl"),
        (lambda m, v: run(m, ["kl-f9"]), "no VAE is called 'kl-f9'.*Did you mean kl-f8"),
        (lambda m, v: run(m, [v[0], random_vae(space="sdxl")]), "no latent fits both"),
        (lambda m, v: compare(model=str(m), vaes=v, photos="x.png"), "model has an effect with a prompt only"),
        (lambda m, v: compare(seeds=[1], vaes=v, photos="x.png"), "seeds has an effect"),
        (lambda m, v: compare(steps=3, vaes=v, photos="x.png"), "steps has an effect"),
        (lambda m, v: compare(safety_checker=False, vaes=v, photos="x.png"), "safety checker has an effect"),
        (lambda m, v: run(m, v, max_side=40), "no photo is named"),
        (lambda m, v: compare("an astronaut"), "tiny-sd doesn't know 'astronaut'"),
    ],
)
def test_what_cant_be_compared_is_refused(model: Path, vaes: list[VAE], attempt: Refuse, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        attempt(model, vaes)


def test_latents_of_another_shape_are_refused_at_once(tmp_path: Path) -> None:
    file = save_latents(tmp_path / "wide.safetensors", Latent(torch.zeros(1, 16, 4, 4), "sd1"))
    with pytest.raises(UsageError, match=r"16 channels.* sd1 have 4"):
        compare(latents=file, vaes="kl-f8", offline=True)
