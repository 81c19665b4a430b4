"""Result files of the blind test, as the page writes them."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

NAMES = ("tiny-ft-ema", "tiny-ft-mse", "tiny-kl-f8")
SIDE = 64  # of the image, in pixels

Values = dict[str, Any]


def sha256(text: str) -> str:
    """A made-up sha256, different for different texts."""
    return hashlib.sha256(text.encode()).hexdigest()


def decoders(names: Sequence[str] = NAMES[:2]) -> list[Values]:
    """Decoders that share an encoder."""
    return [{"name": name, "encoder": sha256("encoder"), "decoder": sha256(name)} for name in names]


def trial(a: int, b: int, answer: str, x: str | None = None, **changes: Any) -> Values:
    """One trial; the region is the image's left upper corner unless `changes` says otherwise."""
    region = {"left": 0, "top": 0, "width": 16, "height": 16}
    given = {"image": 0, "kind": "difference", **region, "a": a, "b": b, "x": x, "answer": answer}
    return given | {"ms": 1500, "zoom": 4} | changes


def abx_trials(hits: int, count: int, pair: tuple[int, int] = (0, 1), **changes: Any) -> list[Values]:
    """ABX trials, of which the first `hits` are answered right; A and X change from trial to trial."""
    found: list[Values] = []
    for number in range(count):
        a, b = pair if number % 2 else pair[::-1]
        x = "ab"[number // 2 % 2]
        found.append(trial(a, b, x if number < hits else "ab"["ab".index(x) - 1], x, **changes))
    return found


def preference_trials(preferred: int, count: int, pair: tuple[int, int] = (0, 1), **changes: Any) -> list[Values]:
    """Preference trials, in the first `preferred` of which the pair's first decoder is preferred; sides change.

    Each shows a region of its own, so that none repeats another.
    """
    found: list[Values] = []
    for number in range(count):
        a, b = pair if number % 2 else pair[::-1]
        wanted = pair[0] if number < preferred else pair[1]
        place = {"left": number % 48, "top": number // 48}
        found.append(trial(a, b, "a" if a == wanted else "b", **place | changes))
    return found


def identical_trials(left: int, count: int, decoder: int = 0) -> list[Values]:
    """Trials that show one decoder twice; the left one is chosen in the first `left`."""
    return [trial(decoder, decoder, "a" if number < left else "b", left=40) for number in range(count)]


def result(trials: Sequence[Values], test: str = "abx", names: Sequence[str] = NAMES[:2], **changes: Any) -> Values:
    """The content of a result file without its checksum; a run of its own for different contents."""
    values: Values = {
        "schema": 1,
        "kind": "vaelens blind test",
        "run": "",
        "page": sha256("page of " + ", ".join(names)),
        "vaelens": "0.1.0",
        "finished": "2026-11-27T00:10:00.000Z",
        "person": "",
        "test": test,
        "planned": max(len(trials), 1),
        "stopped_early": False,
        "kinds": list(dict.fromkeys([one["kind"] for one in trials] or ["random"])),
        "zoom": 4,
        "pixel_ratio": 1.5,
        "decoders": decoders(names),
        "images": [{"title": "face.png", "width": SIDE, "height": SIDE, "latents": [sha256("z")] * len(names)}],
        "trials": list(trials),
    } | changes
    values["stopped_early"] = changes.get("stopped_early", len(trials) < values["planned"])
    values["run"] = changes.get("run", sha256(json.dumps(values))[:32])
    return values


def file_text(values: Mapping[str, Any]) -> bytes:
    """The file's bytes: each key on a line, each trial on a line, and the checksum of the text before it."""
    lines = [f"  {json.dumps(key)}: {_value(key, value)}" for key, value in values.items()]
    text = "{\n" + ",\n".join(lines)
    return f'{text},\n  "checksum": "{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n'.encode()


def save(path: Path, values: Mapping[str, Any]) -> Path:
    """Write the file; gives its path."""
    path.write_bytes(file_text(values))
    return path


def save_all(folder: Path, results: Iterable[Mapping[str, Any]]) -> list[Path]:
    """Write files called 1.json, 2.json and so on; gives their paths."""
    return [save(folder / f"{number}.json", values) for number, values in enumerate(results, 1)]


def _value(key: str, value: Any) -> str:
    if key != "trials" or not isinstance(value, list) or not value:
        return json.dumps(value, ensure_ascii=False)
    return "[\n    " + ",\n    ".join(json.dumps(one, ensure_ascii=False) for one in value) + "\n  ]"
