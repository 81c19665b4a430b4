"""Train tiny-sd, the embedded diffusion model: text encoder, UNet and scheduler in the latents of tiny-kl-f8.

    python embedded/tiny_sd.py data -o RUN                  synthetic scenes, encoded by tiny-kl-f8; 10 minutes
    python embedded/tiny_sd.py stage-1 -o RUN               first stage of the training, 90 minutes on one core
    python embedded/tiny_sd.py stage-2 -o RUN               second stage, 50 minutes on one core
    python embedded/tiny_sd.py ship -o RUN                  into the package: fp16, in diffusers' layout

The same command resumes an interrupted stage. Combinations of attributes that are `held_out` are never trained on;
check_tiny_sd.py tests on them. Runs without torchvision, or with one that can be imported. Docs: docs/tiny-sd.md.
"""

import argparse
import functools
import hashlib
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import vaelens
from vaelens.adapters.models import INDEX, LATENT_SPACE
from vaelens.files import write_atomic
from vaelens.images.drawing import Drawing
from vaelens.images.prompts import VALUES, WORDS, Scene, caption, partly, random_scene
from vaelens.images.scenes import draw_scene
from vaelens.weights.registry import embedded_model_path, registry

COUNT, BATCH_SIZE, TEXT_STEPS = 16_000, 32, 2000
WARMUP_STEPS, EMA_DECAY, MAX_GRAD_NORM = 300, 0.999, 1.0
EMPTY_CAPTIONS = 0.1  # the share of captions replaced by the empty prompt, for classifier-free guidance
TOKENS, WIDTH = 24, 96
CHUNK = 32  # images per call of the encoder
DETAILS, DETAIL_WEIGHT = ("iris", "mouth"), 8.0  # an iris is 1 % of the image, and its colour one of four attributes


def held_out(scene: Scene) -> bool:
    """Whether this combination of attributes is never trained on: one in eight, chosen by a hash of its caption."""
    return hashlib.sha256(caption(scene).encode()).digest()[0] % 8 == 0


def scenes(count: int, seed: int) -> list[Scene]:
    """Random scenes to train on."""
    rng = np.random.default_rng(seed)
    candidates = (random_scene(rng) for _ in iter(int, 1))
    return [next(scene for scene in candidates if not held_out(scene)) for _ in range(count)]


def encoded(chunk: list[Scene], first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of the scenes, drawn with the seeds from `first` on, fp16 [n,4,32,32], and masks of their details."""
    torch.set_num_threads(1)
    drawings = [draw_scene(scene, first + i) for i, scene in enumerate(chunk)]
    image = torch.from_numpy(np.stack([d.pixels for d in drawings])).permute(0, 3, 1, 2).float() / 255
    return vaelens.load("tiny-kl-f8").encode(image).mode().half(), torch.stack([details(d) for d in drawings])


def details(drawing: Drawing) -> torch.Tensor:
    """The elements of the latent that irises and mouth touch, bool [32,32]."""
    side = drawing.pixels.shape[0]
    mask = torch.zeros(side // 8, side // 8, dtype=torch.bool)
    for box in drawing.boxes:
        if box.label in DETAILS:
            mask[int(box.top) // 8 : math.ceil(box.bottom / 8), int(box.left) // 8 : math.ceil(box.right / 8)] = True
    return mask


def write_latents(folder: Path) -> None:
    """RUN/latents.safetensors, by two processes."""
    every, starts = scenes(COUNT, seed=0), range(0, COUNT, CHUNK)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(encoded, [every[start : start + CHUNK] for start in starts], starts))
    folder.mkdir(parents=True, exist_ok=True)
    latents, masks = (torch.cat(part) for part in zip(*parts, strict=True))
    save_file({"latents": latents, "details": masks}, folder / "latents.safetensors")


def tokenizer() -> CLIPTokenizer:
    """A tokenizer like CLIP's, whose merges make one token of each word of the language."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=10**6, min_frequency=1, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator([" ".join(WORDS)], trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), start, end]
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys(names))}
    result = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)
    assert all(len(result(word).input_ids) == 3 for word in WORDS)
    return result


def text_encoder(words: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            hidden_act="quick_gelu",
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def unet() -> UNet2DConditionModel:
    """Attention at 8x8 only; the caption also reaches every residual block, together with the timestep."""
    return UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(48, 80, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def scheduler() -> DDIMScheduler:
    """With zero terminal SNR: any signal left at the last timestep would reveal the mean of a plain background."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


class Model(torch.nn.Module):
    """The tokenizer and both trained networks."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = tokenizer()
        self.text_encoder = text_encoder(self.tokenizer)
        self.unet = unet()

    def text(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """The text encoder's hidden states [b,tokens,width], and a mask of those that depend on the whole caption."""
        tokens = self.tokenizer(captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
        ids = tokens.input_ids
        return self.text_encoder(ids)[0], ids == self.tokenizer.eos_token_id

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, captions: list[str]) -> torch.Tensor:
        return self.unet(noisy, timesteps, self.text(captions)[0]).sample


def pretrain_text_encoder(model: Model) -> None:
    """Train the text encoder alone to classify every attribute, by linear heads on each state after the caption's end.

    With the diffusion loss alone it learnt far more slowly which colour belongs to which part.
    """
    heads = {"class": ("Face", "Letter")} | {
        f"{of_class.__name__}.{name}": ("", *values)
        for of_class, attributes in VALUES.items()
        for name, values in attributes.items()
    }
    classifier = torch.nn.Linear(WIDTH, sum(map(len, heads.values())))
    trained = [*model.text_encoder.parameters(), *classifier.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=TEXT_STEPS)
    rng = np.random.default_rng(5)
    for step in range(TEXT_STEPS):
        batch = [partly(random_scene(rng), rng) for _ in range(128)]
        states, ended = model.text([caption(scene, rng) for scene in batch])
        logits = classifier(states).split([len(values) for values in heads.values()], dim=-1)
        losses = []
        for (head, values), of_head in zip(heads.items(), logits, strict=True):
            labels = torch.tensor([_label(scene, head, values) for scene in batch])[:, None].expand(-1, TOKENS)[ended]
            known = (labels >= 0).any()
            losses.append(F.cross_entropy(of_head[ended], labels) if known else of_head.sum() * 0)
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 250 == 0:
            print(f"text encoder, step {step + 1}: loss {loss.item():.4f}", flush=True)


def _label(scene: Scene, head: str, values: tuple[str, ...]) -> int:
    """The index of the attribute's value; -100 (ignored) for an attribute of the other class of scenes."""
    if head == "class":
        return values.index(type(scene).__name__)
    of_class, _, name = head.partition(".")
    return values.index(getattr(scene, name)) if type(scene).__name__ == of_class else -100


@dataclass(frozen=True)
class Stage:
    """Optimizer steps, peak learning rate, the loss weight of details, and how the text encoder is trained.

    pretrained: by `pretrain_text_encoder`, and frozen in the stage itself. after: the stage whose UNet is continued.
    """

    steps: int
    lr: float
    detail_weight: float
    pretrained: bool
    after: str | None = None

    def lr_at(self, step: int) -> float:
        return self.lr * min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / self.steps))


# After the first stage, which trains the text encoder together with the UNet, eyes had arbitrary colours. So the second
# continues the UNet with a pretrained, frozen text encoder, and with a higher loss weight of irises and mouths.
STAGES = {
    "stage-1": Stage(9000, 1.2e-3, detail_weight=1.0, pretrained=False),
    "stage-2": Stage(5000, 8e-4, detail_weight=DETAIL_WEIGHT, pretrained=True, after="stage-1"),
}


def train(folder: Path, name: str) -> None:
    """A stage, from its checkpoint RUN/NAME.pt where there is one."""
    torch.manual_seed(0)
    stage, checkpoint = STAGES[name], folder / f"{name}.pt"
    model, ema = Model().train(), Model()
    if stage.after is not None:
        before: dict[str, Any] = torch.load(folder / f"{stage.after}.pt", weights_only=True)
        unet_ema = {key: tensor for key, tensor in before["ema"].items() if key.startswith("unet.")}
        model.unet.load_state_dict({key.removeprefix("unet."): tensor for key, tensor in unet_ema.items()})
    if stage.pretrained and not checkpoint.exists():
        pretrain_text_encoder(model)
    ema.load_state_dict(model.state_dict())
    model.text_encoder.requires_grad_(not stage.pretrained)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    data, every, noising = load_file(folder / "latents.safetensors"), scenes(COUNT, seed=0), scheduler()
    weights = torch.where(data["details"], stage.detail_weight, 1.0)[:, None]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=stage.lr, betas=(0.9, 0.99), weight_decay=0.01)
    saved, first = {"model": model, "ema": ema, "optimizer": optimizer}, 0
    if checkpoint.exists():
        state: dict[str, Any] = torch.load(checkpoint, weights_only=True)
        for key, part in saved.items():
            part.load_state_dict(state[key])
        first = state["step"]
    losses, started = [], time.perf_counter()
    for step in range(first, stage.steps):
        seed = step + 1_000_000 * list(STAGES).index(name)  # everything random in a step is seeded by its number
        rng = np.random.default_rng((seed, 4))
        noise_rng = torch.Generator().manual_seed(seed)
        for group in optimizer.param_groups:
            group["lr"] = stage.lr_at(step)
        chosen = rng.integers(COUNT, size=BATCH_SIZE)
        captions = ["" if rng.random() < EMPTY_CAPTIONS else caption(partly(every[i], rng), rng) for i in chosen]
        latents = data["latents"][torch.from_numpy(chosen)].float()
        noise = torch.randn(latents.shape, generator=noise_rng)
        timesteps = torch.randint(0, 1000, (BATCH_SIZE,), generator=noise_rng)
        target = noising.get_velocity(latents, noise, timesteps)
        with torch.autocast("cpu", torch.bfloat16):
            prediction = model(noising.add_noise(latents, noise, timesteps), timesteps, captions)
        loss = ((prediction.float() - target).square() * weights[torch.from_numpy(chosen)]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
        optimizer.step()
        update_ema(ema, model, min(EMA_DECAY, (1 + step) / (10 + step)))
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            seconds = (time.perf_counter() - started) / (step + 1 - first)
            print(f"step {step + 1}: loss {np.mean(losses[-100:]):.4f}, {seconds:.3f} s per step", flush=True)
        if (step + 1) % 500 == 0 or step + 1 == stage.steps:
            state = {key: part.state_dict() for key, part in saved.items()} | {"step": step + 1}
            write_atomic(checkpoint, functools.partial(torch.save, state))


@torch.no_grad()
def update_ema(ema: Model, model: Model, decay: float) -> None:
    for average, weight in zip(ema.parameters(), model.parameters(), strict=True):
        average.lerp_(weight, 1 - decay)


def ship(folder: Path, into: Path) -> None:
    state: dict[str, Any] = torch.load(folder / f"{list(STAGES)[-1]}.pt", weights_only=True)
    model = Model()
    model.load_state_dict(state["ema"])
    pipeline = StableDiffusionPipeline(
        vae=None,
        text_encoder=model.text_encoder.half(),
        tokenizer=model.tokenizer,
        unet=model.unet.half(),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(into)
    for_older_transformers(into)
    for weights in into.rglob("*.safetensors"):
        weights.chmod(0o644)
    index = into / INDEX
    index.write_text(json.dumps(json.loads(index.read_text()) | {LATENT_SPACE: "tiny"}, indent=2) + "\n")


def for_older_transformers(folder: Path) -> None:
    """Write the files as models on the hub have them: releases before 5 read nothing else, later ones read them too."""
    weights = folder / "text_encoder" / "model.safetensors"
    states = {f"text_model.{name.removeprefix('text_model.')}": part for name, part in load_file(weights).items()}
    save_file(states, weights, {"format": "pt"})
    config = folder / "text_encoder" / "config.json"  # transformers 5 computes in this dtype, diffusers in float32
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    vocabulary = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary["vocab"]))
    merges = [" ".join(pair) for pair in vocabulary["merges"]]
    (folder / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["data", *STAGES, "ship"])
    parser.add_argument("-o", "--output", type=Path, required=True, help="the folder of the training")
    parser.add_argument("--into", type=Path, help="ship into this folder, not into the package")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "data":
        write_latents(options.output)
    elif options.command in STAGES:
        train(options.output, options.command)
    else:
        ship(options.output, options.into or embedded_model_path(registry().find_model("tiny-sd")))


if __name__ == "__main__":
    main()
