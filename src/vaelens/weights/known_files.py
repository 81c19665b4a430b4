"""Which VAE a file is by its sha256, whole or in the short form that other tools show: `vaes.toml`, `known_files.toml`.

A sha256 is of the file, not of the weights: what isn't here may still be a known VAE, saved again.
"""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import TypeAdapter

from vaelens.weights.registry import KnownVAE, PublishedFile, registry

SHORT = 10  # characters of a sha256 that AUTOMATIC1111's web UI and model sites (AutoV2) show
LEAST = 8  # fewer characters would soon be two files'
HASH = re.compile(rf"[0-9a-f]{{{LEAST},64}}")


@dataclass(frozen=True)
class KnownFile:
    """A published file: its VAE's name (of `vaelens list` where `is_listed`), title and latent space, if that is known.

    `seen` is the number of independent public lists that give its sha256: 1 is unconfirmed, None the publisher's own.
    """

    vae: str
    title: str
    space: str | None
    is_listed: bool
    name: str
    also: tuple[str, ...]
    size: int | None
    sha256: str
    seen: int | None

    @property
    def names(self) -> tuple[str, ...]:
        """All names that the file is known under, without folders; the published one comes first."""
        return tuple(name.rpartition("/")[2] for name in (self.name, *self.also))


@cache
def known_files() -> tuple[KnownFile, ...]:
    """All files whose sha256 is known."""
    found: list[KnownFile] = []
    for vae, entry in registry().vaes.items():
        for file in (*entry.files, *entry.other_files):
            found += _known(vae, entry.title, entry.space, True, file)
    for vae, known in _others().items():
        for file in known.files:
            found += _known(vae, known.title, known.space, False, file)
    return tuple(found)


def known_vaes() -> tuple[str, ...]:
    """The names of all VAEs that vaelens knows: those of `vaelens list`, and those of which it knows files only."""
    return tuple(dict.fromkeys((*registry().vaes, *(file.vae for file in known_files()))))


def files_by_hash(digest: str) -> list[KnownFile]:
    """The known files whose sha256 begins with these hexadecimal digits, of which there are at least LEAST; else none.

    None is no evidence: most copies of a known VAE were saved again.
    """
    digest = digest.strip().lower()
    return [file for file in known_files() if file.sha256.startswith(digest)] if HASH.fullmatch(digest) else []


def files_by_name(name: str) -> list[KnownFile]:
    """The known files that are passed on under this name (case and folders don't matter)."""
    name = name.replace("\\", "/").rpartition("/")[2].lower()
    return [file for file in known_files() if name in {one.lower() for one in file.names}]


def _known(vae: str, title: str, space: str | None, is_listed: bool, file: PublishedFile) -> list[KnownFile]:
    if file.sha256 is None:
        return []
    return [KnownFile(vae, title, space, is_listed, file.name, file.also, file.size, file.sha256, file.seen)]


def _others() -> dict[str, KnownVAE]:
    text = files("vaelens.weights").joinpath("known_files.toml").read_text("utf-8")
    held: dict[str, Any] = tomllib.loads(text)
    return TypeAdapter(dict[str, KnownVAE]).validate_python(held)
