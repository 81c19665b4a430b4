"""A preset with the networks of its metrics: which they are, whether they can be had, and loading them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaelens.errors import BadInputError, NetworkError, UsageError
from vaelens.evaluation.image_pairs import ImageBatch, Network
from vaelens.evaluation.metric_table import METRICS, dataset_metrics, find_metric, networks_of
from vaelens.evaluation.presets import Preset
from vaelens.files import StrPath, sha256_file
from vaelens.kernels.paths import TORCH
from vaelens.metrics.inception_input import PREPROCESSINGS
from vaelens.metrics.pretrained import load_networks, missing, network_files
from vaelens.metrics.psim import normalised
from vaelens.metrics.small import (
    frechet_features,
    load_small_frechet,
    load_small_perceptual,
    perceptual_taps,
    small_weights,
)
from vaelens.networks.native_layers import use_native_convolutions
from vaelens.resources import full_precision
from vaelens.runtime import Runtime

NO_DOWNLOAD = "--preset offline needs no download."
SHIPPED: Mapping[str, Callable[[], Any]] = {"psim-small": load_small_perceptual, "fd-small": load_small_frechet}
# How a network takes images, where it isn't called with them as they are.
RUNS: Mapping[str, Callable[[Any, Preset, Tensor], Any]] = {
    "inception": lambda network, preset, pixels: network(PREPROCESSINGS[preset.inception or ""](pixels)),
    "vgg16": lambda network, _, image: network(normalised(image)),
    "alexnet": lambda network, _, image: network(normalised(image)),
    "psim-small": lambda network, _, image: perceptual_taps(network, image),
    "fd-small": lambda network, _, pixels: frechet_features(network, pixels),
}


class LoadedPreset:
    """A preset and the networks of its metrics, fp32, on one device."""

    def __init__(self, preset: Preset, networks: Mapping[str, Network], device: torch.device) -> None:
        self.preset = preset
        self.device = device
        self._networks = networks
        self._extractors = dict.fromkeys(metric.extractor for metric in dataset_metrics(preset.metrics))

    @property
    def networks(self) -> dict[str, dict[str, str]]:
        """Which weights the networks have and what computes them, for a plan and a record."""
        fields = ("sha256", "source", "kernels")
        return {name: {field: getattr(one, field) for field in fields} for name, one in self._networks.items()}

    @property
    def extractors(self) -> list[str]:
        """The networks whose features are stored."""
        return list(self._extractors)

    def batch(self, pixels: Tensor) -> ImageBatch:
        """Saved images, uint8 [b,3,h,w], on the device."""
        return ImageBatch(pixels, self._networks, self.device)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> dict[str, Tensor]:
        """Of saved images, uint8 [b,3,h,w]: fp32 [b,d] by extractor, on the CPU."""
        with full_precision(self.device):
            run = {name: self._networks[name].run for name in self._extractors}
            return {name: features(pixels.to(self.device)).float().cpu() for name, features in run.items()}


def with_metrics(preset: Preset, keys: Sequence[str]) -> Preset:
    """The preset with more metrics, in the table's order.

    Raises UsageError for an unknown metric, and for one with a download where the preset promises none.
    """
    offline = SHIPPED.keys() >= {*networks_of(preset.metrics)}
    for metric in map(find_metric, keys):
        if offline and not SHIPPED.keys() >= {*metric.networks}:
            raise UsageError(
                f"{metric.title} needs a download, and the preset {preset.name} promises none. Use --preset modern."
            )
    return (
        replace(preset, metrics=tuple(key for key in METRICS if key in preset.metrics or key in keys))
        if keys
        else preset
    )


def published_networks(preset: Preset) -> list[str]:
    """The networks of the preset that have a published file, in whose place another may be given."""
    return [name for name in networks_of(preset.metrics) if name in network_files()]


def check_networks(
    preset: Preset,
    paths: Mapping[str, StrPath],
    runtime: Runtime,
    *,
    also: Sequence[str] = (),
    user: str = "",
    hint: str = NO_DOWNLOAD,
) -> None:
    """Check, before the dataset is opened, that the networks are there or may be downloaded; announce downloads.

    also: published networks that are needed beside the preset's
    user: what needs the networks, for messages; the preset by default. hint: how to do without a download.

    Raises UsageError for a name in `paths` that isn't needed; NetworkError where a network is missing and the runtime
    is offline; BadInputError for a file in `paths` that doesn't exist.
    """
    names = [*dict.fromkeys((*published_networks(preset), *also))]
    user = user or f"The preset {preset.name}"
    for name, path in paths.items():
        if name not in names:
            used = ", ".join(names) or "none"
            raise UsageError(f"{user} needs no network called {name}. Needed: {used}.")
        if not Path(path).is_file():
            raise BadInputError(f"{path}: no such file. Check the path given with --network.")
    needed = missing(names, {name: Path(path) for name, path in paths.items()})
    if needed:
        size = sum(file.bytes for file in needed) / 1e6
        what = f"{user} needs {', '.join(file.name for file in needed)}: {size:,.0f} MB"
        if runtime.offline:
            raise NetworkError(f"{what}, not on this machine, and the network isn't allowed. {hint}".rstrip())
        runtime.notify(f"{what}, downloaded once. {hint}".rstrip())


def load_preset(
    preset: Preset, paths: Mapping[str, StrPath], runtime: Runtime, *, hint: str = NO_DOWNLOAD
) -> LoadedPreset:
    """The preset with its networks; those named in `paths` from there. Raises what `load_networks` raises.

    hint: how to do without a download, for an error of one
    """
    device = torch.device("cpu") if runtime.device.type == "mps" else runtime.device  # which has no float64
    names = networks_of(preset.metrics)
    given = {name: Path(path) for name, path in paths.items()}
    networks: dict[str, Network] = {}
    try:
        published = load_networks(published_networks(preset), given, device, runtime)
        for name in names:
            if name in published:
                module, sha256, source = published[name].module, published[name].sha256, published[name].source
            elif name in SHIPPED:
                module, sha256, source = SHIPPED[name]().to(device), sha256_file(small_weights(name)), "shipped"
            else:
                from vaelens.adapters.dinov2 import load_dinov2  # noqa: PLC0415  (transformers takes seconds to import)

                dinov2 = load_dinov2(device, runtime=runtime)
                networks[name] = Network(dinov2.model, dinov2.features, dinov2.sha256, "the hub")
                continue
            kernels = use_native_convolutions(module, device) if name in RUNS else TORCH
            networks[name] = Network(module, _run(name, module, preset), sha256, source, kernels)
    except NetworkError as error:
        raise NetworkError(f"{error} {hint}") from error
    return LoadedPreset(preset, networks, device)


def _run(name: str, module: Any, preset: Preset) -> Callable[[Tensor], Any]:
    return partial(RUNS[name], module, preset) if name in RUNS else module
