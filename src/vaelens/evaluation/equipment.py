"""What an evaluation works with: VAEs, metric networks, the cache of the originals' features."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vaelens.download.web_files import cache_folder
from vaelens.errors import BadInputError, NetworkError, UsageError
from vaelens.evaluation.instruments import EXTRACTORS, Features, Instruments
from vaelens.evaluation.measures import MEASURES
from vaelens.evaluation.originals import OriginalsCache
from vaelens.evaluation.presets import Preset
from vaelens.files import sha256_file
from vaelens.loading import distinct_names, open_vae
from vaelens.metrics.pretrained import MetricNetwork, load_networks, missing
from vaelens.metrics.small import small_weights
from vaelens.resources import processor
from vaelens.runtime import Runtime
from vaelens.vae import VAE

WAY_OUT = "Without any download: --preset offline."

Source = str | os.PathLike[str]


def with_dinov2(preset: Preset) -> Preset:
    """The preset with FD-DINOv2 as one more column. Raises UsageError for one that promises no download."""
    if not any(MEASURES[key].networks for key in preset.measures):
        raise UsageError(f"FD-DINOv2 needs a download, and the preset {preset.name} has none. Use --preset modern.")
    return replace(preset, measures=(*preset.measures[:1], "fd_dinov2", *preset.measures[1:]))


def check_networks(preset: Preset, paths: Mapping[str, Source], runtime: Runtime) -> None:
    """What can be told before the dataset is opened: whether the networks are there, or may be downloaded.

    Raises UsageError for a network that the preset doesn't use; NetworkError, naming the preset offline, where one is
    missing and the runtime is offline; BadInputError for a given file that isn't there. Announces downloads.
    """
    names = _networks(preset)
    unknown = [name for name in paths if name not in names]
    if unknown:
        used = ", ".join(names) or "none"
        raise UsageError(f"--preset {preset.name} uses no network called {unknown[0]}; it uses {used}.")
    for path in paths.values():
        if not Path(path).is_file():
            raise BadInputError(f"{path}: there is no such file. Check the path given with --network.")
    wanted = missing(names, {name: Path(path) for name, path in paths.items()})
    if not wanted:
        return
    size = sum(file.bytes or 0 for file in wanted) / 1e6
    needed = f"--preset {preset.name} needs {', '.join(file.name for file in wanted)}: {size:,.0f} MB"
    if runtime.offline:
        raise NetworkError(f"{needed}, which {'is' if len(wanted) == 1 else 'are'} not on this machine. {WAY_OUT}")
    runtime.notify(f"{needed}, downloaded once. --preset offline needs no download.")


def _networks(preset: Preset) -> list[str]:
    return list(dict.fromkeys(name for key in preset.measures for name in MEASURES[key].networks))


def build_instruments(
    preset: Preset,
    paths: Mapping[str, Source],
    runtime: Runtime,
) -> tuple[Instruments, dict[str, Any]]:
    """The instruments for these measures, and which networks they use, by sha256."""
    names = _networks(preset)
    given = {name: Path(path) for name, path in paths.items()}
    device = torch.device("cpu") if runtime.device.type == "mps" else runtime.device  # which has no float64
    try:
        networks: dict[str, MetricNetwork] = load_networks(names, given, device, runtime)
        features: dict[str, Features] = {}
        more: dict[str, Any] = {}
        if "fd_dinov2" in preset.measures:
            from vaelens.adapters.dinov2 import load_dinov2  # noqa: PLC0415  (transformers takes seconds to import)

            dinov2 = load_dinov2(device, runtime=runtime)
            features = {"dinov2": dinov2.features}
            more = {"dinov2": {"sha256": dinov2.sha256, "source": "the hub"}}
    except NetworkError as error:
        raise NetworkError(f"{error} {WAY_OUT}") from error
    served = more | {name: {"sha256": network.sha256, "source": network.source} for name, network in networks.items()}
    for key, name in (("psim_small", "psim-small"), ("fd_small", "fd-small")):
        if key in preset.measures:
            served[name] = {"sha256": sha256_file(small_weights(name)), "source": "shipped"}
    return Instruments(preset, networks, device, features), served


def load_vaes(sources: Sequence[Source | VAE], space: str | None, runtime: Runtime) -> dict[str, VAE]:
    """The VAEs by the names to show, which differ."""
    loaded = [one if isinstance(one, VAE) else open_vae(one, runtime, space=space) for one in sources]
    return dict(zip(distinct_names([vae.name for vae in loaded]), loaded, strict=True))


def originals_cache(plan: Mapping[str, Any]) -> OriginalsCache:
    keys = ("preset", "threads", "device", "networks", "versions")
    protocol = {key: plan[key] for key in keys} | {"processor": processor(plan["device"])}
    extractors = sorted({EXTRACTORS[key] for key in plan["preset"]["measures"] if key in EXTRACTORS})
    return OriginalsCache(cache_folder() / "originals", protocol, extractors)
