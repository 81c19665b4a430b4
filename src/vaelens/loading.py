"""`load`: from a name, a path or a hub id to a VAE that runs."""

import os
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from vaelens.adapters.autoencoders import build_network
from vaelens.download.hub import HUB_ID, RemoteFile, fetch, is_inner
from vaelens.download.hub_addresses import HubAddress, is_address, parse_hub_address
from vaelens.errors import BadInputError, UsageError
from vaelens.families.spec import spec_values
from vaelens.files import StrPath, sha256_file
from vaelens.json_reading import quoted, read_json
from vaelens.runtime import DEFAULT, Notify, Runtime
from vaelens.tensors.file_types import PICKLED
from vaelens.text.paths import user_path
from vaelens.vae import VAE, check_rgb
from vaelens.weights.config_json import space_of_config
from vaelens.weights.hub_sources import fetch_config, fetch_weights, hub_vae_name
from vaelens.weights.names import shown_name
from vaelens.weights.reading import VAEWeights, read_vae
from vaelens.weights.recorded_contents import record_first_reading
from vaelens.weights.registry import Entry, embedded_paths, registry


def load(
    source: StrPath,
    *,
    device: str = "auto",
    dtype: str = "float32",
    space: str | None = None,
    subfolder: str | None = None,
    offline: bool = False,
    max_memory: int | str | None = None,
    notify: Notify | None = None,
) -> VAE:
    """The VAE that `source` names: a name of the registry, a file or folder, a hub id `owner/name`, or a hub's address.

    An existing path wins over a name. A folder is a VAE's or a whole pipeline's; `subfolder` is the one in it, or in
    the hub's repository, that holds the VAE where that isn't vae/. `device` is auto, cpu, cuda, cuda:N or mps; `dtype`
    is float32, float16 or bfloat16, the precision it runs in. `space` is the latent space of a file that doesn't say
    it. `offline` uses only what is on this machine; `max_memory` ("2GB") is the budget of calls that name none, where
    the engine runs the VAE; `notify` is called with a sentence before a download. Raises UsageError for an unknown
    name, device or dtype, and what reading and downloading raise.
    """
    runtime = Runtime.of(device=device, dtype=dtype, offline=offline, max_memory=max_memory, notify=notify)
    return _vae(*read(source, runtime, space=space, subfolder=subfolder), runtime)


def open_vae(source: StrPath, runtime: Runtime, *, space: str | None = None) -> VAE:
    """As `load`, on the runtime's device and in its precision, to encode and decode.

    Raises UsageError for a VAE of images that aren't RGB, which `load` returns.
    """
    weights, name = read(source, runtime, space=space)
    check_rgb(weights.spec, name)
    return _vae(weights, name, runtime)


def vae_of(source: StrPath | VAE, runtime: Runtime, *, space: str | None = None) -> VAE:
    """An open VAE, held to the runtime's budget where it has one; any other source as `open_vae` opens it.

    The network of an open VAE is shared, but what is settled and recorded of its calls stays with the one given here.
    """
    if not isinstance(source, VAE):
        return open_vae(source, runtime, space=space)
    return _within_budget(source.within(runtime.max_memory), runtime)


def _within_budget(vae: VAE, runtime: Runtime) -> VAE:
    if runtime.max_memory is not None and (why := vae.engine.why_plain):
        runtime.notify(f"Note: {vae.name} runs whole, whatever --max-memory says, because {why}.")
    return vae


def _vae(weights: VAEWeights, name: str, runtime: Runtime) -> VAE:
    vae = VAE.from_tensors(
        weights.tensors,
        weights.spec,
        name,
        device=runtime.device,
        dtype=runtime.dtype,
        fingerprint=weights.fingerprint,
        max_memory=runtime.max_memory,
        notify=runtime.notify,
        build=build_network,
    )
    return _within_budget(vae, runtime)


def read(
    source: StrPath, runtime: Runtime = DEFAULT, *, space: str | None = None, subfolder: str | None = None
) -> tuple[VAEWeights, str]:
    """The checked weights that `source` names, and the name to show for them; see `load`."""
    text = check_source(source, subfolder)
    path = _local(text)
    if space is not None:
        registry().check_space(space)
    if path is not None:
        path = path / (subfolder or "")
        weights = _noted(read_vae(path, space=space, build=build_network), runtime)
        if weights.known_as is not None:
            record_first_reading(weights.known_as, weights)
        return weights, weights.known_as or shown_name(path)
    if text.lower() in registry().vaes:
        name = text.lower()
        entry = registry().vaes[name]
        files = _files(entry, runtime)
        weights = read_vae(files[0], name=name, other_files=files[1:], build=build_network)
        if entry.files and entry.files[0].sha256 is not None:
            record_first_reading(name, weights, entry.files[0].sha256)
        return weights, name
    address = _address(text, subfolder)
    weights = _noted(read_vae(fetch_weights(address, runtime), space=space, build=build_network), runtime)
    return weights, hub_vae_name(address)


def _noted(weights: VAEWeights, runtime: Runtime) -> VAEWeights:
    """The weights; a notice says what a pickled file held beside them."""
    if weights.not_tensors:
        shown = ", ".join(weights.not_tensors[:4]) + (", ..." if len(weights.not_tensors) > 4 else "")
        runtime.notify(f"Note: {weights.files[0]} is pickled; nothing in it was run. Dropped: {shown}.")
    return weights


def check_source(source: StrPath, subfolder: str | None = None) -> str:
    """The source as text, if it is a path that exists, a known name, or may be on the hub; asks no network.

    Raises UsageError for an unknown name, with the nearest known ones, and for a subfolder of what has none;
    BadInputError for a missing file.
    """
    text = os.fspath(source)
    if not text:
        raise UsageError("the name of the VAE is empty. Name one of `vaelens list`, a file, folder, hub id or address.")
    if subfolder and not is_inner(subfolder):
        raise UsageError(
            f"{text}: {quoted(subfolder)} can't be a folder in it: name its path from there, without any '..'."
        )
    path = _local(text)
    if path is not None:
        if subfolder and not (path / subfolder).is_dir():
            raise BadInputError(f"{path}: there is no folder {subfolder} in it. Check the path.")
        return text
    if text.lower() in registry().vaes:
        if subfolder:
            raise UsageError(f"{text} is a VAE that vaelens knows, without folders. Leave out the subfolder.")
        return text
    if is_address(text):
        parse_hub_address(text)
        return text
    path = Path(text)
    weights = path.suffix.lower() in {".safetensors", *PICKLED}
    if HUB_ID.fullmatch(text) and not weights:
        return text
    if weights or len(path.parts) > 1:
        raise BadInputError(f"{_shown(text)}: there is no such file or folder. Check the path.")
    registry().find(text)
    return text


def space_of(source: StrPath, runtime: Runtime = DEFAULT, *, space: str | None = None) -> str | None:
    """The latent space of the VAE that `source` names, None for one of its own.

    Of a VAE on the hub only config.json is fetched, where it has one. Raises what `read` raises.
    """
    text = check_source(source)
    if (path := _local(text)) is not None:
        return read(path, space=space)[0].spec.latent_space
    if text.lower() in registry().vaes:
        return registry().vaes[text.lower()].space
    config, _ = fetch_config(_address(text, None), runtime)
    if config is None:
        return read(text, runtime, space=space)[0].spec.latent_space
    found = space_of_config(read_json(config), text)
    if space is not None:
        registry().check_space(space)
    return found or space


def _local(text: str) -> Path | None:
    """The file or folder of that path, if there is one. Raises as `user_path` does."""
    if "://" in text:
        return None
    path = user_path(text)
    return path if path.exists() else None


def _address(text: str, subfolder: str | None) -> HubAddress:
    address = parse_hub_address(text)
    if not subfolder:
        return address
    return replace(address, path=str(PurePosixPath(address.path, subfolder)))


def is_published(source: StrPath) -> bool:
    """Whether the source is a VAE of the registry: by name, or a file that is, byte for byte, one of its files."""
    path = user_path(source)
    if path.is_file():
        return registry().by_sha256(sha256_file(path)) is not None
    return not path.exists() and os.fspath(source).lower() in registry().vaes


def _shown(text: str) -> str:
    """A name in a message, quoted where its ends can't be seen."""
    return text if text == text.strip() else repr(text)


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


def describe(
    source: StrPath, runtime: Runtime = DEFAULT, *, space: str | None = None, subfolder: str | None = None
) -> dict[str, Any]:
    """A VAE for display and records: its file, each field of its spec and where it comes from, its fingerprints."""
    weights, name = read(source, runtime, space=space, subfolder=subfolder)
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
            "dropped": ", ".join((*weights.dropped, *weights.not_tensors)) or "nothing",
            "not weights": ", ".join(weights.not_weights) or "none",
        },
        "spec": {
            f: {"value": v, "source": weights.source_of.get(f, "nothing" if v is None else "the default of the family")}
            for f, v in fields.items()
        },
        "other_fields": {f: {"value": v, "source": weights.source_of_other[f]} for f, v in other.items()},
        "metadata": weights.metadata,
        "fingerprint": weights.fingerprint.as_dict(),
    }
