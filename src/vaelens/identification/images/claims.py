"""What an image's own metadata say about the VAE that decoded it. Claims, not facts: anybody can write them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vaelens.weights.fingerprint import Fingerprint

LONGEST = 300  # characters of a name that are kept
MOST_CLAIMS = 32  # of one text


@dataclass(frozen=True)
class Claim:
    """What one program wrote about one image. Names and hashes are as written, cut to a sensible length.

    `program` wrote it, `place` is where it stands. `vae` is a VAE's name, `hash` the start of its file's sha256 or a
    hash of another kind, which `vaelens.identification.images.agreement` tells apart. `checkpoint` is the diffusion
    model's name. `own_vae` says that the checkpoint's own VAE was used. `fingerprint` is vaelens' short form, `digests`
    the whole one where that is written. `notes` are sentences about what was found on the way.
    """

    program: str
    place: str
    vae: str | None = None
    hash: str | None = None
    checkpoint: str | None = None
    own_vae: bool = False
    fingerprint: str | None = None
    digests: Fingerprint | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_statement(self) -> bool:
        """Whether it says which VAE it was."""
        return self.own_vae or any(one is not None for one in (self.vae, self.hash, self.fingerprint))

    def noting(self, *notes: str) -> "Claim":
        """The claim with more notes, each once."""
        return replace(self, notes=tuple(dict.fromkeys((*self.notes, *notes))))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "program": self.program,
            "place": self.place,
            "vae": self.vae,
            "hash": self.hash,
            "checkpoint": self.checkpoint,
            "checkpoints_own_vae": self.own_vae,
            "fingerprint": self.fingerprint,
            "notes": list(self.notes),
        }


def text_of(value: object) -> str | None:
    """A name from elsewhere: a text that isn't blank, cut to LONGEST characters; None for anything else."""
    if not isinstance(value, str) or not (text := value.strip()):
        return None
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def distinct(claims: Sequence[Claim]) -> list[Claim]:
    """The claims in order, each once; of those that differ in notes alone, the first with the notes of all."""
    found: dict[Claim, dict[str, None]] = {}
    for claim in claims:
        found.setdefault(replace(claim, notes=()), {}).update(dict.fromkeys(claim.notes))
    return [replace(bare, notes=tuple(notes)) for bare, notes in found.items()]


def at_most(claims: Sequence[Claim], program: str, place: str, what: str) -> list[Claim]:
    """The first MOST_CLAIMS of a text's claims, and one that says how many more there are of what."""
    if len(claims) <= MOST_CLAIMS:
        return list(claims)
    more = Claim(program, place, notes=(f"{len(claims) - MOST_CLAIMS:,} more {what}.",))
    return [*claims[:MOST_CLAIMS], more]
