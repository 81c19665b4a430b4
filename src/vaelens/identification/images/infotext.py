"""The `parameters` text of AUTOMATIC1111's web UI, of Forge and SD.Next, and of the many programs that imitate it.

    a castle on a hill
    Negative prompt: blurry
    Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Model hash: 6ce0161689, Model: v1-5-pruned,
    VAE hash: 735e4c3a44, VAE: vae-ft-mse-840000-ema-pruned.safetensors, Version: v1.10.1     (all in one line)

As AUTOMATIC1111's own reader defines it, the settings are the last line if it holds at least three of them; anything
else, whatever it looks like, is a prompt. A line that none of these programs has signed must also hold a setting of
sampling, because cameras and captions write such lines too. A value with a comma, colon or line break is quoted as
JSON. Extensions append values that are JSON objects; the one for Civitai
`Hashes: {"vae": "735e4c3a44", "model": "6ce0161689"}`.

What the programs write, as of AUTOMATIC1111 1.10, Forge 2.0 and SD.Next of September 2025:
- AUTOMATIC1111: `VAE` is the file's name and `VAE hash` the first ten digits of its sha256, both only where a VAE file
  was loaded. Nothing is written for the checkpoint's own VAE, nor by versions before 1.5.
  `VAE Decoder` names what decoded in the VAE's place: TAESD, Approx NN, Approx cheap.
- Forge: the same; since 2.0 `Module 1`, `Module 2`, ... are the files loaded beside the checkpoint, without their
  suffix: VAEs and text encoders alike.
- SD.Next: `VAE` is the file's name without its suffix, or TAESD, REPA-E or Remote; no hash. `App: SD.Next`.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, cast

from vaelens.identification.images.claims import Claim, text_of
from vaelens.json_reading import parse_json

FEWEST = 3  # settings that a line of them holds
SAMPLING = {"Steps", "Sampler", "Seed"}  # of which every program that samples writes one
LONGEST_LINE = 2**20  # characters; the longest in use, with an extension's JSON, have some thousands
NAME = re.compile(r"[\w \-/]++")
OBJECT = re.compile(r"\{[^{}]*+\}(?=\s*(?:,|$))")
QUOTED = re.compile(r'"(?:[^"\\]++|\\.)*+"(?=\s*(?:,|$))')
MODULE = re.compile(r"Module \d{1,2}")
TEXT_ENCODERS = ("clip", "t5", "qwen", "gemma", "llama", "umt5", "byt5", "text_encoder")  # how files are called
AUTOMATIC1111, FORGE, SD_NEXT, VAELENS = "AUTOMATIC1111's web UI", "Forge", "SD.Next", "vaelens"
OTHER = "a program that writes as AUTOMATIC1111's web UI does"
FORGE_VERSION = re.compile(r"f\d+\.\d+|neo|classic", re.IGNORECASE)
A1111_VERSION = re.compile(r"v?1\.\d+")
NOT_STAND_INS = {"full", "default"}  # the VAE itself
NOT_NAMES = {"none", "automatic"}


def read_infotext(text: str, place: str) -> Claim | None:
    """What an infotext says; None for a text that has no settings, or whose settings are of something else."""
    values = settings(text)
    program = _program(values)
    if not values or (program == OTHER and not SAMPLING & values.keys()):
        return None
    notes: list[str] = []
    name, digest = text_of(values.get("VAE")), text_of(values.get("VAE hash"))
    if name is not None and name.lower() in NOT_NAMES:
        name = None
    of_hashes = _hash_of_vae(values)
    if digest is None:
        digest = of_hashes
    elif of_hashes and not _same(digest, of_hashes):
        notes.append(f"`VAE hash` is {digest}, but `Hashes` says {of_hashes}.")
    if decoder := _stand_in(values):
        notes.append(
            f"`VAE Decoder` says that {decoder} decoded the image"
            + (f"; the VAE named beside it, {name}, then only encoded." if name else ".")
        )
        name, digest = decoder, None
    modules = [module for key, value in values.items() if MODULE.fullmatch(key) and (module := text_of(value))]
    if name is None and digest is None and modules:
        name, note = _module(modules)
        notes.append(note)
    if name is None and digest is None:
        notes.append(_silence(program))
    return Claim(program, place, name, digest, text_of(values.get("Model")), notes=tuple(notes))


def settings(text: str) -> dict[str, str]:
    """The settings of an infotext by name, as written, quoted values without their quotes; of a name, the last.

    Empty where the last line isn't one of settings.
    """
    line = text.strip().rpartition("\n")[2]
    if len(line) > LONGEST_LINE:
        return {}
    pairs = list(_pairs(line))
    return dict(pairs) if len(pairs) >= FEWEST else {}


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """Names and values from left to right, each character looked at a bounded number of times: a quote that a value
    begins with would have closed the one before it.
    """
    place = 0
    while found := NAME.search(line, place):
        place = found.end()
        name = found[0].strip(" -/")
        if line[place : place + 1] != ":" or len(name) < 2:
            continue
        place += 1
        while line[place : place + 1].isspace():
            place += 1
        value = None
        if line.startswith('"', place):
            value = QUOTED.match(line, place)
        elif line.startswith("{", place):
            value = OBJECT.match(line, place)
        if value is not None:
            place = value.end()
            yield name, _unquoted(value[0])
        else:
            end = line.find(",", place)
            end = len(line) if end < 0 else end
            yield name, line[place:end].strip()
            place = end


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        found: object = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, str) else value


def _hash_of_vae(values: dict[str, str]) -> str | None:
    try:
        found: Any = parse_json(values.get("Hashes", ""))
    except ValueError:
        return None
    return text_of(cast(dict[str, Any], found).get("vae")) if isinstance(found, dict) else None


def _same(one: str, other: str) -> bool:
    """Whether one hash is the beginning of the other."""
    one, other = one.lower(), other.lower()
    return one.startswith(other) or other.startswith(one)


def _stand_in(values: dict[str, str]) -> str | None:
    """What decoded in the VAE's place."""
    decoder = text_of(values.get("VAE Decoder"))
    return None if decoder is None or decoder.lower() in NOT_STAND_INS else decoder


def _module(modules: list[str]) -> tuple[str | None, str]:
    """The VAE among Forge's modules, if only one can be it, and a note."""
    listed = ", ".join(modules)
    possible = [module for module in modules if not any(part in module.lower() for part in TEXT_ENCODERS)]
    if len(possible) == 1:
        return possible[0], f"Forge lists VAEs and text encoders alike as modules: {listed}."
    return (
        None,
        f"Forge lists VAEs and text encoders alike as modules, and which of them is the VAE can't be told: {listed}.",
    )


def _program(values: dict[str, str]) -> str:
    version = values.get("Version", "")
    if values.get("App") == "SD.Next":
        return SD_NEXT
    if version.startswith("vaelens"):
        return VAELENS
    if any(MODULE.fullmatch(name) for name in values) or FORGE_VERSION.match(version):
        return FORGE
    return AUTOMATIC1111 if A1111_VERSION.match(version) else OTHER


def _silence(program: str) -> str:
    """What it means that no VAE is named."""
    if program in {AUTOMATIC1111, FORGE, SD_NEXT}:
        return f"It names no VAE. {program} names one only where a VAE file was loaded beside the checkpoint."
    return "It names no VAE."
