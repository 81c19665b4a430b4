"""Reading a VAE from disk: a folder, a stand-alone file, shards, a whole checkpoint, or a file for each half.

Every key, shape and value is checked, and the spec is resolved as `spec_sources.py` says.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vaelens.errors import BadInputError
from vaelens.families.discovery import build_network, recognise
from vaelens.families.family import Family
from vaelens.families.layouts import Half, Layout
from vaelens.families.spec import NetworkConfig, VAESpec
from vaelens.files import sha256_file
from vaelens.json_reading import quoted
from vaelens.tensors.checks import check_shapes
from vaelens.tensors.formats import open_tensors
from vaelens.tensors.tensor_file import TensorFile
from vaelens.text.numbers import counted
from vaelens.weights.config_json import config_json_sources
from vaelens.weights.fingerprint import Fingerprint, fingerprint
from vaelens.weights.folders import find_config, find_weights
from vaelens.weights.other_networks import is_latents, other_networks, space_of_checkpoint
from vaelens.weights.own_files import refuse_own_file
from vaelens.weights.registry import registry
from vaelens.weights.spec_sources import (
    SPEC_KEY,
    SpecSource,
    metadata_source,
    published_sources,
    resolve,
    space_source,
    spec_source,
)
from vaelens.weights.wrappers import training_state, unwrapped_names

CHECK_ADVICE = "Download the file again, or check that it is a VAE of this kind."

Build = Callable[[Any], nn.Module]


@dataclass(frozen=True)
class VAEWeights:
    """A VAE as it lies on disk, checked: tensors by diffusers name in their stored dtype, and its spec.

    `layout` and `prefix` are those of the names in the first of `files`, which holds so many `others`: tensors of a
    checkpoint's other networks; `dropped` are tensors that the VAE doesn't need, `not_weights` single numbers that
    training left, `not_tensors` what pickled files hold beside tensors: classes that vaelens doesn't know, training's
    tables. `source_of` tells where each field of the spec comes from,
    `source_of_other` each of its `other_fields`.
    """

    files: tuple[Path, ...]
    layout: str
    prefix: str
    others: int
    tensors: dict[str, Tensor]
    spec: VAESpec
    source_of: dict[str, str]
    source_of_other: dict[str, str]
    dropped: tuple[str, ...]
    not_weights: tuple[str, ...]
    not_tensors: tuple[str, ...]
    metadata: dict[str, str]
    known_as: str | None
    fingerprint: Fingerprint


def read_vae(
    path: Path,
    *,
    name: str | None = None,
    space: str | None = None,
    other_files: Sequence[Path] = (),
    build: Build = build_network,
) -> VAEWeights:
    """The VAE at `path`: a file, an index of shards, a VAE's or pipeline's folder.

    `other_files` hold the tensors that it lacks, under diffusers names.
    `name` is the registry's entry that the file is meant to be; `space` names the latent space where the file doesn't.
    `build` makes the network of a config, whose tensors are expected. Raises BadInputError, UnsafeFileError and
    CheckFailedError (exit codes 3, 4, 7) as the readers of each part do, UsageError for an unknown space.
    """
    if space is not None:
        registry().check_space(space)
    path = find_weights(path) if path.is_dir() else path
    config = find_config(path) if name is None else None  # the registry is complete
    raw, values = read_raw(path, other_files=other_files, build=build)
    where, family = str(path), raw.family
    shapes = {n: tuple(t.shape) for n, t in raw.tensors.items()}
    published: list[SpecSource] = []
    if name is not None:
        published = [spec_source(f"the registry's {name}", registry().spec(name))]
    elif not raw.prefix:
        name, published = published_sources(sha256_file(path), family)
    resolved = resolve(family, _sources(raw, values, config, published, space), where)
    # config.json may ask for another depth than the one that shapes were compared with
    try:
        expected = _expected(resolved.spec.config, build)
    except ValueError as error:
        raise BadInputError(f"{where}: not a network: {error}. {CHECK_ADVICE}") from error
    check_shapes(shapes, expected, where, family.title, CHECK_ADVICE)
    return VAEWeights(
        files=tuple(path for file in raw.files for path in file.files),
        layout=raw.layout.name,
        prefix=raw.prefix,
        others=raw.others,
        tensors=raw.tensors,
        spec=resolved.spec,
        source_of=resolved.source_of,
        source_of_other=resolved.source_of_other,
        dropped=raw.dropped,
        not_weights=raw.not_weights,
        not_tensors=tuple(dict.fromkeys(name for file in raw.files for name in file.dropped)),
        metadata=raw.files[0].metadata,
        known_as=name,
        fingerprint=fingerprint(raw.tensors, family),
    )


def read_raw(
    path: Path, *, other_files: Sequence[Path] = (), build: Build = build_network
) -> tuple["RawVAE", dict[str, Any]]:
    """The VAE in a file or an index of shards without what shapes don't tell, and the config's fields that they tell.

    Names and shapes are those of a network. Arguments and errors are those of `read_vae`.
    """
    refuse_own_file(path)
    raw = _read_tensors(open_tensors(path), [open_tensors(other) for other in other_files])
    where, family = str(path), raw.family
    shapes = {n: tuple(t.shape) for n, t in raw.tensors.items()}
    try:
        _check_halves(shapes, family, where)
        values = family.shape_values(shapes)
        expected = _expected(family.config(**{**family.unseen, **values}), build)
    except ValueError as error:
        raise BadInputError(f"{where}: the tensors are not those of {family.title}: {error}. {CHECK_ADVICE}") from error
    check_shapes(shapes, expected, where, family.title, CHECK_ADVICE)
    return raw, values


def _check_halves(names: Collection[str], family: Family, where: str) -> None:
    """Raises BadInputError where a VAE has an encoder only, or a decoder only."""
    heads = {name.split(".")[0] for name in names}
    for held, lacking, parts in (
        ("a decoder", "encoder", family.encoder_parts),
        ("an encoder", "decoder", family.decoder_parts),
    ):
        if not heads & parts:
            raise BadInputError(
                f"{where} holds {held} only: all tensors of the {lacking} of {family.title} are missing. Name a file "
                "with both."
            )


def stated_values(raw: "RawVAE", values: Mapping[str, Any], sha256: str | None = None) -> dict[str, Any]:
    """The fields of config and spec that `read_vae` finds without further arguments, as far as anything says them.

    `values` are those that `read_raw` returns. Without the file's `sha256`, only what the file, its config.json and its
    shapes say. Where two contradict each other, which `read_vae` refuses, the first one counts.
    """
    where = raw.files[0].path
    sources = [SpecSource("the tensors' shapes", values)]
    published = [] if sha256 is None or raw.prefix else published_sources(sha256, raw.family)[1]
    try:
        sources = _sources(raw, values, find_config(where), published, None)
        found = spec_source("", resolve(raw.family, sources, str(where)).spec).values
    except BadInputError:
        found = {name: value for source in reversed(sources) for name, value in source.values.items()}
    return {name: value for name, value in found.items() if value is not None}


@lru_cache(maxsize=32)
def _expected(config: NetworkConfig, build: Build) -> Mapping[str, tuple[int, ...]]:
    """The network's tensors and their shapes. Raises ValueError for sizes that no tensor can have."""
    try:
        with torch.device("meta"):
            return {name: tuple(t.shape) for name, t in build(config).state_dict().items()}
    except (RuntimeError, OverflowError, TypeError) as error:  # torch's for numbers beyond 64 bits
        raise ValueError(f"no tensors can be as large as {quoted(config, 200)} asks for") from error


@dataclass(frozen=True)
class RawVAE:
    """The VAE's tensors under their diffusers names, and how the file had them."""

    files: tuple[TensorFile, ...]
    family: Family
    layout: Layout
    prefix: str
    tensors: dict[str, Tensor]
    dropped: tuple[str, ...] = ()
    not_weights: tuple[str, ...] = ()
    others: int = 0


def _read_tensors(opened: TensorFile, others: Sequence[TensorFile]) -> RawVAE:
    stored, found = _recognised(opened)
    if not found:
        raise _no_vae(opened)
    if len(found) > 1:
        shown = " and ".join(f"{prefix!r}" if prefix else "no prefix" for prefix, _, _ in found[:4])
        raise BadInputError(
            f"{opened.path} holds more than one VAE, under {shown}. Save the tensors of one as a file of "
            "their own, in Python with safetensors.torch.save_file."
        )
    prefix, family, layout = found[0]
    if layout.half is not None:
        halves = _halves(opened, layout)
        tensors = {n: t for file, names in halves for n, t in layout.to_diffusers(_renamed(file, names)).items()}
        return RawVAE(tuple(file for file, _ in halves), family, layout, _prefix(halves[0][1]), tensors)
    inner = {n.removeprefix(prefix): original for n, original in stored.items() if n.startswith(prefix)}
    dropped = [n for n in inner if n.startswith(family.dropped)]
    kept = {n: opened.shapes[original] for n, original in inner.items() if not n.startswith(family.dropped)}
    not_weights = training_state(kept, family)
    unneeded = {*dropped, *not_weights}
    names = {original: n for n, original in inner.items() if n not in unneeded}
    held = _renamed(opened, names)
    try:
        tensors = layout.to_diffusers(held)
    except ValueError as error:
        raise BadInputError(f"{opened.path}: {error}. Save it again with one of them.") from error
    for other in others:
        twice = tensors.keys() & other.shapes.keys()
        if twice:
            raise BadInputError(f"{opened.path} and {other.path} both hold {min(twice)}. Remove it from one of them.")
        tensors |= other.read(other.shapes)
    dropped, not_weights = (tuple(inner[n] for n in group) for group in (dropped, not_weights))
    rest = len(stored) - len(inner)
    return RawVAE((opened, *others), family, layout, _prefix(names), tensors, dropped, not_weights, rest)


def _no_vae(opened: TensorFile) -> BadInputError:
    """The error for a file without a VAE, which says what it holds instead, as far as that can be told."""
    if is_latents(opened):
        return BadInputError(
            f"{opened.path} is a file of latents, not a VAE. Decode it with `vaelens compare --latents {opened.path}`."
        )
    advice = "Name the file of a VAE, or of a checkpoint that has one."
    if others := other_networks(opened):
        return BadInputError(f"{opened.path} is {' and '.join(others)} without a VAE. {advice}")
    some = f" ({', '.join([*opened.shapes][:3])}, ...)"
    if not opened.shapes:
        return BadInputError(f"{opened.path} holds no tensors of PyTorch. {advice}")
    return BadInputError(
        f"{opened.path} holds no VAE that vaelens knows among its {counted(len(opened.shapes), 'tensor')}{some}. "
        f"{advice}"
    )


def _recognised(opened: TensorFile) -> tuple[dict[str, str], list[tuple[str, Family, Layout]]]:
    """A file's names by those without wrappers, and the VAEs among them."""
    try:
        stored = unwrapped_names(opened.shapes)
    except ValueError as error:
        raise BadInputError(f"{opened.path}: {error}. Save it again with one of them.") from error
    return stored, recognise({name: opened.shapes[original] for name, original in stored.items()})


def _renamed(opened: TensorFile, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of these names in the file, under the names that they map to."""
    return {names[n]: t for n, t in opened.read(names).items()}


def _prefix(names: Mapping[str, str]) -> str:
    """What stands before the VAE's names, by its names as the file has them."""
    original, name = next(iter(names.items()))
    return original.removesuffix(name) if original.endswith(name) else ""


def file_sources(raw: RawVAE, config: dict[str, Any] | None) -> list[SpecSource]:
    """What config.json and the files' metadata say."""
    where = str(raw.files[0].path)
    sources: list[SpecSource] = []
    if config is not None:
        family, stated, defaults = config_json_sources(config, where)
        if family is not raw.family:
            raise BadInputError(
                f"{where}: config.json describes {family.title}, the tensors are those of {raw.family.title}."
            )
        sources += [stated, defaults]
    for file in raw.files:
        if SPEC_KEY in file.metadata:
            sources.append(metadata_source(file.metadata[SPEC_KEY], raw.family, str(file.path)))
    return sources


def _sources(
    raw: RawVAE,
    values: Mapping[str, Any],
    config: dict[str, Any] | None,
    published: Sequence[SpecSource],
    space: str | None,
) -> list[SpecSource]:
    """All that says something of a VAE's spec, in order of precedence."""
    shapes = SpecSource("the tensors' shapes", values)
    return [shapes, *file_sources(raw, config), *published, *_space_sources(raw, space)]


def _space_sources(raw: RawVAE, space: str | None) -> list[SpecSource]:
    """What the caller's latent space and a checkpoint's other tensors say."""
    named = [("the space named", space)]
    if raw.prefix:
        named.append(("the checkpoint's other tensors", space_of_checkpoint(raw.files[0])))
    return [space_source(f"{by} ({name})", name, raw.family) for by, name in named if name is not None]


def _halves(opened: TensorFile, layout: Layout) -> list[tuple[TensorFile, dict[str, str]]]:
    """The encoder's file and the decoder's, each with its names in the layout by those in the file.

    The one that isn't named is looked for beside the other.
    """
    names = _half_names(opened, layout)
    half = _half(opened, names, layout)
    other = "encoder" if half == "decoder" else "decoder"
    if half not in opened.path.name:
        raise BadInputError(
            f"{opened.path} holds a VAE's {half} only. Name it ..._{half}{opened.path.suffix} and put "
            f"..._{other}{opened.path.suffix} beside it."
        )
    sibling = opened.path.with_name(opened.path.name.replace(half, other))
    if not sibling.is_file():
        raise BadInputError(f"{opened.path} holds a VAE's {half} only, and {sibling.name} isn't beside it.")
    second = open_tensors(sibling)
    others = _half_names(second, layout)
    if not others or _half(second, others, layout) != other:
        found = (
            f"another {half}"
            if others
            else " and ".join(f"{f.title} in the layout {x.name}" for _, f, x in _recognised(second)[1])
        )
        raise BadInputError(
            f"{sibling}, beside {opened.path}, holds {found or 'no VAE that vaelens knows'}, not the {other} in the "
            f"layout {layout.name}. Put the {other} that belongs to {opened.path.name} there."
        )
    both = [(opened, names), (second, others)]
    return both if half == "encoder" else both[::-1]


def _half_names(opened: TensorFile, layout: Layout) -> dict[str, str]:
    """The names in the layout by those in the file; none where the file has another layout."""
    stored, found = _recognised(opened)
    prefix = next((prefix for prefix, _, one in found if one is layout), None)
    if prefix is None:
        return {}
    return {original: n.removeprefix(prefix) for n, original in stored.items() if n.startswith(prefix)}


def _half(opened: TensorFile, names: Mapping[str, str], layout: Layout) -> Half:
    assert layout.half is not None
    return layout.half({name: opened.shapes[original] for original, name in names.items()})
