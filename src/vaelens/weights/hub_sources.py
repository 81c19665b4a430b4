"""A VAE on the hub: which of a repository's files are its config and its weights, downloaded."""

from dataclasses import replace
from pathlib import Path, PurePosixPath

from vaelens.download.hub import RemoteFile, endpoint, fetch, try_fetch
from vaelens.download.hub_addresses import HubAddress
from vaelens.download.hub_listing import list_files
from vaelens.errors import BadInputError
from vaelens.runtime import Runtime
from vaelens.tensors.sharded import is_index, shard_names
from vaelens.weights.folders import PICKLED_NAMES, SAFE, STEM, WEIGHT_NAMES, describes_vae, is_pickled

PAGES = {".json", ".md", ".txt"}  # suffixes of files whose pages stand for their folders


def fetch_weights(address: HubAddress, runtime: Runtime) -> Path:
    """The weights that an address names, or those of the VAE in its folder, at its top or in vae/; with config.json.

    A pickled file is taken only where there is no other, or where it is named. Raises BadInputError where there are
    none, and what downloading raises.
    """
    if _is_weights(address.path):
        return _fetch_file(address, runtime)
    config, folder = fetch_config(address, runtime)
    if config is None:
        return _fetch_file(_only_file(address, runtime), runtime)
    for name in (*WEIGHT_NAMES, *PICKLED_NAMES):
        weights = try_fetch(RemoteFile(address.repo, f"{folder}{name}", address.revision), runtime)
        if weights is not None:
            return _whole(replace(address, path=f"{folder}{name}"), weights, runtime)
    raise BadInputError(
        f"{address.name} on the hub has a VAE's config, but none of {', '.join(WEIGHT_NAMES)} in "
        f"{folder or 'its top folder'}. Name the page of a file of weights, if there is one."
    )


def fetch_config(address: HubAddress, runtime: Runtime) -> tuple[Path | None, str]:
    """The config.json that describes a VAE, and its folder, "" or "vae/" or the address's own; None without one."""
    for folder in _folders(address):
        config = try_fetch(RemoteFile(address.repo, f"{folder}config.json", address.revision), runtime)
        if config is not None and describes_vae(config):
            return config, folder
    return None, ""


def hub_vae_name(address: HubAddress) -> str:
    """What an address's VAE is called: the repository, and of another place than the usual ones that place."""
    path = PurePosixPath(address.path)
    if _is_weights(address.path):
        whole = path.name if is_index(path.name) else path.stem
        path = path.parent if path.name.startswith(STEM) else path.with_name(whole)
    else:
        path = _folder(path)
    return address.name if str(path) in {".", "vae"} else f"{address.name}/{path}"


def _is_weights(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() == SAFE or is_pickled(path) or is_index(path)


def _folders(address: HubAddress) -> tuple[str, ...]:
    path = _folder(PurePosixPath(address.path))
    return ("", "vae/") if str(path) == "." else (f"{path}/", f"{path}/vae/")


def _folder(path: PurePosixPath) -> PurePosixPath:
    return path.parent if path.suffix in PAGES else path


def _fetch_file(address: HubAddress, runtime: Runtime) -> Path:
    weights = fetch(RemoteFile(address.repo, address.path, address.revision), runtime)
    return _whole(address, weights, runtime)


def _whole(address: HubAddress, weights: Path, runtime: Runtime) -> Path:
    """The weights, with what belongs to them: config.json beside diffusers' names, an index's shards.

    The branch may have moved on in between: all are taken from one commit.
    """
    path = PurePosixPath(address.path)
    beside = shard_names(weights) if is_index(path.name) else []
    for name in [*beside, *(["config.json"] if path.name.startswith(STEM) else [])]:
        fetched = try_fetch(RemoteFile(address.repo, str(path.with_name(name)), address.revision), runtime)
        if fetched is not None and fetched.parent != weights.parent:
            return _fetch_file(address, runtime)
    return weights


def _only_file(address: HubAddress, runtime: Runtime) -> HubAddress:
    """The one file of weights in a folder that has no config.json of a VAE, a .safetensors file if there is one.

    Raises BadInputError for several or none.
    """
    folders = {str(PurePosixPath(folder)) for folder in _folders(address)}
    files = list_files(address.repo, revision=address.revision, runtime=runtime).files
    here = [file.filename for file in files if str(PurePosixPath(file.filename).parent) in folders]
    found = [name for name in here if name.endswith(SAFE)] or [name for name in here if is_pickled(name)]
    if len(found) == 1:
        return replace(address, path=found[0])
    page = f"{endpoint()}/{address.repo}/blob/{address.revision}"
    raise BadInputError(
        f"{address.name} on the hub holds no VAE in diffusers' layout (no config.json of one, at its root or in vae/). "
        + (f"Name one of its files by its page, e.g. {page}/{found[0]}" if found else "Name another repository.")
    )
