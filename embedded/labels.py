"""A small classifier of a scene's attributes, with which check_tiny_sd.py tests tiny-sd.

    python embedded/labels.py data -o RUN                   synthetic images reconstructed by tiny-kl-f8; ten minutes
    python embedded/labels.py train -o RUN                  the network, into embedded/labels.safetensors; ten minutes

It is trained on reconstructions, because the decoder's blur isn't tiny-sd's fault, and on other seeds than tiny-sd.
"""

import argparse
import itertools
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import vaelens
from vaelens.images.prompts import VALUES, Face, Letter, Scene, random_scene
from vaelens.images.scenes import draw_scene
from vaelens.images.writing import to_uint8

WEIGHTS = Path(__file__).parent / "labels.safetensors"
COUNT, EPOCHS, BATCH_SIZE, LR = 3000, 20, 50, 2e-3
FIRST_SEED = 1_000_000  # tiny-sd is trained on lower ones
FIRST_TEST_SEED = 2_000_000
SIDE = 128
CLASSES: tuple[type[Scene], ...] = (Face, Letter)
HEADS = {"class": tuple(of_class.__name__ for of_class in CLASSES)} | {
    f"{of_class.__name__}.{name}": values
    for of_class, attributes in VALUES.items()
    for name, values in attributes.items()
}


class Labels(nn.Module):
    """Image [b,3,256,256] in [0,1] to the logits of every attribute's values, by head."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 64, 96)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1), nn.GroupNorm(8, after), nn.SiLU()] if after > 24 else []
        self.trunk = nn.Sequential(*layers, nn.Conv2d(96, 16, 1), nn.Flatten(), nn.Dropout(0.2))
        self.heads = nn.Linear(16 * (SIDE // 16) ** 2, sum(map(len, HEADS.values())))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        small = F.interpolate(image, (SIDE, SIDE), mode="area")
        logits = self.heads(self.trunk(small * 2 - 1)).split([len(v) for v in HEADS.values()], dim=1)
        return dict(zip(HEADS, logits, strict=True))


def targets(scenes: list[Scene]) -> dict[str, Tensor]:
    """The index of the right value by head; -100 (ignored) where a scene has no such attribute."""
    labels = {head: torch.full((len(scenes),), -100) for head in HEADS}
    for number, scene in enumerate(scenes):
        name = type(scene).__name__
        labels["class"][number] = HEADS["class"].index(name)
        for field in fields(scene):
            head = f"{name}.{field.name}"
            labels[head][number] = HEADS[head].index(getattr(scene, field.name))
    return labels


def scenes(count: int, first: int) -> list[Scene]:
    rng = np.random.default_rng(first)
    return [random_scene(rng, CLASSES[i % 2]) for i in range(count)]


@torch.no_grad()
def reconstructed(scenes: list[Scene], first: int, bf16: bool = False) -> Tensor:
    """The scenes, drawn with the seeds from `first` on, through tiny-kl-f8: uint8 [n,3,256,256]."""
    vae, parts = vaelens.load("tiny-kl-f8"), []
    for start in range(0, len(scenes), 8):
        pixels = np.stack([draw_scene(s, first + start + i).pixels for i, s in enumerate(scenes[start : start + 8])])
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            parts.append(to_uint8(vae.reconstruct(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)))
        if start % 400 == 0:
            print(f"{start:,} of {len(scenes):,}", flush=True)
    return torch.cat(parts)


@torch.no_grad()
def read(network: Labels, image: Tensor) -> list[Scene]:
    """The predicted scenes of images [b,3,256,256] in [0,1]."""
    network.eval()
    best = {head: logits.argmax(1).tolist() for head, logits in network(image).items()}
    predicted: list[Scene] = []
    for number in range(len(image)):
        of_class = CLASSES[best["class"][number]]
        names = {f.name: f"{of_class.__name__}.{f.name}" for f in fields(of_class)}
        predicted.append(of_class(**{name: HEADS[head][best[head][number]] for name, head in names.items()}))
    return predicted


def load_labels() -> Labels:
    network = Labels()
    network.load_state_dict({k: v.float() for k, v in load_file(WEIGHTS).items()})
    return network.eval()


def train(folder: Path) -> None:
    torch.manual_seed(0)
    pixels, labels = load_file(folder / "labels.safetensors")["pixels"], targets(scenes(COUNT, FIRST_SEED))
    network, steps = Labels().train(), EPOCHS * COUNT // BATCH_SIZE
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    for epoch in range(EPOCHS):
        order, losses = torch.randperm(COUNT, generator=torch.Generator().manual_seed(epoch)), []
        for chosen in order.split(BATCH_SIZE):
            image = pixels[chosen].float() / 255
            dy, dx = torch.randint(-8, 9, (2,)).tolist()  # the position in generated images varies a little more
            image = image.roll((dy, dx), (2, 3))
            image = image + 0.04 * torch.randn(len(image), 3, 1, 1) + 0.06 * torch.rand(1) * torch.randn_like(image)
            logits = network(image.clamp(0, 1))
            loss = sum(F.cross_entropy(logits[head], labels[head][chosen]) for head in HEADS)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1} loss {np.mean(losses):.4f}", flush=True)
    save_file({k: v.half() for k, v in network.state_dict().items()}, WEIGHTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["data", "train"])
    parser.add_argument("-o", "--output", type=Path, required=True, help="the folder of the data")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "data":
        options.output.mkdir(parents=True, exist_ok=True)
        pixels = reconstructed(scenes(COUNT, FIRST_SEED), FIRST_SEED, bf16=True)
        save_file({"pixels": pixels}, options.output / "labels.safetensors")
    else:
        train(options.output)


if __name__ == "__main__":
    main()
