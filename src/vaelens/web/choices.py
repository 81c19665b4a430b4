"""What may be ticked: settled when the server starts, by the person who starts it. The browser names ids of it only."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from vaelens.adapters.models import ModelFiles, download, find_model
from vaelens.download.hub import RemoteFile, cached
from vaelens.errors import UsageError, VaelensError
from vaelens.loading import open_vae
from vaelens.runtime import DEFAULT, Runtime
from vaelens.sampling import SCHEDULERS, options
from vaelens.weights.registry import registry

_Choice = TypeVar("_Choice")
SCENES = (  # of the small language that the embedded model knows
    "a smiling face with blue eyes and red hair on a yellow background",
    "a surprised face with green eyes and blond hair on blue",
    "the letter R in red on white",
)
ANY_SCENES = (
    "a photo of an astronaut riding a horse on mars",
    "a close-up portrait of a woman, freckles, window light",
)


@dataclass(frozen=True)
class Model:
    """A model to choose; `source` is what opens it, and stays on this machine."""

    id: str
    name: str
    source: str
    space: str | None
    steps: int
    guidance: float
    side: int | None = None  # of the images that it makes where no size is asked for, if that is known
    scenes: bool = False

    def shown(self) -> dict[str, Any]:
        """For the browser."""
        known = registry().models.get(self.source.lower())
        return {
            "id": self.id,
            "name": self.name,
            "title": known.title if known else self.name,
            "space": self.space,
            "steps": self.steps,
            "guidance": self.guidance,
            "side": self.side,
            "examples": SCENES if self.scenes else ANY_SCENES,
            "any_prompt": not self.scenes,
        }


@dataclass(frozen=True)
class Decoder:
    """A VAE to tick; `own_of` is the id of the model that it came with.

    `usual` ones are ticked at first: those that `compare` would take, and those that were named at the start.
    """

    id: str
    name: str
    source: str
    space: str | None
    own_of: str | None = None
    usual: bool = False

    def shown(self) -> dict[str, Any]:
        """For the browser."""
        known = registry().vaes.get(self.source.lower())
        return {
            "id": self.id,
            "name": self.name,
            "title": known.title if known else self.name,
            "space": self.space,
            "own_of": self.own_of,
            "usual": self.usual,
        }


@dataclass(frozen=True)
class Choices:
    """Models and VAEs by id, in the order in which they are shown."""

    models: dict[str, Model]
    vaes: dict[str, Decoder]

    def shown(self) -> dict[str, Any]:
        """For the browser."""
        return {
            "models": [model.shown() for model in self.models.values()],
            "vaes": [vae.shown() for vae in self.vaes.values()],
            "schedulers": list(SCHEDULERS),
            "most_steps": options()["steps"].maximum,
            "largest": options()["size"].maximum,
        }

    def sources(self) -> dict[str, str]:
        """What opens each, and what it is called: no path of this machine leaves it."""
        return {one.source: one.name for one in (*self.models.values(), *self.vaes.values())}


def settle(
    models: Sequence[str],
    vaes: Sequence[str],
    *,
    guard: bool = True,
    space: str | None = None,
    runtime: Runtime = DEFAULT,
) -> Choices:
    """The models and VAEs named, downloaded now if need be; what ships with vaelens; and what is in the cache already.

    Raises what finding, downloading and reading those named raise.
    """
    found: dict[str, Model] = {}
    decoders: dict[str, Decoder] = {}
    embedded = registry().embedded_model()
    for source in dict.fromkeys([*models, embedded]):
        if source.lower() == embedded:
            _add(found, _embedded(embedded))
            continue
        files = find_model(source, runtime, safety_checker=guard)
        download(files, runtime)
        _add(found, _model(source, files))
        own = _own(files, found[_id("model", source)])
        if own is not None:
            _add(decoders, own)
    for source in vaes:
        vae = open_vae(source, runtime.on("cpu").using("float32"), space=space)
        _add(decoders, Decoder(_id("vae", source), vae.name, source, vae.spec.latent_space, usual=True))
    for name in registry().models:
        if _id("model", name) not in found and (files := _cached_model(name, runtime, guard)) is not None:
            _add(found, _model(name, files))
    for name, entry in registry().vaes.items():
        if _id("vae", name) not in decoders and (entry.embedded or _is_cached(name)):
            _add(decoders, Decoder(_id("vae", name), name, name, entry.space, usual=_is_usual(name)))
    return Choices(found, decoders)


def _add(to: dict[str, Any], one: Model | Decoder) -> None:
    """Under a name of its own: two folders of one name are two choices."""
    if one.id not in to:
        to[one.id] = replace(one, name=_distinct(one.name, {other.name for other in to.values()}))


def _id(kind: str, source: str) -> str:
    """The same for the same source, so that a page that is open outlives a restart; it tells nothing of a path.

    Only the registry's names may be spelt in either case: two paths that differ in case are two files.
    """
    known = registry().models if kind == "model" else registry().vaes
    source = source.lower() if source.lower() in known else source
    return hashlib.sha256(f"{kind}:{source}".encode()).hexdigest()[:16]


def _distinct(name: str, others: set[str]) -> str:
    candidate, number = name, 2
    while candidate in others:
        candidate, number = f"{name} ({number})", number + 1
    return candidate


def _embedded(name: str) -> Model:
    known, side = registry().find_model(name), _side(find_model(name).folder)
    scenes = known.prompts == "scenes"
    return Model(_id("model", name), name, name, known.space, known.steps, known.guidance, side, scenes)


def _model(source: str, files: ModelFiles) -> Model:
    known = registry().models.get(source.lower())
    name = source.lower() if known else files.name
    own = files.pipeline
    return Model(_id("model", source), name, source, files.space, own.steps, own.guidance_scale, _side(files.folder))


def _side(folder: Path) -> int | None:
    """Of a model's images in pixels, from its small files; None where they don't say.

    A latent's pixel is eight of the image's where there is no VAE's config, as in diffusers.
    """
    try:
        latent = int(_config(folder / "unet")["sample_size"])
        vae = folder / "vae"
        return latent * (2 ** (len(_config(vae)["block_out_channels"]) - 1) if vae.is_dir() else 8)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _config(folder: Path) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((folder / "config.json").read_bytes()))


def _own(files: ModelFiles, model: Model) -> Decoder | None:
    """The VAE that a model brings along in its own folder or file."""
    brings = files.source == "file" or (files.folder / "vae" / "config.json").is_file()
    if files.source not in {"file", "folder"} or not brings:
        return None
    return Decoder(_id("own", model.source), f"{model.name}'s own", files.vae, model.space, own_of=model.id)


def _cached_model(name: str, runtime: Runtime, guard: bool) -> ModelFiles | None:
    try:
        files = find_model(name, Runtime(dtype_name=runtime.dtype_name, offline=True), safety_checker=guard)
    except VaelensError:
        return None
    return files if all(cached(file) for file in files.to_download) else None


def _is_cached(name: str) -> bool:
    entry = registry().find(name)
    files = [RemoteFile(entry.repo or "", f.name, entry.revision, f.size, f.sha256) for f in entry.files]
    return all(cached(file) is not None for file in files)


def _is_usual(name: str) -> bool:
    return name in registry().spaces[registry().find(name).space].default_vaes


def find(known: dict[str, _Choice], wanted: str, what: str) -> _Choice:
    """Raises UsageError for an id that isn't on offer."""
    if wanted not in known:
        raise UsageError(f"this server offers no such {what}. Reload the page to see what there is.")
    return known[wanted]
