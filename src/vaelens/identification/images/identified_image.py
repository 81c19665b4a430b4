"""`identify_images`: what images' metadata claim about their VAEs, and which of the named decoders reproduces them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vaelens.errors import VaelensError
from vaelens.files import StrPath
from vaelens.identification.images.agreement import Agreement, compare, sha256_start, vaes_by_name
from vaelens.identification.images.claims import Claim
from vaelens.identification.images.known_prints import comparable_vaes
from vaelens.identification.images.metadata import read_metadata
from vaelens.identification.images.verdict import Verdict, judge
from vaelens.images.formats import tiff, webp
from vaelens.images.reading import decode_file
from vaelens.images.text_metadata import is_cut_off
from vaelens.loading import vae_of
from vaelens.runtime import Runtime
from vaelens.text.display import shortened
from vaelens.text.file_kinds import HEAD, file_kind
from vaelens.vae import VAE
from vaelens.weights.names import distinct_names

LONGEST = 100  # characters of a name in a line
LOSSY = {  # by what `file_kind` calls them
    "a JPEG image": "A JPEG doesn't hold the decoder's pixels.",
    "a WebP image": "A lossy WebP image doesn't hold the decoder's pixels.",
    "an AVIF image": "An AVIF image hardly ever holds the decoder's pixels.",
    "a GIF image": "A GIF image has at most 256 colours and doesn't hold the decoder's pixels.",
    "a JPEG 2000 image": "A JPEG 2000 image may be lossy, and then it doesn't hold the decoder's pixels.",
    "a TIFF image": "A TIFF image in JPEG compression doesn't hold the decoder's pixels.",
}
CUT_OFF = "The file is cut off: pixels are missing, and perhaps metadata. Copy or download it again."


@dataclass(frozen=True)
class IdentifiedImage:
    """What is known about one image's VAE.

    - `claims`, `agreements`: what its metadata claim, and how far each claim fits together; None where there is nothing
      to compare
    - `unread`: which metadata couldn't be read, and why
    - `verdict`: by its pixels; None where no decoder was named
    - `notes`: that the file is cut off, and how the pixels that were judged differ from those stored
    - `error`: why the image, or what of it lies behind its metadata, couldn't be read
    """

    path: Path
    claims: tuple[Claim, ...] = ()
    agreements: tuple[Agreement | None, ...] = ()
    unread: tuple[str, ...] = ()
    verdict: Verdict | None = None
    notes: tuple[str, ...] = ()
    error: VaelensError | None = None

    @property
    def exit_code(self) -> int:
        """That of the error; 0 for an image that could be read, whatever its metadata say."""
        return 0 if self.error is None else self.error.exit_code

    @property
    def contradictions(self) -> tuple[str, ...]:
        """Sentences about names, hashes and pixels that contradict each other."""
        found = [one.sentence for one in self.agreements if one is not None and one.verdict == "contradict"]
        return (*found, *self._against_pixels())

    def _against_pixels(self) -> Iterator[str]:
        """Sentences about claims that the pixels contradict.

        Several claims of one text are alternatives, or of several images: they are contradicted if all of them are. One
        claim is if the decoders of all VAEs that it can mean are known and are others: those of two published VAEs may
        be the same.
        """
        if self.verdict is None or not self.verdict.known_as:
            return
        made_by, titles = self.verdict.vae, self.verdict.known_as
        called = "" if made_by in titles else f" ({', '.join(titles)} by its weights)"
        comparable = comparable_vaes()
        texts: dict[tuple[str, str], list[tuple[Claim, set[str]]]] = {}
        for claim, agreement in zip(self.claims, self.agreements, strict=True):
            texts.setdefault((claim.program, claim.place), []).append((claim, set(_titles(claim, agreement))))
        for claims in texts.values():
            if all(claimed and claimed <= comparable and not claimed & set(titles) for _, claimed in claims):
                for claim, _ in claims:
                    yield f"The pixels are {made_by}'s{called}, but {claim.program} claims {statement(claim)}."

    def with_files(self, files: Sequence[tuple[str, str, str]]) -> "IdentifiedImage":
        """With a note on each claim whose hash some file has. Of files, sha256, path and content are given."""
        return replace(self, claims=tuple(claim.noting(*_same_hash(claim, files)) for claim in self.claims))

    def lines(self) -> Iterator[str]:
        """For people, without the file's name."""
        if not self.claims and not self.unread and self.error is None:
            yield "no metadata that says anything about a VAE"
        for claim, agreement in zip(self.claims, self.agreements, strict=True):
            yield f"{claim.program} claims ({claim.place}): {statement(claim)}"
            if agreement is not None:
                yield f"  {agreement.sentence}"
            for note in claim.notes:
                yield f"  {note}"
        yield from self.unread
        if self.verdict is not None:
            yield f"Pixels: {self.verdict.sentence}"
            yield from (f"  {note}" for note in self.notes)
        else:
            yield from self.notes
        if self.verdict is not None:
            said = {one.sentence for one in self.agreements if one is not None}
            yield from (sentence for sentence in self.contradictions if sentence not in said)
        if self.error is not None:
            yield str(self.error)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        claims = [
            claim.as_dict() | {"compared": None if agreement is None else agreement.as_dict()}
            for claim, agreement in zip(self.claims, self.agreements, strict=True)
        ]
        return {
            "file": str(self.path),
            "claims": claims,
            "unread": list(self.unread),
            "verdict": None if self.verdict is None else self.verdict.as_dict(),
            "notes": list(self.notes),
            "contradictions": list(self.contradictions),
            "error": None if self.error is None else {"exit_code": self.exit_code, "message": str(self.error)},
        }


def identify_images(
    paths: Sequence[StrPath], vaes: Sequence[StrPath | VAE], runtime: Runtime, *, space: str | None = None
) -> list[IdentifiedImage]:
    """The images, in order; with VAEs named, also by their pixels.

    An image that can't be read has its error in the result and stops nothing. VAEs of one name are told apart by their
    folders. Raises what loading a VAE and fitting it raise.
    """
    loaded = [vae_of(vae, runtime, space=space) for vae in vaes]
    names = distinct_names([vae.name for vae in loaded], vaes)
    decoders = [vae.named(name) for vae, name in zip(loaded, names, strict=True)]
    return [_identified(Path(path), decoders, runtime) for path in paths]


def _identified(path: Path, vaes: Sequence[VAE], runtime: Runtime) -> IdentifiedImage:
    try:
        metadata = read_metadata(path)
        incomplete = (CUT_OFF,) if is_cut_off(path) else ()
    except VaelensError as error:
        return IdentifiedImage(path, error=error)
    agreements = tuple(compare(claim) for claim in metadata.claims)
    found = IdentifiedImage(path, metadata.claims, agreements, metadata.unread, notes=incomplete)
    if not vaes:
        return found
    try:
        decoded = decode_file(path)
    except VaelensError as error:
        return replace(found, error=error)
    verdict = judge(decoded.image, vaes, runtime)
    notes = [*incomplete, *(f"Judged as it is read: {note}." for note in decoded.notes)]
    if (lossy := _lossy(path)) is not None:
        notes.append(f"{lossy} Judge the image as it was first saved, as PNG.")
    return replace(found, verdict=verdict, notes=tuple(notes))


def _same_hash(claim: Claim, files: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    digest = sha256_start(claim.hash or "")
    if digest is not None:
        for sha256, path, what in files:
            if sha256.startswith(digest):
                yield f"The hash is that of {path}, whose content is {what}."


def _lossy(path: Path) -> str | None:
    """A sentence on a format that changes pixels; None for one that doesn't."""
    with path.open("rb") as file:
        kind = file_kind(file.read(HEAD))
        sentence = None if kind is None else LOSSY.get(kind.name)
        return None if sentence is not None and (webp.is_lossless(file) or tiff.is_lossless(file)) else sentence


def _titles(claim: Claim, agreement: Agreement | None) -> list[str]:
    """The known VAEs that a claim can mean: by the hash or fingerprint, else by the name."""
    hashed = [file.title for file in agreement.by_hash] if agreement is not None else []
    if agreement is not None:
        hashed += agreement.by_fingerprint
    return hashed or (vaes_by_name(claim.vae) if claim.vae else [])


def statement(claim: Claim) -> str:
    """What is claimed, in words."""
    parts: list[str] = []
    if claim.vae is not None:
        parts.append(f"VAE {shortened(claim.vae, LONGEST)}")
    if claim.hash is not None:
        parts.append(f"{'hash' if parts else 'a VAE with the hash'} {shortened(claim.hash, LONGEST)}")
    if claim.fingerprint is not None:
        parts.append(f"fingerprint {shortened(claim.fingerprint, LONGEST)}")
    if claim.own_vae:
        parts.append("the checkpoint's own VAE")
    if claim.checkpoint is not None:
        parts.append(f"checkpoint {shortened(claim.checkpoint, LONGEST)}")
    return ", ".join(parts) if parts else "nothing"
