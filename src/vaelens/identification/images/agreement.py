"""Whether what a claim says of a VAE, its name and its hash or fingerprint, is known and fits together."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from vaelens.identification.images.claims import Claim
from vaelens.identification.images.known_prints import display_name, vaes_by_fingerprint
from vaelens.text.display import shortened
from vaelens.weights.known_files import HASH, KnownFile, files_by_hash, known_files
from vaelens.weights.registry import registry

Verdict = Literal[
    "agree",
    "contradict",
    "known hash",
    "unknown hash",
    "known name",
    "unknown name",
    "nothing to compare",
    "known fingerprint",
    "unknown fingerprint",
]
SUFFIXES = re.compile(r"(?:\.vae)?\.(?:safetensors|ckpt|pt|pth|bin|sft)$|\.vae$", re.IGNORECASE)
NAMES_OF_ALL = {"diffusion_pytorch_model", "diffusion_pytorch_model.fp16", "vae", "model"}  # which say nothing
LONGEST_NAME, LONGEST_HASH = 100, 20  # characters of each in a sentence


@dataclass(frozen=True)
class Agreement:
    """How a claim's name and hash or fingerprint compare with the known VAEs, in one word and in a sentence."""

    verdict: Verdict
    sentence: str
    by_hash: tuple[KnownFile, ...] = ()
    by_name: tuple[str, ...] = ()
    by_fingerprint: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the verdict, the sentence, and the VAEs that are known by hash, name and fingerprint."""
        fields = ("vae", "title", "space", "name", "sha256", "seen")
        hashed = [{field: getattr(file, field) for field in fields} for file in self.by_hash]
        return {
            "verdict": self.verdict,
            "sentence": self.sentence,
            "by_hash": hashed,
            "by_name": list(self.by_name),
            "by_fingerprint": list(self.by_fingerprint),
        }


def compare(claim: Claim) -> Agreement | None:
    """How a claim's name and hash, or name and fingerprint, compare; None for a claim that has none of them.

    Nothing is proven by it: a name can be anybody's choice, and a copy that was saved again has another sha256.
    """
    if claim.vae is None and claim.hash is None and claim.fingerprint is None:
        return None
    named = tuple(vaes_by_name(claim.vae)) if claim.vae else ()
    if claim.hash is None:
        prints = claim.fingerprint
        return _by_name_alone(claim.vae or "", named) if prints is None else _by_fingerprint(prints, claim, named)
    digest = sha256_start(claim.hash)
    if digest is None:
        digest = _plain(claim.hash)
        return Agreement("nothing to compare", _strange(digest) + _of_name(claim.vae, named), by_name=named)
    hashed = tuple(files_by_hash(digest))
    if not hashed:
        return Agreement("unknown hash", _unknown(digest, claim.vae, named), by_name=named)
    if len({file.vae for file in hashed}) > 1:
        return Agreement("known hash", f"{_shown(digest)} is too short: {_titles(hashed)} begin so.", hashed, named)
    return _by_hash(digest, hashed, claim.vae, named)


def sha256_start(written: str) -> str | None:
    """The hexadecimal digits of a hash as programs write it; None for one of another kind, or of too few digits."""
    digest = _plain(written)
    return digest if HASH.fullmatch(digest) else None


def _plain(written: str) -> str:
    return written.strip().lower().removeprefix("sha256:")


def vaes_by_name(name: str) -> list[str]:
    """The VAEs, as `display_name` calls them, whose files have a name; suffix, folders and case don't matter."""
    return list(_titles_by_name().get(_stem(name), ()))


@cache
def _titles_by_name() -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for file in known_files():
        for one in (*file.names, *([file.vae] if file.is_listed else [])):
            found.setdefault(_stem(one), {})[display_name(file.vae, file.title)] = None
    for name, entry in registry().vaes.items():
        for one in (name, (entry.repo or "").rpartition("/")[2]):
            found.setdefault(_stem(one), {})[display_name(name, entry.title)] = None
    return {stem: tuple(titles) for stem, titles in found.items() if stem and stem not in NAMES_OF_ALL}


def _stem(name: str) -> str:
    return SUFFIXES.sub("", name.strip().replace("\\", "/").rpartition("/")[2]).lower()


def _by_name_alone(name: str, named: tuple[str, ...]) -> Agreement:
    if named:
        return Agreement("known name", f"A name of {_listed(named)}. A name alone proves nothing.", by_name=named)
    return Agreement(
        "unknown name", f"No known VAE is called {_shown(name, LONGEST_NAME)}. A name alone proves nothing."
    )


def _by_fingerprint(short: str, claim: Claim, named: tuple[str, ...]) -> Agreement:
    found, compared = vaes_by_fingerprint(short, claim.digests)
    printed = tuple(found)
    of = f"{_shown(short, LONGEST_NAME)} is the fingerprint of {_listed(printed)}" if printed else ""
    if claim.vae is None:
        sentence = f"{of}." if of else "The fingerprint is of no VAE that is known on this machine."
        verdict: Verdict = "known fingerprint" if of else "unknown fingerprint"
        return Agreement(verdict, sentence, by_fingerprint=printed)
    shown = _shown(claim.vae, LONGEST_NAME)
    if set(printed) & set(named):
        return Agreement("agree", f"Name and fingerprint agree: {of}.", (), named, printed)
    if printed and not named:
        sentence = f"{of}; {shown} isn't a name that it is known under."
        return Agreement("known fingerprint", sentence, (), named, printed)
    if printed or (named and set(named) <= compared):
        but = of or f"the fingerprint of {_listed(named)} is another one"
        against = f"Name and fingerprint contradict each other: {shown} is a name of {_listed(named)}, but {but}."
        return Agreement("contradict", against, (), named, printed)
    alone = f"A name of {_listed(named)}" if named else f"No known VAE is called {shown}"
    sentence = f"{alone}; the fingerprint is of no VAE that is known on this machine, so nothing is proven."
    return Agreement("unknown fingerprint", sentence, (), named)


def _by_hash(digest: str, hashed: tuple[KnownFile, ...], name: str | None, named: tuple[str, ...]) -> Agreement:
    file = hashed[0]
    unsure = "; its hash is in one public list only, so unconfirmed" if file.seen == 1 else ""
    of = f"{_shown(digest)} is the hash of {file.names[0]} ({file.title}{unsure})"
    if name is None:
        return Agreement("known hash", f"{of}.", hashed)
    shown = _shown(name, LONGEST_NAME)
    if file.title in named:
        other = "" if _stem(name) == _stem(file.name) else ", which is also passed on under this name"
        return Agreement("agree", f"Name and hash agree: {of}{other}.", hashed, named)
    if named:
        against = f"Name and hash contradict each other: {shown} is a name of {_listed(named)}, but {of}."
        return Agreement("contradict", against, hashed, named)
    return Agreement("known hash", f"{of}; {shown} isn't a name that it is known under.", hashed, named)


def _unknown(digest: str, name: str | None, named: tuple[str, ...]) -> str:
    return (
        f"No known file has the hash {_shown(digest)}, which proves nothing: any copy saved again has one of its own."
        + (_of_name(name, named))
    )


def _of_name(name: str | None, named: tuple[str, ...]) -> str:
    if name is None:
        return ""
    return f" The name is one of {_listed(named)}." if named else " The name isn't known."


def _strange(digest: str) -> str:
    kind, colon, _ = digest.partition(":")
    if colon and kind.isalnum():
        return f"The hash is of another kind ({kind[:LONGEST_HASH]}) than the sha256 that is known of files."
    return f"{_shown(digest)} isn't the beginning of a sha256."


def _titles(files: tuple[KnownFile, ...]) -> str:
    return _listed(tuple(dict.fromkeys(file.title for file in files)))


def _listed(titles: tuple[str, ...]) -> str:
    """Titles, some of which hold commas."""
    return titles[0] if len(titles) == 1 else f"{'; '.join(titles[:-1])}; or {titles[-1]}"


def _shown(text: str, length: int = LONGEST_HASH) -> str:
    return shortened(text, length)
