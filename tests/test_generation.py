"""From a prompt to latents: the same as diffusers' own loop, bit for bit, without a VAE; and what is refused."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from support import pipelines
from support.comparisons import save_latents
from support.pipelines import model_folders  # noqa: F401  (the fixture `folders`)
from vaelens import generation
from vaelens.adapters.models import find_model
from vaelens.errors import BadInputError, CheckFailedError, UnsafeFileError, UsageError
from vaelens.generation import LatentGenerator
from vaelens.latents import Latent, read_latents
from vaelens.runtime import Runtime
from vaelens.sampling import Sampling
from vaelens.text.file_kinds import LATENTS_KEY

PROMPT = "a photo of a cat"


Folders = dict[str, Path]


def opened(folder: Path, **options: Any) -> LatentGenerator:
    sampling, runtime = Sampling(**{"prompt": PROMPT, "steps": 4} | options), Runtime(offline=True)
    model = find_model(str(folder), runtime, safety_checker=sampling.safety_checker)
    return generation.open_generator(model, sampling, runtime)


@torch.no_grad()
def article_loop(folder: Path, seed: int, steps: int, guidance: float, negative: str = "") -> torch.Tensor:
    """The loop of the article and of diffusers' own blog, with its parts loaded one by one."""
    import transformers

    library = pipelines.diffusers()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    unet = library.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    scheduler = library.PNDMScheduler.from_pretrained(folder / "scheduler")

    def encode(text: str) -> torch.Tensor:
        length = tokenizer.model_max_length
        tokens = tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return encoder(tokens.input_ids)[0]

    guided = guidance > 1
    text = torch.cat([encode(negative), encode(PROMPT)]) if guided else encode(PROMPT)
    latents = torch.randn((1, 4, 8, 8), generator=torch.manual_seed(seed))
    scheduler.set_timesteps(steps)
    latents = latents * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        both = scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, t)
        noise = unet(both, t, encoder_hidden_states=text).sample
        if guided:
            without, with_text = noise.chunk(2)
            noise = without + guidance * (with_text - without)
        latents = scheduler.step(noise, t, latents).prev_sample
    return latents


@pytest.mark.parametrize("guidance", [7.5, 1.0, 0.0])
def test_the_articles_loop_gives_the_same_latent(folders: Folders, guidance: float) -> None:
    ours = opened(folders["sd"], guidance_scale=guidance, steps=5).latents(0)
    assert torch.equal(ours.tensor, article_loop(folders["sd"], 0, 5, guidance))


def test_the_negative_prompt_has_an_effect(folders: Folders) -> None:
    ours = opened(folders["sd"], negative_prompt="a dog").latents(3)
    assert torch.equal(ours.tensor, article_loop(folders["sd"], 3, 4, 7.5, "a dog"))
    assert not torch.equal(ours.tensor, article_loop(folders["sd"], 3, 4, 7.5))


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_the_pipelines_own_call_gives_the_same_latent(folders: Folders, kind: str) -> None:
    library = pipelines.diffusers()
    own = getattr(library, {"sd": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}[kind])
    pipe = own.from_pretrained(folders[kind])
    pipe.set_progress_bar_config(disable=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seed = torch.Generator("cpu").manual_seed(7)
        expected = pipe(PROMPT, num_inference_steps=3, generator=seed, output_type="latent").images
    made = opened(folders[kind], steps=3)
    assert made.model.space == {"sd": "sd1", "sdxl": "sdxl"}[kind]
    assert made.sampling.guidance_scale == {"sd": 7.5, "sdxl": 5.0}[kind]
    steps: list[tuple[int, int]] = []
    assert torch.equal(made.latents(7, lambda *step: steps.append(step)).tensor, expected)
    calls = {"sd": 4, "sdxl": 3}[kind]  # PNDM calls the UNet once more than it has steps
    assert steps == [(number, calls) for number in range(1, calls + 1)]


def test_no_vae_is_loaded(folders: Folders, tmp_path: Path) -> None:
    folder = with_own("vae", folders["sd"], tmp_path / "model")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert torch.equal(opened(folder).latents(1).tensor, opened(folders["sd"]).latents(1).tensor)


def test_another_scheduler_and_size(folders: Folders) -> None:
    made = opened(folders["sd"], scheduler="euler", size=(32, 64))
    assert made.facts.scheduler == "EulerDiscreteScheduler"
    assert made.latents(0).tensor.shape == (1, 4, 4, 8)


@pytest.mark.parametrize(("name", "calls"), [("heun", 7), ("euler", 4), ("dpm++2m-karras", 4), ("unipc", 4)])
def test_every_unet_call_is_announced(folders: Folders, monkeypatch: Any, name: str, calls: int) -> None:
    events: list[object] = []
    pipelines.count_unet_calls(monkeypatch, events)
    made = opened(folders["sd"], scheduler=name)
    made.latents(0, lambda number, total: events.append((number, total)))
    assert events == [event for number in range(1, calls + 1) for event in ((number, calls), "called")]
    assert made.unet_calls == calls
    assert made.facts.scheduler_options.get("use_karras_sigmas", False) == (name == "dpm++2m-karras")


def test_a_truncated_prompt_is_noted(folders: Folders) -> None:
    assert opened(folders["sd"]).notes() == []
    made = opened(folders["sd"], prompt="cat " * 13 + "dog dog" + " cat" * 2500)
    (note,) = made.notes()
    assert "dog cat" in note
    assert len(note) < 150


def test_the_safety_checker_is_optional(folders: Folders) -> None:
    assert opened(folders["sd"]).sampling.safety_checker
    assert not opened(folders["sd"], safety_checker=False).sampling.safety_checker
    assert not opened(folders["sdxl"]).sampling.safety_checker


def test_latents_survive_their_file(folders: Folders, tmp_path: Path) -> None:
    made = opened(folders["sd"]).latents(5)
    (again,) = read_latents(save_latents(tmp_path / "x.safetensors", made))
    assert torch.equal(again.tensor, made.tensor)
    assert (again.space, again.sha256, again.provenance) == ("sd1", made.sha256, made.provenance)
    with pytest.raises(UsageError, match=r"of sd1, not of sdxl"):
        read_latents(tmp_path / "x.safetensors", "sdxl")


@pytest.mark.parametrize("change", [{"seed": None}, {"sampling": {"prompt": "a cat"} | {"steps": 0}}, {"model": 3}])
def test_damaged_provenance_is_refused(folders: Folders, tmp_path: Path, change: dict[str, Any]) -> None:
    latent = opened(folders["sd"]).latents(5)
    assert latent.provenance is not None
    metadata = {"latent_space": "sd1", "provenance": latent.provenance.model_dump(mode="json") | change}
    save_file({"latents": latent.tensor}, tmp_path / "x.safetensors", {LATENTS_KEY: json.dumps(metadata)})
    with pytest.raises(BadInputError, match=r"x\.safetensors: its vaelens metadata is damaged"):
        read_latents(tmp_path / "x.safetensors")


def test_foreign_latents_are_read_one_by_one(tmp_path: Path) -> None:
    both = torch.randn(2, 4, 8, 8)
    save_file({"samples": both}, tmp_path / "two.safetensors")
    found = read_latents(tmp_path / "two.safetensors", "sd1")
    assert [one.space for one in found] == ["sd1", "sd1"]
    assert torch.equal(torch.cat([one.tensor for one in found]), both)
    save_file({"a": both, "b": both.clone()}, tmp_path / "odd.safetensors")
    with pytest.raises(BadInputError, match=r"one tensor \[b,c,h,w\].* a \[2, 4, 8, 8\], b"):
        read_latents(tmp_path / "odd.safetensors")


def test_prompts_outside_the_small_language_are_refused() -> None:
    generation.check_prompts(Sampling("a smiling face", "the letter R"), "tiny-sd")
    astronaut = "an astronaut riding a horse"
    for prompts in ((astronaut,), ("x" * 10_000,), ("a face", astronaut)):
        with pytest.raises(UsageError, match=r"tiny-sd doesn't know .* It draws faces") as error:
            generation.check_prompts(Sampling(*prompts), "tiny-sd")
        assert len(str(error.value)) < 400
    generation.check_prompts(Sampling(astronaut), "sd-v1-4")


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("tiny-ds", UsageError, "'tiny-ds'.* Did you mean tiny-sd"),
        ("nowhere/at/all", BadInputError, "no such file or folder"),
        ("model.safetensors", BadInputError, "no such file or folder"),
        ("", UsageError, "name is empty"),
    ],
)
def test_models_that_arent_there(source: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        find_model(source, Runtime(offline=True))


def changed(folder: Path, target: Path, **index: Any) -> Path:
    """A copy of a model whose index says something else."""
    target.mkdir()
    for part in folder.iterdir():
        (target / part.name).symlink_to(part) if part.is_dir() else (target / part.name).write_bytes(part.read_bytes())
    file = target / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | index))
    return target


def with_own(part: str, folder: Path, target: Path) -> Path:
    """A copy of a model, of which one part may be written to."""
    (changed(folder, target) / part).unlink()
    shutil.copytree(folder / part, target / part)
    return target


def test_models_that_arent_stable_diffusion(folders: Folders, tmp_path: Path) -> None:
    other = changed(folders["sd"], tmp_path / "flux", _class_name="FluxPipeline")
    with pytest.raises(UsageError, match="flux is a FluxPipeline"):
        opened(other)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match=r"holds no model_index\.json"):
        opened(tmp_path / "empty")
    wrong = changed(folders["sd"], tmp_path / "wrong", _class_name="StableDiffusionXLPipeline")
    with pytest.raises(BadInputError, match="without text_encoder_2, tokenizer_2"):
        opened(wrong)


@pytest.mark.parametrize("part", ["text_encoder", "unet", "safety_checker"])
def test_one_missing_weight_is_caught(folders: Folders, tmp_path: Path, rewrite: Any, part: str) -> None:
    """transformers would fill it with random values, and only log that."""
    target = with_own(part, folders["sd"], tmp_path / "lacking")
    (file,) = (target / part).glob("*.safetensors")

    def without(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        lost = next(name for name in sorted(tensors) if name.endswith("bias"))
        return {name: tensor for name, tensor in tensors.items() if name != lost}

    rewrite(file, tmp_path / "new.safetensors", without).replace(file)
    with pytest.raises(BadInputError, match=rf"lacking: its files don't form .*{part} lacks .*bias"):
        opened(target)


def test_foreign_code_isnt_run(folders: Folders, tmp_path: Path) -> None:
    target = changed(folders["sd"], tmp_path / "odd", scheduler=["somebody", "OddScheduler"])
    with pytest.raises(UnsafeFileError, match=r"scheduler is somebody\.OddScheduler"):
        opened(target)


def test_a_damaged_unet_is_not_the_vaes_fault(folders: Folders, tmp_path: Path, rewrite: Any) -> None:
    target = with_own("unet", folders["sd"], tmp_path / "damaged")
    file = target / "unet" / "diffusion_pytorch_model.safetensors"

    def damaged(tensors: dict[str, torch.Tensor]) -> None:
        tensors["conv_in.weight"].view(-1)[0] = float("nan")

    rewrite(file, tmp_path / "new.safetensors", damaged).replace(file)
    with pytest.raises(CheckFailedError, match=r"damaged gave NaN or infinity .* seed 3; its weights"):
        opened(target).latents(3)


def test_the_callers_own_logging_is_left_alone(folders: Folders) -> None:
    library = pipelines.diffusers()
    opened(folders["sd"]).latents(0)
    for logging in (library.utils.logging, __import__("transformers").utils.logging):
        assert logging.get_verbosity() == 30
        assert logging.is_progress_bar_enabled()


def test_pickled_weights_are_refused(folders: Folders, tmp_path: Path) -> None:
    target = with_own("unet", folders["sd"], tmp_path / "pickled")
    (target / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (target / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(UnsafeFileError, match="unet has only pickled weights"):
        opened(target)
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02.")
    with pytest.raises(UnsafeFileError, match="pickled"):
        opened(tmp_path / "model.ckpt")


def test_the_fp16_variant_is_used_in_half_precision_or_where_it_is_alone(tmp_path: Path) -> None:
    half = pipelines.sd(with_safety_checker=True)
    both = pipelines.write(half, tmp_path / "both")
    pipelines.write(half.to(dtype=torch.float16), both, variant="fp16")
    alone = pipelines.write(half, tmp_path / "alone", variant="fp16")

    def variant(folder: Path, dtype: str) -> str | None:
        return find_model(str(folder), Runtime(dtype_name=dtype, offline=True)).variant

    assert variant(both, "float32") is None
    assert variant(both, "float16") == variant(both, "bfloat16") == "fp16"
    assert variant(alone, "float32") == "fp16"
    assert torch.isfinite(opened(alone).latents(0).tensor).all()


def test_the_fingerprint_of_a_latent_is_of_its_values() -> None:
    import hashlib

    values = torch.arange(8, dtype=torch.float32).reshape(1, 2, 2, 2)
    assert Latent(values.half(), None).sha256 == hashlib.sha256(values.numpy().tobytes()).hexdigest()
