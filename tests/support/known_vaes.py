"""Small made VAEs under the names of known ones, in a registry and a hub cache of their own.

    with made_world(tmp_path) as world:
        world.put_in_cache("ft-mse")            # as if it had been downloaded
        file = world.write("mine.safetensors", world.tensors["ft-mse"], dtype=torch.float16, layout="ldm")

kl-f8, ft-ema and ft-mse share one encoder, as the real ones do; sdxl is independent of them and sdxl-fp16-fix near it;
kl-f8-anime2 has an encoder and a decoder near kl-f8's, and no published file that vaelens could download.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from torch import Tensor

from support.vaes import NARROW, random_vae
from vaelens.families import kl
from vaelens.tensors.writing import safetensors_bytes
from vaelens.weights import known_files
from vaelens.weights.fingerprint import halves
from vaelens.weights.registry import Entry, KnownVAE, PublishedFile, Training, registry

Tensors = dict[str, Tensor]

FILE = "diffusion_pytorch_model.safetensors"
# Names of other published files, in LDM layout: the publisher's, and those that they are passed on under.
LDM_NAMES = {
    "ft-mse": ("vae-ft-mse-840000-ema-pruned.safetensors",),
    "sdxl": ("sdxl_vae.safetensors",),
    "sdxl-fp16-fix": ("sdxl_vae.safetensors", "pony-xl-v6-vae.safetensors"),
}
SPACES = {"kl-f8": "sd1", "ft-ema": "sd1", "ft-mse": "sd1", "sdxl": "sdxl", "sdxl-fp16-fix": "sdxl"}
RESUMED = {"ft-ema": "kl-f8", "ft-mse": "ft-ema"}
UNLISTED = {"kl-f8-anime2": ("kl-f8-anime2.safetensors", "MoistMix.vae.safetensors")}  # published name, alias


def moved(tensors: Mapping[str, Tensor], half: str, share: float, seed: int) -> Tensors:
    """The tensors with one half at exactly this relative L2 distance from what it was."""
    random = torch.Generator().manual_seed(seed)
    encoder, decoder = halves(tensors, kl.FAMILY)
    part = encoder if half == "encoder" else decoder
    noise = {name: torch.randn(tensor.shape, generator=random) for name, tensor in part.items()}
    scale = share * _norm(part) / _norm(noise)
    return dict(tensors) | {name: part[name] + scale * noise[name] for name in part}


def mixed(parts: Mapping[str, float], tensors: Mapping[str, Mapping[str, Tensor]]) -> Tensors:
    """The weighted sum of VAEs, as people merge them: in float32."""
    first = tensors[next(iter(parts))]
    return {name: sum((w * tensors[vae][name] for vae, w in parts.items()), torch.zeros(())) for name in first}


def cast(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensors:
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in tensors.values()) ** 0.5


@cache
def made_tensors() -> Mapping[str, Tensors]:
    """The made VAEs' weights by name."""
    first = dict(random_vae(NARROW, seed=0).network.state_dict())
    apart = dict(random_vae(NARROW, seed=1).network.state_dict())
    ema = moved(first, "decoder", 0.05, seed=2)
    return {
        "kl-f8": first,
        "ft-ema": ema,
        "ft-mse": moved(ema, "decoder", 0.04, seed=3),
        "sdxl": apart,
        "sdxl-fp16-fix": moved(moved(apart, "decoder", 0.2, seed=4), "encoder", 0.1, seed=4),
        "kl-f8-anime2": moved(moved(first, "decoder", 0.06, seed=5), "encoder", 0.03, seed=5),
    }


@dataclasses.dataclass(frozen=True)
class World:
    """A folder of files to identify, and a hub cache beside it."""

    folder: Path
    cache: Path
    published: Mapping[str, bytes]

    @property
    def tensors(self) -> Mapping[str, Tensors]:
        return made_tensors()

    def put_in_cache(self, *names: str) -> None:
        """As if these VAEs had been downloaded from the hub."""
        for name in names:
            repo, content = registry().vaes[name].repo, self.published[name]
            assert repo is not None
            place = self.cache / f"models--{repo.replace('/', '--')}"
            digest, commit = hashlib.sha256(content).hexdigest(), "0" * 40
            for folder in ("blobs", "refs", f"snapshots/{commit}"):
                (place / folder).mkdir(parents=True, exist_ok=True)
            (place / "blobs" / digest).write_bytes(content)
            (place / "refs" / "main").write_text(commit)
            (place / "snapshots" / commit / FILE).symlink_to(place / "blobs" / digest)

    def write(
        self,
        name: str,
        tensors: Mapping[str, Tensor],
        *,
        dtype: torch.dtype = torch.float32,
        layout: str = "diffusers",
        rename: Callable[[str], str] = str,
        beside: Mapping[str, Tensor] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Path:
        """A file in the folder: the tensors in a precision and layout, their names changed, with others beside them."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file_bytes(tensors, dtype, layout, rename, beside, metadata))
        return path

    def write_pickled(self, name: str, held: object, *, zipped: bool = True) -> Path:
        """A file as `torch.save` writes it, in the format of a zip or the one before."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(held, path, _use_new_zipfile_serialization=zipped)
        return path

    def write_published(self, vae: str, name: str) -> Path:
        """A published file, byte for byte, under some name."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.published[vae])
        return path


def file_bytes(
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float32,
    layout: str = "diffusers",
    rename: Callable[[str], str] = str,
    beside: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    held = cast(tensors, dtype)
    held = kl.to_ldm(held) if layout == "ldm" else held
    held = {rename(name): tensor.contiguous() for name, tensor in held.items()} | dict(beside or {})
    return safetensors_bytes(held, metadata)


def checkpoint_parts(space: str) -> Tensors:
    """A few tensors as a whole checkpoint has them beside its VAE."""
    texts = {"sd1": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}
    names = ("model.diffusion_model.input_blocks.0.0.weight", f"{texts[space]}text_model.embeddings.weight")
    return {name: torch.full((2, 3), 0.5) for name in names}


@contextlib.contextmanager
def made_world(place: Path) -> Generator[World]:
    """A registry that knows the made VAEs only (and the embedded ones), with empty caches, while the context lasts."""
    published = {
        name: file_bytes(tensors, layout="ldm" if name in UNLISTED else "diffusers")
        for name, tensors in made_tensors().items()
    }
    embedded = {name: entry for name, entry in registry().vaes.items() if entry.embedded}
    entries = {name: _entry(name, published[name]) for name in SPACES}
    others = {name: _unlisted(name, published[name]) for name in UNLISTED}
    with pytest.MonkeyPatch.context() as patch, _replaced(registry().vaes, {**entries, **embedded}):
        patch.setitem(registry().configs, "narrow", _config())
        patch.setattr(known_files, "_others", lambda: others)
        patch.setattr(constants, "HF_HUB_CACHE", str(place / "hub"))
        patch.setenv("VAELENS_CACHE", str(place / "vaelens-cache"))
        known_files.known_files.cache_clear()
        (place / "files").mkdir()
        try:
            yield World(place / "files", place / "hub", published)
        finally:
            known_files.known_files.cache_clear()


@contextlib.contextmanager
def _replaced(table: dict[str, Entry], entries: Mapping[str, Entry]) -> Iterator[None]:
    before = dict(table)
    table.clear()
    table.update(entries)
    try:
        yield
    finally:
        table.clear()
        table.update(before)


def _config() -> dict[str, object]:
    values = dataclasses.asdict(NARROW)
    return {"family": "kl", **{name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}}


def _entry(name: str, content: bytes) -> Entry:
    other: list[PublishedFile] = []
    if name in LDM_NAMES:
        first, *also = LDM_NAMES[name]
        other.append(PublishedFile(name=first, also=tuple(also), sha256=_ldm_digest(name), seen=2))
    return Entry(
        title=name,
        space=SPACES[name],
        licence="MIT",
        config="narrow",
        repo=f"someone/{name}",
        files=(PublishedFile(name=FILE, size=len(content), sha256=hashlib.sha256(content).hexdigest(), seen=2),),
        other_files=tuple(other),
        training=Training(part="decoder" if name in RESUMED else "all", resumed_from=RESUMED.get(name)),
    )


def _ldm_digest(name: str) -> str:
    return hashlib.sha256(file_bytes(made_tensors()[name], layout="ldm")).hexdigest()


def _unlisted(name: str, content: bytes) -> KnownVAE:
    published, alias = UNLISTED[name]
    file = PublishedFile(name=published, also=(alias,), sha256=hashlib.sha256(content).hexdigest(), seen=1)
    return KnownVAE(title=name, space="sd1", files=(file,))
