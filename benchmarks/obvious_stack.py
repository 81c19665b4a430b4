"""The obvious way to evaluate VAEs: a loop around diffusers' AutoencoderKL, torchmetrics and feature networks.

One VAE after another, and for each one batch after another: read, encode, decode, convert to 8 bits, PSNR and SSIM by
torchmetrics, PSIM from one VGG16 call on originals and reconstructions together, Inception's features of both.
The networks and their preprocessing are vaelens' own, so that both stacks compute the same scores.
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import PeakSignalNoiseRatio

from vaelens.evaluation.feature_files import ORIGINALS
from vaelens.metrics.inception_input import torch_fidelity
from vaelens.metrics.psim import NORM_EPS, normalised

SIDE = 256


class ObviousStack:
    """Measures `vaes`, diffusers folders by name, in batches of `batch` images; `parts` sums up the seconds by part."""

    def __init__(self, vaes: Mapping[str, Path], inception: nn.Module, vgg: nn.Module, batch: int) -> None:
        # channels_last: on CPUs diffusers is 10 to 17 % faster with it, and never slower.
        self.vaes = {
            name: AutoencoderKL.from_pretrained(folder).eval().to(memory_format=torch.channels_last)
            for name, folder in vaes.items()
        }
        self.inception = inception
        self.vgg = vgg
        self.batch = batch
        self.parts: dict[str, float] = defaultdict(float)

    @torch.inference_mode()
    def measure(self, files: Sequence[Path]) -> tuple[dict[tuple[str, str], tuple[float, ...]], dict[str, Tensor]]:
        """(PSNR, SSIM, PSIM) by file name and VAE, and Inception's features [n,2048] by VAE and of ORIGINALS."""
        rows: dict[tuple[str, str], tuple[float, ...]] = {}
        features: dict[str, list[Tensor]] = defaultdict(list)
        for name, vae in self.vaes.items():
            features[ORIGINALS] = []  # the same for each VAE
            for start in range(0, len(files), self.batch):
                some = files[start : start + self.batch]
                with self._part("read"):
                    pixels = torch.stack([torch.as_tensor(_square(file)) for file in some]).permute(0, 3, 1, 2)
                    image = (pixels.double() / 127.5 - 1).float()  # as the published code rounds
                with self._part("VAE"):
                    posterior = vae.encode(image.contiguous(memory_format=torch.channels_last)).latent_dist
                    decoded = vae.decode(posterior.sample([_generator(file) for file in some])).sample.clamp(-1, 1)
                    originals, saved = (((x + 1) / 2 * 255).to(torch.uint8).contiguous() for x in (image, decoded))
                x, y = saved / 255, originals / 255
                with self._part("PSNR"):
                    psnr = [float(_psnr(a[None], b[None])) for a, b in zip(x, y, strict=True)]
                with self._part("SSIM"):
                    ssim = _ssim(x, y)
                with self._part("PSIM"):
                    psim = _psim(self.vgg(normalised(torch.cat([x, y]))), len(x))
                with self._part("Inception"):
                    both = self.inception(torch_fidelity(torch.cat([saved, originals])))
                features[name].append(both[: len(x)])
                features[ORIGINALS].append(both[len(x) :])
                for number, file in enumerate(some):
                    rows[file.name, name] = (psnr[number], float(ssim[number]), float(psim[number]))
        return rows, {name: torch.cat(some) for name, some in features.items()}

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.parts[name] += time.perf_counter() - started


_psnr = PeakSignalNoiseRatio(data_range=1.0)  # pools over a batch, so it gets one image at a time


def _square(file: Path) -> np.ndarray:
    """The middle 256x256, the shorter side resized to that: uint8 [256,256,3]."""
    pixels = np.asarray(Image.open(file).convert("RGB"))
    scale = SIDE / min(pixels.shape[:2])
    height, width = (round(length * scale) for length in pixels.shape[:2])
    scaled = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    top, left = (height - SIDE) // 2, (width - SIDE) // 2
    return np.array(scaled[top : top + SIDE, left : left + SIDE])


def _generator(file: Path) -> torch.Generator:
    """Seeded like the posterior's noise in vaelens with the run's seed 0, so that scores can be compared."""
    content = hashlib.sha256(file.read_bytes()).hexdigest()
    seed = int.from_bytes(hashlib.sha256(f"0 {content}".encode()).digest()[:8], "big") >> 1
    return torch.Generator("cpu").manual_seed(seed)


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    """[b]: torchmetrics' map without 5 pixels on each side, whose windows include a reflected border.

    torchmetrics 1.9 itself averages over those too, unlike any of the usual paddings.
    """
    options = {"sigma": 1.5, "kernel_size": 11, "data_range": 1.0}
    _, maps = structural_similarity_index_measure(x, y, reduction="none", return_full_image=True, **options)
    return maps[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))


def _psim(taps: Sequence[Tensor], count: int) -> Tensor:
    """[count], from taps of `count` reconstructions followed by their originals."""
    total = torch.zeros(count)
    for tap in taps:
        x, y = (F.normalize(half, dim=1, eps=NORM_EPS) for half in (tap[:count], tap[count:]))
        total += (1 - (x * y).sum(dim=1)).mean(dim=(1, 2))
    return total
