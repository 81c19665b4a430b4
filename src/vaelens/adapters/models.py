"""Which diffusion model serves: found, understood from its small files, and its weights brought here.

A model is the embedded one, a folder in the layout of diffusers, a hub id, or a single-file checkpoint. Its latent
space is known before any weights are downloaded, so that a VAE of another space is refused first.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

from vaelens.adapters.variants import SMALL, needed, variant_of
from vaelens.download.hub import HUB_ID, RemoteFile, fetch
from vaelens.download.hub_listing import list_files
from vaelens.errors import BadInputError, UnsafeFileError, UsageError
from vaelens.runtime import DEFAULT, Runtime
from vaelens.weights.config_json import space_of_config
from vaelens.weights.reading import space_of_checkpoint
from vaelens.weights.registry import embedded_model_path, registry
from vaelens.weights.safetensors_file import PICKLED, open_tensor_file

INDEX = "model_index.json"
LATENT_SPACE = "_vaelens_latent_space"  # in model_index.json, for a model that comes without a VAE
GUARD = ("safety_checker", "feature_extractor")
LIBRARIES = {  # where an index looks for its parts, and the modules that are meant
    "diffusers": "diffusers",
    "transformers": "transformers",
    "stable_diffusion": "diffusers.pipelines.stable_diffusion",
}


@dataclass(frozen=True)
class Kind:
    """A pipeline of diffusers that is asked for latents, and what it does where nothing is said (its own defaults).

    `guarded` tells that it may have a safety checker, `parts` are those that it can't do without.
    """

    pipeline: str
    steps: int
    guidance: float
    guarded: bool = False
    parts: tuple[str, ...] = ("unet", "scheduler", "text_encoder", "tokenizer")


KINDS = {
    "StableDiffusionPipeline": Kind("StableDiffusionPipeline", 50, 7.5, guarded=True),
    "StableDiffusionXLPipeline": Kind(
        "StableDiffusionXLPipeline",
        50,
        5.0,
        parts=("unet", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"),
    ),
}


@dataclass(frozen=True)
class ModelFiles:
    """A model as it was found; `space` is its latent space (None: its own), `vae` what to load for its own VAE.

    `folder` holds what is on this machine: the whole model, or of a hub's model its small files so far; for a
    checkpoint (`file`) the configs of its kind. `components` are the parts of the pipeline, each with the library and
    class that make it, `lacking` what is still to be downloaded.
    """

    name: str
    source: Literal["embedded", "folder", "hub", "file"]
    kind: Kind
    space: str | None
    vae: str
    folder: Path
    components: Mapping[str, tuple[str, str]]
    file: Path | None = None
    variant: str | None = None
    commit: str | None = None
    lacking: tuple[RemoteFile, ...] = ()

    @property
    def has_guard(self) -> bool:
        """Whether it comes with a safety checker."""
        return "safety_checker" in self.components

    @property
    def size(self) -> int:
        """Bytes that are still to be downloaded, as far as they are known."""
        return sum(file.size or 0 for file in self.lacking)


def find_model(source: str, *, half: bool = False, guard: bool = True, runtime: Runtime = DEFAULT) -> ModelFiles:
    """The model that `source` names; of a hub's model only small files are fetched.

    `half` prefers weights that are stored in fp16, `guard` wants the safety checker. Raises UsageError for an unknown
    name or a pipeline that isn't Stable Diffusion 1.x, 2.x or XL; UnsafeFileError where there are only pickled weights;
    BadInputError for files that aren't a model; and what downloading raises.
    """
    text = check_model(source)
    path = Path(text).expanduser()
    if path.is_dir():
        return _from_folder(path, path.name, half, guard, "folder")
    if path.is_file():
        return _from_checkpoint(path, runtime)
    known = registry().models.get(text.lower())
    if known is not None and known.embedded:
        found = _from_folder(embedded_model_path(known), text.lower(), half, guard, "embedded")
        kind = dataclasses.replace(found.kind, steps=known.steps, guidance=known.guidance)
        return dataclasses.replace(found, kind=kind, space=known.space, vae=known.vae)
    return _from_hub(known.repo if known and known.repo else text, half, guard, runtime)


def check_model(source: str) -> str:
    """The source, if it is a path that exists, a known name, or may be a hub id; asks no network.

    Raises UsageError for an unknown name, BadInputError for a file or folder that isn't there.
    """
    if not source:
        raise UsageError(f"an empty name is no model. Name {registry().model_names()}, a folder, a file or a hub id.")
    path = Path(source).expanduser()
    if path.suffix.lower() in PICKLED and path.exists():
        raise UnsafeFileError(
            f"{source} is pickled, and may run any code when it is read. Get the model as .safetensors."
        )
    if path.exists() or source.lower() in registry().models:
        return source
    looks_like_file = path.suffix.lower() in {".safetensors", *PICKLED}
    if HUB_ID.fullmatch(source) and not looks_like_file:
        return source
    if looks_like_file or len(path.parts) > 1:
        raise BadInputError(f"{source}: there is no such file or folder. Check the path.")
    registry().find_model(source)
    return source


def bring(model: ModelFiles, runtime: Runtime = DEFAULT) -> ModelFiles:
    """The model with all its files on this machine. Raises what downloading raises."""
    if model.lacking:
        size = f"{model.size / 1e9:.2f} GB"
        runtime.notify(f"{model.name}: {len(model.lacking)} files, {size}, those that aren't cached yet")
    for file in model.lacking:
        fetch(file, runtime)
    return dataclasses.replace(model, lacking=())


def _from_folder(folder: Path, name: str, half: bool, guard: bool, source: Literal["folder", "embedded"]) -> ModelFiles:
    index = _json(folder / INDEX)
    kind, components = _kind(index, name), _components(index, guard)
    files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    variant = variant_of(files, components, half, str(folder))
    vae = folder / "vae" / "config.json"
    space = index.get(LATENT_SPACE)
    if vae.is_file():
        space = space_of_config(_json(vae), str(vae))
    return ModelFiles(name, source, kind, space, str(folder), folder, components, variant=variant)


def _from_hub(repo: str, half: bool, guard: bool, runtime: Runtime) -> ModelFiles:
    listing = list_files(repo, runtime=runtime)
    files = {file.filename: file for file in listing.files}
    if INDEX not in files:
        raise BadInputError(
            f"{repo} on the hub holds no {INDEX}, so it isn't a diffusers pipeline. Name another model."
        )
    place = fetch(files[INDEX], runtime)
    index = _json(place)
    kind, components = _kind(index, repo), _components(index, guard)
    variant = variant_of(files, components, half, repo)
    space = index.get(LATENT_SPACE)
    if "vae/config.json" in files:
        space = space_of_config(_json(fetch(files["vae/config.json"], runtime)), f"{repo} vae/config.json")
    wanted = tuple(files[name] for name in needed(files, components, variant))
    return ModelFiles(
        repo, "hub", kind, space, repo, place.parent, components, None, variant, listing.commit, lacking=wanted
    )


def _from_checkpoint(path: Path, runtime: Runtime) -> ModelFiles:
    """A checkpoint says what it is by its keys; tokenizer, scheduler and configs are those of its kind's repository."""
    opened = open_tensor_file(path)
    space = space_of_checkpoint(opened)
    unet = opened.shapes.get("model.diffusion_model.input_blocks.0.0.weight")
    if space not in {"sd1", "sdxl"} or unet is None:
        raise BadInputError(
            f"{path}: not a whole checkpoint of Stable Diffusion 1.x, 2.x or XL. Name a folder or a hub id."
        )
    if unet[1] != 4:
        raise BadInputError(f"{path}: its UNet takes {unet[1]} channels, so it is for inpainting. Name another model.")
    texts = [shape[-1] for name, shape in opened.shapes.items() if name.endswith("attn2.to_k.weight")]
    context = texts[0] if texts else 0
    name = {768: "sd-v1-5", 1024: "sd-v2-1", 2048: "sdxl-base"}.get(context)
    if name is None:
        raise BadInputError(
            f"{path}: its text has {context} channels, which no Stable Diffusion has. Name another model."
        )
    like = registry().find_model(name).repo
    assert like is not None
    if name == "sd-v2-1":  # its keys don't tell; by diffusers' folder one would know
        runtime.notify(
            f"{path.name} is taken for Stable Diffusion 2.1 (v-prediction, 768 pixels). If it is a base model of 512 "
            "pixels, this gives noise: name its folder in diffusers' layout instead."
        )
    listing = list_files(like, runtime=runtime)
    files = {file.filename: file for file in listing.files}
    index = _json(fetch(files[INDEX], runtime))
    components = _components(index, guard=False)
    small = [f for n, f in files.items() if PurePosixPath(n).suffix in SMALL and n.partition("/")[0] in components]
    folder = fetch(files[INDEX], runtime).parent
    return ModelFiles(
        path.stem, "file", _kind(index, like), space, str(path), folder, components, path, lacking=(*small,)
    )


def _kind(index: Mapping[str, Any], name: str) -> Kind:
    found = str(index.get("_class_name"))
    if found not in KINDS:
        raise UsageError(
            f"{name} is a {found}; vaelens generates with Stable Diffusion 1.x, 2.x and XL ({', '.join(KINDS)}). "
            "Latents from elsewhere can be compared with --latents."
        )
    lacking = [part for part in KINDS[found].parts if part not in _components(index, guard=False)]
    if lacking:
        raise BadInputError(f"{name} is a {found} without {', '.join(lacking)}. Get it anew, or name another model.")
    return KINDS[found]


def _components(index: Mapping[str, Any], guard: bool) -> dict[str, tuple[str, str]]:
    """The pipeline's parts but the VAE: none is loaded to make a latent.

    Raises UnsafeFileError for a part that isn't of diffusers or transformers, which would run somebody's code.
    """
    parts = {k: cast(list[Any], v) for k, v in index.items() if not k.startswith("_") and isinstance(v, list)}
    left_out = {"vae"} if guard else {"vae", *GUARD}
    found: dict[str, tuple[str, str]] = {}
    for name, made in parts.items():
        if name in left_out or not made or made[0] is None:
            continue
        library, kind = (str(one) for one in (*made, "", "")[:2])
        if library not in LIBRARIES or not kind.isidentifier():
            raise UnsafeFileError(
                f"the model's part {name} is made by {library} {kind}, which isn't one of {', '.join(LIBRARIES)}: code "
                "from elsewhere isn't run. Name another model."
            )
        found[name] = library, kind
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInputError(
            f"{path.parent} holds no {path.name}, so it isn't a model's folder. Name another."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{path} can't be read as JSON ({error}). Get it anew.") from error
    if not isinstance(found, dict):
        raise BadInputError(f"{path} isn't a table. Get it anew.")
    return cast(dict[str, Any], found)
