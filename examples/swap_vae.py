"""Stable Diffusion with a fixed seed and each VAE in turn: the article's program with today's libraries.

    python examples/swap_vae.py "a photo of an astronaut riding a horse on mars" --vae kl-f8 --vae ft-ema --vae ft-mse

Downloads the model (some 4 GB) and the VAEs once; without a GPU an image takes minutes. With the small embedded model:
python examples/swap_vae.py "the letter R in red on white" --model tiny-sd
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

import vaelens
from vaelens.errors import VaelensError
from vaelens.weights.registry import embedded_model_path, registry

DEFAULT_MODEL = "CompVis/stable-diffusion-v1-4"
TRIO = {DEFAULT_MODEL: ["kl-f8", "ft-ema", "ft-mse"], "tiny-sd": ["tiny-kl-f8", "tiny-ft-ema", "tiny-ft-mse"]}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="a hub id, a folder, or tiny-sd")
    parser.add_argument("--vae", action="append", help="repeatable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="default: 50; tiny-sd: 25")
    parser.add_argument("--guidance-scale", "--cfg", type=float, help="default: 7.5; tiny-sd: 3")
    parser.add_argument("-o", "--output", type=Path, default=Path())
    options = parser.parse_args(arguments)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    known = registry().models.get(options.model)
    model, steps, guidance_scale = options.model, 50, 7.5
    if known is not None and known.embedded:
        model, steps, guidance_scale = embedded_model_path(known), known.steps, known.guidance_scale
    steps = options.steps or steps
    guidance_scale = guidance_scale if options.guidance_scale is None else options.guidance_scale
    names = options.vae or TRIO.get(options.model, TRIO[DEFAULT_MODEL])
    options.output.mkdir(parents=True, exist_ok=True)
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
        generator = torch.Generator("cpu").manual_seed(options.seed)
        output = pipe(options.prompt, num_inference_steps=steps, guidance_scale=guidance_scale, generator=generator)
        image = output.images[0]
        path = options.output / f"{name.replace('/', '-')}-seed-{options.seed}.png"
        image.save(path)
        print(path)


if __name__ == "__main__":
    main()
