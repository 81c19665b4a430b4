"""`identify_image`: what an image's metadata claim about its VAE, how far that fits together, and how it is shown."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vaelens.files import StrPath
from vaelens.identification.images.agreement import Agreement, compare
from vaelens.identification.images.claims import Claim
from vaelens.identification.images.metadata import ImageMetadata, read_metadata
from vaelens.text.display import shortened

LONGEST = 100  # characters of a name in a line


@dataclass(frozen=True)
class IdentifiedImage:
    """What is known about one image's VAE. `agreements`: one for each claim, None where there is nothing to compare."""

    metadata: ImageMetadata
    agreements: tuple[Agreement | None, ...]

    @property
    def contradictions(self) -> tuple[str, ...]:
        """The sentences about names and hashes that contradict each other."""
        return tuple(one.sentence for one in self.agreements if one is not None and one.verdict == "contradict")

    def lines(self) -> Iterator[str]:
        """For people, without the file's name."""
        pairs = list(zip(self.metadata.claims, self.agreements, strict=True))
        if not pairs and not self.metadata.unread:
            yield "no metadata that says anything about a VAE"
        for claim, agreement in pairs:
            yield f"{claim.program} claims ({claim.place}): {statement(claim)}"
            if agreement is not None:
                yield f"  {agreement.sentence}"
            for note in claim.notes:
                yield f"  {note}"
        yield from self.metadata.unread

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        claims = [
            claim.as_dict() | {"compared": None if agreement is None else agreement.as_dict()}
            for claim, agreement in zip(self.metadata.claims, self.agreements, strict=True)
        ]
        return {
            "file": str(self.metadata.path),
            "kind": "image",
            "claims": claims,
            "unread": list(self.metadata.unread),
        }


def identify_image(path: StrPath) -> IdentifiedImage:
    """What an image's metadata claim about the VAE that decoded it; nothing of it is proven.

    Raises BadInputError for a file that isn't an image that vaelens reads.
    """
    metadata = read_metadata(path)
    return IdentifiedImage(metadata, tuple(compare(claim) for claim in metadata.claims))


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
