"""Calibrate and check the verdict of `vaelens identify IMAGE --vae ...` on images of the embedded VAEs.

    python embedded/decoder_verdicts.py measure calibration -o rows/calibration.json    (five minutes on one core)
    python embedded/decoder_verdicts.py measure held-out -o rows/held-out.json          (fifteen)
    python embedded/decoder_verdicts.py write rows/calibration.json rows/held-out.json

`measure` decodes images by the three decoders, saves each in several ways, and fits all three to it: errors of a
decoder on its own images, and on those of the others and of none. `write` takes the limit from the calibration
images (the geometric mean of the largest error on an own untouched image and the smallest on any that the decoder
didn't make), applies it to the held-out ones, and writes `calibration.json` of the package with both. The table in
docs/identifying-images.md is of that file.

Images are a third each crops of photos, synthetic faces and letters, and latents that tiny-sd generated; photos and
seeds of the two sets are disjoint. Needs scikit-image, whose wheel carries the photos.
"""

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import vaelens
from vaelens.adapters.models import find_model
from vaelens.files import write_atomic
from vaelens.generation import open_generator
from vaelens.identification.images.decoder_fit import ROUNDING, fit_decoder
from vaelens.identification.images.verdict import Calibration, detail_of
from vaelens.images.faces import draw_face
from vaelens.images.letters import draw_letters
from vaelens.images.reading import decode_bytes, read_image
from vaelens.images.writing import encode_png, from_uint8, to_pixels, to_uint8
from vaelens.runtime import Runtime
from vaelens.sampling import Sampling
from vaelens.vae import VAE
from vaelens.weights.registry import registry

TARGET = Path(__file__).parents[1] / "src/vaelens/identification/images/calibration.json"
SIDE = 64  # pixels
LEAST_DETAIL = 5.0  # levels; ours: decoders of many channels reproduce smoother images of anybody's
LEAST_PIXELS = 64 * 64  # ours
JPEG_QUALITY = 95
LARGER = 1.25  # times a side
BRIGHTER = 1.1
PROMPTS = (
    "a smiling face with blue eyes",
    "the letter R in red on white",
    "a sad face",
    "the letter K in blue on yellow",
)
UNTOUCHED, CUT_OFF, BFLOAT16 = "untouched", "cut off", "bfloat16"
TOUCHES = (UNTOUCHED, CUT_OFF, BFLOAT16, "JPEG at 95", "resized", "brightened")
SAVED = {UNTOUCHED, CUT_OFF, BFLOAT16}  # none of these changes the image
NOT_DECODED, CANT_TELL = "no decoder", "can't tell"


@dataclass(frozen=True)
class Part:
    """One of the two sets: how many images, the photos, and the first seed of what is synthetic or generated."""

    images: int
    photos: tuple[str, ...]  # of scikit-image
    first_seed: int
    touches: tuple[str, ...]
    own_only: tuple[str, ...] = ()  # touches for which a decoder is fitted to its own images alone
    in_turn: bool = False  # one decoder makes each image, and it is rounded or cut off, instead of each and both


PARTS = {
    "calibration": Part(12, ("coffee.png", "rocket.jpg", "ihc.png"), 2_000_000, TOUCHES, own_only=(CUT_OFF, BFLOAT16)),
    "held-out": Part(
        100,
        ("astronaut.png", "chelsea.png", "hubble_deep_field.jpg", "retina.jpg"),
        3_000_000,
        (UNTOUCHED, CUT_OFF, "JPEG at 95", "resized", "brightened"),
        in_turn=True,
    ),
}


@dataclass(frozen=True)
class Origin:
    """Where an image comes from: an original [1,3,h,w], or a latent without one."""

    name: str
    original: Tensor | None
    latent: Tensor | None


def origins(part: Part, count: int) -> Iterator[Origin]:
    """The first `count` images of a set."""
    runtime = Runtime()
    photos = [read_image(Path(str(files("skimage"))) / "data" / name) for name in part.photos]
    for number in range(count):
        seed, kind = part.first_seed + number, number % 3
        rng = torch.Generator("cpu").manual_seed(seed)
        if kind == 2:
            prompt = PROMPTS[number // 3 % len(PROMPTS)]
            latent = open_generator(find_model("tiny-sd", runtime), Sampling(prompt), runtime).latents(seed).tensor
            cells = SIDE // 8
            y, x = (int(torch.randint(side - cells, (), generator=rng)) for side in latent.shape[2:])
            yield Origin(f"tiny-sd, seed {seed}", None, latent[..., y : y + cells, x : x + cells].contiguous())
            continue
        if kind == 0:
            which = number // 3 % len(photos)
            image, name = photos[which], part.photos[which]
        else:
            draw = draw_face if number // 3 % 2 else draw_letters
            image = from_uint8(torch.from_numpy(draw(seed).pixels).permute(2, 0, 1)[None])
            name = f"{'face' if number // 3 % 2 else 'letters'} {seed}"
        y, x = (int(torch.randint(side - SIDE, (), generator=rng)) for side in image.shape[2:])
        yield Origin(f"{name}, {SIDE}x{SIDE} at {x},{y}", image[..., y : y + SIDE, x : x + SIDE].contiguous(), None)


def touched(pixels: Tensor, touch: str) -> Tensor:
    """A decoded image [1,3,h,w] in [0,1] as 8-bit values, after it was saved or changed in a way of TOUCHES."""
    if touch == CUT_OFF:
        return pixels.mul(255).floor().div(255)
    image = Image.fromarray(to_pixels(pixels))
    if touch == "JPEG at 95":
        out = BytesIO()
        image.save(out, "JPEG", quality=JPEG_QUALITY)
        return decode_bytes(out.getvalue(), "jpeg").image
    if touch == "resized":
        side = round(SIDE * LARGER)
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    if touch == "brightened":
        image = image.point(lambda value: min(255, round(value * BRIGHTER)))
    return decode_bytes(encode_png(np.array(image)), "png").image


def decoded(vae: VAE, origin: Origin, seed: int, half: VAE) -> dict[str, Tensor]:
    """What a decoder makes of an origin, by the precision: float32 under UNTOUCHED, and BFLOAT16."""
    latent = origin.latent
    if latent is None:
        assert origin.original is not None
        latent = vae.encode(origin.original).sample(seed)
    return {UNTOUCHED: vae.decode(latent), BFLOAT16: half.decode(latent)}


def measure(part: Part, count: int, output: Path) -> None:
    """A row per image, maker and touch: the decoders' errors. Written after each image, to look at on the way."""
    vaes = [vaelens.load(name) for name in registry().embedded()]
    halves = [vae.to(torch.bfloat16) for vae in vaes]
    versions = {"vaelens": vaelens.__version__, "torch": torch.__version__}
    rows: list[dict[str, Any]] = []
    for number, origin in enumerate(origins(part, count)):
        if origin.original is not None:
            rows.append(_row(origin, NOT_DECODED, UNTOUCHED, from_uint8(to_uint8(origin.original)), vaes))
        left_out = ((UNTOUCHED, CUT_OFF)[number % 2],) if part.in_turn else ()
        makers = [number // 3 % len(vaes)] if part.in_turn else range(len(vaes))
        for vae, half in ((vaes[maker], halves[maker]) for maker in makers):
            made = decoded(vae, origin, number, half)
            for touch in part.touches:
                if touch in left_out:
                    continue
                pixels = made[BFLOAT16 if touch == BFLOAT16 else UNTOUCHED]
                fitted = [vae] if touch in part.own_only else vaes
                rows.append(_row(origin, vae.name, touch, touched(pixels, touch), fitted))
        write_atomic(output, json.dumps({"versions": versions, "rows": rows}).encode())
        print(f"{number + 1} of {count}: {origin.name}", flush=True)


def _row(origin: Origin, maker: str, touch: str, image: Tensor, vaes: Sequence[VAE]) -> dict[str, Any]:
    errors = {vae.name: round(fit_decoder(vae, image).error, 4) for vae in vaes}
    return {
        "image": origin.name,
        "made_by": maker,
        "touch": touch,
        "detail": round(detail_of(image), 3),
        "errors": errors,
    }


def limits(rows: Sequence[dict[str, Any]]) -> Calibration:
    """The limit between own untouched images and those that a decoder didn't make."""
    own = [row["errors"][row["made_by"]] for row in rows if row["touch"] in SAVED and row["made_by"] != NOT_DECODED]
    others = [error for row in rows for name, error in row["errors"].items() if name != row["made_by"]]
    return Calibration(
        limit=round(math.sqrt(max(own) * min(others)), 3),
        least_detail=LEAST_DETAIL,
        least_pixels=LEAST_PIXELS,
        highest_own=max(own),
        lowest_other=min(others),
    )


def confusion(rows: Sequence[dict[str, Any]], found: Calibration) -> list[dict[str, Any]]:
    """How many images of each maker and touch were said to be whose, all decoders being named."""
    said: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        within = [name for name, error in row["errors"].items() if reproduces(row, error, found)]
        one = within[0] if len(within) == 1 else CANT_TELL
        said.setdefault((row["made_by"], row["touch"]), Counter())[one] += 1
    makers, touches = [NOT_DECODED, *registry().embedded()], list(TOUCHES)
    order = sorted(said, key=lambda key: (makers.index(key[0]), touches.index(key[1])))
    return [{"made_by": maker, "touch": touch, "said": dict(said[maker, touch])} for maker, touch in order]


def alone(rows: Sequence[dict[str, Any]], found: Calibration) -> dict[str, int]:
    """Each decoder named alone for images that it didn't make: how often it was said to reproduce one, of how often."""
    errors = [(row, error) for row in rows for name, error in row["errors"].items() if name != row["made_by"]]
    return {"false": sum(reproduces(row, error, found) for row, error in errors), "of": len(errors)}


def reproduces(row: dict[str, Any], error: float, found: Calibration) -> bool:
    """As the verdict has it."""
    return error <= found.limit and row["detail"] >= found.least_detail


def table(record: dict[str, Any]) -> list[str]:
    """The rows of the confusion table, as the page shows them."""
    named = [*record["decoders"], CANT_TELL]
    rows = ["| made by | saved | " + " | ".join(named) + " |", "|---|---|" + "---|" * len(named)]
    for row in record["held_out"]:
        counts = " | ".join(str(row["said"].get(name, 0)) for name in named)
        rows.append(f"| {row['made_by']} | {row['touch']} | {counts} |")
    return rows


def write(calibration: Path, held_out: Path) -> None:
    """calibration.json from both files of rows."""
    first, second = (json.loads(path.read_bytes()) for path in (calibration, held_out))
    found = limits(first["rows"])
    shared = {row["image"] for row in first["rows"]} & {row["image"] for row in second["rows"]}
    assert not shared, shared
    record = found.model_dump() | {
        "rounding": round(ROUNDING, 4),
        "side": SIDE,
        "decoders": list(registry().embedded()),
        "command": "python embedded/decoder_verdicts.py",
        "versions": first["versions"],
        "calibration_images": len({row["image"] for row in first["rows"]}),
        "held_out_images": len({row["image"] for row in second["rows"]}),
        "held_out": confusion(second["rows"], found),
        "held_out_alone": alone(second["rows"], found),
    }
    write_atomic(TARGET, (json.dumps(record, indent=1) + "\n").encode())
    print(*table(record), sep="\n")


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = cli.add_subparsers(dest="command", required=True)
    one = commands.add_parser("measure")
    one.add_argument("part", choices=PARTS)
    one.add_argument("--images", type=int, help="fewer, for a try")
    one.add_argument("-o", "--output", type=Path, required=True)
    two = commands.add_parser("write")
    two.add_argument("calibration", type=Path)
    two.add_argument("held_out", type=Path)
    given = cli.parse_args()
    if given.command == "write":
        write(given.calibration, given.held_out)
        return
    torch.set_num_threads(1)
    part = PARTS[given.part]
    measure(part, given.images or part.images, given.output)


if __name__ == "__main__":
    main()
