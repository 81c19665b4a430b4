"""Diffusion models: found, understood from their small files, and downloaded.

A model is the embedded one, a folder in the layout of diffusers, a hub id, or a single-file checkpoint. Its latent
space is known before any weights are downloaded, so that a VAE of another space is refused first.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast
from urllib.parse import quote

from vaelens.adapters.variants import SMALL, files_needed, variant_of
from vaelens.download.hub import HUB_ID, RemoteFile, endpoint, fetch
from vaelens.download.hub_addresses import HubAddress, is_address, parse_hub_address
from vaelens.download.hub_listing import list_files
from vaelens.errors import BadInputError, UnsafeFileError, UsageError
from vaelens.json_reading import read_json
from vaelens.runtime import DEFAULT, Runtime
from vaelens.tensors.file_types import PICKLED
from vaelens.tensors.safetensors_file import open_safetensors
from vaelens.text.numbers import counted
from vaelens.text.paths import user_path
from vaelens.weights.config_json import space_of_config
from vaelens.weights.other_networks import other_networks, space_of_checkpoint
from vaelens.weights.registry import embedded_model_path, registry

INDEX = "model_index.json"
LATENT_SPACE = "_vaelens_latent_space"  # in model_index.json, for a model that comes without a VAE
PICKLED_MODEL = (
    "{0} is a pickled file, and diffusers, which loads whole models, may run code that is in one. Get the model as "
    ".safetensors. The VAE in it can be used: --vae {0}."
)
SAFETY_PARTS = ("safety_checker", "feature_extractor")
LIBRARIES = {  # the names that an index has for the libraries of its parts, and their modules
    "diffusers": "diffusers",
    "transformers": "transformers",
    "stable_diffusion": "diffusers.pipelines.stable_diffusion",
}

Source = Literal["embedded", "folder", "hub", "file"]


@dataclass(frozen=True)
class Pipeline:
    """A pipeline class of diffusers, its default steps and guidance scale, and the parts that it requires."""

    class_name: str
    steps: int
    guidance_scale: float
    may_have_safety_checker: bool = False
    required: tuple[str, ...] = ("unet", "scheduler", "text_encoder", "tokenizer")


_PIPELINES = (
    Pipeline("StableDiffusionPipeline", 50, 7.5, may_have_safety_checker=True),
    Pipeline(
        "StableDiffusionXLPipeline",
        50,
        5.0,
        required=("unet", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"),
    ),
)
PIPELINES = {pipeline.class_name: pipeline for pipeline in _PIPELINES}


@dataclass(frozen=True)
class ModelFiles:
    """A model as it was found; `space` is its latent space (None: its own), `vae` what to load for its own VAE.

    `folder` holds what is on this machine: the whole model; of a hub's model its small files; for a checkpoint (`file`)
    the configs of its architecture. `components` are the parts of the pipeline, each with its library and class,
    `to_download` the files that `download` fetches.
    """

    name: str
    source: Source
    pipeline: Pipeline
    space: str | None
    vae: str
    folder: Path
    components: Mapping[str, tuple[str, str]]
    file: Path | None = None
    variant: str | None = None
    commit: str | None = None
    to_download: tuple[RemoteFile, ...] = ()

    @property
    def has_safety_checker(self) -> bool:
        """Whether it comes with a safety checker."""
        return "safety_checker" in self.components


def find_model(source: str, runtime: Runtime = DEFAULT, *, safety_checker: bool = True) -> ModelFiles:
    """The model that `source` names; of a hub's model only small files are fetched.

    A runtime in half precision prefers weights that are stored in fp16. Raises UsageError for an unknown name or a
    pipeline that isn't Stable Diffusion 1.x, 2.x or XL; UnsafeFileError where there are only pickled weights;
    BadInputError for files that aren't a model; and what downloading raises.
    """
    text = check_model(source)
    path = user_path(text)
    half = runtime.dtype_name != "float32"
    if path.is_dir():
        return _from_folder(path, path.name, half, safety_checker, "folder")
    if path.is_file():
        return _from_checkpoint(path, runtime)
    known = registry().models.get(text.lower())
    if known is not None and known.embedded:
        found = _from_folder(embedded_model_path(known), text.lower(), half, safety_checker, "embedded")
        pipeline = dataclasses.replace(found.pipeline, steps=known.steps, guidance_scale=known.guidance_scale)
        return dataclasses.replace(found, pipeline=pipeline, space=known.space, vae=known.vae)
    address = HubAddress(known.repo) if known and known.repo else parse_hub_address(text)
    if address.path.endswith(".safetensors"):
        return _from_checkpoint(fetch(RemoteFile(address.repo, address.path, address.revision), runtime), runtime)
    return _from_hub(address, half, safety_checker, runtime)


def check_model(source: str) -> str:
    """The source, if it is a path that exists, a known name, or may be a hub id. Makes no network request.

    Raises UsageError for an unknown name, BadInputError for a file or folder that doesn't exist.
    """
    if not source:
        raise UsageError(f"the model's name is empty. Name {registry().model_names()}, a folder, a file or a hub id.")
    path = user_path(source)
    if path.suffix.lower() in PICKLED and path.exists():
        raise UnsafeFileError(PICKLED_MODEL.format(source))
    if path.exists() or source.lower() in registry().models:
        return source
    if is_address(source):
        _check_address(parse_hub_address(source), source)
        return source
    looks_like_file = path.suffix.lower() in {".safetensors", *PICKLED}
    if HUB_ID.fullmatch(source) and not looks_like_file:
        return source
    if looks_like_file or len(path.parts) > 1:
        raise BadInputError(f"{source}: no such file or folder. Check the path.")
    registry().find_model(source)
    return source


def _check_address(address: HubAddress, source: str) -> None:
    """Raises where a page of the hub's is none of a model."""
    suffix = PurePosixPath(address.path).suffix
    if suffix in PICKLED:
        raise UnsafeFileError(PICKLED_MODEL.format(source))
    if address.path not in {"", INDEX} and suffix != ".safetensors":
        raise UsageError(
            f"{source} is a part of {address.repo}. Name {address.repo}, or the page of a checkpoint in it."
        )


def download(model: ModelFiles, runtime: Runtime = DEFAULT) -> ModelFiles:
    """The model with all its files on this machine. Raises what downloading raises."""
    if model.to_download:
        size = sum(file.size or 0 for file in model.to_download)
        runtime.notify(
            f"{model.name}: {counted(len(model.to_download), 'file')}, {size / 1e9:.2f} GB. Files in the cache are "
            "not downloaded again."
        )
    for file in model.to_download:
        fetch(file, runtime)
    return dataclasses.replace(model, to_download=())


def _from_folder(
    folder: Path, name: str, half: bool, safety_checker: bool, source: Literal["folder", "embedded"]
) -> ModelFiles:
    index = _json(folder / INDEX)
    pipeline, components = _pipeline(index, name), _components(index, safety_checker)
    files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    variant = variant_of(files, components, half, str(folder))
    vae = folder / "vae" / "config.json"
    space = index.get(LATENT_SPACE)
    if vae.is_file():
        space = space_of_config(_json(vae), str(vae))
    return ModelFiles(name, source, pipeline, space, str(folder), folder, components, variant=variant)


def _from_hub(address: HubAddress, half: bool, safety_checker: bool, runtime: Runtime) -> ModelFiles:
    repo = address.repo
    listing = list_files(repo, revision=address.revision, runtime=runtime)
    files = {file.filename: file for file in listing.files}
    if INDEX not in files:
        raise BadInputError(
            f"{repo} on the hub holds no {INDEX}, so it isn't a diffusers pipeline. Name another model."
        )
    index_path = fetch(files[INDEX], runtime)
    index = _json(index_path)
    pipeline, components = _pipeline(index, repo), _components(index, safety_checker)
    variant = variant_of(files, components, half, repo)
    space = index.get(LATENT_SPACE)
    if "vae/config.json" in files:
        space = space_of_config(_json(fetch(files["vae/config.json"], runtime)), f"{repo} vae/config.json")
    needed = tuple(files[name] for name in files_needed(files, components, variant))
    own = repo if address.revision == "main" else f"{endpoint()}/{repo}/tree/{quote(address.revision, safe='')}"
    return ModelFiles(
        address.name, "hub", pipeline, space, own, index_path.parent, components, None, variant, listing.commit, needed
    )


def _from_checkpoint(path: Path, runtime: Runtime) -> ModelFiles:
    """What a checkpoint's keys say; tokenizer, scheduler and configs are those of its architecture's repository."""
    opened = open_safetensors(path)
    space = space_of_checkpoint(opened)
    unet = opened.shapes.get("model.diffusion_model.input_blocks.0.0.weight")
    if space not in {"sd1", "sdxl"} or unet is None:
        found = " and ".join(other_networks(opened))
        raise BadInputError(
            f"{path} is {found or 'something else'}, not a whole checkpoint of Stable Diffusion 1.x, 2.x or XL. Name a "
            "folder or a hub id."
        )
    if unet[1] != 4:
        raise BadInputError(
            f"{path}: its UNet has {counted(unet[1], 'input channel')}, so it is an inpainting model. Name another "
            "model."
        )
    widths = [shape[-1] for name, shape in opened.shapes.items() if name.endswith("attn2.to_k.weight")]
    width = widths[0] if widths else 0
    name = {768: "sd-v1-5", 1024: "sd-v2-1", 2048: "sdxl-base"}.get(width)
    if name is None:
        raise BadInputError(
            f"{path}: its text embeddings have {counted(width, 'channel')}, which no Stable Diffusion model has. "
            "Name another model."
        )
    repo = registry().find_model(name).repo
    assert repo is not None
    if name == "sd-v2-1":  # the keys of its two versions are the same; a diffusers folder tells them apart
        runtime.notify(
            f"Note: {path.name} is treated as Stable Diffusion 2.1 (v-prediction, 768 pixels). A 512-pixel base model "
            "gives noise this way: name its folder in diffusers' layout instead."
        )
    listing = list_files(repo, runtime=runtime)
    files = {file.filename: file for file in listing.files}
    index_path = fetch(files[INDEX], runtime)
    index = _json(index_path)
    components = _components(index, safety_checker=False)
    small = [f for n, f in files.items() if PurePosixPath(n).suffix in SMALL and n.partition("/")[0] in components]
    pipeline = _pipeline(index, repo)
    return ModelFiles(
        path.stem, "file", pipeline, space, str(path), index_path.parent, components, path, to_download=(*small,)
    )


def _pipeline(index: Mapping[str, Any], name: str) -> Pipeline:
    class_name = str(index.get("_class_name"))
    if class_name not in PIPELINES:
        raise UsageError(
            f"{name} is a {class_name}; vaelens generates with Stable Diffusion 1.x, 2.x and XL "
            f"({', '.join(PIPELINES)}). Latents from elsewhere can be compared with --latents."
        )
    components = _components(index, safety_checker=False)
    missing = [part for part in PIPELINES[class_name].required if part not in components]
    if missing:
        raise BadInputError(
            f"{name} is a {class_name} without {', '.join(missing)}. Download it again, or name another model."
        )
    return PIPELINES[class_name]


def _components(index: Mapping[str, Any], safety_checker: bool) -> dict[str, tuple[str, str]]:
    """The pipeline's parts without the VAE, which making a latent doesn't need.

    Raises UnsafeFileError for a part whose class isn't of diffusers or transformers: it would run foreign code.
    """
    parts = {k: cast(list[Any], v) for k, v in index.items() if not k.startswith("_") and isinstance(v, list)}
    left_out = {"vae"} if safety_checker else {"vae", *SAFETY_PARTS}
    found: dict[str, tuple[str, str]] = {}
    for name, entry in parts.items():
        if name in left_out or not entry or entry[0] is None:
            continue
        library, class_name = (str(one) for one in (*entry, "", "")[:2])
        if library not in LIBRARIES or not class_name.isidentifier():
            raise UnsafeFileError(
                f"the model's {name} is {library}.{class_name}, and only classes of {', '.join(LIBRARIES)} are loaded: "
                "others could run any code. Name another model."
            )
        found[name] = library, class_name
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except FileNotFoundError as error:
        raise BadInputError(
            f"{path.parent} holds no {path.name}, so it isn't a model's folder. Name another."
        ) from error
