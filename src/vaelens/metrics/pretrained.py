"""The metric networks with their published weights: `networks.toml`, downloaded once or given by path."""

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from vaelens.download.web_files import WebFile, cached_web, fetch_web
from vaelens.errors import UsageError
from vaelens.files import sha256_file
from vaelens.metrics.lpips import LPIPSHeads
from vaelens.networks.alexnet import AlexNet
from vaelens.networks.inception import InceptionV3
from vaelens.networks.vgg import VGG16
from vaelens.runtime import DEFAULT, Runtime
from vaelens.tensors.checks import check_shapes
from vaelens.tensors.file_types import check_file
from vaelens.tensors.formats import open_tensors

Module = InceptionV3 | VGG16 | AlexNet | LPIPSHeads
BUILDERS: Mapping[str, Callable[[], Module]] = {
    "inception": InceptionV3,
    "vgg16": VGG16,
    "alexnet": AlexNet,
    "lpips-vgg": lambda: LPIPSHeads(VGG16.WIDTHS),
    "lpips-alex": lambda: LPIPSHeads(AlexNet.WIDTHS),
}


class NetworkFile(BaseModel):
    """One table of `networks.toml`: a published file of weights, `bytes` long, tried at each of `urls`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    file: str
    urls: tuple[str, ...]
    bytes: int
    sha256: str
    licence: str

    @property
    def web(self) -> WebFile:
        """What to download, and what it must be."""
        return WebFile(urls=self.urls, name=self.file, size=self.bytes, sha256=self.sha256)


@dataclass(frozen=True)
class MetricNetwork:
    """A network ready for measuring: fp32, eval mode, no gradients; and which weights it has."""

    name: str
    module: Module
    sha256: str
    source: Literal["published", "given"]


@cache
def network_files() -> Mapping[str, NetworkFile]:
    """All of `networks.toml` by name, read once."""
    text = files("vaelens.metrics").joinpath("networks.toml").read_text(encoding="utf-8")
    return {name: NetworkFile(name=name, **table) for name, table in tomllib.loads(text).items()}


def missing(names: Iterable[str], paths: Mapping[str, Path] | None = None) -> list[NetworkFile]:
    """Which of the named networks would have to be downloaded; asks no network. UsageError for an unknown name."""
    missing = [_entry(name) for name in names if name not in (paths or {})]
    return [entry for entry in missing if cached_web(entry.web) is None]


def load_networks(
    names: Iterable[str],
    paths: Mapping[str, Path] | None = None,
    device: torch.device | str = "cpu",
    runtime: Runtime = DEFAULT,
) -> dict[str, MetricNetwork]:
    """The named networks on `device`; those in `paths` from there. Errors as `read_network`.

    Names and paths are checked before the first download.
    """
    paths = paths or {}
    order = [_entry(name).name for name in names]
    for name, path in paths.items():
        _entry(name)
        check_file(path)
    networks: dict[str, MetricNetwork] = {}
    for name in sorted(order, key=lambda name: name not in paths):  # a wrong file is found before a long download
        read = read_network(name, paths.get(name), runtime)
        read.module.to(device)
        networks[name] = read
    return {name: networks[name] for name in order}


def read_network(
    name: str,
    path: Path | None = None,
    runtime: Runtime = DEFAULT,
) -> MetricNetwork:
    """One network on the CPU, from the published file or from `path`.

    A file at `path` (.pth as torchvision saves, or .safetensors, with the same tensor names) may hold
    any weights: its sha256 is recorded, not compared.

    Raises UsageError for an unknown name; BadInputError for a file that is missing, damaged or not this
    network's, with lists; UnsafeFileError for one that holds code, which is not run; CheckFailedError for a NaN or
    infinity; and what `download.web_files.fetch_web` raises.
    """
    entry = _entry(name)
    given = path is not None
    path = fetch_web(entry.web, runtime) if path is None else path
    with torch.device("meta"):
        module = BUILDERS[name]()
    module.load_state_dict(_read_tensors(module, entry, path), assign=True)
    module.eval().requires_grad_(False)
    digest = sha256_file(path) if given else entry.sha256
    return MetricNetwork(name, module, digest, "published" if digest == entry.sha256 else "given")


def _entry(name: str) -> NetworkFile:
    entry = network_files().get(name)
    if entry is None:
        raise UsageError(f"no metric network is called {name!r}. Known: {', '.join(network_files())}.")
    return entry


def _read_tensors(module: Module, entry: NetworkFile, path: Path) -> dict[str, Tensor]:
    """The module's tensors in fp32, copied; exactly these, but for the ones that the network has no use for."""
    opened = open_tensors(path)
    unused = re.compile(module.UNUSED)
    expected = {n: tuple(t.shape) for n, t in module.state_dict().items() if not unused.fullmatch(n)}
    found = {n: shape for n, shape in opened.shapes.items() if not unused.fullmatch(n)}
    check_shapes(found, expected, path, entry.title, f"The published file is {entry.file}.")
    return {name: t.detach().to(torch.float32, copy=True) for name, t in opened.read(expected).items()}
