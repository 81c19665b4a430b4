"""A small network that reads a scene's attributes from its image, trained apart from tiny-sd, which it judges.

    python embedded/labels.py draw -o RUN                   drawings reconstructed by tiny-kl-f8; some ten minutes
    python embedded/labels.py train -o RUN                  the network, into embedded/labels.safetensors; ten minutes

It learns from reconstructions, since a decoder's blur is no fault of tiny-sd's, of drawings with seeds of their own.
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
COUNT, EPOCHS, BATCH, RATE = 3000, 20, 50, 2e-3
FIRST = 1_000_000  # seeds from here on; tiny-sd learns from lower ones
TEST_FIRST = 2_000_000
SIDE = 128
HEADS = {"kind": ("Face", "Letter")} | {
    f"{kind.__name__}.{name}": values for kind, attributes in VALUES.items() for name, values in attributes.items()
}


class Labels(nn.Module):
    """Image [b,3,256,256] in [0,1] to scores of every value of every attribute, by head."""

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
        scores = self.heads(self.trunk(small * 2 - 1)).split([len(v) for v in HEADS.values()], dim=1)
        return dict(zip(HEADS, scores, strict=True))


def targets(scenes: list[Scene]) -> dict[str, Tensor]:
    """The right value's number by head; -100 (ignored) where a scene has no such attribute."""
    found = {head: torch.full((len(scenes),), -100) for head in HEADS}
    for number, scene in enumerate(scenes):
        kind = type(scene).__name__
        found["kind"][number] = HEADS["kind"].index(kind)
        for field in fields(scene):
            head = f"{kind}.{field.name}"
            found[head][number] = HEADS[head].index(getattr(scene, field.name))
    return found


def scenes(count: int, first: int) -> list[Scene]:
    rng = np.random.default_rng(first)
    return [random_scene(rng, (Face, Letter)[i % 2]) for i in range(count)]


@torch.no_grad()
def reconstructed(wanted: list[Scene], first: int, quick: bool = False) -> Tensor:
    """The scenes, drawn with seeds from `first` on, through tiny-kl-f8: uint8 [n,3,256,256]; `quick`: in bf16."""
    vae, parts = vaelens.load("tiny-kl-f8"), []
    for start in range(0, len(wanted), 8):
        pixels = np.stack([draw_scene(s, first + start + i).pixels for i, s in enumerate(wanted[start : start + 8])])
        with torch.autocast("cpu", torch.bfloat16, enabled=quick):
            parts.append(to_uint8(vae.reconstruct(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)))
        if start % 400 == 0:
            print(f"{start:,} of {len(wanted):,}", flush=True)
    return torch.cat(parts)


@torch.no_grad()
def read(network: Labels, image: Tensor) -> list[Scene]:
    """What the network sees in images [b,3,256,256] in [0,1]."""
    network.eval()
    best = {head: scores.argmax(1).tolist() for head, scores in network(image).items()}
    seen: list[Scene] = []
    for number in range(len(image)):
        kind = (Face, Letter)[best["kind"][number]]
        names = {f.name: f"{kind.__name__}.{f.name}" for f in fields(kind)}
        seen.append(kind(**{name: HEADS[head][best[head][number]] for name, head in names.items()}))
    return seen


def load_labels() -> Labels:
    network = Labels()
    network.load_state_dict({k: v.float() for k, v in load_file(WEIGHTS).items()})
    return network.eval()


def train(folder: Path) -> None:
    torch.manual_seed(0)
    pixels, right = load_file(folder / "labels.safetensors")["pixels"], targets(scenes(COUNT, FIRST))
    network, updates = Labels().train(), EPOCHS * COUNT // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=updates)
    for epoch in range(EPOCHS):
        order, losses = torch.randperm(COUNT, generator=torch.Generator().manual_seed(epoch)), []
        for chosen in order.split(BATCH):
            image = pixels[chosen].float() / 255
            dy, dx = torch.randint(-8, 9, (2,)).tolist()  # a generated face may stand a little elsewhere
            image = image.roll((dy, dx), (2, 3))
            image = image + 0.04 * torch.randn(len(image), 3, 1, 1) + 0.06 * torch.rand(1) * torch.randn_like(image)
            scores = network(image.clamp(0, 1))
            loss = sum(F.cross_entropy(scores[head], right[head][chosen]) for head in HEADS)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1} loss {np.mean(losses):.4f}", flush=True)
    save_file({k: v.half() for k, v in network.state_dict().items()}, WEIGHTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["draw", "train"])
    parser.add_argument("-o", "--output", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.what == "draw":
        asked.output.mkdir(parents=True, exist_ok=True)
        save_file(
            {"pixels": reconstructed(scenes(COUNT, FIRST), FIRST, quick=True)}, asked.output / "labels.safetensors"
        )
    else:
        train(asked.output)


if __name__ == "__main__":
    main()
