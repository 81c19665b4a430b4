"""docs/proof.json and the pictures of docs/proof.md, from what arms.py and distribution.py left in RUNS."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from arms import loaded, unseen
from check import held_out
from comparison import compared
from distribution import SHOWN

from vaelens.files import write_atomic
from vaelens.finetuning.recipe import find_recipe
from vaelens.images.datasets.items import DataSet
from vaelens.images.reading import decode_picture
from vaelens.images.sheet import SheetRow, draw_sheet
from vaelens.images.writing import encode_png, from_uint8, to_pixels
from vaelens.report.record import json_text, processor, versions

SHOWN_ARMS = ("tiny-kl-f8", "control-twice", "tiny-ft-ema", "tiny-ft-mse")
SIDE = 96  # of the windows that are shown
WINDOWS = {"astronaut-512": (190, 70), "chelsea-256": (60, 50), SHOWN[0]: (80, 80), SHOWN[1]: (80, 80)}  # left, top


def write_record(runs: Path, seeds: Sequence[int], record: Path, images: Path) -> None:
    """The record, and beside it the two sheets."""
    torch.set_num_threads(1)
    dataset = unseen()
    known = versions()
    found = {
        "schema": 1,
        "updates": {
            "scratch": find_recipe("tiny-kl-f8").run.updates,
            "arm": find_recipe("tiny-ft-ema").run.updates,
        },
        "arms": compared(runs, dataset, seeds),
        "distribution": json.loads((runs / "distribution.json").read_text("utf-8")),
        "made": {"processor": processor("cpu"), "torch": known["torch"], "vaelens": known["vaelens"]},
    }
    write_atomic(record, json_text(found).encode())
    write_atomic(images / "proof-arms.png", encode_png(arms_sheet(runs, dataset)))
    write_atomic(images / "proof-distribution.png", (runs / "distribution.png").read_bytes())


def arms_sheet(runs: Path, dataset: DataSet) -> np.ndarray:
    """Eyes and letters, original and through each decoder of seed 0; uint8 [h,w,3]."""
    items = {item.id: item for item in dataset.items}
    originals = {name: torch.tensor(np.asarray(photo)).permute(2, 0, 1)[None] for name, photo in held_out().items()}
    pictures = {name: from_uint8(pixels) for name, pixels in originals.items()}
    pictures |= {name: decode_picture(dataset.read(items[name]), name).image for name in SHOWN}
    vaes = [loaded(runs, arm, 0) for arm in SHOWN_ARMS]
    rows: list[SheetRow] = []
    for name, (left, top) in WINDOWS.items():
        window = (slice(top, top + SIDE), slice(left, left + SIDE))
        each = [pictures[name], *(vae.reconstruct(pictures[name]) for vae in vaes)]
        rows.append(SheetRow(name, tuple(np.ascontiguousarray(to_pixels(one)[window]) for one in each)))
    return draw_sheet(rows, ["original", *SHOWN_ARMS])
