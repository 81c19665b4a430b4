"""One latent, every decoder: the same latent under all, as many UNet calls for five as for one, the same bits again."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from vaelens.comparison.outcome import Comparison, check_plain_output
from vaelens.comparison.running import compare, generate
from vaelens.replay.replaying import replay

from support import pipelines
from support.vaes import random_vae
from vaelens.adapters.pipelines import DiffusionPipeline
from vaelens.errors import BadInputError, CheckFailedError, ResourceError, UsageError
from vaelens.images.faces import draw_face
from vaelens.latents import Latent, save_latents
from vaelens.loading import load
from vaelens.report.gallery import check_output
from vaelens.resources import using_threads
from vaelens.vae import VAE

PROMPT = "a photo of a cat"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipelines.write(pipelines.sd(with_guard=True), tmp_path_factory.mktemp("models") / "narrow-sd")


@pytest.fixture
def vaes() -> list[VAE]:
    return [named(random_vae(seed=seed), f"v{seed}") for seed in range(5)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with using_threads(1):
        yield


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "face.png"
    Image.fromarray(draw_face(0, 40).pixels[:36]).save(path)
    return path


def named(vae: VAE, name: str) -> VAE:
    vae.name = name
    return vae


def run(model: Path, vaes: Any, seeds: Any = (0,), **more: Any) -> Comparison:
    options = {"model": str(model), "steps": 3, "safety_checker": False} | more
    return compare(PROMPT, vaes, seeds=seeds, **options)


def test_five_vaes_cost_no_more_unet_calls_than_one(model: Path, vaes: list[VAE], monkeypatch: Any) -> None:
    calls: list[int] = []
    unet = pipelines.diffusers().UNet2DConditionModel
    forward = unet.forward

    def counted(self: Any, *given: Any, **more: Any) -> Any:
        calls.append(1)
        return forward(self, *given, **more)

    monkeypatch.setattr(unet, "forward", counted)
    run(model, vaes[:1], seeds=(0, 1))
    one = len(calls)
    calls.clear()
    made = run(model, vaes, seeds=(0, 1))
    assert len(calls) == one == 2 * 4  # PNDM asks one time more than it has steps
    for subject, row in zip(made.subjects, made.record["subjects"], strict=True):
        of = {r["latents_sha256"] for r in made.record["rows"] if r["subject"] == subject.title}
        assert of == {row["latents_sha256"]} == {subject.latent.sha256}
    assert made.subjects[0].latent.sha256 != made.subjects[1].latent.sha256
    assert all(not np.array_equal(made.subjects[0].decoded[0].pixels, d.pixels) for d in made.subjects[0].decoded[1:])


def test_a_seed_gives_the_same_image_alone_and_in_company(model: Path, vaes: list[VAE]) -> None:
    company = run(model, vaes[:3], seeds=(5, 0, 9))
    alone = run(model, vaes[1], seeds=(0,))
    assert alone.subjects[0].latent.sha256 == company.subjects[1].latent.sha256
    assert np.array_equal(alone.subjects[0].decoded[0].pixels, company.subjects[1].decoded[1].pixels)
    library = pipelines.diffusers().StableDiffusionPipeline.from_pretrained(model)
    library.set_progress_bar_config(disable=True)
    theirs = library(PROMPT, num_inference_steps=3, generator=torch.Generator().manual_seed(0), output_type="latent")
    assert torch.equal(theirs.images, company.subjects[1].latent.tensor)
    want = vaes[1].decode(theirs.images).mul(255).round().to(torch.uint8)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(alone.subjects[0].decoded[0].pixels, want)


def test_replay_makes_the_same_bits(model: Path, vaes: list[VAE], tmp_path: Path) -> None:
    file = vaes[0].save(tmp_path / "narrow.safetensors")
    made = run(model, [str(file), str(vaes[1].save(tmp_path / "other.safetensors"))], seeds=(3, 4), scheduler="euler")
    written = made.save(tmp_path / "out")
    image = next(path for path in written if path.name.startswith("002-") and "narrow" in path.name)
    again = replay(image, model=str(model), vae=str(file))
    assert (again.largest, again.same_latent, again.same_weights, again.notes) == (0, True, True, ())
    assert again.sentence() == "largest difference 0 of 255: the same image, bit for bit"
    latents = tmp_path / "out" / "002-seed-4.safetensors"
    assert replay(image, latents=latents, vae=str(file)).largest == 0
    twice = run(model, [str(file), str(file)])
    assert twice.vaes == ["narrow", "narrow (2)"]
    said = [json.loads(twice.text(twice.subjects[0], i)["vaelens"])["vae"]["name"] for i in (0, 1)]
    assert said == ["narrow", "narrow"], "a number that tells two apart here names nothing elsewhere"
    other = replay(image, model=str(model), vae=str(tmp_path / "other.safetensors"))
    assert other.largest > 0
    assert not other.same_weights
    assert "the VAE's weights are others" in other.notes[0]


def test_a_image_never_names_what_is_fetched_or_a_path(model: Path, vaes: list[VAE], tmp_path: Path) -> None:
    file = vaes[0].save(tmp_path / "narrow.safetensors")
    (image, *_) = generate(PROMPT, str(file), model=str(model), steps=2).save_plain(tmp_path / "x.png")
    with pytest.raises(UsageError, match=r"the VAE 'narrow' isn't on this machine.*--vae, or say --yes"):
        replay(image)
    with pytest.raises(UsageError, match=r"the model 'narrow-sd' isn't on this machine.*--model"):
        replay(image, vae=str(file))

    def say(**changes: Any) -> Path:
        text = Image.open(image).text
        chunk = json.loads(text["vaelens"])
        for part, values in changes.items():
            chunk[part] |= values
        return stored(tmp_path / "said.png", np.asarray(Image.open(image)), vaelens=json.dumps(chunk))

    for name in (str(file), "../narrow.safetensors", "someone/never-heard-of", "kl-f8"):
        with pytest.raises(UsageError, match="isn't on this machine"):
            replay(say(vae={"name": name}))
    for name in (str(model), "someone/never-heard-of", "sd-v1-4"):
        with pytest.raises(UsageError, match=r"the model .* isn't on this machine"):
            replay(say(made={"model": name, "model_source": "hub"}), vae=str(file))
    with pytest.raises(UsageError, match="steps are from 1 to 1000"):
        replay(say(made={"steps": 10**9, "model": "sd-v1-4", "model_source": "hub"}), vae=str(file))


def stored(path: Path, pixels: np.ndarray, **text: str) -> Path:
    from vaelens.images.writing import encode_png

    path.write_bytes(encode_png(np.asarray(pixels), text))
    return path


def test_images_that_cant_be_replayed(photo: Path, tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(BadInputError, match="doesn't say how vaelens made it"):
        replay(photo)
    with pytest.raises(BadInputError, match="another tool's `parameters`"):
        replay(stored(tmp_path / "a.png", pixels, parameters="a cat\nSteps: 20"))
    for text in ("{", "[]", "null", '{"made": {}}', "[" * 100_000):
        with pytest.raises(BadInputError, match="can't be replayed"):
            replay(stored(tmp_path / "a.png", pixels, vaelens=text))


def test_png_text_is_read_by_other_tools(model: Path, vaes: list[VAE], tmp_path: Path) -> None:
    made = run(model, vaes[:2], seeds=(0,), negative="a dog: ugly", guidance=0.0)
    made.save(tmp_path / "out")
    text = Image.open(tmp_path / "out" / "001-seed-0-2-v1.png").text
    assert text["parameters"].splitlines() == [
        PROMPT,
        "Negative prompt: a dog: ugly",
        "Steps: 3, Sampler: PLMS, CFG scale: 0, Seed: 0, Size: 64x64, Model: narrow-sd, VAE: v1, Version: vaelens "
        + made.record["versions"]["vaelens"],
    ]
    chunk = json.loads(text["vaelens"])
    assert chunk["made"]["seed"] == 0
    assert chunk["made"]["guidance"] == 0
    assert chunk["vae"]["fingerprint"] == made.record["vaes"][1]["fingerprint"]
    assert chunk["latents_sha256"] == made.subjects[0].latent.sha256
    assert str(tmp_path) not in json.dumps(text)
    assert {"versions", "threads"} <= set(chunk)


def test_a_photograph_is_encoded_once(photo: Path, monkeypatch: Any) -> None:
    first, second, other = random_vae(seed=0), random_vae(seed=1), random_vae(seed=2)
    second.network.encoder.load_state_dict(first.network.encoder.state_dict())
    second.network.quant_conv.load_state_dict(first.network.quant_conv.state_dict())
    encoded: list[str] = []
    encode = VAE.encode
    monkeypatch.setattr(VAE, "encode", lambda self, image: encoded.append(self.name) or encode(self, image))
    made = compare(photos=photo, vaes=[named(first, "a"), named(second, "b")])
    assert encoded == ["a"]
    assert made.notes == ("Both VAEs have the same encoder, so each would make the same latents of a photo.",)
    assert made.subjects[0].decoded[0].pixels.shape == made.subjects[0].original.shape == (36, 40, 3)
    for score, one in zip(made.subjects[0].scores, made.subjects[0].decoded, strict=True):
        gap = one.pixels.astype(np.float64) - made.subjects[0].original
        assert score.psnr == pytest.approx(10 * np.log10(255**2 / np.mean(gap**2)), abs=1e-4)
    (note,) = compare(photos=[photo], vaes=[named(first, "a"), named(other, "c")]).notes
    assert note.startswith("The encoder of c is another than a's, which encoded the photos")


def test_prompt_photograph_and_latents_in_one(model: Path, vaes: list[VAE], photo: Path, tmp_path: Path) -> None:
    run(model, vaes[0]).save(tmp_path / "first")
    saved = tmp_path / "first" / "001-seed-0.safetensors"
    made = run(model, vaes[:2], latents=saved, photos=[photo])
    assert [s.title for s in made.subjects] == ["seed 0", "latents 1, seed 0", "face.png"]
    assert made.subjects[0].latent.sha256 == made.subjects[1].latent.sha256
    assert np.array_equal(made.subjects[0].decoded[1].pixels, made.subjects[1].decoded[1].pixels)
    names = [path.name for path in made.save(tmp_path / "all")]
    assert names[:3] == ["index.html", "sheet.png", "run.json"]
    assert {"001-seed-0-1-v0.png", "002-latents-1-2-v1.png", "003-face-1-v0.png", "003-face.safetensors"} <= set(names)
    record = json.loads((tmp_path / "all" / "run.json").read_text())
    assert [row.get("psnr") is not None for row in record["rows"]] == [False] * 4 + [True] * 2


def test_labelled_boxes_are_what_the_page_jumps_to(model: Path, vaes: list[VAE], photo: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(
        "id,label,left,top,right,bottom\nface.png,eye,10,8,20,18\nface.png,eye,50,8,60,18\n"
        "face.png,mouth,30,20,60,30\nseed 4,letter,8,8,40,48\nnobody.png,eye,1,1,2,2\n"
    )
    said: list[str] = []
    made = run(model, vaes[:1], seeds=(4,), photos=photo, max_side=20, boxes=boxes, notify=said.append)
    assert [(box.label, box.left, box.top, box.right, box.bottom) for box in made.subjects[0].boxes] == [
        ("letter", 8, 8, 40, 48)
    ]
    assert [(box.label, box.left, box.top, box.right, box.bottom) for box in made.subjects[1].boxes] == [
        ("eye", 5, 4, 10, 9),
        ("mouth", 15, 10, 20, 15),  # what goes beyond the image is cut, what lies outside left out
    ]
    assert made.notes == (
        f"1 of the 3 ids in {boxes} match no image.",
        "1 boxes lie outside of face.png and are left out.",
    )
    assert set(made.notes) <= set(said), "on the terminal, too"
    page = made.save(tmp_path / "page.html")[0].read_text()
    assert '"label": "mouth"' in page
    boxes.write_text("id,label,left,top,right,bottom\nnobody.png,eye,1,1,2,2\n")
    with pytest.raises(UsageError, match="none of its 1 ids is an image's"):
        run(model, vaes[:1], seeds=(4,), boxes=boxes)


def test_the_safety_checker_sees_every_image(model: Path, vaes: list[VAE], monkeypatch: Any) -> None:
    seen: list[tuple[int, ...]] = []

    def hides(self: Any, image: torch.Tensor, device: object, dtype: object) -> tuple[torch.Tensor, list[bool]]:
        assert -1.0 <= float(image.min()) <= float(image.max()) <= 1.0
        seen.append(tuple(image.shape))
        return image, [len(seen) == 2]

    monkeypatch.setattr(pipelines.diffusers().StableDiffusionPipeline, "run_safety_checker", hides)
    made = run(model, vaes[:3], safety_checker=True)
    assert seen == [(1, 3, 64, 64)] * 3
    hidden = [one.hidden for one in made.subjects[0].decoded]
    assert hidden == [False, True, False]
    assert made.subjects[0].decoded[1].pixels.max() == 0
    assert made.subjects[0].decoded[0].pixels.max() > 0
    assert [row["hidden"] for row in made.record["rows"]] == hidden
    assert "hidden by the safety checker" in made.gallery().rows[0].cells[1].note
    assert "safety checker hid 1 of 3 images" in " ".join(made.said())
    run(model, vaes[:1])
    assert len(seen) == 3  # left out where it isn't wanted


def test_the_models_own_safety_checker_runs(model: Path, vaes: list[VAE], monkeypatch: Any) -> None:
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker

    seen: list[bool] = []
    forward = StableDiffusionSafetyChecker.forward

    def counted(self: Any, *given: Any, **more: Any) -> Any:
        found = forward(self, *given, **more)
        seen.append(found[1][0])
        return found

    monkeypatch.setattr(StableDiffusionSafetyChecker, "forward", counted)
    made = run(model, vaes[:2], safety_checker=True)
    assert made.record["settings"]["safety_checker"] is True
    assert seen == [one.hidden for one in made.subjects[0].decoded]
    assert len(seen) == 2


def test_an_overflow_in_fp16_is_redone_in_fp32(model: Path, tmp_path: Path) -> None:
    loud = random_vae(seed=0)
    with torch.no_grad():
        loud.network.decoder.conv_norm_out.weight.mul_(3e4)
        loud.network.decoder.conv_out.weight.div_(3e4)
    file = loud.save(tmp_path / "loud.safetensors")
    quiet = random_vae(seed=1).save(tmp_path / "quiet.safetensors")
    run(model, str(file)).save(tmp_path / "one")
    saved = tmp_path / "one" / "001-seed-0.safetensors"
    half = compare(latents=saved, vaes=[str(file), str(quiet)], dtype="float16")
    full = compare(latents=saved, vaes=[str(file)])
    first, second = half.subjects[0].decoded
    assert (first.redone, first.dtype) == (True, "float32")
    assert (second.redone, second.dtype) == (False, "float16")
    assert np.array_equal(first.pixels, full.subjects[0].decoded[0].pixels)
    assert [row["redone_in_float32"] for row in half.record["rows"]] == [True, False]
    assert "float16 overflowed: redone in float32" in half.gallery().rows[0].cells[0].caption
    assert "loud overflowed in float16" in " ".join(half.said())
    image = half.save(tmp_path / "half")[3]
    again = replay(image, latents=saved, vae=str(file))
    assert (again.largest, json.loads(again.text["vaelens"])["decoded_in"]) == (0, "float32")
    loaded = compare(latents=saved, vaes=[load(file, dtype="float16")])  # in half precision before it comes here
    assert loaded.subjects[0].decoded[0].redone


def test_what_overflows_in_fp32_is_no_image(vaes: list[VAE], photo: Path) -> None:
    with torch.no_grad():
        vaes[0].network.decoder.conv_out.weight.fill_(float("inf"))
    with pytest.raises(CheckFailedError, match="NaN or infinite"):
        compare(photos=photo, vaes=vaes[0])


@pytest.mark.parametrize("stop", [KeyboardInterrupt, None])
def test_what_was_finished_is_kept(model: Path, vaes: list[VAE], tmp_path: Path, stop: Any) -> None:
    asked: list[str] = []

    def progress(done: int, total: int, what: str) -> None:
        asked.append(what)
        assert 0 <= done < total == 3 * (4 + 2)
        if stop and what == "seed 2, step 2 of 4":
            raise stop

    def should_stop() -> bool:
        return stop is None and asked[-1:] == ["seed 2, step 1 of 4"]

    made = run(model, vaes[:2], seeds=(0, 2, 4), progress=progress, should_stop=should_stop)
    assert made.interrupted
    assert made.record["interrupted"]
    assert [s.title for s in made.subjects] == ["seed 0"]
    assert len(made.save(tmp_path / "out")) == 3 + 2 + 1
    with pytest.raises(KeyboardInterrupt):
        run(model, vaes[:2], should_stop=lambda: True)


def test_a_stop_between_decoders_leaves_the_latent_and_what_was_decoded(
    model: Path, vaes: list[VAE], tmp_path: Path
) -> None:
    def progress(_done: int, _total: int, what: str) -> None:
        if what == "seed 2, v2":
            raise KeyboardInterrupt

    made = run(model, vaes[:4], seeds=(0, 2, 4), progress=progress)
    assert made.interrupted
    assert [len(s.decoded) for s in made.subjects] == [4, 2]
    assert made.subjects[1].latent.sha256 == run(model, vaes[0], seeds=(2,)).subjects[0].latent.sha256
    assert len(made.record["rows"]) == len(made.table().rows) == 6
    written = made.save(tmp_path / "out")
    assert [path.name for path in written if path.name.startswith("002-")] == [
        "002-seed-2-1-v0.png", "002-seed-2-2-v1.png", "002-seed-2.safetensors"
    ]  # fmt: skip
    for output in (tmp_path / "x.html", tmp_path / "x.png"):
        assert made.save(output)


def test_an_error_late_in_the_work_leaves_what_was_finished(
    model: Path, vaes: list[VAE], tmp_path: Path, monkeypatch: Any
) -> None:
    latents = DiffusionPipeline.latents

    def fails(self: Any, prompt: str, **more: Any) -> torch.Tensor:
        if more["seed"] == 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes")
        return latents(self, prompt, **more)

    monkeypatch.setattr(DiffusionPipeline, "latents", fails)
    made = run(model, vaes[:2], seeds=(0, 2, 4))
    assert isinstance(made.failure, ResourceError)
    assert [s.title for s in made.subjects] == ["seed 0"]
    assert "Not all was finished: out of memory denoising 64x64 pixels with narrow-sd" in made.record["notes"][0]
    made.save(tmp_path / "out")
    with pytest.raises(ResourceError):
        run(model, vaes[:2], seeds=(2,))


def test_a_photographs_image_is_replayed(photo: Path, tmp_path: Path) -> None:
    """Encoded by the first VAE's encoder, whichever decoder made the image; shrunk as it was."""
    changed = load("tiny-kl-f8", device="cpu")
    with torch.no_grad():
        changed.network.encoder.conv_in.weight.mul_(1.1)
    other = changed.save(tmp_path / "b.safetensors")
    made = compare(photos=photo, vaes=["tiny-kl-f8", other], max_side=32)
    written = made.save(tmp_path / "out")
    image = next(path for path in written if path.name.endswith("-b.png"))
    again = replay(image, photo=photo, vae=str(other))
    assert (again.largest, again.same_latent) == (0, True)
    by_other = compare(photos=photo, vaes=[other, "tiny-kl-f8"], max_side=32).save(tmp_path / "swapped")
    image = next(path for path in by_other if path.name.endswith("-tiny-kl-f8.png"))
    with pytest.raises(UsageError, match=r"encoded by 'b', which isn't on this machine.* --latents"):
        replay(image, photo=photo)
    stored = compare(latents=tmp_path / "out" / "001-face.safetensors", vaes="tiny-kl-f8")
    assert stored.subjects[0].decoded[0].pixels.shape == made.subjects[0].decoded[0].pixels.shape == (29, 32, 3)


Refuse = Callable[[Path, list[VAE]], object]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (lambda m, v: compare(vaes=v), "nothing to decode"),
        (lambda m, v: run(m, []), "no VAE named"),
        (lambda m, v: run(m, v, seeds=()), "no seed named"),
        (lambda m, v: run(m, v, seeds=(2**70,)), "a seed lies between"),
        (lambda m, v: compare(PROMPT, [v[0], "sdxl"], model=str(m)), "no latent serves both"),
        (lambda m, v: run(m, ["sdxl"]), "narrow-sd has the latent space sd1 .* and sdxl decodes that of sdxl"),
        (lambda m, v: run(m, ["kl-f9"]), "no VAE is called 'kl-f9'.*Did you mean kl-f8"),
        (lambda m, v: run(m, [v[0], random_vae(space="sdxl")]), "no latent serves both"),
        (lambda m, v: compare(model=str(m), vaes=v, photos="x.png"), "model does something with a prompt only"),
        (lambda m, v: compare(seeds=[1], vaes=v, photos="x.png"), "seeds does something with a prompt"),
        (lambda m, v: compare(steps=3, vaes=v, photos="x.png"), "steps does something"),
        (lambda m, v: compare(safety_checker=False, vaes=v, photos="x.png"), "safety checker does something"),
        (lambda m, v: run(m, v, max_side=40), "there is none"),
        (lambda m, v: compare("an astronaut"), "tiny-sd doesn't know 'astronaut'"),
    ],
)
def test_what_cant_be_compared(model: Path, vaes: list[VAE], asked: Refuse, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        asked(model, vaes)


def test_zero_is_zero(model: Path, vaes: list[VAE]) -> None:
    made = run(model, vaes[0], seeds=(0,), guidance=0.0)
    assert (made.subjects[0].latent.made["seed"], made.subjects[0].latent.made["guidance"]) == (0, 0.0)
    again = run(model, vaes[0], seeds=(0,), guidance=1.0)
    assert again.subjects[0].latent.sha256 == made.subjects[0].latent.sha256
    assert run(model, vaes[0], guidance=7.5).subjects[0].latent.sha256 != made.subjects[0].latent.sha256


def test_a_full_disk_in_mid_sheet_loses_nothing(model: Path, vaes: list[VAE], tmp_path: Path, monkeypatch: Any) -> None:
    import errno
    import os

    made, target = run(model, vaes[:2]), tmp_path / "sheet.png"
    target.write_bytes(b"what was there")
    folder = tmp_path / "folder"
    before = {path: path.read_bytes() for path in run(model, vaes[2:4]).save(folder)}
    kept, room = os.fsync, [0]

    def full(handle: int) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        kept(handle)

    monkeypatch.setattr(os, "fsync", full)
    for files in range(len(before) - 1):  # so many have room
        for output in (target, folder) if files == 0 else (folder,):
            room[0] = files
            with pytest.raises(ResourceError, match="not written, the disk is full"):
                made.save(output)
    assert target.read_bytes() == b"what was there"
    assert {path: path.read_bytes() for path in folder.iterdir()} == before, "old and new are never mixed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "sheet.png"]


def test_what_others_made_is_never_replaced(model: Path, vaes: list[VAE], tmp_path: Path) -> None:
    made, out = run(model, vaes[0]), tmp_path / "out"
    written = made.save(out)
    latents = next(path for path in written if path.suffix == ".safetensors")
    with pytest.raises(UsageError, match="where files of such names are replaced"):
        check_output(out, "sheet.png", [latents])
    foreign = tmp_path / "foreign" / "run.json"
    foreign.parent.mkdir()
    foreign.write_text("{}")
    for check in (lambda: check_plain_output(foreign.parent, 2), lambda: check_output(foreign.parent, "sheet.png")):
        with pytest.raises(UsageError, match="was not made by vaelens and would be lost"):
            check()
    for name in ("x.gif", "x.jpg", "x.html"):
        with pytest.raises(UsageError, match="generate writes a"):
            check_plain_output(tmp_path / name, 1)


def test_an_earlier_runs_images_dont_stay_beside_a_page_that_doesnt_know_them(
    model: Path, vaes: list[VAE], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(model, vaes[:2], seeds=(0, 1)).save(out)
    (out / "notes.txt").write_text("mine")
    (out / "holiday.png").write_bytes(b"mine")
    written = run(model, vaes[0], seeds=(7,)).save(out)
    assert {path.name for path in out.iterdir()} == {path.name for path in written} | {"notes.txt", "holiday.png"}
    plain = tmp_path / "plain"
    run(model, vaes[0], seeds=(0, 1)).save_plain(plain)
    run(model, vaes[0], seeds=(5,)).save_plain(plain)
    assert sorted(path.name for path in plain.iterdir()) == ["001-seed-5-v0.png", "001-seed-5.safetensors", "run.json"]


def test_a_comparison_is_told_in_a_line(model: Path, vaes: list[VAE]) -> None:
    assert repr(run(model, vaes[:2], seeds=3)) == "Comparison(1 latents and 2 VAEs: v0, v1)"


def test_paths_serve_wherever_names_do(model: Path, vaes: list[VAE], tmp_path: Path) -> None:
    file = vaes[0].save(tmp_path / "a.safetensors")
    made = compare(PROMPT, [file], model=model, steps=2, safety_checker=False)
    made.save(tmp_path / "x.html")
    assert compare(latents=latents_of(made, tmp_path), vaes=file).subjects[0].latent.sha256


def latents_of(made: Comparison, folder: Path) -> Path:
    return save_latents(folder / "latents.safetensors", made.subjects[0].latent)


def test_latents_of_another_shape_are_refused_at_once(tmp_path: Path) -> None:
    file = save_latents(tmp_path / "wide.safetensors", Latent(torch.zeros(1, 16, 4, 4), "sd1", {}))
    with pytest.raises(UsageError, match="its latents have 16 channels, and those of sd1 have 4"):
        compare(latents=file, vaes="kl-f8", offline=True)


def test_the_noise_levels_spacing_is_told_to_other_tools(model: Path, vaes: list[VAE]) -> None:
    plain, spaced = (run(model, vaes[0], scheduler=name) for name in ("dpm++2m", "dpm++2m-karras"))
    assert plain.subjects[0].latent.sha256 != spaced.subjects[0].latent.sha256
    said = [made.text(made.subjects[0], 0)["parameters"] for made in (plain, spaced)]
    assert ["Schedule type: Karras" in text for text in said] == [False, True]
    assert "Sampler: DPM++ 2M, Schedule type: Karras" in said[1]


def test_a_sheet_says_what_its_images_say(model: Path, vaes: list[VAE], tmp_path: Path) -> None:
    made = run(model, vaes[:2], seeds=(0, 1))
    (sheet, _) = made.save(tmp_path / "sheet.png")
    parts = json.loads(Image.open(sheet).text["vaelens"])["sheet"]
    assert [(part["made"]["seed"], part["vae"]["name"]) for part in parts] == [
        (0, "v0"), (0, "v1"), (1, "v0"), (1, "v1")
    ]  # fmt: skip
    with pytest.raises(BadInputError, match="a sheet of 4 images"):
        replay(sheet)
