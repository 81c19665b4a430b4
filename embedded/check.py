"""PSNR of a VAE on held-out photos, compared with 8x downsampling and upsampling (Pillow's BICUBIC).

    python embedded/check.py [--vae VAE ...] [PHOTO ...]

The downsampled image has 3 numbers per 8x8 pixels, a latent 4: an f8c4 VAE that isn't better has learnt nothing.
Without --vae: the embedded VAEs. Without photos: scikit-image's astronaut at 256 and 512 and chelsea at 256.
"""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image
from torch import Tensor

import vaelens
from vaelens.images.writing import from_uint8, to_uint8
from vaelens.weights.registry import registry

SKIMAGE = Path(skimage.__file__).parent / "data"
HELD_OUT = (("astronaut", 256), ("astronaut", 512), ("chelsea", 256))  # never trained on
FACTOR = 8


def held_out() -> dict[str, Image.Image]:
    """The held-out photos: the middle square, resized (Pillow BICUBIC, antialiased)."""
    photos: dict[str, Image.Image] = {}
    for name, side in HELD_OUT:
        photo = Image.open(SKIMAGE / f"{name}.png").convert("RGB")
        edge = min(photo.size)
        left, top = (photo.width - edge) // 2, (photo.height - edge) // 2
        square = photo.crop((left, top, left + edge, top + edge))
        photos[f"{name}-{side}"] = square.resize((side, side), Image.Resampling.BICUBIC)
    return photos


def bicubic(photo: Image.Image) -> Image.Image:
    """The photo downsampled to an eighth of its size and upsampled again."""
    small = photo.resize((photo.width // FACTOR, photo.height // FACTOR), Image.Resampling.BICUBIC)
    return small.resize(photo.size, Image.Resampling.BICUBIC)


def scores(
    reconstruct: Callable[[Tensor], Tensor], photos: Iterable[tuple[str, Image.Image]]
) -> dict[str, tuple[float, float]]:
    """PSNR in dB of the rounded reconstruction and of the bicubic image, by photo."""
    found: dict[str, tuple[float, float]] = {}
    for name, photo in photos:
        original, reduced = (torch.tensor(np.asarray(p)).permute(2, 0, 1)[None] for p in (photo, bicubic(photo)))
        image = from_uint8(original)
        again = from_uint8(to_uint8(reconstruct(image)))
        found[name] = (vaelens.psnr(again, image).item(), vaelens.psnr(from_uint8(reduced), image).item())
    return found


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    cli.add_argument("--vae", action="append")
    cli.add_argument("photos", nargs="*", type=Path)
    a = cli.parse_args()
    photos = {p.name: Image.open(p).convert("RGB") for p in a.photos} or held_out()
    for vae in a.vae or registry().embedded():
        found = scores(vaelens.load(vae, device="cpu").reconstruct, photos.items())
        for name, (psnr, base) in found.items():
            print(f"{name:<16} {vae} {psnr:6.2f} dB   bicubic {base:6.2f} dB   {psnr - base:+.2f}")
        gains = [psnr - base for psnr, base in found.values()]
        summary = f"{np.mean(gains):+.2f} dB over bicubic (from {min(gains):+.2f} to {max(gains):+.2f})"
        print(f"{'mean':<16} {vae} {summary}, {len(found)} photos", flush=True)


if __name__ == "__main__":
    main()
