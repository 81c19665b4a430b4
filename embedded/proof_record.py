"""docs/proof.json and the images of docs/proof.md, from what arms.py and distribution.py left in RUNS."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arms import BASE, loaded, unseen
from check import held_out
from trio import TRAININGS, place

from comparison import compared
from vaelens.errors import UsageError
from vaelens.files import json_text, write_atomic
from vaelens.images.datasets.items import Dataset
from vaelens.images.reading import decode_bytes
from vaelens.images.sheet import SheetRow, draw_sheet
from vaelens.images.writing import encode_png, from_uint8, to_pixels
from vaelens.resources import processor

SHOWN_ARMS = (BASE, "control-twice", "tiny-ft-ema", "tiny-ft-mse")
SIDE = 96  # of the windows that are shown, in pixels
LARGER = 2  # times they are enlarged, each pixel as it is
PHOTO_WINDOWS = {"astronaut-512": (190, 70), "chelsea-256": (60, 50)}  # left, top
DRAWN_WINDOW = (80, 80)


def write_record(runs: Path, seeds: Sequence[int], record: Path, images: Path) -> None:
    """The record, and beside it the two sheets.

    Raises UsageError where its parts aren't of the same weights, or were trained in different ways.
    """
    torch.set_num_threads(1)
    dataset = unseen()
    arms = compared(runs, dataset, seeds)
    distribution = json.loads((runs / "distribution.json").read_text("utf-8"))
    for name, weights in distribution["weights"].items():
        if weights != loaded(runs, name, 0).fingerprint.short:
            raise UsageError(f"{runs}/distribution.json is of another {name}. Run distribution.py again.")
    found = {
        "schema": 1,
        "steps": _same(runs, seeds, lambda plan: plan["recipe"]["run"]["steps"]),
        "arms": arms,
        "distribution": distribution,
        "made": {
            "processor": processor("cpu"),
            "trained": _one(_same(runs, seeds, lambda plan: [plan["dtype"], plan["threads"]])),
            "torch": _one(_same(runs, seeds, lambda plan: plan["versions"]["torch"])),
            "vaelens": _one(_same(runs, seeds, lambda plan: plan["versions"]["vaelens"])),
        },
    }
    write_atomic(record, json_text(found).encode())
    write_atomic(images / "proof-arms.png", encode_png(arms_sheet(runs, dataset)))
    write_atomic(images / "proof-distribution.png", (runs / "distribution.png").read_bytes())


def _same(runs: Path, seeds: Sequence[int], of: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """What each training's plan says, by its name. Raises UsageError where seeds differ."""
    found: dict[str, Any] = {}
    for name in TRAININGS:
        plans = [place(runs, name, seed).with_suffix("") / "plan.json" for seed in seeds]
        each = [of(json.loads(plan.read_text("utf-8"))) for plan in plans]
        if any(one != each[0] for one in each):
            raise UsageError(f"{name} was trained in different ways: {each} by seed. Train it alike.")
        found[name] = each[0]
    return found


def _one(by_name: dict[str, Any]) -> Any:
    """What all trainings have in common. Raises UsageError where they differ."""
    first, *others = by_name.values()
    if any(other != first for other in others):
        raise UsageError(f"the arms were trained in different ways: {by_name}. Train them alike.")
    return first


def arms_sheet(runs: Path, dataset: Dataset) -> np.ndarray:
    """Eyes and letters, original and through each decoder of seed 0; uint8 [h,w,3]."""
    photos = held_out()
    originals = {name: torch.tensor(np.asarray(photos[name])).permute(2, 0, 1)[None] for name in PHOTO_WINDOWS}
    images = {name: (from_uint8(pixels), PHOTO_WINDOWS[name]) for name, pixels in originals.items()}
    for item in (dataset.items[0], dataset.items[-1]):  # a face, a page of letters
        images[item.id] = decode_bytes(dataset.read(item), item.id).image, DRAWN_WINDOW
    vaes = [loaded(runs, arm, 0) for arm in SHOWN_ARMS]
    rows: list[SheetRow] = []
    for name, (image, (left, top)) in images.items():
        window = (slice(top, top + SIDE), slice(left, left + SIDE))
        each = [image, *(vae.reconstruct(image) for vae in vaes)]
        cells = (to_pixels(one)[window].repeat(LARGER, axis=0).repeat(LARGER, axis=1) for one in each)
        rows.append(SheetRow(name, tuple(map(np.ascontiguousarray, cells))))
    return draw_sheet(rows, ["original", *SHOWN_ARMS])
