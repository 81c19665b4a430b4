"""A file's latent space, and on what evidence: its content first, then what it says of itself; never its name.

In order: a known sha256; an encoder or decoder that is a known VAE's; one that is near, or a mixture of VAEs of one
space; the other networks of a checkpoint; config.json; metadata; shapes that fit one space only.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vaelens.errors import VaelensError
from vaelens.identification.weights.closeness.half_verdict import HalfVerdict, percent
from vaelens.identification.weights.examined_file import ExaminedFile, ReadVAE
from vaelens.weights.config_json import space_of_config
from vaelens.weights.folders import find_config
from vaelens.weights.other_networks import space_of_checkpoint
from vaelens.weights.registry import registry
from vaelens.weights.spec_sources import SPEC_KEY, metadata_source

ARCHITECTURE = "modelspec.architecture"  # of the Stability AI model metadata standard, which trainers write
ARCHITECTURES = (
    (re.compile(r"stable-diffusion-v[12]\b", re.I), "sd1"),
    (re.compile(r"stable-diffusion-xl\b", re.I), "sdxl"),
    (re.compile(r"stable-diffusion-(v)?3\b", re.I), "sd3"),
    (re.compile(r"flux[.-]?1\b", re.I), "flux1"),
    (re.compile(r"flux[.-]?2\b", re.I), "flux2"),
)
NEAR_ENOUGH = 0.25  # relative L2 distance


@dataclass(frozen=True)
class LatentSpace:
    """The space, None where nothing tells; the evidence in words; and what contradicts it, in sentences."""

    name: str | None
    evidence: str
    contradictions: tuple[str, ...] = ()


def latent_space(file: ExaminedFile, encoder: HalfVerdict, decoder: HalfVerdict) -> LatentSpace:
    """The latent space of a file whose halves were compared."""
    if file.vae is None:
        by_shape = file.other.space if file.other is not None else None
        if file.known is not None and file.known.space is not None:
            return LatentSpace(file.known.space, f"its sha256 is that of {file.known.vae}")
        return LatentSpace(by_shape, "its tensors' names and shapes" if by_shape else "nothing tells")
    by_content = [*_by_content(file, encoder, decoder)]
    claims, problems = _claims(file.vae)
    found = [*by_content, *((space, f"{who} so") for space, who in claims), *_by_shapes(file.vae)]
    halves = (("decoder", decoder), ("encoder", encoder))
    across = {name: " and ".join(spaces) for name, half in halves if len(spaces := _mixed_spaces(half)) > 1}
    if not found:
        told = next((f"can't tell: it mixes {spaces}" for spaces in across.values()), _fitting(file.vae))
        return LatentSpace(None, told, problems)
    space, evidence = found[0]
    against = [f"{who} {other}, but {evidence}, which means {space}." for other, who in claims if other != space]
    contents = {one for one, _ in by_content}
    if len(contents) > 1:
        against.insert(0, f"encoder and decoder belong to different latent spaces, {' and '.join(sorted(contents))}.")
    against += [
        f"its {half} mixes different latent spaces, {spaces}, and belongs to none." for half, spaces in across.items()
    ]
    return LatentSpace(space, evidence, (*against, *problems))


def _by_content(file: ExaminedFile, encoder: HalfVerdict, decoder: HalfVerdict) -> Iterator[tuple[str, str]]:
    if file.known is not None and file.known.space is not None:
        yield file.known.space, f"its sha256 is that of {file.known.vae}"
    halves = (("decoder", decoder), ("encoder", encoder))
    for name, half in halves:
        if half.same_as and half.space is not None:
            yield half.space, f"its {name} is that of {half.same_as[0]}"
    for name, half in halves:
        mixed = _mixed_spaces(half)
        if len(mixed) > 1:  # however near it is to one of them
            continue
        if half.mixture is not None and mixed and None not in half.mixture.spaces:
            yield mixed[0], f"its {name} is a mixture of {' and '.join(part for part, _ in half.mixture.parts)}"
        near = half.nearest_known or half.nearest
        if near is not None and near.space is not None and near.distance < NEAR_ENOUGH:
            yield near.space, f"its {name} is {percent(near.distance)} from that of {near.name}"


def _mixed_spaces(half: HalfVerdict) -> list[str]:
    """The known spaces of the VAEs that a half is a mixture of."""
    return sorted(space for space in (half.mixture.spaces if half.mixture is not None else ()) if space is not None)


def _claims(vae: ReadVAE) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """What the file and its config.json say: each a space, and who says so; and why something of it can't be read."""
    first, path = vae.raw.files[0], vae.raw.files[0].path
    found: list[tuple[str, str]] = []
    problems: list[str] = []
    if vae.raw.prefix and (space := space_of_checkpoint(first)) is not None:
        found.append((space, "the checkpoint's other networks say"))
    try:
        config = find_config(path)
        if config is not None and (space := space_of_config(config, str(path))) is not None:
            found.append((space, "config.json says"))
    except VaelensError as error:
        problems.append(str(error))
    try:
        found += [(space, "the file's metadata says") for space in _of_metadata(vae, first.metadata)]
    except VaelensError as error:
        problems.append(str(error))
    return found, tuple(problems)


def _of_metadata(vae: ReadVAE, metadata: Mapping[str, str]) -> Iterator[str]:
    if SPEC_KEY in metadata:
        source = metadata_source(metadata[SPEC_KEY], vae.raw.family, str(vae.raw.files[0].path))
        if isinstance(space := source.values.get("latent_space"), str):
            yield space
    for pattern, space in ARCHITECTURES:
        if pattern.search(metadata.get(ARCHITECTURE, "")):
            yield space


def _by_shapes(vae: ReadVAE) -> Iterator[tuple[str, str]]:
    fitting = registry().spaces_that_fit(vae.raw.family, vae.values)
    if len(fitting) == 1:
        yield fitting[0], "no other known latent space has VAEs of its shapes"


def _fitting(vae: ReadVAE) -> str:
    fitting = registry().spaces_that_fit(vae.raw.family, vae.values)
    return f"can't tell: its shapes fit {' and '.join(fitting)}" if fitting else "can't tell: its shapes are unknown"
