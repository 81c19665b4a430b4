"""`load`: from a name, a path or a hub id to a VAE that runs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vaelens.adapters.autoencoders import build_network
from vaelens.download.hub import HUB_ID, RemoteFile, fetch, try_fetch
from vaelens.errors import BadInputError, UsageError
from vaelens.families.spec import spec_values
from vaelens.files import StrPath, sha256_file
from vaelens.json_reading import read_json
from vaelens.runtime import DEFAULT, Notify, Runtime
from vaelens.tensors.file_types import PICKLED
from vaelens.text.paths import user_path
from vaelens.vae import VAE
from vaelens.weights.config_json import space_of_config
from vaelens.weights.reading import WEIGHT_NAMES, VAEWeights, read_vae
from vaelens.weights.registry import Entry, embedded_paths, registry


def load(
    source: StrPath,
    *,
    device: str = "auto",
    dtype: str = "float32",
    space: str | None = None,
    offline: bool = False,
    notify: Notify | None = None,
) -> VAE:
    """The VAE that `source` names: a name of the registry, a file or folder, or a hub id `owner/name`.

    An existing path wins over a name. `device` is auto, cpu, cuda, cuda:N or mps; `dtype` is float32, float16 or
    bfloat16, the precision it runs in. `space` is the latent space of a file that doesn't say it. `offline` uses only
    what is on this machine; `notify` is called with a sentence before a download. Raises UsageError for an unknown
    name, device or dtype, and what reading and downloading raise.
    """
    return open_vae(source, Runtime.of(device=device, dtype=dtype, offline=offline, notify=notify), space=space)


def open_vae(source: StrPath, runtime: Runtime, *, space: str | None = None) -> VAE:
    """As `load`, on the runtime's device and in its precision."""
    weights, name = read(source, runtime, space=space)
    return VAE.from_tensors(
        weights.tensors,
        weights.spec,
        name,
        device=runtime.device,
        dtype=runtime.dtype,
        fingerprint=weights.fingerprint,
        build=build_network,
    )


def read(source: StrPath, runtime: Runtime = DEFAULT, *, space: str | None = None) -> tuple[VAEWeights, str]:
    """The checked weights that `source` names, and the name to show for them; see `load`."""
    text = check_source(source)
    path = user_path(text)
    if space is not None:
        registry().check_space(space)
    if path.exists():
        weights = read_vae(path, space=space, build=build_network)
        return weights, weights.known_as or path.stem
    if text.lower() in registry().vaes:
        name = text.lower()
        files = _files(registry().vaes[name], runtime)
        return read_vae(files[0], name=name, other_files=files[1:], build=build_network), name
    return read_vae(_hub_folder(text, runtime), space=space, build=build_network), text


def check_source(source: StrPath) -> str:
    """The source as text, if it is a path that exists, a known name, or may be a hub id; asks no network.

    Raises UsageError for an unknown name, with the nearest known ones; BadInputError for a missing file.
    """
    text = os.fspath(source)
    if not text:
        raise UsageError("an empty name is no VAE. Name one of `vaelens list`, a file, a folder or a hub id.")
    path = user_path(text)
    weights = path.suffix.lower() in {".safetensors", *PICKLED}
    if path.exists() or text.lower() in registry().vaes or (HUB_ID.fullmatch(text) and not weights):
        return text
    if weights or len(path.parts) > 1:
        raise BadInputError(f"{text}: there is no such file or folder. Check the path.")
    registry().find(text)
    return text


def space_of(source: StrPath, runtime: Runtime = DEFAULT, *, space: str | None = None) -> str | None:
    """The latent space of the VAE that `source` names, None for one of its own.

    Of a VAE on the hub only config.json is fetched. Raises what `read` raises.
    """
    text = check_source(source)
    path = user_path(text)
    if not path.exists() and text.lower() in registry().vaes:
        return registry().vaes[text.lower()].space
    if path.exists():
        return read(path, space=space)[0].spec.latent_space
    config, _ = _hub_config(text, runtime)
    found = space_of_config(read_json(config), text)
    if space is not None:
        registry().check_space(space)
    return found or space


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names, numbered where two are the same: a, a (2)."""
    distinct: list[str] = []
    for name in names:
        candidate, number = name, 2
        while candidate in distinct:
            candidate, number = f"{name} ({number})", number + 1
        distinct.append(candidate)
    return distinct


def is_published(source: StrPath) -> bool:
    """Whether the source is a VAE of the registry: by name, or a file that is, byte for byte, one of its files."""
    path = user_path(source)
    if path.is_file():
        return registry().by_sha256(sha256_file(path)) is not None
    return not path.exists() and os.fspath(source).lower() in registry().vaes


def remote_files(entry: Entry) -> list[RemoteFile]:
    """What is downloaded for an entry of the registry; nothing for an embedded one."""
    if entry.repo is None:
        return []
    return [RemoteFile(entry.repo, f.name, entry.revision, f.size, f.sha256) for f in entry.files]


def _files(entry: Entry, runtime: Runtime) -> list[Path]:
    """An entry's files on this machine, downloaded if they aren't there."""
    if entry.embedded:
        return embedded_paths(entry)
    return [fetch(file, runtime) for file in remote_files(entry)]


def _hub_folder(repo: str, runtime: Runtime) -> Path:
    """A hub repository's VAE as a folder: at its root, or in vae/ for a whole pipeline."""
    config, folder = _hub_config(repo, runtime)
    for name in WEIGHT_NAMES:
        weights = try_fetch(RemoteFile(repo, f"{folder}{name}"), runtime)
        if weights is not None:
            if weights.parent != config.parent:  # the branch moved on in between: both from its new commit
                fetch(RemoteFile(repo, f"{folder}config.json"), runtime)
            return weights.parent
    raise BadInputError(f"{repo} on the hub has a VAE's config, but no {folder}{WEIGHT_NAMES[0]}; nothing to load.")


def _hub_config(repo: str, runtime: Runtime) -> tuple[Path, str]:
    """A hub repository's config.json that describes a VAE, and the folder that it lies in, "" or "vae/"."""
    for folder in ("", "vae/"):
        config = try_fetch(RemoteFile(repo, f"{folder}config.json"), runtime)
        if config is not None and _describes_vae(config):
            return config, folder
    raise BadInputError(f"{repo} on the hub holds no VAE (no config.json of one, at its root or in vae/).")


def _describes_vae(config: Path) -> bool:
    try:
        return str(read_json(config).get("_class_name")).startswith("Autoencoder")
    except BadInputError:
        return False


def describe(source: StrPath, runtime: Runtime = DEFAULT, *, space: str | None = None) -> dict[str, Any]:
    """A VAE for display and records: its file, each field of its spec and where it comes from, its fingerprints."""
    weights, name = read(source, runtime, space=space)
    spec, other = spec_values(weights.spec), weights.spec.other_fields
    fields = {**spec.pop("config"), **spec}
    return {
        "file": {
            "name": name,
            "files": ", ".join(map(str, weights.files)),
            "bytes": sum(file.stat().st_size for file in weights.files),
            "layout": weights.layout + (f", under {weights.prefix}" if weights.prefix else ""),
            "network": type(weights.spec.config).__name__.removesuffix("Config"),
            "family": weights.spec.family.name,
            "parameters": sum(t.numel() for t in weights.tensors.values()),
            "tensors": len(weights.tensors),
            "stored as": ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in weights.tensors.values()})),
            "dropped": ", ".join(weights.dropped) or "nothing",
        },
        "spec": {
            f: {"value": v, "source": weights.source_of.get(f, "nothing" if v is None else "the default of the family")}
            for f, v in fields.items()
        },
        "other_fields": {f: {"value": v, "source": weights.source_of_other[f]} for f, v in other.items()},
        "metadata": weights.metadata,
        "fingerprint": weights.fingerprint.as_dict(),
    }
