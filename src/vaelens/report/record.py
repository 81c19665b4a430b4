"""The record that every run leaves: what was asked, what served, on which machine, in what time."""

import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import torch

from vaelens.vae import VAE

SCHEMA = 1
LIBRARIES = (
    "vaelens", "torch", "numpy", "pillow", "opencv-python-headless", "safetensors", "huggingface_hub", "diffusers",
    "transformers",
)  # fmt: skip


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
    """One VAE as a record names it: by content, not only by name."""
    fingerprint = vae.fingerprint
    return {
        "name": vae.name,
        "latent_space": vae.spec.latent_space,
        "scaling_factor": vae.spec.scaling_factor,
        "shift_factor": vae.spec.shift_factor,
        "weights": fingerprint.short,
        "fingerprint": fingerprint.as_dict(),
        "device": str(vae.device),
        "dtype": str(vae.dtype).removeprefix("torch."),
    }


def json_text(value: Any) -> str:
    """Strict JSON: what isn't finite becomes null, as JSON has no name for it."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in cast(dict[str, Any], value).items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in cast(Sequence[Any], value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def versions() -> dict[str, str]:
    """Of vaelens, Python and the libraries that make pixels, those that are installed."""
    return {
        **{name: found for name in LIBRARIES if (found := _version(name)) is not None},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def processor(device: str) -> str:
    """What computes on a device of this kind: results of two differ in their last bits."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def peak_memory() -> int | None:
    """The process' largest resident size in bytes; None where the system doesn't tell."""
    if os.name != "posix":
        return None
    import resource  # noqa: PLC0415  (POSIX only)

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
