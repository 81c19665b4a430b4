"""Property: whatever a file of weights, of latents or a config.json says of itself, only our own errors come of it."""

import json
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save

from support.mutated_json import mutated
from support.properties import ROOM, Tally, commands, examples, run_command
from support.vaes import TINY, random_vae
from vaelens.adapters.models import find_model
from vaelens.errors import VaelensError
from vaelens.latents import Latent, latents_bytes, read_latents
from vaelens.networks.autoencoder_kl import AutoencoderKLConfig
from vaelens.tensors.safetensors_file import open_safetensors
from vaelens.text.file_kinds import LATENTS_KEY
from vaelens.weights.reading import read_vae

pytestmark = [pytest.mark.slow, pytest.mark.properties]

SMALL = AutoencoderKLConfig(block_out_channels=(4, 4), norm_num_groups=2, layers_per_block=1)
SPEC = "vaelens"  # the key of the metadata that hold a VAE's spec
SEEDS = st.integers(0, 2**48)


def parts(content: bytes) -> tuple[dict[str, object], bytes]:
    """A safetensors file's header and the bytes that follow it."""
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header: bytes, rest: bytes, rng: random.Random) -> bytes:
    """A file with this header; now and then its length is wrong, or the file is cut."""
    length = len(header) + (rng.choice((-1, 1, -8, 2**33, 2**62)) if rng.random() < 0.03 else 0)
    content = struct.pack("<Q", max(0, length)) + header + rest
    return content[: rng.randrange(len(content))] if rng.random() < 0.03 else content


def mutated_file(content: bytes, rng: random.Random) -> bytes:
    """The file with its header changed, or what its metadata hold as JSON."""
    header, rest = parts(content)
    metadata = header.get("__metadata__")
    keys = [k for k in metadata if k in {SPEC, LATENTS_KEY}] if isinstance(metadata, dict) else []
    if keys and rng.random() < 0.4:
        text = mutated(json.loads(metadata[keys[0]]), rng).decode("utf-8", "replace")  # type: ignore[index]
        return with_header(json.dumps(header | {"__metadata__": {keys[0]: text}}).encode(), rest, rng)
    return with_header(mutated(header, rng), rest, rng)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """A full VAE, a tiny one, latents, and latents as ComfyUI writes them."""
    full, tiny = random_vae(SMALL, space=None), random_vae(TINY)
    return {
        "vae.safetensors": full.save(tmp_path / "a.safetensors").read_bytes(),
        "ldm.safetensors": full.save(tmp_path / "b.safetensors", layout="ldm").read_bytes(),
        "tiny.safetensors": tiny.save(tmp_path / "c.safetensors").read_bytes(),
        "latents.safetensors": latents_bytes(Latent(torch.zeros(1, 4, 2, 2), "sd1")),
        "comfyui.latent": save({"latent_tensor": torch.zeros(1, 4, 2, 2), "latent_format_version_0": torch.zeros(0)}),
    }


def read_all(path: Path) -> None:
    """As the library reads it; what passes our check of the header passes that of the safetensors library."""
    opened = open_safetensors(path)
    with safe_open(path, "pt") as theirs:
        assert set(theirs.keys()) == set(opened.shapes)
    with suppress(VaelensError):
        opened.read(opened.shapes)
    if "latent" in path.name:
        read_latents(path, "sd1")
    else:
        read_vae(path)


def test_mutated_safetensors_headers_end_in_our_own_errors(files: dict[str, bytes], tmp_path: Path) -> None:
    tally = Tally("safetensors headers")

    @examples(small=150, large=2_000, whole=100_000)
    @given(SEEDS)
    def check(seed: int) -> None:
        rng = random.Random(seed)
        name = rng.choice([*files])
        path = tmp_path / name
        path.write_bytes(mutated_file(files[name], rng))
        tally.check(lambda: read_all(path), int(path.stat().st_size * 1.2) + ROOM)

    check()
    for seed in range(commands()):
        path = tmp_path / "vae.safetensors"
        path.write_bytes(mutated_file(files[path.name], random.Random(seed)))
        run_command("inspect", path, cwd=tmp_path)
    print(tally)


def mutate_config(folder: Path, rng: random.Random) -> Callable[[], object]:
    """The folder with its config.json changed, and the call that reads it."""
    kept = folder.parent / "config.json"
    (folder / "config.json").write_bytes(mutated(json.loads(kept.read_text("utf-8")), rng))
    return lambda: read_vae(folder)


@pytest.mark.parametrize("config", [SMALL, TINY])
def test_mutated_configs_end_in_our_own_errors(config: AutoencoderKLConfig, tmp_path: Path) -> None:
    folder = random_vae(config, space=None if config is SMALL else "sd1").save(tmp_path / "vae")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    tally = Tally("config.json")

    @examples(small=40, large=300, whole=2_500)
    @given(SEEDS)
    def check(seed: int) -> None:
        tally.check(mutate_config(folder, random.Random(seed)), ROOM)

    check()
    for seed in range(commands(100)):
        mutate_config(folder, random.Random(seed))
        run_command("inspect", folder, cwd=tmp_path)
    print(tally)


BOMBS = {
    "long": b'{"_class_name": "' + b"x" * 60_000_000 + b'"}',
    "values": b'{"a": [' + b"[]," * 2_000_000 + b"[]]}",
    "levels": b"[" * 1_000_000,
    "digits": b'{"sample_size": ' + b"9" * 5_000_000 + b"}",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_each_json_file_of_a_model_is_read_in_bounded_memory(bomb: str, tmp_path: Path) -> None:
    content = BOMBS[bomb]
    vae = random_vae(SMALL, space=None).save(tmp_path / "vae")
    pipeline = tmp_path / "pipeline"
    random_vae(SMALL, space=None).save(pipeline / "vae")
    index = {"_class_name": "StableDiffusionPipeline"} | {
        part: ["diffusers", "X"] for part in ("unet", "scheduler", "text_encoder", "tokenizer")
    }
    latents = tmp_path / "latents.safetensors"
    text = content.decode()
    calls: list[Callable[[], object]] = [lambda: read_vae(vae), lambda: find_model(str(pipeline))]
    (vae / "config.json").write_bytes(content)
    (pipeline / "model_index.json").write_bytes(content)
    if len(content) < 8_000_000:  # longer ones are refused by the header's length
        latents.write_bytes(save({"latents": torch.zeros(1, 4, 2, 2)}, {LATENTS_KEY: text}))
        calls.append(lambda: read_latents(latents, "sd1"))
    tally = Tally(bomb)
    for call in calls:
        assert tally.check(call, int(len(content) * 1.2) + ROOM) == "BadInputError"
    (pipeline / "model_index.json").write_text(json.dumps(index))
    (pipeline / "vae" / "config.json").write_bytes(content)
    assert tally.check(lambda: find_model(str(pipeline)), int(len(content) * 1.2) + ROOM) == "BadInputError"
