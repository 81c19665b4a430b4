"""The models and VAEs the page offers, fixed when the server starts. The browser sends only their ids."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from vaelens.adapters.models import ModelFiles, download, find_model
from vaelens.download.hub import RemoteFile, cached
from vaelens.errors import UsageError, VaelensError
from vaelens.json_reading import read_json
from vaelens.loading import open_vae
from vaelens.runtime import DEFAULT, Runtime
from vaelens.weights.registry import DiffusionModel, Entry, registry

_T = TypeVar("_T")
SCENE_EXAMPLES = (  # prompts in the small language of the embedded model
    "a smiling face with blue eyes and red hair on a yellow background",
    "a surprised face with green eyes and blond hair on blue",
    "the letter R in red on white",
)
EXAMPLES = (
    "a photo of an astronaut riding a horse on mars",
    "a close-up portrait of a woman, freckles, window light",
)


@dataclass(frozen=True)
class Model:
    """A model on offer. `source` is what `load` takes and never leaves this machine.

    `defaults` are its own values of options of sampling, by name, as the form shows them.
    """

    id: str
    name: str
    source: str
    space: str | None
    defaults: dict[str, Any]
    scenes: bool = False

    def as_json(self) -> dict[str, Any]:
        """For the browser."""
        known = registry().models.get(self.source.lower())
        return {
            "id": self.id,
            "name": self.name,
            "title": _title(known, self.name),
            "space": self.space,
            "defaults": self.defaults,
            "examples": SCENE_EXAMPLES if self.scenes else EXAMPLES,
        }


@dataclass(frozen=True)
class Decoder:
    """A VAE on offer; `own_of` is the id of the model it belongs to.

    The `preselected` ones are those that `compare` takes by default and those named at the start.
    """

    id: str
    name: str
    source: str
    space: str | None
    own_of: str | None = None
    preselected: bool = False

    def as_json(self) -> dict[str, Any]:
        """For the browser."""
        known = registry().vaes.get(self.source.lower())
        return {
            "id": self.id,
            "name": self.name,
            "title": _title(known, self.name),
            "space": self.space,
            "own_of": self.own_of,
            "preselected": self.preselected,
        }


@dataclass(frozen=True)
class Choices:
    """Models and VAEs by id, in the order to show."""

    models: dict[str, Model]
    vaes: dict[str, Decoder]

    def as_json(self) -> dict[str, Any]:
        """For the browser."""
        return {
            "models": [model.as_json() for model in self.models.values()],
            "vaes": [vae.as_json() for vae in self.vaes.values()],
        }

    def sources(self) -> dict[str, str]:
        """The name of each source: messages show it instead of a path of this machine."""
        return {one.source: one.name for one in (*self.models.values(), *self.vaes.values())}


def find(choices: dict[str, _T], name_or_id: str, what: str) -> _T:
    """The choice with that id. Raises UsageError if there is none."""
    if name_or_id not in choices:
        raise UsageError(f"this server offers no such {what}. Reload the page to see what it offers.")
    return choices[name_or_id]


def collect_choices(
    models: Sequence[str],
    vaes: Sequence[str],
    *,
    safety_checker: bool = True,
    space: str | None = None,
    runtime: Runtime = DEFAULT,
) -> Choices:
    """The models and VAEs named (downloaded now if need be), the embedded ones, and the known ones in the cache.

    Raises what finding, downloading and reading the named ones raise.
    """
    found: dict[str, Model] = {}
    decoders: dict[str, Decoder] = {}
    embedded = registry().embedded_model()
    for source in dict.fromkeys([*models, embedded]):
        if source.lower() == embedded:
            _add(found, _embedded(embedded))
            continue
        files = find_model(source, runtime, safety_checker=safety_checker)
        download(files, runtime)
        _add(found, _model(source, files))
        own = _own(files, found[_id("model", source)])
        if own is not None:
            _add(decoders, own)
    for source in vaes:
        vae = open_vae(source, runtime.on("cpu").using("float32"), space=space)
        _add(decoders, Decoder(_id("vae", source), vae.name, source, vae.spec.latent_space, preselected=True))
    for name in registry().models:
        if _id("model", name) not in found and (files := _cached_model(name, runtime, safety_checker)) is not None:
            _add(found, _model(name, files))
    for name, entry in registry().vaes.items():
        if _id("vae", name) not in decoders and (entry.embedded or _is_cached(name)):
            compared = name in registry().spaces[entry.space].default_vaes
            _add(decoders, Decoder(_id("vae", name), name, name, entry.space, preselected=compared))
    return Choices(found, decoders)


def _add(to: dict[str, Any], one: Model | Decoder) -> None:
    """Add a choice under a name of its own: two folders of the same name are two choices."""
    if one.id in to:
        return
    name, number, others = one.name, 2, {other.name for other in to.values()}
    while name in others:
        name, number = f"{one.name} ({number})", number + 1
    to[one.id] = replace(one, name=name)


def _title(known: Entry | DiffusionModel | None, name: str) -> str:
    """What the registry calls it, where that says more than the name."""
    return known.title if known and known.title.lower() != name.lower() else ""


def _id(kind: str, source: str) -> str:
    """The same id for the same source, so that an open page survives a restart; it reveals nothing of a path.

    Only the registry's names ignore case: two paths that differ in case are two files.
    """
    known = registry().models if kind == "model" else registry().vaes
    source = source.lower() if source.lower() in known else source
    return hashlib.sha256(f"{kind}:{source}".encode()).hexdigest()[:16]


def _embedded(name: str) -> Model:
    known = registry().find_model(name)
    defaults = _defaults(known.steps, known.guidance_scale, find_model(name).folder)
    return Model(_id("model", name), name, name, known.space, defaults, known.prompts == "scenes")


def _model(source: str, files: ModelFiles) -> Model:
    name = source.lower() if source.lower() in registry().models else files.name
    defaults = _defaults(files.pipeline.steps, files.pipeline.guidance_scale, files.folder)
    return Model(_id("model", source), name, source, files.space, defaults)


def _defaults(steps: int, guidance_scale: float, folder: Path) -> dict[str, Any]:
    side = _side(folder)
    return {"steps": steps, "guidance_scale": guidance_scale} | ({"size": f"{side}x{side}"} if side else {})


def _side(folder: Path) -> int | None:
    """The default side of a model's images in pixels, from its configs; None if they don't say.

    Without a VAE's config, one pixel of the latent is eight of the image, as in diffusers.
    """
    try:
        latent = int(_config(folder / "unet")["sample_size"])
        vae = folder / "vae"
        return latent * (2 ** (len(_config(vae)["block_out_channels"]) - 1) if vae.is_dir() else 8)
    except (OSError, VaelensError, ValueError, TypeError, KeyError):
        return None


def _config(folder: Path) -> dict[str, Any]:
    return read_json(folder / "config.json")


def _own(files: ModelFiles, model: Model) -> Decoder | None:
    """The VAE inside a model's own folder or file, if it has one."""
    brings = files.source == "file" or (files.folder / "vae" / "config.json").is_file()
    if files.source not in {"file", "folder"} or not brings:
        return None
    return Decoder(_id("own", model.source), f"{model.name}'s own", files.vae, model.space, own_of=model.id)


def _cached_model(name: str, runtime: Runtime, safety_checker: bool) -> ModelFiles | None:
    try:
        files = find_model(name, Runtime(dtype_name=runtime.dtype_name, offline=True), safety_checker=safety_checker)
    except VaelensError:
        return None
    return files if all(cached(file) for file in files.to_download) else None


def _is_cached(name: str) -> bool:
    entry = registry().find(name)
    files = [RemoteFile(entry.repo or "", f.name, entry.revision, f.size, f.sha256) for f in entry.files]
    return all(cached(file) is not None for file in files)
