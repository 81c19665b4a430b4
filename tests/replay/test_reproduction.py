"""Images made again from their metadata: the same bits, nothing fetched by name, and the metadata itself."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from support.commands import invoke
from support.comparisons import PROMPT, run
from vaelens.comparison.workflow import compare, generate
from vaelens.errors import BadInputError, UsageError
from vaelens.images.writing import encode_png
from vaelens.loading import load
from vaelens.replay.reproduction import Replay, replay
from vaelens.vae import VAE


def test_replay_gives_the_same_bits(model: Path, vaes: list[VAE], tmp_path: Path) -> None:
    file = vaes[0].save(tmp_path / "narrow.safetensors")
    made = run(model, [file, vaes[1].save(tmp_path / "other.safetensors")], seeds=(3, 4), scheduler="euler")
    written = made.save(tmp_path / "out")
    image = next(path for path in written if path.name.startswith("002-") and "narrow" in path.name)
    again = replay(image, model=str(model), vae=str(file))
    assert (again.largest, again.same_latent, again.same_weights, again.notes) == (0, True, True, ())
    assert again.sentence() == "largest difference 0 of 255: the same image, bit for bit"
    latents = tmp_path / "out" / "002-seed-4.safetensors"
    assert replay(image, latents=latents, vae=str(file)).largest == 0
    twice = run(model, [str(file), str(file)])
    assert twice.vaes == ["narrow", "narrow (2)"]
    names = [twice.png_metadata(twice.images[0], i).vae.name for i in (0, 1)]
    assert names == ["narrow", "narrow"], "a number that tells two apart here names nothing elsewhere"
    other = replay(image, model=str(model), vae=str(tmp_path / "other.safetensors"))
    assert other.largest > 0
    assert not other.same_weights
    assert "the VAE's weights" in other.notes[0]


def test_a_photos_image_is_replayed(photo: Path, tmp_path: Path) -> None:
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
    assert stored.images[0].decoded[0].pixels.shape == made.images[0].decoded[0].pixels.shape == (29, 32, 3)


def test_metadata_starts_no_download_and_names_no_path(model: Path, vaes: list[VAE], tmp_path: Path) -> None:
    file = vaes[0].save(tmp_path / "narrow.safetensors")
    (image, *_) = generate(PROMPT, str(file), model=str(model), steps=2).save_plain(tmp_path / "x.png")
    with pytest.raises(UsageError, match=r"the VAE 'narrow' isn't on this machine.*--vae"):
        replay(image)
    with pytest.raises(UsageError, match=r"the model 'narrow-sd' isn't on this machine.*--model"):
        replay(image, vae=str(file))

    def changed(vae: str = "narrow", model: dict[str, str] | None = None, steps: int = 2) -> Path:
        metadata = json.loads(Image.open(image).text["vaelens"])
        metadata["vae"]["name"] = vae
        metadata["provenance"]["model"] |= model or {}
        metadata["provenance"]["sampling"]["steps"] = steps
        return stored(tmp_path / "changed.png", np.asarray(Image.open(image)), vaelens=json.dumps(metadata))

    for name in (str(file), "../narrow.safetensors", "someone/never-heard-of", "kl-f8"):
        with pytest.raises(UsageError, match="isn't on this machine"):
            replay(changed(vae=name))
    for name in (str(model), "someone/never-heard-of", "sd-v1-4"):
        with pytest.raises(UsageError, match=r"the model .* isn't on this machine"):
            replay(changed(model={"name": name, "source": "hub"}), vae=str(file))
    with pytest.raises(BadInputError, match="from 1 to 1000"):
        replay(changed(steps=10**9), vae=str(file))


def test_what_replay_will_do_is_said_before_it_starts(model: Path, vaes: list[VAE], tmp_path: Path) -> None:
    """Metadata may ask for a long run: its size and steps come first, and a size that can't be right starts nothing."""
    file = vaes[0].save(tmp_path / "narrow.safetensors")
    (image, *_) = generate(PROMPT, str(file), model=str(model), steps=2).save_plain(tmp_path / "x.png")
    ran = invoke("replay", image, "--model", model, "--vae", file)
    assert "Making 64x64 pixels again, in 2 steps with narrow-sd." in ran.stderr
    said: list[str] = []
    metadata = json.loads(Image.open(image).text["vaelens"])
    metadata["provenance"]["sampling"] |= {"size": [4096, 4096], "steps": 1000}
    huge = stored(tmp_path / "huge.png", np.asarray(Image.open(image)), vaelens=json.dumps(metadata))
    with pytest.raises(BadInputError, match="has 64x64 pixels, but by its metadata it was made with 4096x4096"):
        replay(huge, model=str(model), vae=str(file), progress=lambda done, total, what: said.append(what))
    assert said == []
    replay(image, model=str(model), vae=str(file), progress=lambda done, total, what: said.append(what))
    assert said[0].startswith("step 1 of ")


def test_the_pixel_limit_holds_for_the_image_that_is_replayed(photo: Path) -> None:
    """So --max-pixels has an effect without --photo, too."""
    ran = invoke("replay", photo, "--max-pixels", "10", code=3)
    assert "has 40x36 pixels; vaelens reads at most 10" in ran.stderr
    assert "no vaelens metadata" in invoke("replay", photo, "--max-pixels", "2000", code=3).stderr


def test_images_without_usable_metadata_cant_be_replayed(photo: Path, tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(BadInputError, match="no vaelens metadata"):
        replay(photo)
    with pytest.raises(BadInputError, match="another tool's `parameters`"):
        replay(stored(tmp_path / "a.png", pixels, parameters="a cat\nSteps: 20"))
    for text in ("{", "[]", "null", '{"provenance": {}}', "[" * 100_000):
        with pytest.raises(BadInputError, match="can't be replayed"):
            replay(stored(tmp_path / "a.png", pixels, vaelens=text))


def test_png_text_is_read_by_other_tools(model: Path, vaes: list[VAE], tmp_path: Path) -> None:
    made = run(model, vaes[:2], seeds=(0,), negative_prompt="a dog: ugly", guidance_scale=0.0)
    made.save(tmp_path / "out")
    text = Image.open(tmp_path / "out" / "001-seed-0-2-v1.png").text
    assert text["parameters"].splitlines() == [
        PROMPT,
        "Negative prompt: a dog: ugly",
        "Steps: 3, Sampler: PLMS, CFG scale: 0, Seed: 0, Size: 64x64, Model: narrow-sd, VAE: v1, Version: vaelens "
        + made.record["versions"]["vaelens"],
    ]
    chunk = json.loads(text["vaelens"])
    assert chunk["provenance"]["seed"] == chunk["provenance"]["sampling"]["guidance_scale"] == 0
    assert chunk["vae"]["fingerprint"] == made.record["vaes"][1]["fingerprint"]
    assert chunk["latents_sha256"] == made.images[0].latent.sha256
    assert str(tmp_path) not in json.dumps(text)
    assert {"versions", "threads"} <= set(chunk)


def test_parameters_name_the_schedule_type(model: Path, vaes: list[VAE]) -> None:
    plain, spaced = (run(model, vaes[0], scheduler=name) for name in ("dpm++2m", "dpm++2m-karras"))
    assert plain.images[0].latent.sha256 != spaced.images[0].latent.sha256
    texts = [made.png_metadata(made.images[0], 0).text()["parameters"] for made in (plain, spaced)]
    assert ["Schedule type: Karras" in text for text in texts] == [False, True]
    assert "Sampler: DPM++ 2M, Schedule type: Karras" in texts[1]


def test_a_sheet_has_the_metadata_of_its_images(model: Path, vaes: list[VAE], tmp_path: Path) -> None:
    made = run(model, vaes[:2], seeds=(0, 1))
    (sheet, _) = made.save(tmp_path / "sheet.png")
    parts = json.loads(Image.open(sheet).text["vaelens"])["sheet"]
    expected = [(0, "v0"), (0, "v1"), (1, "v0"), (1, "v1")]
    assert [(part["provenance"]["seed"], part["vae"]["name"]) for part in parts] == expected
    with pytest.raises(BadInputError, match="a sheet of 4 images"):
        replay(sheet)


def stored(path: Path, pixels: np.ndarray, **text: str) -> Path:
    path.write_bytes(encode_png(pixels, text))
    return path


def test_only_a_named_budget_binds_a_replay(
    model: Path, vaes: list[VAE], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorded plan is followed where it can be; it refuses nothing, nor does an image from before the engine."""
    monkeypatch.setenv("VAELENS_KERNELS", "torch")
    file = vaes[0].save(tmp_path / "narrow.safetensors")
    (image, *_) = generate(PROMPT, str(file), model=str(model), steps=1).save_plain(tmp_path / "x.png")

    def replayed(engine: dict[str, object] | None, **options: str) -> Replay:
        metadata = json.loads(Image.open(image).text["vaelens"])
        metadata["vae"] |= {"engine": metadata["vae"]["engine"] | engine} if engine else {}
        if engine is None:
            del metadata["vae"]["engine"]
        changed = stored(tmp_path / "changed.png", np.asarray(Image.open(image)), vaelens=json.dumps(metadata))
        return replay(changed, model=str(model), vae=str(file), **options)

    assert replayed({}).notes == ()
    elsewhere = replayed({"budgets": {"decode 8x8": 1000}})
    assert elsewhere.largest <= 1
    assert elsewhere.notes == ("the VAE is computed in other strips here than then, within another budget of memory.",)
    assert replayed(None).notes == ("the image was made by a vaelens without the engine, which computes the VAE here.",)
    with pytest.raises(UsageError, match="needs at least"):
        replayed({}, max_memory="1kB")


def test_replay_replaces_its_own_image_and_no_other(model: Path, vaes: list[VAE], tmp_path: Path) -> None:
    file, target = vaes[0].save(tmp_path / "narrow.safetensors"), tmp_path / "new.png"
    (image, _) = run(model, file).save_plain(tmp_path / "image.png")
    command = ["replay", image, "--model", model, "--vae", file, "-o", target]
    for _ in range(2):
        invoke(*command)
    record = json.loads((tmp_path / "new.run.json").read_bytes())
    assert (record["command"], record["replay"]["largest"]) == ("replay", 0)
    assert record["settings"]["image"]["file"] == "image.png"
    assert record["settings"]["vae"] == "narrow.safetensors"
    assert str(tmp_path) not in json.dumps(record)
    target.write_bytes(b"mine")
    assert "new.png was not made by vaelens, or changed since" in invoke(*command, code=2).stderr
    assert target.read_bytes() == b"mine"
