"""The record of a run (`run.json`): its settings, VAEs, versions, machine and time."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from vaelens.resources import peak_memory
from vaelens.runs.versions import versions
from vaelens.runtime import dtype_name
from vaelens.vae import VAE

SCHEMA = 1


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
        "engine": "plain",
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 3),
        "peak_memory_bytes": peak_memory(),
    }


def vae_record(vae: VAE) -> dict[str, Any]:
    """One VAE in a record, identified by its fingerprint, not only by its name."""
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
    }


def vae_facts(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Each VAE of a record in words, by name, for a page."""
    return {
        vae["name"]: f"latent space {vae['latent_space'] or 'its own'}, {vae['dtype']} on {vae['device']}, "
        f"weights (encoder-decoder) {vae['weights']}"
        for vae in records
    }
