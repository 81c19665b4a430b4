"""Models behind the hub stand-in: what is fetched and what isn't, who may not read it, and single-file checkpoints."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from support import pipelines
from support.commands import invoke, vaelens
from support.pipelines import model_folders  # noqa: F401  (the fixture `folders`)
from support.standins.hub import API, HubStandin
from support.vaes import random_vae
from vaelens.adapters.models import find_model
from vaelens.errors import UnsafeFileError, UsageError
from vaelens.families.kl import to_ldm
from vaelens.generation import open_generator
from vaelens.runtime import Runtime
from vaelens.sampling import Sampling

PROMPT = "a photo of a cat"
WITHOUT_CHECKER = ("compare", PROMPT, "--model", "someone/sd", "--steps", 1, "--no-safety-checker", "-o", "x.png")
Folders = dict[str, Path]
UNET = "unet/diffusion_pytorch_model.safetensors"
VAE_WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandin]:
    monkeypatch.chdir(tmp_path)
    with HubStandin() as hub:
        hub.use(monkeypatch, tmp_path)
        for name, folder in folders.items():
            pipelines.publish(hub, f"someone/{name}", folder)
        yield hub


def fetched(hub: HubStandin) -> set[str]:
    return {seen.path.partition("/resolve/")[2].partition("/")[2] for seen in hub.requests if "/resolve/" in seen.path}


def local(folder: Path, seed: int) -> str:
    model = find_model(str(folder), Runtime(offline=True))
    return open_generator(model, Sampling(PROMPT, steps=2), Runtime()).latents(seed).sha256


@pytest.mark.parametrize("kind", ["sd", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_a_model_on_the_hub_without_its_vae(hub: HubStandin, folders: Folders, tmp_path: Path, kind: str) -> None:
    space, scale = {"sd": ("sd1", 0.18215), "sdxl": ("sdxl", 0.13025)}[kind]
    vae = random_vae(space=space, scale=scale).save(tmp_path / "own.safetensors")
    arguments = ("compare", PROMPT, "--model", f"someone/{kind}", "--vae", vae, "--steps", 2, "--seed", 4)
    ran = invoke(*arguments, "-o", "out.html")
    record = json.loads((tmp_path / "out.run.json").read_text())
    assert record["images"][0]["latents_sha256"] == local(folders[kind], 4)
    assert record["model"]["commit"] == hub.commit(f"someone/{kind}")
    assert record["sampling"]["safety_checker"] is (kind == "sd")
    assert UNET in fetched(hub)
    assert VAE_WEIGHTS not in fetched(hub)
    assert f"downloading {UNET} of someone/{kind} at " in ran.stderr
    hub.requests.clear()
    invoke(*arguments, "--offline", "-o", "again.html")
    assert hub.requests == []


@pytest.mark.slow
def test_generate_uses_the_models_own_vae(hub: HubStandin, tmp_path: Path) -> None:
    arguments = ("generate", PROMPT, "--model", "someone/sd", "--steps", 2, "-o", "x.png")
    vaelens(*arguments, env=hub.environment(tmp_path))
    assert VAE_WEIGHTS in fetched(hub)
    record = json.loads((tmp_path / "x.run.json").read_text())
    assert record["vaes"][0]["name"] == "someone/sd"


def test_a_safety_checker_that_is_off_is_not_fetched(hub: HubStandin, tmp_path: Path) -> None:
    vae = random_vae().save(tmp_path / "own.safetensors")
    invoke(*WITHOUT_CHECKER, "--vae", vae)
    assert not any(name.startswith("safety_checker/") for name in fetched(hub))


def test_another_latent_space_is_refused_before_any_weights(hub: HubStandin, tmp_path: Path) -> None:
    vae = random_vae().save(tmp_path / "sd1.safetensors")
    for named in (vae, "kl-f8", "someone/sd"):
        hub.requests.clear()
        ran = invoke("compare", PROMPT, "--model", "someone/sdxl", "--vae", named, "-o", "x.png", code=2)
        assert "the model someone/sdxl has the latent space sdxl" in ran.stderr
        assert "sd1" in ran.stderr
        assert fetched(hub) <= {"model_index.json", "vae/config.json", "config.json"}
        assert not (tmp_path / "x.png").exists()


def test_a_gated_model_and_a_missing_one_are_told_apart(hub: HubStandin, tmp_path: Path) -> None:
    hub.fault("someone/sd", "model_index.json", status=401, code="GatedRepo")
    ran = invoke("generate", PROMPT, "--model", "someone/sd", "-o", "x.png", code=5)
    assert f"the repository is gated. Accept its licence on {hub.endpoint}/someone/sd, then run" in ran.stderr
    for fault in ({"status": 401, "code": "RepoNotFound"}, None):
        name = "someone/sdxl" if fault else "nobody/nothing"
        if fault:
            hub.fault(name, API, **fault)
        ran = invoke("generate", PROMPT, "--model", name, "-o", "x.png", code=5)
        assert "no such repository, or a private or gated one. Check the name" in ran.stderr
        assert "the repository is gated." not in ran.stderr
    assert not (tmp_path / "x.png").exists()


def test_half_precision_fetches_the_fp16_variant_alone(hub: HubStandin, folders: Folders, tmp_path: Path) -> None:
    half = pipelines.sd().to(dtype=torch.float16)
    pipelines.publish(hub, "someone/sd", pipelines.write(half, tmp_path / "half", variant="fp16"))
    vae = random_vae().save(tmp_path / "own.safetensors")
    invoke(*WITHOUT_CHECKER, "--vae", vae, "--dtype", "bfloat16")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in fetched(hub)
    assert UNET not in fetched(hub)
    assert json.loads((tmp_path / "x.run.json").read_text())["model"]["variant"] == "fp16"


RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
BLOCKS = {  # of a UNet with two levels, one layer each
    "conv_in": "input_blocks.0.0", "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op", "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1", "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1", "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0", "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0", "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.upsamplers.0": "output_blocks.1.2", "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.resnets.1": "output_blocks.3.0", "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def as_ldm(name: str) -> str:
    """A tensor of the UNet under the name that whole checkpoints have for it."""
    block = next(b for b in BLOCKS if name.startswith(b + "."))
    rest = name.removeprefix(block + ".")
    if ".resnets." in block:
        inner = rest.partition(".")[0]
        rest = rest.replace(inner, RESNET[inner], 1)
    return f"model.diffusion_model.{BLOCKS[block]}.{rest}"


@pytest.mark.slow
def test_a_single_file_checkpoint(hub: HubStandin, tmp_path: Path) -> None:
    torch.manual_seed(1)
    pipe = pipelines.sd(1)
    pipe.unet = pipelines.unet(768)
    pipe.text_encoder = pipelines.text_encoder(pipe.tokenizer, width=768)
    folder = pipelines.write(pipe, tmp_path / "whole")
    pipelines.publish(hub, "stable-diffusion-v1-5/stable-diffusion-v1-5", folder)
    vae = random_vae()
    tensors = {as_ldm(n): t for n, t in pipe.unet.state_dict().items()}
    text = {n: t for n, t in pipe.text_encoder.state_dict().items() if "position_ids" not in n}
    text = {n if n.startswith("text_model.") else f"text_model.{n}": t for n, t in text.items()}
    tensors |= {f"cond_stage_model.transformer.{n}": t for n, t in text.items()}
    tensors |= {f"first_stage_model.{n}": t for n, t in to_ldm(vae.network.state_dict()).items()}
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, tmp_path / "mine.safetensors")
    own = vae.save(tmp_path / "own.safetensors")
    arguments = ("generate", PROMPT, "--model", "mine.safetensors", "--vae", own, "--steps", 2, "-o", "x.png")
    invoke(*arguments)
    record = json.loads((tmp_path / "x.run.json").read_text())
    assert record["images"][0]["latents_sha256"] == local(folder, 0)
    assert record["model"]["name"] == "mine"
    assert not any(name.endswith(".safetensors") for name in fetched(hub))
    other = {n: t for n, t in tensors.items() if not n.startswith("model.")}
    save_file({n: t.contiguous().clone() for n, t in other.items()}, tmp_path / "vae.safetensors")
    ran = invoke("generate", PROMPT, "--model", "vae.safetensors", "-o", "y.png", code=3)
    assert "not a whole checkpoint of Stable Diffusion" in ran.stderr


@pytest.mark.parametrize("page", ["{}/someone/sd", "{}/someone/sd/tree/main", "https://huggingface.co/someone/sd"])
def test_a_model_by_an_address_pasted_from_the_hubs_site(hub: HubStandin, page: str) -> None:
    found = find_model(page.format(hub.endpoint))
    assert (found.name, found.space, found.vae) == ("someone/sd", "sd1", "someone/sd")
    for wrong, named in {
        "https://example.com/sd": "isn't on the hub",
        f"{hub.endpoint}/someone/sd/tree/main/unet": "Name someone/sd, or the page of a checkpoint",
        f"{hub.endpoint}/someone/sd/blob/main/sd.ckpt": "is a pickled file",
    }.items():
        with pytest.raises((UsageError, UnsafeFileError), match=named):
            find_model(wrong)


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_a_local_pipeline_with_only_a_variant_is_opened(tmp_path: Path, variant: str) -> None:
    half = pipelines.sd().to(dtype=torch.float16 if variant == "fp16" else torch.bfloat16)
    folder = pipelines.write(half, tmp_path / "half", variant=variant)
    model = find_model(str(folder))
    assert model.variant == variant
    assert open_generator(model, Sampling(PROMPT, steps=1), Runtime()).latents(0).tensor.isfinite().all()
