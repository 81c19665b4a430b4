"""Reading a VAE from disk: a diffusers folder, a stand-alone file, a whole checkpoint, TAESD's halves.

Nothing is trusted: every key, shape and value is checked, and the spec is settled as `settling.py` says.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor

from vaelens.errors import BadInputError, UnsafeFileError
from vaelens.files import sha256_file
from vaelens.weights import layouts
from vaelens.weights.config_json import config_json_claims
from vaelens.weights.fingerprint import Fingerprint, fingerprint
from vaelens.weights.registry import registry
from vaelens.weights.safetensors_file import PICKLED, TensorFile, open_tensor_file
from vaelens.weights.settling import (
    METADATA_KEY,
    TINY_FIXED,
    Claim,
    metadata_claim,
    settle,
    spec_claim,
)
from vaelens.weights.shapes import check_shapes, config_for_shapes, kl_shape_values, tiny_shape_values
from vaelens.weights.spec import VAESpec

WEIGHT_NAMES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
HALVES: tuple[Literal["encoder", "decoder"], ...] = ("encoder", "decoder")


@dataclass(frozen=True)
class VAEWeights:
    """A VAE as it lies on disk, checked: tensors by diffusers name in their stored dtype, and its spec."""

    files: tuple[Path, ...]
    layout: layouts.Layout
    prefix: str
    tensors: dict[str, Tensor]
    spec: VAESpec
    sources: dict[str, str]
    dropped: tuple[str, ...]
    metadata: dict[str, str]
    known_as: str | None
    fingerprint: Fingerprint


def read_vae(path: Path, *, name: str | None = None, space: str | None = None, rest: Sequence[Path] = ()) -> VAEWeights:
    """The VAE at `path`, a file or a folder; `rest` are files with what it lacks, under diffusers names.

    `name` is the registry's entry that the file is meant to be; `space` names the latent space where the
    file doesn't. Raises BadInputError, UnsafeFileError and CheckFailedError (exit codes 3, 4, 7) as the
    readers of each part do, UsageError for an unknown space.
    """
    config: dict[str, Any] | None = None
    if path.is_dir():
        path, config = _in_folder(path)
    raw = _raw(open_tensor_file(path), [open_tensor_file(other) for other in rest])
    shapes = {n: tuple(t.shape) for n, t in raw.tensors.items()}
    where = str(path)
    values = (tiny_shape_values if raw.kind == "tiny" else kl_shape_values)(shapes, where)
    check_shapes(shapes, config_for_shapes(raw.kind, values, where), where)

    claims = [Claim("the tensors' shapes", values), *_file_claims(raw, config)]
    if name is not None:
        claims.append(spec_claim(f"the registry's {name}", registry().spec(name)))
    elif not raw.prefix and (name := registry().by_sha256(sha256_file(path))) is not None:
        claims.append(spec_claim(f"the registry (its sha256 is {name}'s)", registry().spec(name)))
    settled = settle(raw.kind, [*claims, *_space_claims(raw, space)], where)
    check_shapes(shapes, settled.spec.config, where)  # config.json may ask for another depth than TAESD's
    return VAEWeights(
        files=tuple(f.path for f in raw.files),
        layout=raw.layout,
        prefix=raw.prefix,
        tensors=raw.tensors,
        spec=settled.spec,
        sources=settled.sources,
        dropped=raw.dropped,
        metadata=raw.files[0].metadata,
        known_as=name,
        fingerprint=fingerprint(raw.tensors),
    )


@dataclass(frozen=True)
class _Raw:
    """The VAE's tensors under their diffusers names, and how the file had them."""

    files: tuple[TensorFile, ...]
    layout: layouts.Layout
    prefix: str
    tensors: dict[str, Tensor]
    dropped: tuple[str, ...]

    @property
    def kind(self) -> Literal["kl", "tiny"]:
        return "tiny" if self.layout in {"tiny", "taesd"} else "kl"


def _raw(opened: TensorFile, rest: Sequence[TensorFile] = ()) -> _Raw:
    prefixes = layouts.vae_prefixes(opened.shapes)
    if len(prefixes) > 1:
        shown = " and ".join(repr(p) if p else "no prefix" for p in prefixes)
        raise BadInputError(f"{opened.path} holds more than one VAE, under {shown}. Save the one you mean by itself.")
    prefix = prefixes[0] if prefixes else ""
    names = [n for n in opened.shapes if n.startswith(prefix)]
    layout = layouts.layout_of(n.removeprefix(prefix) for n in names)
    if not prefixes or layout is None:
        some = f" ({', '.join([*opened.shapes][:3])}, ...)" if opened.shapes else ""
        count = len(opened.shapes)
        raise BadInputError(f"{opened.path} holds no VAE that vaelens knows among its {count} tensors{some}.")
    if layout == "taesd":
        files = _halves(opened)
        halves = [layouts.from_taesd(f.read(f.shapes), half) for f, half in zip(files, HALVES, strict=True)]
        return _Raw(files, layout, prefix, halves[0] | halves[1], ())
    dropped = tuple(n for n in names if n.removeprefix(prefix).startswith(layouts.DROPPED))
    tensors = opened.read(n for n in names if n not in dropped)
    tensors = {n.removeprefix(prefix): t for n, t in tensors.items()}
    try:
        tensors = layouts.to_diffusers(tensors, layout)
    except ValueError as error:
        raise BadInputError(f"{opened.path}: {error}. Save it again with one of them.") from error
    for other in rest:
        twice = tensors.keys() & other.shapes.keys()
        if twice:
            raise BadInputError(f"{opened.path} and {other.path} both hold {min(twice)}. One of them has too much.")
        tensors |= other.read(other.shapes)
    return _Raw((opened, *rest), layout, prefix, tensors, dropped)


def _file_claims(raw: _Raw, config: dict[str, Any] | None) -> list[Claim]:
    """What config.json and the file's metadata say."""
    where = str(raw.files[0].path)
    claims: list[Claim] = []
    if config is not None:
        kind, said, default = config_json_claims(config, where)
        if kind != raw.kind:
            raise BadInputError(f"{where}: config.json describes a {kind} network, the tensors are a {raw.kind} one's.")
        claims += [said, default]
    for file in raw.files:
        if METADATA_KEY in file.metadata:
            claims.append(metadata_claim(file.metadata[METADATA_KEY], str(file.path)))
    return claims


def _space_claims(raw: _Raw, space: str | None) -> list[Claim]:
    """What the caller's latent space, a checkpoint's other tensors and the network's family say."""
    claims: list[Claim] = []
    told: list[tuple[str, str | None]] = [("the space named", space)]
    if raw.prefix:
        told.append(("the checkpoint's other tensors", space_of_checkpoint(raw.files[0])))
    for by, name in told:
        if name is not None:
            whole = spec_claim(f"{by} ({name})", registry().space_spec(name)) if raw.kind == "kl" else None
            claims.append(whole or Claim(f"{by} ({name})", {"latent_space": name}))
    if raw.kind == "tiny":
        claims.append(Claim("the tiny autoencoders' convention", TINY_FIXED))
    return claims


def space_of_checkpoint(opened: TensorFile) -> str | None:
    """The latent space that a whole checkpoint's text encoder or denoiser belongs to."""
    for name, space in registry().spaces.items():
        if any(n.startswith(key) for key in space.checkpoint_keys for n in opened.shapes):
            return name
    return None


def _in_folder(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A diffusers folder's weights and config.json; a pipeline's folder leads to its vae/."""
    if not (folder / "config.json").is_file() and (folder / "vae" / "config.json").is_file():
        folder = folder / "vae"
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInputError(f"{folder} holds no config.json, so it isn't a VAE's folder. Name the file.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{folder / 'config.json'} can't be read as JSON ({error}).") from error
    if not isinstance(config, dict):
        raise BadInputError(f"{folder / 'config.json'} isn't a table.")
    for name in WEIGHT_NAMES:
        if (folder / name).is_file():
            return folder / name, cast(dict[str, Any], config)
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED)
    if pickled:
        raise UnsafeFileError(
            f"{folder} holds only pickled weights ({', '.join(pickled)}), which can run any code when they are "
            f"read; vaelens doesn't open them. Get {WEIGHT_NAMES[0]} from the same publisher."
        )
    others = sorted(p.name for p in folder.glob("*.safetensors"))
    instead = f", but {', '.join(others)}: name the file itself, or save them as one" if others else ""
    raise BadInputError(f"{folder} holds no {WEIGHT_NAMES[0]}{instead}.")


def _halves(opened: TensorFile) -> tuple[TensorFile, TensorFile]:
    """Encoder and decoder of a TAESD in its original numbering; the other half is looked for beside the given one."""
    half = "decoder" if "0.weight" not in opened.shapes else "encoder"
    other = "encoder" if half == "decoder" else "decoder"
    if half not in opened.path.name:
        raise BadInputError(
            f"{opened.path} holds the {half} of a tiny autoencoder. Name it ..._{half}.safetensors and put "
            f"..._{other}.safetensors beside it."
        )
    sibling = opened.path.with_name(opened.path.name.replace(half, other))
    if not sibling.is_file():
        raise BadInputError(f"{opened.path} holds only the {half}; its other half, {sibling.name}, isn't beside it.")
    second = open_tensor_file(sibling)
    return (opened, second) if half == "encoder" else (second, opened)
