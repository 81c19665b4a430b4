"""Stable Diffusion with another VAE, fixed seed, each VAE in turn: the article's program in today's libraries.

    python examples/swap_vae.py "a photo of an astronaut riding a horse on mars" --vae kl-f8 --vae ft-ema --vae ft-mse

Downloads the model (some 4 GB) and the VAEs once; on a machine without a GPU a picture takes minutes. `--model tiny`
takes the small model that ships with vaelens: python examples/swap_vae.py "a smiling face" --model tiny.
"""

import argparse
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

import vaelens
from vaelens.weights.registry import embedded_model_path, registry

TRIO = {"sd": ["kl-f8", "ft-ema", "ft-mse"], "tiny": ["tiny-kl-f8", "tiny-ft-ema", "tiny-ft-mse"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt")
    parser.add_argument("--model", default="CompVis/stable-diffusion-v1-4", help="a hub id, a folder, or tiny")
    parser.add_argument("--vae", action="append", help="repeatable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--cfg", type=float, default=7.5)
    parser.add_argument("-o", "--output", type=Path, default=Path())
    asked = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    tiny = asked.model == "tiny"
    model = embedded_model_path(registry().find_model("tiny-sd")) if tiny else asked.model
    asked.output.mkdir(parents=True, exist_ok=True)
    pipe = None
    for name in asked.vae or TRIO["tiny" if tiny else "sd"]:
        vae = vaelens.as_diffusers(vaelens.load(name, device=device))
        if pipe is None:
            pipe = DiffusionPipeline.from_pretrained(model, vae=vae, torch_dtype=dtype).to(device)
        pipe.vae = vae.to(device, dtype)
        seeded = torch.Generator("cpu").manual_seed(asked.seed)
        picture = pipe(
            asked.prompt, num_inference_steps=asked.steps, guidance_scale=asked.cfg, generator=seeded
        ).images[0]
        path = asked.output / f"{name.replace('/', '-')}-seed-{asked.seed}.png"
        picture.save(path)
        print(path)


if __name__ == "__main__":
    main()
