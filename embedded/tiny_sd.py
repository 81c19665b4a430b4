"""Train tiny-sd, the embedded diffusion model: text encoder, UNet and scheduler in the latents of tiny-kl-f8.

    python embedded/tiny_sd.py draw -o RUN                  scenes of the small language, encoded; 10 minutes
    python embedded/tiny_sd.py train -o RUN                 the model; some two hours of one core; goes on after a stop
    python embedded/tiny_sd.py ship -o RUN                  into the package, fp16, in the layout of diffusers

Scenes whose combination of attributes is one of `unseen` are never trained on: embedded/check_tiny_sd.py asks for them.
Docs: docs/tiny-sd.md.
"""

import argparse
import hashlib
import json
import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

sys.modules["torchvision"] = None  # type: ignore[assignment]  # transformers needs none of it, and the tests' one lacks its operators
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers, trainers  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer  # noqa: E402

import vaelens  # noqa: E402
from vaelens.adapters.models import INDEX, LATENT_SPACE  # noqa: E402
from vaelens.images.prompts import WORDS, Scene, caption, partly, random_scene  # noqa: E402
from vaelens.images.scenes import draw_scene  # noqa: E402

COUNT, UPDATES, BATCH = 16_000, 9_000, 32
RATE, WARM_UP, EMA, CLIP = 1.2e-3, 300, 0.999, 1.0
UNSAID = 0.1  # captions replaced by the empty prompt, for guidance
TOKENS, WIDTH = 24, 96
CHUNK = 32  # pictures encoded at once


def unseen(scene: Scene) -> bool:
    """Whether this combination of attributes is kept from the training: one in eight, fixed by its caption."""
    return hashlib.sha256(caption(scene).encode()).digest()[0] % 8 == 0


def scenes(count: int, seed: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    drawn = (random_scene(rng) for _ in iter(int, 1))
    return [next(scene for scene in drawn if not unseen(scene)) for _ in range(count)]


def encoded(wanted: list[Scene], first: int) -> torch.Tensor:
    """Latents of the scenes, drawn with seeds from `first` on, fp16 [n,4,32,32]."""
    torch.set_num_threads(1)
    pixels = np.stack([draw_scene(scene, first + i).pixels for i, scene in enumerate(wanted)])
    image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return vaelens.load("tiny-kl-f8").encode(image).mode().half()


def draw(folder: Path) -> None:
    wanted, starts = scenes(COUNT, seed=0), range(0, COUNT, CHUNK)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(encoded, [wanted[start : start + CHUNK] for start in starts], starts))
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"latents": torch.cat(parts)}, folder / "latents.safetensors")


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

    def forward(self, noisy: torch.Tensor, steps: torch.Tensor, captions: list[str]) -> torch.Tensor:
        asked = self.tokenizer(
            captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
        ).input_ids
        return self.unet(noisy, steps, self.text_encoder(asked)[0]).sample


def train(folder: Path) -> None:
    torch.manual_seed(0)
    model, average = Model().train(), Model()
    average.load_state_dict(model.state_dict())
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    latents, wanted, noise_scheduler = (
        load_file(folder / "latents.safetensors")["latents"],
        scenes(COUNT, 0),
        scheduler(),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.01)
    state, first = folder / "state.pt", 0
    if state.exists():
        found: dict[str, Any] = torch.load(state, weights_only=True)
        model.load_state_dict(found["model"])
        average.load_state_dict(found["average"])
        optimizer.load_state_dict(found["optimizer"])
        first = found["updates"]
    losses, begun = [], time.perf_counter()
    for update in range(first, UPDATES):
        rng = np.random.default_rng((update, 4))  # all that is random in an update is fixed by its number
        noise_rng = torch.Generator().manual_seed(update)
        rate = RATE * min(1.0, (update + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * update / UPDATES))
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = rng.integers(COUNT, size=BATCH)
        captions = ["" if rng.random() < UNSAID else caption(partly(wanted[i], rng), rng) for i in chosen]
        clean = latents[torch.from_numpy(chosen)].float()
        noise = torch.randn(clean.shape, generator=noise_rng)
        steps = torch.randint(0, 1000, (BATCH,), generator=noise_rng)
        target = noise_scheduler.get_velocity(clean, noise, steps)
        with torch.autocast("cpu", torch.bfloat16):
            guess = model(noise_scheduler.add_noise(clean, noise, steps), steps, captions)
        loss = F.mse_loss(guess.float(), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        decay = min(EMA, (1 + update) / (10 + update))
        with torch.no_grad():
            for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        losses.append(loss.item())
        if (update + 1) % 100 == 0:
            spent = (time.perf_counter() - begun) / (update + 1 - first)
            print(f"{update + 1} loss {np.mean(losses[-100:]):.4f}  {spent:.3f} s an update", flush=True)
        if (update + 1) % 500 == 0 or update + 1 == UPDATES:
            kept_states = {
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            torch.save(kept_states | {"updates": update + 1}, state.with_suffix(".new"))
            state.with_suffix(".new").replace(state)


def ship(folder: Path, into: Path) -> None:
    found: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True)
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
    index = into / INDEX
    index.write_text(json.dumps(json.loads(index.read_text()) | {LATENT_SPACE: "tiny"}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["draw", "train", "ship"])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--into", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.what == "draw":
        draw(asked.output)
    elif asked.what == "train":
        train(asked.output)
    else:
        ship(asked.output, asked.into or asked.output / "tiny-sd")


if __name__ == "__main__":
    main()
