"""What `identify` found of files of weights, for each one; and all that a call found, images included."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaelens.identification.images.identified_image import IdentifiedImage
from vaelens.identification.weights.advice import Keep
from vaelens.identification.weights.closeness.half_verdict import HalfVerdict, Nearest
from vaelens.identification.weights.examined_file import ExaminedFile
from vaelens.identification.weights.latent_space import LatentSpace
from vaelens.weights.known_files import SHORT


@dataclass(frozen=True, eq=False)
class IdentifiedWeights:
    """One file.

    - `what`: the finding in words; of a file that can't be read, why
    - `vae`: the known VAE that it is, by `vaelens list` or the table of known files; None for any other
    - `encoder`, `decoder`: each half's own verdict; None where there is no VAE that vaelens runs
    - `latent_space`: with its evidence and what contradicts it
    - `contradictions`: sentences where name, metadata and content disagree
    - `same_weights_as`: the file of the same call that holds the same weights and is the one to keep
    """

    examined: ExaminedFile
    what: str
    vae: str | None
    encoder: HalfVerdict | None
    decoder: HalfVerdict | None
    latent_space: LatentSpace
    contradictions: tuple[str, ...]
    same_weights_as: Path | None
    keep: Keep

    @property
    def path(self) -> Path:
        """The file."""
        return self.examined.path

    @property
    def short_hash(self) -> str | None:
        """The first ten characters of the sha256: what AUTOMATIC1111's web UI shows, and AutoV2 of model sites."""
        return self.examined.sha256[:SHORT] if self.examined.sha256 else None

    @property
    def exit_code(self) -> int:
        """That of the error, 0 for a file that could be read."""
        return self.examined.error.exit_code if self.examined.error is not None else 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        file, vae = self.examined, self.examined.vae
        known = file.known
        return {
            "file": str(self.path),
            "bytes": file.size,
            "sha256": file.sha256,
            "files": [{"file": str(path), "sha256": sha256} for path, sha256 in file.hashes],
            "short_hash": self.short_hash,
            "what": self.what,
            "vae": self.vae,
            "known_file": None if known is None else {"name": known.name, "also": known.also, "seen": known.seen},
            "latent_space": {"name": self.latent_space.name, "evidence": self.latent_space.evidence},
            "encoder": _half(self.encoder),
            "decoder": _half(self.decoder),
            "fingerprint": None if vae is None else vae.content.fingerprint.as_dict(),
            "stored_as": None if vae is None else vae.stored_as,
            "layout": None if vae is None else vae.raw.layout.name,
            "prefix": None if vae is None else vae.raw.prefix,
            "beside": [] if vae is None else vae.beside,
            "dropped": list(file.dropped),
            "contradictions": list(self.contradictions),
            "same_weights_as": None if self.same_weights_as is None else str(self.same_weights_as),
            "keep": {"advice": self.keep.advice, "reason": self.keep.reason},
            "error": None if file.error is None else {"exit_code": self.exit_code, "message": str(file.error)},
        }


@dataclass(frozen=True)
class Identification:
    """All files of weights of a call, copies of the same weights together; which known VAEs weren't here to compare
    with; and its images.
    """

    files: tuple[IdentifiedWeights, ...]
    not_here: tuple[str, ...]
    images: tuple[IdentifiedImage, ...] = ()

    def __iter__(self) -> Iterator[IdentifiedWeights]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def exit_code(self) -> int:
        """The largest exit code of the files: 7 where a value is NaN, else 4 for an unsafe file, else 3, else 0."""
        return max((file.exit_code for file in (*self.files, *self.images)), default=0)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "files": [file.as_dict() for file in self.files],
            "not_here": list(self.not_here),
            "images": [image.as_dict() for image in self.images],
        }


def _half(verdict: HalfVerdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    mixture = verdict.mixture
    return {
        "what": str(verdict),
        "same_as": list(verdict.same_as),
        "sameness": verdict.sameness if verdict.same_as else None,
        "scaled_for_float16": verdict.is_scaled,
        "nearest": _nearest(verdict.nearest),
        "nearest_known": _nearest(verdict.nearest_known),
        "mixture": None
        if mixture is None
        else {"kind": mixture.kind, "parts": [list(part) for part in mixture.parts], "residual": mixture.residual},
    }


def _nearest(near: Nearest | None) -> dict[str, Any] | None:
    if near is None:
        return None
    return {"name": near.name, "distance": near.distance, "differing_tensors": len(near.differing)}
