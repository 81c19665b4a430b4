"""Where a VAE lies in a folder: diffusers' names in each variant, shards, or the one file there is; its config.json."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from vaelens.errors import BadInputError
from vaelens.families.discovery import family_of_class
from vaelens.json_reading import read_json
from vaelens.tensors.file_types import PICKLED
from vaelens.tensors.sharded import is_index

STEM = "diffusion_pytorch_model"
VARIANTS = ("", ".fp16", ".bf16")  # in order of preference
# What diffusers calls a network's weights, in one file or several.
WEIGHT_NAMES = tuple(name for v in VARIANTS for name in (f"{STEM}{v}.safetensors", f"{STEM}.safetensors.index{v}.json"))
PICKLED_NAMES = tuple(f"{STEM}{v}.bin" for v in VARIANTS)
SAFE = ".safetensors"
SHARD = re.compile(r"-\d{5}-of-\d{5}\.")


def find_weights(folder: Path) -> Path:
    """The weights of the VAE in a folder, or in its vae/: a .safetensors file, the index of several, or a pickled file.

    A pickled file counts only where there is no other. Raises BadInputError for a folder with no weights or with
    several files that may be meant.
    """
    if is_pipeline(folder):
        folder = folder / "vae"
    names = _names(folder)
    shards = [name for name in names if SHARD.search(name)]
    safe = [name for name in names if name.endswith(SAFE) and name not in shards]
    indices = [name for name in names if is_index(name)]
    for name in (*WEIGHT_NAMES, *(indices if len(indices) == 1 else ())):
        if name in names:
            return folder / name
    if not safe and shards:
        raise BadInputError(
            f"{folder} holds parts of a VAE ({shards[0]}), but not the index that lists them. Download it too, "
            f"{WEIGHT_NAMES[1]}, or all files of the folder."
        )
    pickled = [name for name in names if is_pickled(name)]
    if not safe:
        for name in PICKLED_NAMES:
            if name in pickled:
                return folder / name
    found = _only_one(safe or pickled)
    if found is not None:
        return folder / found
    if several := safe or pickled:
        shown = ", ".join(several[:6]) + (", ..." if len(several) > 6 else "")
        raise BadInputError(
            f"{folder} holds several files, and none is called {WEIGHT_NAMES[0]}: {shown}. "
            f"Name the one you mean, e.g. {folder / several[0]}; `vaelens identify {folder}` says what each is."
        )
    raise BadInputError(
        f"{folder} holds no weights of a VAE, at its top or in vae/. Name the folder of a VAE or of a whole pipeline, "
        "or a file of weights."
    )


def is_pickled(name: str) -> bool:
    """Whether a file's name is that of a pickled one."""
    return PurePath(name).suffix.lower() in PICKLED


def _only_one(names: Sequence[str]) -> str | None:
    """The one file of weights, or the encoder's of the two that belong together."""
    if len(names) == 1:
        return names[0]
    halves = [name for name in names if "encoder" in name and name.replace("encoder", "decoder") in names]
    return halves[0] if len(halves) == 1 and len(names) == 2 else None


def find_config(weights: Path) -> dict[str, Any] | None:
    """The config.json that belongs to a file of weights: the one beside it, if it describes a VAE that vaelens runs.

    A file that isn't called as diffusers calls it must be the only one in its folder, shards and their index counting
    as one: in a collection of VAEs nothing
    says whose a config.json is. Raises BadInputError for one that can't be read.
    """
    config = weights.with_name("config.json")
    if not config.is_file():
        return None
    if not weights.name.startswith(STEM) and len(_whole_files(_names(weights.parent))) > 1:
        return None
    return read_json(config)


def describes_vae(config: Path) -> bool:
    """Whether a config.json names one of diffusers' classes of VAEs, also one that vaelens doesn't run."""
    try:
        name = read_json(config).get("_class_name")
    except (BadInputError, FileNotFoundError):
        return False
    return str(name).startswith("Autoencoder") or family_of_class(name) is not None


def is_pipeline(folder: Path) -> bool:
    """Whether it is the folder of a whole pipeline, whose VAE lies in its vae/."""
    if not (folder / "vae").is_dir():
        return False
    config = folder / "config.json"
    return (folder / "model_index.json").is_file() or not config.is_file() or not describes_vae(config)


def _whole_files(names: Sequence[str]) -> set[str]:
    """The VAEs that files of these names hold: an index stands for its shards, a .ckpt beside a .safetensors is it."""
    files = [n for n in names if is_index(n) or (n.endswith(SAFE) and not SHARD.search(n)) or is_pickled(n)]
    return {name if is_index(name) else PurePath(name).stem for name in files}


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    except OSError as error:
        raise BadInputError(f"{folder} can't be read: {error.strerror}. Check its permissions.") from error
