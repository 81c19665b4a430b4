"""Does tiny-sd draw what it is asked for? 200 prompts, read by a network that was trained apart (embedded/labels.py).

    python embedded/check_tiny_sd.py                        writes docs/tiny-sd.json; some five minutes of one core
    python embedded/check_tiny_sd.py --model FOLDER --count 40 --no-record

Every prompt names all attributes, so each is asked for and counted; 50 are combinations that tiny-sd was never trained
on. The same network's share on drawings that went through the VAE alone stands beside it, and chance.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from labels import TEST_FIRST, load_labels, read, reconstructed, scenes
from tiny_sd import unseen

import vaelens
from vaelens.files import sha256_file
from vaelens.images.prompts import VALUES, Face, Letter, Scene, caption, random_scene
from vaelens.resources import using_threads
from vaelens.weights.registry import embedded_model_path, registry

RECORD = Path(__file__).parents[1] / "docs" / "tiny-sd.json"
DRAWINGS = 400
UNSEEN_SHARE = 4  # one prompt in four
SEED = 7


def asked_for(count: int) -> list[Scene]:
    """Faces and letters in turn, every fourth pair a combination never trained on."""
    rng = np.random.default_rng(SEED)
    found: list[Scene] = []
    while len(found) < count:
        wanted = (len(found) // 2) % UNSEEN_SHARE == 0
        kind = (Face, Letter)[len(found) % 2]
        scene = random_scene(rng, kind)
        found += [scene] if unseen(scene) == wanted and scene not in found else []
    return found


def attributes(scene: Scene) -> dict[str, str]:
    return {f.name: getattr(scene, f.name) for f in fields(scene)}


def shares(wanted: list[Scene], seen: list[Scene]) -> dict[str, dict[str, Any]]:
    """By attribute: how many were right of how many. One that the other kind of scene was seen for is wrong."""
    right, total = defaultdict[str, int](int), defaultdict[str, int](int)
    for scene, found in zip(wanted, seen, strict=True):
        for name, value in attributes(scene).items():
            for key in (f"{type(scene).__name__} {name}", "all"):
                total[key] += 1
                right[key] += type(found) is type(scene) and getattr(found, name) == value
    return {key: {"right": right[key], "of": total[key], "share": right[key] / total[key]} for key in total}


def chance(wanted: list[Scene]) -> float:
    """The share that guesses would have, the kind of scene being known."""
    parts = [1 / len(VALUES[type(s)][name]) for s in wanted for name in attributes(s)]
    return sum(parts) / len(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-sd")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--no-record", action="store_true")
    parser.add_argument("--cfg", type=float)
    parser.add_argument("--steps", type=int)
    asked = parser.parse_args()
    network, wanted = load_labels(), asked_for(asked.count)
    drawn = scenes(DRAWINGS, TEST_FIRST)
    with using_threads(1):
        reader = shares(drawn, read(network, reconstructed(drawn, TEST_FIRST).float() / 255))
        seen: list[Scene] = []
        for number, scene in enumerate(wanted):
            made = vaelens.generate(
                caption(scene),
                "tiny-kl-f8",
                model=asked.model,
                seeds=[number],
                guidance_scale=asked.cfg,
                steps=asked.steps,
            )
            pixels = torch.from_numpy(made.images[0].decoded[0].pixels).permute(2, 0, 1)[None]
            seen += read(network, pixels.float() / 255)
    folder = embedded_model_path(registry().find_model(asked.model)) if asked.model == "tiny-sd" else Path(asked.model)
    weights = sorted(folder.rglob("*.safetensors"))
    new = [i for i, scene in enumerate(wanted) if unseen(scene)]
    record = {
        "prompts": len(wanted),
        "never_trained_on": len(new),
        "generated": shares(wanted, seen),
        "generated_never_trained_on": shares([wanted[i] for i in new], [seen[i] for i in new]),
        "label_network_on_reconstructed_drawings": reader,
        "drawings": len(drawn),
        "chance": chance(wanted),
        "model": asked.model,
        "weights_sha256": {path.relative_to(folder).as_posix(): sha256_file(path) for path in weights},
        "steps": made.record["sampling"]["steps"],
        "guidance": made.record["sampling"]["guidance_scale"],
        "versions": made.record["versions"],
    }
    for name in ("generated", "generated_never_trained_on", "label_network_on_reconstructed_drawings"):
        print(name, {key: f"{part['right']}/{part['of']} {part['share']:.1%}" for key, part in record[name].items()})
    print(f"chance {record['chance']:.1%}")
    if not asked.no_record:
        RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
