"""Does tiny-sd follow its prompt? 200 prompts, whose images the independent classifier of labels.py reads.

    python embedded/check_tiny_sd.py                        writes docs/tiny-sd.json; about five minutes on one core
    python embedded/check_tiny_sd.py --model FOLDER --count 40 --no-record

Every prompt names all attributes of its scene, and each counts; 50 prompts are held-out combinations, which tiny-sd was
never trained on. For comparison: the classifier's accuracy on reconstructed synthetic images, and that of chance.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from labels import CLASSES, FIRST_TEST_SEED, load_labels, read, reconstructed, scenes
from tiny_sd import held_out

import vaelens
from vaelens.files import sha256_file
from vaelens.images.prompts import VALUES, Scene, caption, random_scene
from vaelens.resources import using_threads
from vaelens.weights.registry import embedded_model_path, registry

RECORD = Path(__file__).parents[1] / "docs" / "tiny-sd.json"
RECONSTRUCTIONS = 400
HELD_OUT_EVERY = 4  # one prompt in four
SEED = 7


def prompted_scenes(count: int) -> list[Scene]:
    """Faces and letters in turn, of which every fourth pair is held out."""
    rng = np.random.default_rng(SEED)
    found: list[Scene] = []
    while len(found) < count:
        new = (len(found) // 2) % HELD_OUT_EVERY == 0
        scene = random_scene(rng, CLASSES[len(found) % 2])
        found += [scene] if held_out(scene) == new and scene not in found else []
    return found


def attributes(scene: Scene) -> dict[str, str]:
    return {f.name: getattr(scene, f.name) for f in fields(scene)}


def shares(scenes: list[Scene], predicted: list[Scene]) -> dict[str, dict[str, Any]]:
    """By attribute: how many were right of how many. All are wrong where the other class of scene was predicted."""
    right, total = defaultdict[str, int](int), defaultdict[str, int](int)
    for scene, found in zip(scenes, predicted, strict=True):
        for name, value in attributes(scene).items():
            for key in (f"{type(scene).__name__} {name}", "all"):
                total[key] += 1
                right[key] += type(found) is type(scene) and getattr(found, name) == value
    return {key: {"right": right[key], "of": total[key], "share": right[key] / total[key]} for key in total}


def chance(scenes: list[Scene]) -> float:
    """The share of right guesses when only the class of scene is known."""
    parts = [1 / len(VALUES[type(s)][name]) for s in scenes for name in attributes(s)]
    return sum(parts) / len(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-sd")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--no-record", action="store_true")
    parser.add_argument("--guidance-scale", "--cfg", type=float)
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    network, prompted = load_labels(), prompted_scenes(options.count)
    synthetic = scenes(RECONSTRUCTIONS, FIRST_TEST_SEED)
    with using_threads(1):
        of_classifier = shares(synthetic, read(network, reconstructed(synthetic, FIRST_TEST_SEED).float() / 255))
        predicted: list[Scene] = []
        for seed, scene in enumerate(prompted):
            generated = vaelens.generate(
                caption(scene),
                "tiny-kl-f8",
                model=options.model,
                seeds=[seed],
                guidance_scale=options.guidance_scale,
                steps=options.steps,
            )
            pixels = torch.from_numpy(generated.images[0].decoded[0].pixels).permute(2, 0, 1)[None]
            predicted += read(network, pixels.float() / 255)
    embedded = options.model == "tiny-sd"
    folder = embedded_model_path(registry().find_model(options.model)) if embedded else Path(options.model)
    weights = sorted(folder.rglob("*.safetensors"))
    new = [i for i, scene in enumerate(prompted) if held_out(scene)]
    record = {
        "prompts": len(prompted),
        "held_out": len(new),
        "generated": shares(prompted, predicted),
        "generated_held_out": shares([prompted[i] for i in new], [predicted[i] for i in new]),
        "classifier_on_reconstructions": of_classifier,
        "reconstructions": len(synthetic),
        "chance": chance(prompted),
        "model": options.model,
        "weights_sha256": {path.relative_to(folder).as_posix(): sha256_file(path) for path in weights},
        "steps": generated.record["sampling"]["steps"],
        "guidance_scale": generated.record["sampling"]["guidance_scale"],
        "versions": generated.record["versions"],
    }
    for name in ("generated", "generated_held_out", "classifier_on_reconstructions"):
        print(name, {key: f"{part['right']}/{part['of']} {part['share']:.1%}" for key, part in record[name].items()})
    print(f"chance {record['chance']:.1%}")
    if not options.no_record:
        RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
