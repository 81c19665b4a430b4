"""Train the embedded `tiny-kl-f8`: L1, MSE and a little KL, on drawn pictures and a few photographs.

    python embedded/train.py -o RUN

Runs on two CPU cores in about two hours. The same command again goes on from RUN/checkpoint.pt: order
and augmentation are functions of (seed, step), so a run that was interrupted ends in the same weights.
A longer run may continue a shorter one that had not yet begun to cool down.
Needs scikit-image and scikit-learn, whose wheels carry the photographs (credits: docs/embedded.md).
"""

import argparse
import copy
import dataclasses
import functools
import time
from pathlib import Path

import numpy as np
import sklearn
import torch
from check import SKIMAGE, held_out, scores
from PIL import Image
from torch import Tensor

from vaelens.files import write_atomic
from vaelens.images.faces import draw_face
from vaelens.images.letters import draw_letters
from vaelens.networks.autoencoder_kl import AutoencoderKL
from vaelens.vae import VAE
from vaelens.weights.registry import registry

PHOTOS = [SKIMAGE / f"{n}.png" for n in ("coffee", "ihc")]
PHOTOS += [SKIMAGE / f"{n}.jpg" for n in ("rocket", "retina", "hubble_deep_field")]
PHOTOS += [Path(sklearn.__file__).parent / "datasets" / "images" / f"{n}.jpg" for n in ("china", "flower")]
WEIGHTS = np.array([4, 1, 3, 1, 1, 4, 4], dtype=np.float64)  # natural photographs count most
SCALES = (1.0, 0.75, 0.5, 0.35)
DRAWN = 200  # faces and pages of letters, each
SMALL_CROPS_UNTIL = 6_500  # 64-pixel crops in batches of 16 first; then 128 x 4 and 256 x 1


def pictures() -> tuple[list[list[np.ndarray]], np.ndarray]:
    """Every training picture at several sizes, uint8 [h,w,3], and how often each is drawn from."""
    photos = [np.asarray(Image.open(p).convert("RGB")) for p in PHOTOS]
    drawn = [draw(seed).pixels for draw in (draw_face, draw_letters) for seed in range(DRAWN)]
    odds = np.concatenate([0.65 * WEIGHTS / WEIGHTS.sum(), np.full(len(drawn), 0.35 / len(drawn))])
    return [[resized(p, s) for s in SCALES] for p in photos] + [[p, resized(p, 0.5)] for p in drawn], odds


def resized(pixels: np.ndarray, scale: float) -> np.ndarray:
    h, w = (round(n * scale) for n in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((w, h), Image.Resampling.BICUBIC))


def batch(pool: list[list[np.ndarray]], odds: np.ndarray, seed: int, step: int) -> Tensor:
    """The batch of this step, [b,3,s,s] in [0,1]: a pure function of (seed, step)."""
    rng = np.random.default_rng((seed, step))
    side, count = (64, 16) if step < SMALL_CROPS_UNTIL else (128, 4) if rng.random() < 0.8 else (256, 1)
    crops = [crop(pool[rng.choice(len(pool), p=odds)], side, rng) for _ in range(count)]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def crop(sizes: list[np.ndarray], side: int, rng: np.random.Generator) -> np.ndarray:
    """A random square of a random size of the picture, turned, flipped and recoloured, float32 [s,s,3]."""
    big = [p for p in sizes if min(p.shape[:2]) >= side]
    picture = big[rng.integers(len(big))]
    y, x = (rng.integers(n - side + 1) for n in picture.shape[:2])
    out = np.rot90(picture[y : y + side, x : x + side], rng.integers(4)).astype(np.float32) / 255
    if rng.random() < 0.5:
        out = out[:, ::-1]
    if rng.random() < 0.3:
        out = out[..., rng.permutation(3)]
    if rng.random() < 0.5:
        out = np.clip(out * rng.uniform(0.6, 1.3, 3), 0, 1) ** rng.uniform(0.7, 1.5)
    return np.ascontiguousarray(out, dtype=np.float32)


def score(net: AutoencoderKL) -> str:
    """PSNR on the held-out photographs, each with its bicubic baseline in brackets."""
    with torch.no_grad():
        found = scores(lambda x: net.decode(net.posterior(2 * x - 1).mode()) / 2 + 0.5, held_out().items())
    return ", ".join(f"{name} {vae:.2f} ({base:.2f})" for name, (vae, base) in found.items())


def export(net: AutoencoderKL, pool: list[list[np.ndarray]], odds: np.ndarray, a: argparse.Namespace) -> Path:
    """The finished VAE in fp16, with the scale at which its latents have unit spread, and the command."""
    with torch.no_grad():
        z = [net.posterior(batch(pool, odds, a.seed + 1, a.steps + i) * 2 - 1).mode() for i in range(64)]
    scale = round(1 / torch.cat([part.flatten() for part in z]).std().item(), 5)
    spec = dataclasses.replace(registry().spec("tiny-kl-f8"), scaling_factor=scale)
    command = f"embedded/train.py --steps {a.steps} --cooldown {a.cooldown} --seed {a.seed} --rate {a.rate}"
    notes = {"command": command, "torch": torch.__version__, "pictures": "drawn; scikit-image's, scikit-learn's"}
    return VAE(net.half(), spec, "tiny-kl-f8").save(a.out / "tiny-kl-f8.safetensors", notes=notes)


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    cli.add_argument("-o", "--out", type=Path, required=True)
    cli.add_argument("--steps", type=int, default=9_000)
    cli.add_argument("--cooldown", type=int, default=2_500, help="last steps, rate falling to 0")
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--rate", type=float, default=1.5e-3)
    a = cli.parse_args()

    torch.manual_seed(a.seed)
    net = AutoencoderKL(registry().spec("tiny-kl-f8").config).to(memory_format=torch.channels_last)
    ema = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters(), a.rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    start, file = 0, a.out / "checkpoint.pt"
    a.out.mkdir(parents=True, exist_ok=True)
    if file.exists():
        state = torch.load(file, weights_only=True)
        net.load_state_dict(state["net"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
        if (state["seed"], state["rate"]) != (a.seed, a.rate):
            cli.error(f"{file} was begun with --seed {state['seed']} --rate {state['rate']}; go on with those")
    pool, odds = pictures()
    began = time.monotonic()
    for step in range(start, a.steps):
        for group in optimizer.param_groups:
            group["lr"] = a.rate * min(1.0, (step + 1) / 200, (a.steps - step) / a.cooldown)
        x = batch(pool, odds, a.seed, step) * 2 - 1
        with torch.autocast("cpu", torch.bfloat16):
            posterior = net.posterior(x)
            y = net.decode(posterior.sample(torch.Generator().manual_seed(step))).float()
        kl = posterior.kl().sum() / posterior.mean.numel()
        l1, mse = (y - x).abs().mean(), (y - x).square().mean()
        loss = l1 + 4 * mse + 1e-4 * kl
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        decay = min(0.999, (1 + step) / (10 + step))
        for slow, fast in zip(ema.parameters(), net.parameters(), strict=True):
            slow.lerp_(fast.detach(), 1 - decay)
        if (step + 1) % 500 == 0 or step + 1 == a.steps:
            state = {"net": net.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict()}
            write_atomic(
                file, functools.partial(torch.save, state | {"step": step + 1, "seed": a.seed, "rate": a.rate})
            )
            parts = f"l1 {l1:.4f} mse {mse:.4f} kl {kl:.2f} | {score(ema)} | {time.monotonic() - began:.0f} s"
            print(step + 1, parts, flush=True)
    print("wrote", export(ema, pool, odds, a))


if __name__ == "__main__":
    main()
