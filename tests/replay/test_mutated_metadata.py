"""Metadata from anywhere: PNG text and JSON requests whose values are of another type, huge, missing or damaged."""

import copy
import json
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from support.properties import MB, ROOM, Tally, commands, examples, run_command
from vaelens.errors import BadInputError, UsageError
from vaelens.images.boxes import read_boxes
from vaelens.images.writing import encode_png
from vaelens.latents import read_latents
from vaelens.png_metadata import PngMetadata, read_png_metadata
from vaelens.replay.reproduction import replay
from vaelens.text.file_kinds import LATENTS_KEY
from vaelens.web.request import read_request

PROMPT = {
    "sampling": {
        "prompt": "a face",
        "negative_prompt": None,
        "steps": 2,
        "guidance_scale": 1.0,
        "size": [64, 64],
        "scheduler": "ddim",
        "safety_checker": True,
    },
    "seed": 0,
    "model": {
        "name": "nobody/none",
        "source": "hub",
        "commit": None,
        "variant": None,
        "dtype": "float32",
        "scheduler": "DDIMScheduler",
        "scheduler_options": {"a": 1},
    },
}
METADATA: dict[str, Any] = {
    "provenance": PROMPT,
    "vae": {
        "name": "nobody/no-vae",
        "latent_space": "sd1",
        "weights": "0" * 12,
        "fingerprint": {"encoder": {}},
        "dtype": "float32",
        "device": "cpu",
        "engine": {"path": "torch", "max_memory": None, "budgets": {"decode 2x2": 10**9}},
    },
    "decoded_in": "float32",
    "latent_space": "sd1",
    "latents_sha256": "0" * 64,
    "size": [8, 8],
    "flagged": False,
    "versions": {"vaelens": "0.1.0"},
    "threads": 1,
}
REQUEST = {
    "prompt": "a face",
    "model": "x",
    "vaes": ["a"],
    "seeds": [0],
    "steps": 3,
    "guidance_scale": 2.0,
    "size": "64x64",
}
ODD: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1.5,
        1e308,
        -1e308,
        10**400,
        10**30,
        "",
        "1_0",
        "x" * 5000,
        "\x00",
        "\x1b[2J",
        "\ud800",
    ),
    *([], {}, [[]], {"": None}, [1, 2, 3], "../../etc/passwd", "~nosuchuser/x", "a" * 300, float("nan"), float("inf")),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, below in items for deeper in places(below, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    if not path:
        return None if odd is KeyError else odd
    result = copy.deepcopy(value)
    inside = result
    for key in path[:-1]:
        inside = inside[key]
    if odd is KeyError and isinstance(inside, dict):
        del inside[path[-1]]
    else:
        inside[path[-1]] = None if odd is KeyError else odd
    return result


def mutated(value: dict[str, Any]) -> st.SearchStrategy[str]:
    """JSON texts with one value changed or left out, or a few of their characters."""
    typed = st.builds(
        lambda path, odd: json.dumps(changed(value, path, odd)),
        st.sampled_from(places(value)),
        st.sampled_from([*ODD, KeyError]),
    )
    text = json.dumps(value)
    damaged = st.builds(
        lambda at, length, put: text[:at] + put + text[at + length :],
        st.integers(0, len(text)),
        st.integers(0, 20),
        st.one_of(
            st.sampled_from(["", "[" * 40, "9" * 5000, "1e999", "\\ud800", '"', "{}", ",,"]), st.text(max_size=5)
        ),
    )
    return st.one_of(typed, damaged)


@cache
def pixels() -> np.ndarray:
    return np.zeros((8, 8, 3), np.uint8)


def replayed(file: Path, text: str) -> None:
    """Everything up to the model and the VAE, which aren't on this machine."""
    file.write_bytes(encode_png(pixels(), {"vaelens": text}))
    replay(file)


@pytest.mark.properties
def test_mutated_replay_texts_end_in_our_own_errors(tmp_path: Path) -> None:
    tally = Tally("replay texts")

    @examples(30, 500, 5000)
    @given(text=mutated(METADATA))
    def check(text: str) -> None:
        text = text.encode("utf-8", "replace").decode()
        tally.check(lambda: replayed(tmp_path / "a.png", text), int(len(text) * 1.2) + ROOM)

    check()
    print(tally)


@pytest.mark.properties
@pytest.mark.slow
def test_mutated_replay_texts_through_the_command(tmp_path: Path) -> None:
    texts: list[str] = []

    @examples(2, 10, 200)
    @given(text=mutated(METADATA))
    def collect(text: str) -> None:
        texts.append(text.encode("utf-8", "replace").decode())

    collect()
    for text in texts[: commands()]:
        (tmp_path / "a.png").write_bytes(encode_png(pixels(), {"vaelens": text}))
        assert run_command("replay", "a.png", cwd=tmp_path)


@pytest.mark.properties
def test_mutated_requests_end_in_our_own_errors() -> None:
    tally = Tally("requests of serve")

    @examples(60, 500, 5000)
    @given(text=mutated(REQUEST))
    def check(text: str) -> None:
        body = text.encode("utf-8", "surrogatepass")
        tally.check(lambda: _sampled(body), len(body) + ROOM)

    check()
    print(tally)


def _sampled(body: bytes) -> None:
    read_request(body).sampling(True)


@pytest.mark.properties
def test_mutated_boxes_end_in_our_own_errors(tmp_path: Path) -> None:
    tally = Tally("boxes")
    line = ["a.png", "eye", "0", "0", "8", "8"]
    odd = st.one_of(st.sampled_from([str(one) for one in ODD]), st.text(max_size=8))

    @examples(60, 500, 5000)
    @given(at=st.integers(0, 5), value=odd, head=st.sampled_from(["id,label,left,top,right,bottom", "id,label", ""]))
    def check(at: int, value: str, head: str) -> None:
        row = [*line[:at], value, *line[at + 1 :]]
        content = f"{head}\n{','.join(row)}\n".encode("utf-8", "surrogatepass")
        (tmp_path / "boxes.csv").write_bytes(content)
        tally.check(lambda: read_boxes(tmp_path / "boxes.csv"), len(content) + 5 * MB)

    check()
    print(tally)


@pytest.mark.parametrize("path", [("threads",), ("size", 0), ("provenance", "seed"), ("flagged",), ("vae", "name")])
@pytest.mark.parametrize("value", ["1", True, 1.5, None, 10**400, [1]], ids=lambda one: repr(one)[:9])
def test_metadata_of_another_json_type_is_refused(path: tuple[Any, ...], value: Any, tmp_path: Path) -> None:
    text = json.dumps(changed(METADATA, path, value))
    (tmp_path / "a.png").write_bytes(encode_png(pixels(), {"vaelens": text}))
    if (path == ("flagged",) and value is True) or (path == ("vae", "name") and value == "1"):
        assert isinstance(read_png_metadata(tmp_path / "a.png"), PngMetadata)
        return
    with pytest.raises(BadInputError, match="can't be replayed"):
        read_png_metadata(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("threads",), "abc", "field 'threads': expected a whole number (found 'abc')"),
        (("provenance", "seed"), "1", "field 'provenance.seed': expected a whole number (found '1')"),
        (("provenance", "sampling", "steps"), 1.5, "field 'provenance.sampling.steps': expected a whole number"),
        (("provenance", "sampling", "size", 0), None, "field 'provenance.sampling.size.0': expected a whole number"),
        (("provenance", "model", "source"), "x", "field 'provenance.model.source': expected 'embedded', 'folder'"),
        (("provenance",), 3, "field 'provenance': expected an object (found 3)"),
        (("versions", "vaelens"), [1], "field 'versions.vaelens': expected text (found [1])"),
        (("vae",), KeyError, "field 'vae': it is missing"),
        (("size",), [1, 2, 3], "field 'size': expected at most 2 values (found 3)"),
        ((), [], "expected an object (found [])"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_expected_and_found(
    path: tuple[Any, ...], value: Any, message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(pixels(), {"vaelens": json.dumps(changed(METADATA, path, value))}))
    with pytest.raises(BadInputError) as error:
        read_png_metadata(tmp_path / "a.png")
    assert f"a.png: its metadata can't be replayed: {message}" in str(error.value)


def test_no_wrong_field_is_explained_in_the_words_of_the_library(tmp_path: Path) -> None:
    """Every place with values of every type, of an image's metadata and of a latents file's."""
    for path in places(METADATA):
        for value in ("abc", 1.5, True, None, [], [[1]], {}, KeyError):
            wrong = changed(METADATA, path, value)
            (tmp_path / "a.png").write_bytes(encode_png(pixels(), {"vaelens": json.dumps(wrong)}))
            said = [_error(lambda: read_png_metadata(tmp_path / "a.png"))]
            if path[:1] == ("provenance",) and isinstance(wrong, dict):
                metadata = {LATENTS_KEY: json.dumps({"provenance": wrong.get("provenance")})}
                save_file({"latents": torch.zeros(1, 4, 1, 1)}, tmp_path / "a.safetensors", metadata)
                said.append(_error(lambda: read_latents(tmp_path / "a.safetensors")))
            for text in said:
                assert not re.search(r"[Ii]nput should|pydantic|validation error|Provenance|valid (int|str)", text), (
                    text
                )


def _error(call: Callable[[], object]) -> str:
    try:
        call()
    except BadInputError as error:
        return str(error)
    return ""


def test_a_name_in_metadata_that_no_file_can_have_is_only_a_name(tmp_path: Path) -> None:
    text = json.dumps(changed(METADATA, ("vae", "name"), "x" * 300 + os.sep))
    with pytest.raises(UsageError, match="isn't on this machine"):
        replayed(tmp_path / "a.png", text)
