"""Stable Diffusion with another VAE, fixed seed, each VAE in turn: the article's program in today's libraries.

    python examples/swap_vae.py "a photo of an astronaut riding a horse on mars" --vae kl-f8 --vae ft-ema --vae ft-mse

Downloads the model (some 4 GB) and the VAEs once; on a machine without a GPU an image takes minutes. The small model
that ships with vaelens: python examples/swap_vae.py "the letter R in red on white" --model tiny-sd
"""

import argparse
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

import vaelens
from vaelens.errors import VaelensError
from vaelens.weights.registry import embedded_model_path, registry

ARTICLES = "CompVis/stable-diffusion-v1-4"
TRIO = {ARTICLES: ["kl-f8", "ft-ema", "ft-mse"], "tiny-sd": ["tiny-kl-f8", "tiny-ft-ema", "tiny-ft-mse"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt")
    parser.add_argument("--model", default=ARTICLES, help="a hub id, a folder, or tiny-sd")
    parser.add_argument("--vae", action="append", help="repeatable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="by default 50, tiny-sd's 25")
    parser.add_argument("--cfg", type=float, help="by default 7.5, tiny-sd's 3")
    parser.add_argument("-o", "--output", type=Path, default=Path())
    asked = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    known = registry().models.get(asked.model)
    model, steps, cfg = asked.model, asked.steps or 50, 7.5 if asked.cfg is None else asked.cfg
    if known is not None and known.embedded:
        model, steps = embedded_model_path(known), asked.steps or known.steps
        cfg = known.guidance if asked.cfg is None else asked.cfg
    names = asked.vae or TRIO.get(asked.model, TRIO[ARTICLES])
    asked.output.mkdir(parents=True, exist_ok=True)
    pipe = None
    for name in names:
        try:
            vae = vaelens.as_diffusers(vaelens.load(name, device=device))
        except VaelensError as error:
            parser.error(str(error))
        if pipe is None:
            pipe = DiffusionPipeline.from_pretrained(model, vae=vae)
        pipe.vae = vae
        pipe.to(device, dtype)
        seeded = torch.Generator("cpu").manual_seed(asked.seed)
        image = pipe(asked.prompt, num_inference_steps=steps, guidance_scale=cfg, generator=seeded).images[0]
        path = asked.output / f"{name.replace('/', '-')}-seed-{asked.seed}.png"
        image.save(path)
        print(path)


if __name__ == "__main__":
    main()
