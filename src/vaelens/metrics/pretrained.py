"""The networks behind the metrics with their published weights: `networks.toml`, downloaded once or given by path.

Nothing in a file is trusted: no code runs, and every key, shape and value is checked before use.
"""

import re
import tomllib
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, cast

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from vaelens.download.web_files import WebFile, cached_web, fetch_web
from vaelens.errors import BadInputError, CheckFailedError, ResourceError, UnsafeFileError, UsageError, VaelensError
from vaelens.files import sha256_file
from vaelens.metrics.lpips import LPIPSHeads
from vaelens.networks.alexnet import AlexNet
from vaelens.networks.inception import InceptionV3
from vaelens.networks.vgg import VGG16
from vaelens.resources import is_out_of_memory
from vaelens.runtime import DEFAULT, Runtime

Module = InceptionV3 | VGG16 | AlexNet | LPIPSHeads
BUILDERS: Mapping[str, Callable[[], Module]] = {
    "inception": InceptionV3,
    "vgg16": VGG16,
    "alexnet": AlexNet,
    "lpips-vgg": lambda: LPIPSHeads(VGG16.WIDTHS),
    "lpips-alex": lambda: LPIPSHeads(AlexNet.WIDTHS),
}
LISTED = 4
ZIP = b"PK\x03\x04"
PICKLE = (b"\x80", b"(", b"c", b"}", b"]")  # how a pickle begins, from the newest protocol to the oldest
# What torch's restricted reader says of something that it would have to call or build: by name, or vaguely.
CODE = re.compile(r"GLOBAL (?P<name>[\w.]+)")
LIKE_CODE = re.compile(r"reduce|Can only|Unsupported operand|TorchScript")
NOT_WEIGHTS = ((b"<", "an HTML page (a login page or an error, saved in its place?)"),
               (b"version https://git-lfs", "a git-lfs pointer, not the file it points to"))  # fmt: skip


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
    wanted = [_entry(name) for name in names if name not in (paths or {})]
    return [entry for entry in wanted if cached_web(entry.web) is None]


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
    wanted = [_entry(name).name for name in names]
    for name, path in paths.items():
        _entry(name)
        _checked_path(path)
    networks: dict[str, MetricNetwork] = {}
    for name in sorted(wanted, key=lambda name: name not in paths):  # a wrong file is found before a long download
        read = read_network(name, paths.get(name), runtime)
        read.module.to(device)
        networks[name] = read
    return {name: networks[name] for name in wanted}


def read_network(
    name: str,
    path: Path | None = None,
    runtime: Runtime = DEFAULT,
) -> MetricNetwork:
    """One network on the CPU, from the published file or from `path`.

    A file at `path` (.pth as torchvision saves, or .safetensors, with the same tensor names) may hold
    any weights: its sha256 is recorded, not compared.

    Raises UsageError for an unknown name; BadInputError for a file that is missing, damaged or not this
    network's, with lists; UnsafeFileError for one that holds more than tensors, which is not run;
    CheckFailedError for a NaN or infinity; and what `download.web_files.fetch_web` raises.
    """
    entry = _entry(name)
    given = path is not None
    if path is None:
        path = fetch_web(entry.web, runtime)
    else:
        _checked_path(path)
    with torch.device("meta"):
        module = BUILDERS[name]()
    tensors = _checked(_tensors(path), module, entry, path)
    module.load_state_dict(tensors, assign=True)
    module.eval().requires_grad_(False)
    digest = sha256_file(path) if given else entry.sha256
    return MetricNetwork(name, module, digest, "published" if digest == entry.sha256 else "given")


def _entry(name: str) -> NetworkFile:
    entry = network_files().get(name)
    if entry is None:
        raise UsageError(f"no metric network is called {name!r}. Known: {', '.join(network_files())}.")
    return entry


def _checked_path(path: Path) -> None:
    """Raises BadInputError for what is no file with something in it."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BadInputError(f"{path}: can't be read: {error.strerror}. Check the path.") from error
    if not path.is_file() or not size:
        what = "an empty file" if path.is_file() else "no ordinary file"
        raise BadInputError(f"{path} is {what}. Name a file of weights, .pth or .safetensors.")


def _tensors(path: Path) -> Mapping[object, object]:
    """What the file holds by name, not yet checked; without running anything in it."""
    head = b""
    try:
        with path.open("rb") as file:
            head = file.read(64)
        what = next((what for magic, what in NOT_WEIGHTS if head.lstrip().startswith(magic)), None)
        if what is not None:
            raise BadInputError(f"{path} is {what}. Download the weights themselves.")
        held: object
        if path.suffix.lower() == ".safetensors":
            held = load_file(path)
        else:
            with warnings.catch_warnings():  # on files that are refused below anyway
                warnings.simplefilter("ignore")
                # Mapped, the 500 MB of VGG16 that no metric needs are never read.
                held = torch.load(path, map_location="cpu", weights_only=True, mmap=head.startswith(ZIP))
    except BadInputError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise _explained(error, path, head) from error
    if not isinstance(held, Mapping):
        raise BadInputError(f"{path} holds no table of tensors, but a {type(held).__name__}. Is it the right file?")
    return cast("Mapping[object, object]", held)


def _explained(error: Exception, path: Path, head: bytes) -> VaelensError:
    if is_out_of_memory(error):
        return ResourceError(f"{path}: not enough memory to read it. Close other programs, try again.")
    asked = CODE.search(str(error))
    if asked or (head.startswith((ZIP, *PICKLE)) and LIKE_CODE.search(str(error))):
        holds = f"asks for {asked['name']}, which" if asked else "is damaged, or holds more than tensors, which"
        return UnsafeFileError(f"{path} {holds} could run code; nothing in it was run. Use the published file.")
    # Not torch's own advice, which is to read the file without the restriction.
    reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0] or type(error).__name__
    return BadInputError(f"{path} is damaged or no file of weights ({reason}). Download it again.")


def _checked(
    held: Mapping[object, object], module: torch.nn.Module, entry: NetworkFile, path: Path
) -> dict[str, Tensor]:
    """The module's tensors in fp32, copied; exactly these, but for the ones it is known not to need."""
    unused = re.compile(cast(Module, module).UNUSED)
    expected = {n: tuple(t.shape) for n, t in module.state_dict().items() if not unused.fullmatch(n)}
    tensors = {n: t for n, t in held.items() if not (isinstance(n, str) and unused.fullmatch(n))}
    lacking = [n for n in expected if n not in tensors]
    unexpected = [str(n) for n in tensors if n not in expected]
    odd = [f"{n} {_shown(tensors[n])} instead of {list(s)}" for n, s in expected.items()
           if n in tensors and not _fits(tensors[n], s)]  # fmt: skip
    problems = [
        f"{len(names)} {label} ({', '.join(names[:LISTED])}{', ...' if len(names) > LISTED else ''})"
        for label, names in (("missing", lacking), ("unexpected", unexpected), ("misshapen", odd))
        if names
    ]
    if problems:
        raise BadInputError(
            f"{path}: its tensors aren't those of {entry.title}: {'; '.join(problems)}. The published file is "
            f"{entry.file}."
        )
    checked: dict[str, Tensor] = {}
    for name in expected:
        tensor = cast(Tensor, tensors[name]).detach().to(torch.float32, copy=True)
        bad = int(tensor.numel() - torch.isfinite(tensor).sum())
        if bad:
            raise CheckFailedError(
                f"{path}: {name} holds {bad} value{'s' * (bad > 1)} that {'are' if bad > 1 else 'is'} NaN or "
                "infinite. The file is damaged: download it again."
            )
        checked[name] = tensor
    return checked


def _fits(held: object, shape: tuple[int, ...]) -> bool:
    return (
        isinstance(held, Tensor)
        and tuple(held.shape) == shape
        and held.is_floating_point()
        and held.layout == torch.strided
        and held.device.type == "cpu"
    )


def _shown(held: object) -> str:
    if not isinstance(held, Tensor):
        return type(held).__name__
    kind = "" if held.is_floating_point() else f" of {str(held.dtype).removeprefix('torch.')}"
    return f"{list(held.shape)}{kind}"
