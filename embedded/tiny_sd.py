"""Train tiny-sd, the embedded diffusion model: text encoder, UNet and scheduler in the latents of tiny-kl-f8.

    python embedded/tiny_sd.py draw -o RUN                  scenes of the small language, encoded; 10 minutes
    python embedded/tiny_sd.py begun -o RUN                 the first stage, 90 minutes; goes on after a stop
    python embedded/tiny_sd.py taught -o RUN                the second, 25 minutes (each on one core)
    python embedded/tiny_sd.py ship -o RUN                  into the package, fp16, in the layout of diffusers

Scenes whose combination of attributes is one of `unseen` are never trained on: embedded/check_tiny_sd.py asks for them.
In an environment without torchvision, or with one that can be imported. Docs: docs/tiny-sd.md.
"""

import argparse
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
from vaelens.images.drawing import Drawing
from vaelens.images.prompts import VALUES, WORDS, Scene, caption, partly, random_scene
from vaelens.images.scenes import draw_scene
from vaelens.weights.registry import embedded_model_path, registry

COUNT, BATCH, LESSONS = 16_000, 32, 2000
WARM_UP, EMA, CLIP = 300, 0.999, 1.0
UNSAID = 0.1  # captions replaced by the empty prompt, for guidance
TOKENS, WIDTH = 24, 96
CHUNK = 32  # images encoded at once
DETAILS, WEIGHT = ("iris", "mouth"), 8.0  # an iris is a hundredth of the image, and a tenth of what is asked for


def unseen(scene: Scene) -> bool:
    """Whether this combination of attributes is kept from the training: one in eight, fixed by its caption."""
    return hashlib.sha256(caption(scene).encode()).digest()[0] % 8 == 0


def scenes(count: int, seed: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    drawn = (random_scene(rng) for _ in iter(int, 1))
    return [next(scene for scene in drawn if not unseen(scene)) for _ in range(count)]


def encoded(wanted: list[Scene], first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of the scenes, drawn with seeds from `first` on, fp16 [n,4,32,32], and where their details lie."""
    torch.set_num_threads(1)
    drawings = [draw_scene(scene, first + i) for i, scene in enumerate(wanted)]
    image = torch.from_numpy(np.stack([d.pixels for d in drawings])).permute(0, 3, 1, 2).float() / 255
    return vaelens.load("tiny-kl-f8").encode(image).mode().half(), torch.stack([details(d) for d in drawings])


def details(drawing: Drawing) -> torch.Tensor:
    """The cells of the latent that irises and mouth touch, bool [32,32]."""
    side = drawing.pixels.shape[0]
    cells = torch.zeros(side // 8, side // 8, dtype=torch.bool)
    for box in drawing.boxes:
        if box.label in DETAILS:
            cells[int(box.top) // 8 : math.ceil(box.bottom / 8), int(box.left) // 8 : math.ceil(box.right / 8)] = True
    return cells


def draw(folder: Path) -> None:
    wanted, starts = scenes(COUNT, seed=0), range(0, COUNT, CHUNK)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(encoded, [wanted[start : start + CHUNK] for start in starts], starts))
    folder.mkdir(parents=True, exist_ok=True)
    latents, where = (torch.cat(part) for part in zip(*parts, strict=True))
    save_file({"latents": latents, "details": where}, folder / "latents.safetensors")


def tokenizer() -> CLIPTokenizer:
    """CLIP's kind of tokenizer, whose merges make one token of each word of the language."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=10**6, min_frequency=1, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator([" ".join(WORDS)], trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), start, end]
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys(names))}
    made = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)
    assert all(len(made(word).input_ids) == 3 for word in WORDS)
    return made


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
    """Attention at 8x8 only; the caption also reaches every residual block, with the time step."""
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
    """Ends in pure noise: grounds in one plain colour have a mean that a rest of signal would give away."""
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
    """Both trained networks."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = tokenizer()
        self.text_encoder = text_encoder(self.tokenizer)
        self.unet = unet()

    def text(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """The text encoder's states [b,tokens,width], and which of them have seen the whole caption."""
        asked = self.tokenizer(
            captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
        ).input_ids
        return self.text_encoder(asked)[0], asked == self.tokenizer.eos_token_id

    def forward(self, noisy: torch.Tensor, steps: torch.Tensor, captions: list[str]) -> torch.Tensor:
        return self.unet(noisy, steps, self.text(captions)[0]).sample


def teach(model: Model) -> None:
    """Train the text encoder alone: every state from the caption's end on must tell all attributes by linear heads.

    Left to the diffusion loss it learnt far more slowly which colour belongs to what.
    """
    heads = {"kind": ("Face", "Letter")} | {
        f"{kind.__name__}.{name}": ("", *values)
        for kind, attributes in VALUES.items()
        for name, values in attributes.items()
    }
    reader = torch.nn.Linear(WIDTH, sum(map(len, heads.values())))
    optimizer = torch.optim.AdamW([*model.text_encoder.parameters(), *reader.parameters()], lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=LESSONS)
    rng = np.random.default_rng(5)
    for lesson in range(LESSONS):
        wanted = [partly(random_scene(rng), rng) for _ in range(128)]
        states, ended = model.text([caption(scene, rng) for scene in wanted])
        scores = reader(states).split([len(values) for values in heads.values()], dim=-1)
        losses = []
        for (head, values), score in zip(heads.items(), scores, strict=True):
            right = torch.tensor([_value(scene, head, values) for scene in wanted])[:, None].expand(-1, TOKENS)
            losses.append(F.cross_entropy(score[ended], right[ended]) if (right[ended] >= 0).any() else score.sum() * 0)
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (lesson + 1) % 250 == 0:
            print(f"lesson {lesson + 1} loss {loss.item():.4f}", flush=True)


def _value(scene: Scene, head: str, values: tuple[str, ...]) -> int:
    """The number of the attribute's value, -100 (ignored) where the other kind of scene has it."""
    if head == "kind":
        return values.index(type(scene).__name__)
    kind, _, name = head.partition(".")
    return values.index(getattr(scene, name)) if type(scene).__name__ == kind else -100


@dataclass(frozen=True)
class Stage:
    """A part of the training: updates, peak rate, how much an error in a detail weighs, and whether the text encoder is
    taught before and then left as it is."""

    updates: int
    rate: float
    weight: float
    taught: bool
    after: str | None = None

    def rate_at(self, update: int) -> float:
        return self.rate * min(1.0, (update + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * update / self.updates))


# The first stage's text encoder learnt along with the UNet, and its images' eyes had any colour; the second continues
# its UNet with a text encoder that is taught before and stays as it is, and looks harder at irises and mouths.
STAGES = {
    "begun": Stage(9000, 1.2e-3, weight=1.0, taught=False),
    "taught": Stage(5000, 8e-4, weight=WEIGHT, taught=True, after="begun"),
}


def train(folder: Path, name: str) -> None:
    torch.manual_seed(0)
    stage, state = STAGES[name], folder / f"{name}.pt"
    model, average = Model().train(), Model()
    if stage.after is not None:
        before: dict[str, Any] = torch.load(folder / f"{stage.after}.pt", weights_only=True)
        model.unet.load_state_dict(_part(before["average"], "unet."))
    if stage.taught and not state.exists():
        teach(model)
    average.load_state_dict(model.state_dict())
    model.text_encoder.requires_grad_(not stage.taught)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    drawn, wanted, noising = load_file(folder / "latents.safetensors"), scenes(COUNT, seed=0), scheduler()
    weights = torch.where(drawn["details"], stage.weight, 1.0)[:, None]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=stage.rate, betas=(0.9, 0.99), weight_decay=0.01)
    first = 0
    if state.exists():
        found: dict[str, Any] = torch.load(state, weights_only=True)
        model.load_state_dict(found["model"])
        average.load_state_dict(found["average"])
        optimizer.load_state_dict(found["optimizer"])
        first = found["updates"]
    losses, begun = [], time.perf_counter()
    for update in range(first, stage.updates):
        number = update + 1_000_000 * list(STAGES).index(name)
        rng = np.random.default_rng((number, 4))  # all that is random in an update is fixed by its number
        noise_rng = torch.Generator().manual_seed(number)
        for group in optimizer.param_groups:
            group["lr"] = stage.rate_at(update)
        chosen = rng.integers(COUNT, size=BATCH)
        captions = ["" if rng.random() < UNSAID else caption(partly(wanted[i], rng), rng) for i in chosen]
        clean = drawn["latents"][torch.from_numpy(chosen)].float()
        noise = torch.randn(clean.shape, generator=noise_rng)
        steps = torch.randint(0, 1000, (BATCH,), generator=noise_rng)
        target = noising.get_velocity(clean, noise, steps)
        with torch.autocast("cpu", torch.bfloat16):
            guess = model(noising.add_noise(clean, noise, steps), steps, captions)
        loss = ((guess.float() - target).square() * weights[torch.from_numpy(chosen)]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        follow(average, model, min(EMA, (1 + update) / (10 + update)))
        losses.append(loss.item())
        if (update + 1) % 100 == 0:
            spent = (time.perf_counter() - begun) / (update + 1 - first)
            print(f"{update + 1} loss {np.mean(losses[-100:]):.4f}  {spent:.3f} s an update", flush=True)
        if (update + 1) % 500 == 0 or update + 1 == stage.updates:
            kept = {"model": model, "average": average, "optimizer": optimizer}
            states = {key: value.state_dict() for key, value in kept.items()}
            torch.save(states | {"updates": update + 1}, state.with_suffix(".new"))
            state.with_suffix(".new").replace(state)


@torch.no_grad()
def follow(average: Model, model: Model, decay: float) -> None:
    for kept, new in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)


def _part(states: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {n.removeprefix(prefix): t for n, t in states.items() if n.startswith(prefix)}


def ship(folder: Path, into: Path) -> None:
    found: dict[str, Any] = torch.load(folder / f"{list(STAGES)[-1]}.pt", weights_only=True)
    model = Model()
    model.load_state_dict(found["average"])
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
    """Files as releases before 5 read them, and as the hub's models have them; later ones read them too."""
    weights = folder / "text_encoder" / "model.safetensors"
    states = {f"text_model.{name.removeprefix('text_model.')}": part for name, part in load_file(weights).items()}
    save_file(states, weights, {"format": "pt"})
    config = folder / "text_encoder" / "config.json"  # transformers 5 computes in what this says, diffusers in float32
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    vocabulary = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary["vocab"]))
    merges = [" ".join(pair) for pair in vocabulary["merges"]]
    (folder / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["draw", *STAGES, "ship"])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--into", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.what == "draw":
        draw(asked.output)
    elif asked.what in STAGES:
        train(asked.output, asked.what)
    else:
        ship(asked.output, asked.into or embedded_model_path(registry().find_model("tiny-sd")))


if __name__ == "__main__":
    main()
