"""Train the networks of psim-small, fd-small and the glyph reader, on synthetic images and their labels only.

    python embedded/train_metrics.py -o RUN                      all three, one after another
    python embedded/train_metrics.py -o RUN --only fd-small

Half an hour on one CPU core. The synthetic images are stored in RUN. The same command resumes an interrupted run from
its checkpoint RUN/NAME.pt, with the same final weights: each batch is a function of (seed, step).
"""

import argparse
import functools
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch.nn import functional as F

from vaelens.files import write_atomic
from vaelens.images.drawing import Box
from vaelens.images.faces import draw_face
from vaelens.images.letters import GLYPHS, draw_letters
from vaelens.metrics.glyph_reader import SHAPES, glyph_crops, shape_of
from vaelens.networks.small import GlyphReader, SmallFrechet, SmallPerceptual
from vaelens.tensors.writing import safetensors_bytes

LABELS = ("background", "face", "eye", "iris", "mouth", *GLYPHS)
DRAW = {"faces": draw_face, "letters": draw_letters}
BLUR, NOISE, JPEG, REDUCE = ((0.5, 1, 2, 4), (5, 12, 25, 50), (90, 60, 30, 8), (1.5, 2.5, 4.5, 8))
DAMAGES = 1 + 4 * 3  # none, and three strengths each of blur, noise, JPEG, and downsampling
Rng = np.random.Generator


def synthetic(what: str, first: int, count: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n,256,256,3] and boxes float32 [m,6]: image, label, left, top, right, bottom; cached in a file."""
    file = folder / f"{what}-{first}-{count}.npz"
    if not file.exists():
        drawings = [DRAW[what](seed) for seed in range(first, first + count)]
        boxes = [(i, LABELS.index(b.label), b.left, b.top, b.right, b.bottom)
                 for i, d in enumerate(drawings) for b in d.boxes]  # fmt: skip
        arrays = {"pixels": np.stack([d.pixels for d in drawings]), "boxes": np.array(boxes, dtype=np.float32)}
        write_atomic(file, lambda out: np.savez(out, **arrays))
    with np.load(file) as arrays:
        return arrays["pixels"], arrays["boxes"]


def label_maps(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Each pixel's label, uint8 [n,256,256], an index of LABELS: ellipses for parts of faces, boxes for glyphs."""
    maps = np.zeros(pixels.shape[:3], dtype=np.uint8)
    ys, xs = np.mgrid[0:256, 0:256] + 0.5
    for image, label, left, top, right, bottom in boxes[np.argsort(boxes[:, 1], kind="stable")]:
        if label >= 5:
            maps[int(image), round(top) : round(bottom), round(left) : round(right)] = label
        else:
            across, down = (2 * xs - left - right) / (right - left), (2 * ys - top - bottom) / (bottom - top)
            maps[int(image)][across**2 + down**2 < 1] = label
    return maps


def damaged(image: Image.Image, rng: Rng, most: int = 3) -> tuple[Image.Image, int]:
    """The image with one damage or none, and the damage's label, below DAMAGES; of the `most` lowest strengths."""
    damage, level = int(rng.integers(-1, 4)), int(rng.integers(most))
    if damage < 0:
        return image, 0
    strength = rng.uniform(*sorted((BLUR, NOISE, JPEG, REDUCE)[damage][level : level + 2]))
    if damage == 0:
        image = image.filter(ImageFilter.GaussianBlur(strength))
    elif damage == 1:
        noisy = np.asarray(image) + rng.normal(0, strength, (*image.size[::-1], 3))
        image = Image.fromarray(np.clip(noisy.round(), 0, 255).astype(np.uint8))
    elif damage == 2:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=round(strength))
        image = Image.open(file)
    else:
        small = image.resize([max(1, round(n / strength)) for n in image.size], Image.Resampling.BICUBIC)
        image = small.resize(image.size, Image.Resampling.BICUBIC)
    return image, 1 + 3 * damage + level


def color_jittered(pixels: np.ndarray, rng: Rng) -> np.ndarray:
    out = np.clip(pixels[..., rng.permutation(3)] / 255 * rng.uniform(0.6, 1.3, 3), 0, 1) ** rng.uniform(0.6, 1.6)
    return (out * 255).round().astype(np.uint8)


class Crops:
    """Random squares of synthetic faces and letters, with the labels of their pixels and of their damage."""

    def __init__(self, first: int, counts: tuple[int, int], regions: tuple[int, int], side: int, folder: Path) -> None:
        pools = [synthetic(what, first, count, folder) for what, count in zip(DRAW, counts, strict=True)]
        self.images = np.concatenate([pixels for pixels, _ in pools])
        self.maps = np.concatenate([label_maps(*pool) for pool in pools])
        self.regions, self.side = regions, side

    def batch(self, rng: Rng, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images damaged and clean [count,3,s,s] in [0,1], label maps [count,s,s], damages [count]."""
        crops = [self._crop(rng) for _ in range(count)]
        pixels, clean, maps, damages = (torch.from_numpy(np.stack(parts)) for parts in zip(*crops, strict=True))
        pixels, clean = (p.permute(0, 3, 1, 2).float().div(255) for p in (pixels, clean))
        return pixels.contiguous(memory_format=torch.channels_last), clean, maps.long(), damages

    def _crop(self, rng: Rng) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        i, region = int(rng.integers(len(self.images))), int(rng.integers(self.regions[0], self.regions[1] + 1))
        y, x = (int(v) for v in rng.integers(0, 256 - region + 1, 2))
        window, size = (slice(y, y + region), slice(x, x + region)), (self.side, self.side)
        labels = Image.fromarray(self.maps[i][window]).resize(size, Image.Resampling.NEAREST)
        clean = Image.fromarray(color_jittered(self.images[i][window], rng)).resize(size, Image.Resampling.BICUBIC)
        image, damage = damaged(clean, rng)
        return np.asarray(image), np.asarray(clean), np.asarray(labels), np.asarray(damage)


class PerceptualTask(nn.Module):
    """Predict from each tap but the first, at each place and whatever the damage: the label, the colours, the texture.

    The damage itself isn't predicted: with features that show it, a slight blur would weigh more than another image.
    """

    steps, lr, seed = 1500, 1e-3, 1

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.net = SmallPerceptual()
        self.places = nn.ModuleList(nn.Conv2d(w, len(LABELS) + 6, 1) for w in self.net.widths[1:])
        self.crops = Crops(200_000, (600, 800), (40, 128), 64, folder)

    def loss(self, rng: Rng) -> Tensor:
        image, clean, labels, _ = self.crops.batch(rng, 32)
        taps, total = self.net(image), torch.zeros(())
        for k, (head, tap) in enumerate(zip(self.places, taps[1:], strict=True), 1):
            predicted = head(tap)
            mean = F.avg_pool2d(clean, 2**k)
            spread = (F.avg_pool2d(clean.square(), 2**k) - mean.square()).clamp_min(0).add(1e-6).sqrt()
            total = total + F.cross_entropy(predicted[:, 6:], labels[:, 2**k // 2 :: 2**k, 2**k // 2 :: 2**k])
            total = total + 20 * F.mse_loss(predicted[:, :6], torch.cat([mean, spread], dim=1))
        return total


class FrechetTask(nn.Module):
    """Predict from the feature vector: which labels the image has, their shares of it, its colours, the damage."""

    steps, lr, seed = 900, 1e-3, 2

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.net = SmallFrechet()
        self.present, self.area, self.colours, self.damages = (
            nn.Linear(self.net.features, n) for n in (len(LABELS), 6, 6, DAMAGES)
        )
        self.crops = Crops(220_000, (600, 600), (96, 256), 128, folder)

    def loss(self, rng: Rng) -> Tensor:
        image, _, labels, damage = self.crops.batch(rng, 16)
        share = F.one_hot(labels.flatten(1), len(LABELS)).float().mean(dim=1)
        area = torch.cat([share[:, :5], share[:, 5:].sum(dim=1, keepdim=True)], dim=1)
        colours = torch.cat([image.mean(dim=(2, 3)), image.std(dim=(2, 3))], dim=1)
        features = self.net(image)
        regression = F.mse_loss(self.area(features), area) + F.mse_loss(self.colours(features), colours)
        present = F.binary_cross_entropy_with_logits(self.present(features), (share > 0.002).float())
        return 4 * present + 10 * regression + F.cross_entropy(self.damages(features), damage)

    @torch.no_grad()
    def finish(self) -> None:
        """Scale each feature to unit standard deviation over training images, which commutes with the ReLU."""
        rng = np.random.default_rng((self.seed, 0, 0))
        spread = torch.cat([self.net(self.crops.batch(rng, 64)[0]) for _ in range(16)]).std(dim=0).clamp_min(1e-3)
        last = self.net.layers[-2]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        last.weight /= spread[:, None, None, None]
        last.bias /= spread


class ReaderTask(nn.Module):
    """Classify the shapes of glyphs, on pages of several sizes, half of them with slight damage."""

    steps, lr, seed = 800, 1e-3, 3

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.net = GlyphReader(len(SHAPES))
        self.pages, self.boxes = synthetic("letters", 240_000, 1200, folder)

    def loss(self, rng: Rng) -> Tensor:
        crops, shapes = zip(*(self._page(rng) for _ in range(6)), strict=True)
        return F.cross_entropy(self.net(torch.cat(crops)), torch.cat(shapes), label_smoothing=0.02)

    def _page(self, rng: Rng) -> tuple[Tensor, Tensor]:
        i, side = int(rng.integers(len(self.pages))), int(rng.integers(128, 321))
        page = Image.fromarray(self.pages[i]).resize((side, side), Image.Resampling.BICUBIC)
        page = damaged(page, rng, most=1)[0] if rng.random() < 0.5 else page
        image = torch.from_numpy(np.array(page)).permute(2, 0, 1)[None].float() / 255
        boxes = [Box(LABELS[int(b[1])], *(b[2:] * (side / 256) + rng.normal(0, 0.3, 4)))
                 for b in self.boxes[self.boxes[:, 0] == i]]  # fmt: skip
        return glyph_crops(image, boxes), torch.tensor([SHAPES.index(shape_of(b.label)) for b in boxes])


TASKS: dict[str, Callable[[Path], nn.Module]] = {
    "psim-small": PerceptualTask, "fd-small": FrechetTask, "glyph-reader": ReaderTask,
}  # fmt: skip


def train(name: str, folder: Path, steps: int | None) -> None:
    seed = TASKS[name].seed
    torch.manual_seed(seed)
    task = TASKS[name](folder)
    steps = steps or task.steps
    task.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(task.parameters(), task.lr, weight_decay=1e-4, fused=True)
    file, first, started, losses = folder / f"{name}.pt", 0, time.monotonic(), []
    if file.exists():
        state = torch.load(file, weights_only=True)
        task.load_state_dict(state["task"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = task.lr * min(1.0, (step + 1) / 100, (steps - step) / (0.4 * steps))
        loss = task.loss(np.random.default_rng((seed, step)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(task.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0 or step + 1 == steps:
            state = {"task": task.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            write_atomic(file, functools.partial(torch.save, state))
            print(
                f"{name} {step + 1}: loss {np.mean(losses[-100:]):.4f}, {time.monotonic() - started:.0f} s", flush=True
            )
    if name == "fd-small":
        task.finish()
    notes = {"command": f"embedded/train_metrics.py --only {name} --steps {steps}", "torch": torch.__version__}
    tensors = {key: value.half().contiguous() for key, value in task.net.state_dict().items()}
    print("wrote", write_atomic(folder / f"{name}.safetensors", safetensors_bytes(tensors, notes)))


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    cli.add_argument("-o", "--out", type=Path, required=True)
    cli.add_argument("--only", choices=TASKS)
    cli.add_argument("--steps", type=int)
    a = cli.parse_args()
    for name in [a.only] if a.only else TASKS:
        train(name, a.out, a.steps)


if __name__ == "__main__":
    main()
