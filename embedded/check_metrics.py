"""Test the networks of the small metrics on photos and synthetic images that none of them was trained on.

    python embedded/check_metrics.py [PHOTO ...]

Prints psim-small for rising strengths of several damages, its rank correlation with PSNR and SSIM, fd-small of damaged
and of different sets, and the share of letters that the glyph reader reads. Without photos: five of scikit-image's.
About five minutes on one core. Needs scikit-image and SciPy.
"""

import argparse
import functools
import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image, ImageFilter
from scipy.stats import spearmanr
from torch import Tensor

import vaelens
from vaelens.images.drawing import Box
from vaelens.images.faces import draw_face
from vaelens.images.letters import draw_letters
from vaelens.images.writing import from_uint8, to_uint8
from vaelens.metrics.frechet import Moments, frechet_distance
from vaelens.metrics.glyph_reader import readable
from vaelens.metrics.small import frechet_features, load_small_frechet, load_small_perceptual, psim_small
from vaelens.networks.small import SmallFrechet, SmallPerceptual

SKIMAGE = Path(skimage.__file__).parent / "data"
PHOTOS = [SKIMAGE / name for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "ihc.png")]
HELD_OUT = 300_000  # the first seed of the synthetic images; training has those from 200,000 on
HEIGHTS = (4, 8, 12, 16, 24, 64)  # pixels of a glyph's box, the reader's bins

Damage = Callable[[Image.Image], Image.Image]


def square(photo: Image.Image, side: int = 256) -> Image.Image:
    """The middle square, resized (Pillow BICUBIC, antialiased)."""
    m = min(photo.size)
    left, top = (photo.width - m) // 2, (photo.height - m) // 2
    return photo.crop((left, top, left + m, top + m)).resize((side, side), Image.Resampling.BICUBIC)


def blurred(image: Image.Image, sigma: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(sigma))


def noisy(image: Image.Image, sigma: float) -> Image.Image:
    """Gaussian noise of this standard deviation in 8-bit steps, the same pattern at each strength."""
    noise = np.random.default_rng(0).normal(0, sigma, (image.height, image.width, 3))
    return Image.fromarray(np.clip((np.asarray(image) + noise).round(), 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: float) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(quality))
    return Image.open(file).convert("RGB")


def reduced(image: Image.Image, factor: float) -> Image.Image:
    small = image.resize((round(image.width / factor), round(image.height / factor)), Image.Resampling.BICUBIC)
    return small.resize(image.size, Image.Resampling.BICUBIC)


@functools.cache
def tiny() -> vaelens.VAE:
    return vaelens.load("tiny-kl-f8", device="cpu")


def through_vae(image: Image.Image, share: float = 1.0) -> Image.Image:
    """The image blended with its reconstruction by tiny-kl-f8, of which it takes this share."""
    return image_of(torch.lerp(tensor(image), _again(image.tobytes(), image.size), share))


@functools.lru_cache(maxsize=300)
def _again(pixels: bytes, size: tuple[int, int]) -> Tensor:
    with torch.no_grad():
        return tiny().reconstruct(tensor(Image.frombytes("RGB", size, pixels)))


LADDERS: dict[str, tuple[Callable[[Image.Image, float], Image.Image], tuple[float, ...]]] = {
    "blur, sigma": (blurred, (0.5, 1, 2, 4)),
    "noise, sigma/255": (noisy, (2, 5, 10, 20, 40)),
    "JPEG, quality": (jpeg, (95, 75, 50, 25, 10)),
    "reduced by": (reduced, (1.5, 2, 4, 8)),
    "tiny-kl-f8, share": (through_vae, (0.25, 0.5, 0.75, 1)),
}


def at(damage: Callable[[Image.Image, float], Image.Image], strength: float, image: Image.Image) -> Image.Image:
    """The damage at this strength; partial(at, damage, strength) is a Damage."""
    return damage(image, strength)


def tensor(image: Image.Image) -> Tensor:
    return from_uint8(torch.tensor(np.asarray(image)).permute(2, 0, 1)[None])


def image_of(image: Tensor) -> Image.Image:
    return Image.fromarray(to_uint8(image)[0].permute(1, 2, 0).numpy())


Rungs = dict[str, list[tuple[float, float, float]]]


def measured(net: SmallPerceptual, image: Image.Image) -> Rungs:
    """psim-small, PSNR and SSIM of each rung of each ladder against the image."""
    found: Rungs = {}
    x = tensor(image)
    for name, (damage, strengths) in LADDERS.items():
        rungs = [tensor(damage(image, strength)) for strength in strengths]
        with torch.no_grad():
            distances = [psim_small(net, y, x).item() for y in rungs]
        found[name] = [
            (d, vaelens.psnr(y, x).item(), vaelens.ssim(y, x).item()) for d, y in zip(distances, rungs, strict=True)
        ]
    return found


def agreement(found: Rungs) -> tuple[float, float]:
    """Spearman's rank correlation of psim-small with PSNR and with SSIM over all rungs (1: the same order)."""
    distance, *others = zip(*(rung for rungs in found.values() for rung in rungs), strict=True)
    by_psnr, by_ssim = (float(spearmanr(-np.array(distance), other).statistic) for other in others)
    return by_psnr, by_ssim


def moments(net: SmallFrechet, images: Sequence[Image.Image], damage: Damage = lambda p: p) -> Moments:
    pixels = [torch.tensor(np.asarray(damage(p))).permute(2, 0, 1) for p in images]
    with torch.no_grad():
        features = [frechet_features(net, torch.stack(pixels[i : i + 20])) for i in range(0, len(pixels), 20)]
    return Moments.of(torch.cat(features))


def reading(pages: Sequence[tuple[Image.Image, Sequence[Box]]], damage: Damage = lambda p: p) -> list[tuple[int, int]]:
    """Glyphs read and glyphs in all, by the bins of HEIGHTS."""
    counts = [[0, 0] for _ in HEIGHTS[1:]]
    for page, boxes in pages:
        for box, good in zip(boxes, readable(tensor(damage(page)), boxes), strict=True):
            i = int(np.searchsorted(HEIGHTS, box.bottom - box.top, side="right")) - 1
            if 0 <= i < len(counts):
                counts[i][0] += good
                counts[i][1] += 1
    return [(good, all_) for good, all_ in counts]


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    cli.add_argument("--only", choices=("psim-small", "fd-small", "glyph-reader"))
    cli.add_argument("photos", nargs="*", type=Path)
    a = cli.parse_args()
    faces, pages = ([draw(seed) for seed in range(HELD_OUT, HELD_OUT + 50)] for draw in (draw_face, draw_letters))
    if a.only in {None, "psim-small"}:
        photos = {p.stem: square(Image.open(p).convert("RGB")) for p in a.photos or PHOTOS}
        show_perceptual(photos, [Image.fromarray(d.pixels) for d in (*faces[:5], *pages[:5])])
    if a.only in {None, "fd-small"}:
        show_frechet(*([Image.fromarray(d.pixels) for d in part] for part in (faces, pages)))
    if a.only in {None, "glyph-reader"}:
        show_reader([(Image.fromarray(d.pixels), d.boxes) for d in pages])


def show_perceptual(photos: dict[str, Image.Image], synthetic: Sequence[Image.Image]) -> None:
    net = load_small_perceptual()
    torch.manual_seed(0)
    untrained = SmallPerceptual()
    for name, photo in photos.items():
        found, x = measured(net, photo), tensor(photo)
        print(f"psim-small, {name}: itself {psim_small(net, x, x).item():.1e}")
        for ladder, rungs in found.items():
            print(f"  {ladder:<18} {_row(LADDERS[ladder][1], [r[0] for r in rungs], 4)}")
    for what, images in (("photos", [*photos.values()]), ("synthetic images", synthetic)):
        orders = [(*agreement(measured(net, p)), *agreement(measured(untrained, p))) for p in images]
        found = np.array(orders)
        mean, worst = found.mean(axis=0), found.min(axis=0)
        print(f"rank correlation over {sum(len(s) for _, s in LADDERS.values())} damages, {len(found)} {what}:")
        for i, other in enumerate(("PSNR", "SSIM")):
            print(f"  with {other}: mean {mean[i]:.2f}, worst {worst[i]:.2f}; untrained network {mean[i + 2]:.2f}")


def show_frechet(faces: Sequence[Image.Image], letters: Sequence[Image.Image]) -> None:
    net = load_small_frechet()
    both = [*faces, *letters]
    clean = moments(net, both)
    dead = int((clean.covariance.diagonal() < 1e-6).sum())
    print(f"fd-small, {len(both)} synthetic images, {dead} of {net.features} features constant:")
    print(f"  the same set {frechet_distance(clean, clean):.1e}")
    print(f"  halves of it {frechet_distance(moments(net, both[::2]), moments(net, both[1::2])):.2f}")
    print(f"  faces, letters {frechet_distance(moments(net, faces), moments(net, letters)):.2f}")
    for ladder, (damage, strengths) in LADDERS.items():
        found = [
            frechet_distance(clean, moments(net, both, functools.partial(at, damage, strength)))
            for strength in strengths
        ]
        print(f"  {ladder:<18} {_row(strengths, found, 2)}")


def show_reader(pages: Sequence[tuple[Image.Image, Sequence[Box]]]) -> None:
    bins = [f"{low}-{high} px" for low, high in itertools.pairwise(HEIGHTS)]
    print(f"{'glyphs read, by height':<22}", *(f"{b:>15}" for b in bins))
    damages: dict[str, Damage] = {
        "clean": lambda p: p,
        "blur, sigma 1": functools.partial(blurred, sigma=1),
        "blur, sigma 2": functools.partial(blurred, sigma=2),
        "tiny-kl-f8": through_vae,
        "reduced by 8": functools.partial(reduced, factor=8),
    }
    for name, damage in damages.items():
        counts = reading(pages, damage)
        print(f"{name:<22}", *(f"{good / max(n, 1):>7.1%} of {n:<4}" for good, n in counts))


def _row(strengths: Sequence[float], values: Sequence[float], digits: int) -> str:
    rises = "rises" if all(np.diff(values) > 0) else "DOESN'T RISE"
    return f"{rises}  " + ", ".join(f"{s:g}: {v:.{digits}f}" for s, v in zip(strengths, values, strict=True))


if __name__ == "__main__":
    main()
