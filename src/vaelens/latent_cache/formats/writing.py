"""Writing a cache's latents as a trainer's files; what it can't take is refused before anything is encoded."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from vaelens.errors import UsageError
from vaelens.files import write_atomic
from vaelens.images.datasets.folders import suffix_of
from vaelens.images.datasets.items import Item
from vaelens.images.size_rules import RULES, SizeRule
from vaelens.latent_cache.cache import LatentCache
from vaelens.latent_cache.formats import ai_toolkit, sd_scripts
from vaelens.latent_cache.formats.known import Format, Name
from vaelens.latent_cache.formats.originals import Original
from vaelens.networks.autoencoder_kl import DiagonalGaussian
from vaelens.vae import VAE

Layout = tuple[Callable[[Original], PurePosixPath], Callable[[Original, Tensor], bytes]]  # a file's path and content
LAYOUTS: dict[Name, Layout] = {
    "sd-scripts": (sd_scripts.path, sd_scripts.content),
    "ai-toolkit": (ai_toolkit.path, ai_toolkit.content),
}


def check_rule(how: Format, rule: SizeRule) -> None:
    """Raises UsageError for a rule that leaves images lying that the trainer turns upright."""
    if how.turns_upright and rule.reading == "plain":
        upright = " or ".join(name for name, (reading, _) in RULES.items() if reading == "rules")
        raise UsageError(
            f"--format {how.name} needs --rule {upright}: {how.name} turns images upright by their EXIF orientation, "
            f"which {rule.name} ignores."
        )


def check_latents(how: Format, vae: VAE, side: int, items: Sequence[Item]) -> None:
    """Raises UsageError for latents that the trainer doesn't keep in such files, or images that it doesn't read."""
    space = vae.spec.latent_space
    if space is None or space not in how.spaces:
        raise UsageError(
            f"--format {how.name} is for latents of {how.models}, but {vae.name} has {space or 'a space of its own'}. "
            "Leave --format out."
        )
    if side % (multiple := how.spaces[space].multiple):
        raise UsageError(
            f"With {vae.name}, --format {how.name} needs a --size that is a multiple of {multiple}, not {side}."
        )
    if not any(_is_read(how, item) for item in items):
        raise UsageError(
            f"--format {how.name} names its files after the images' own, and none of these is called "
            f"{', '.join(how.suffixes)}: the first is {items[0].id}. Leave --format out."
        )


def write_files(how: Format, cache: LatentCache, vae: VAE, folder: Path, seed: int) -> list[Path]:
    """One file per image that the trainer reads, below `folder`, as they lie below the dataset's own.

    vae: has passed `check_latents`; seed: with each image's hash, that of its sample.
    Raises UsageError where two images would have one file.
    """
    path_of, content_of = LAYOUTS[how.name]
    side, space = cache.index.rule.side, how.spaces[str(vae.spec.latent_space)].name
    originals = {
        name: Original(PurePosixPath(name), width, height, side, space)
        for name, (height, width) in cache.original_sizes().items()
    }
    items = [item for item in cache.items if _is_read(how, item)]
    paths = {item.id: path_of(originals[item.id]) for item in items}
    _check_distinct(how, paths)
    written: list[Path] = []
    for item in items:
        noise = torch.Generator("cpu").manual_seed(_noise_seed(seed, item.sha256))
        latents = cache.posterior([item.id]).sample([noise])
        if how.scaled:
            latents = vae.encoded(DiagonalGaussian.deterministic(latents), cache.size).mode()
        written.append(write_atomic(folder / paths[item.id], content_of(originals[item.id], latents[0])))
    return written


def _is_read(how: Format, item: Item) -> bool:
    return not how.suffixes or suffix_of(item.id) in how.suffixes


def _check_distinct(how: Format, paths: Mapping[str, PurePosixPath]) -> None:
    first: dict[PurePosixPath, str] = {}
    for sample, path in paths.items():
        if path in first:
            raise UsageError(
                f"{first[path]} and {sample} would both have {path}, in {how.name} too. Rename one of them."
            )
        first[path] = sample


def _noise_seed(seed: int, sha256: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {sha256}".encode()).digest()[:8], "big") >> 1
