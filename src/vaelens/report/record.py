"""The record of a run (`run.json`): its settings, VAEs, versions, machine and time.

Records and reports get passed on, so they hold no folders of this machine: a file appears by its name, and by its
sha256 where it isn't known by its weights or latents.
"""

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from vaelens.files import sha256_file
from vaelens.resources import peak_memory
from vaelens.runs.versions import versions
from vaelens.runtime import dtype_name
from vaelens.text.paths import user_path
from vaelens.vae import VAE

SCHEMA = 2  # 1: without `engine` in each of `vaes`


def run_record(
    command: str, settings: Mapping[str, Any], vaes: Sequence[Mapping[str, Any]], seconds: float
) -> dict[str, Any]:
    """The part of `run.json` that is the same for every command; the caller adds its own results."""
    return {
        "schema": SCHEMA,
        "command": command,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": dict(settings),
        "vaes": list(vaes),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 3),
        "peak_memory_bytes": peak_memory(),
    }


def public_name(source: str | os.PathLike[str]) -> str:
    """A known name or a hub id as it is, anything on this machine by its last part, as the user names it."""
    path = user_path(source)
    # Not `resolve`: in the hub's cache each file is a link to one that is named by its hash.
    return Path(os.path.abspath(path)).name if path.is_absolute() or path.exists() else os.fspath(source)  # noqa: PTH100


def file_record(path: str | os.PathLike[str]) -> dict[str, str]:
    """A file by its name and sha256."""
    return {"file": Path(path).name, "sha256": sha256_file(path)}


def vae_record(vae: VAE) -> dict[str, Any]:
    """One VAE in a record, identified by its fingerprint, not only by its name; and how the engine has run it."""
    fingerprint = vae.fingerprint
    return {
        "name": vae.name,
        "latent_space": vae.spec.latent_space,
        "scaling_factor": vae.spec.scaling_factor,
        "shift_factor": vae.spec.shift_factor,
        "weights": fingerprint.short,
        "fingerprint": fingerprint.as_dict(),
        "device": str(vae.device),
        "dtype": dtype_name(vae.dtype),
        "engine": vae.engine.record(),
    }


def vae_facts(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Each VAE of a record in words, by name, for a page."""
    return {
        vae["name"]: f"latent space {vae['latent_space'] or 'its own'}, {vae['dtype']} on {vae['device']}, "
        f"weights (encoder-decoder) {vae['weights']}"
        for vae in records
    }
