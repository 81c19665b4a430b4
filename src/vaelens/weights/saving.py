"""A VAE as files: the weights with their complete spec in the metadata, and in a folder diffusers' config.json."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vaelens.errors import UsageError
from vaelens.families.layouts import Layout
from vaelens.families.spec import VAESpec
from vaelens.tensors.file_types import PICKLED
from vaelens.tensors.writing import safetensors_bytes
from vaelens.weights.folders import SAFE, WEIGHT_NAMES
from vaelens.weights.spec_sources import SPEC_KEY, metadata_text

FORMAT = "format"  # of the metadata, by which other programs see whose tensors these are
OURS = frozenset({SPEC_KEY, FORMAT})
# Metadata that other programs compute from a file's bytes: of another file they would be wrong.
HASHES = frozenset({"modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash"})


def is_single_file(path: Path) -> bool:
    """Whether a VAE saved at this path is one file, by its name; else it is a folder for diffusers."""
    return path.suffix.lower() == SAFE


def vae_paths(path: Path) -> tuple[Path, ...]:
    """The files of a VAE saved at this path, the weights first."""
    return (path,) if is_single_file(path) else (path / WEIGHT_NAMES[0], path / "config.json")


def check_target(path: Path, layout: str, spec: VAESpec, name: str) -> Layout:
    """The layout of that name, if a VAE can be saved in it at this path.

    Raises UsageError where path, layout and family don't fit, and for the name of a pickled file.
    """
    layouts = {one.name: one for one in spec.family.layouts if one.from_diffusers}
    if layout not in layouts:
        raise UsageError(
            f"{name} is {spec.family.title}, saved in the layout {' or '.join(layouts)}, not {layout}. Choose another."
        )
    if path.suffix.lower() in PICKLED:
        raise UsageError(f"{path}: vaelens writes no pickled files. End the name in .safetensors.")
    if not is_single_file(path):
        if layout != "diffusers":
            raise UsageError(f"{path}: the layout {layout} is a single file; end its name in .safetensors.")
        spec.family.to_config_json(spec)
    return layouts[layout]


def vae_files(
    tensors: Mapping[str, Tensor],
    spec: VAESpec,
    path: Path,
    *,
    layout: str,
    name: str,
    metadata: Mapping[str, str] | None = None,
) -> dict[Path, bytes]:
    """What lies where for a VAE at `path`: the weights first, which are one file under a name in .safetensors.

    tensors: on any device under their diffusers names, in the dtype in which they are saved
    metadata: strings of one's own, beside the spec
    Raises as `check_target` does, and UsageError for metadata under the names of ours.
    """
    found = check_target(path, layout, spec, name)
    assert found.from_diffusers is not None
    if metadata and OURS & set(metadata):
        raise UsageError(f"notes can't be called {SPEC_KEY!r} or {FORMAT!r}: the file's own metadata are.")
    here = {n: t.detach().cpu() for n, t in tensors.items()}
    here = {n: t.contiguous() for n, t in found.from_diffusers(here).items()}
    held = {FORMAT: "pt", SPEC_KEY: metadata_text(spec), **(metadata or {})}
    weights = safetensors_bytes(here, held)
    if is_single_file(path):
        return {path: weights}
    config = json.dumps(spec.family.to_config_json(spec), indent=2, sort_keys=True).encode()
    return dict(zip(vae_paths(path), (weights, config), strict=True))
