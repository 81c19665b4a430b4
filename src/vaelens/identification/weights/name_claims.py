"""What a file's name says that it is, for the sentence that says where its content is something else.

A name is never evidence: it only contradicts.
"""

import re
from dataclasses import dataclass

from vaelens.tensors.file_types import PICKLED
from vaelens.weights.folders import STEM
from vaelens.weights.known_files import files_by_name, known_files, known_vaes
from vaelens.weights.registry import registry

UNPICKLED = (".safetensors", ".sft")
SUFFIXES = {*UNPICKLED, ".vae", *PICKLED}
SHORTEST = 4  # letters and digits of a word that names a VAE
GENERIC = {"vae", "sdvae", "model"}
START = r"(?<![a-z0-9])"
# A version's number ends here: it isn't that of steps (20k), pixels (2048px), epochs or a year, and no ordinal (2nd).
ALONE = r"(?!\d|k(?!l)|(?:st|nd|rd|th|d|px)(?![a-z])|[ _-]?(?:epoch|step))"
# Words that name a latent space beside its own name.
SPACE_WORDS = {
    "sd1": re.compile(
        rf"(?:{START}sd[ _-]?v?(?:1[ ._-]?[x45]|2[ ._-]?[x01])|^v1-5"
        rf"|stable[ _-]?diffusion[ _-]?v?1(?:[ ._-]?[x45])?){ALONE}",
        re.I,
    ),
    "sdxl": re.compile(rf"sd[ _-]?xl|{START}xl(?![a-z0-9])", re.I),
    "sd3": re.compile(rf"{START}sd[ _-]?3{ALONE}", re.I),
    "flux1": re.compile(rf"{START}flux[ ._-]?1{ALONE}", re.I),
    "flux2": re.compile(rf"{START}flux[ ._-]?2{ALONE}", re.I),
}


@dataclass(frozen=True)
class NameClaim:
    """The VAEs and the latent spaces that a name fits; nothing for a name that says neither."""

    vaes: tuple[str, ...] = ()
    spaces: tuple[str, ...] = ()


def claim_of(name: str, *, is_checkpoint: bool = False) -> NameClaim:
    """What a file's name says. That of a whole checkpoint is the model's: it says no VAE, but the space perhaps."""
    stem = _stem(name)
    spaces = tuple(space for space, words in SPACE_WORDS.items() if words.search(stem))
    if is_checkpoint:
        return NameClaim((), spaces)
    if name.startswith(STEM) or _letters(stem) in GENERIC:
        return NameClaim()
    exact = tuple(dict.fromkeys(file.vae for file in files_by_name(name)))
    if exact:
        return NameClaim(exact, tuple(dict.fromkeys(f.space for f in files_by_name(name) if f.space is not None)))
    said = _said(stem)
    words = {vae: _words(vae) & said for vae in known_vaes()}
    longest = {vae: max(found, key=len) for vae, found in words.items() if found}
    told = {vae for vae, word in longest.items() if not any(word != w and word in w for w in longest.values())}
    return NameClaim(tuple(vae for vae in longest if vae in told), spaces)


def contradiction(
    name: str, vae: str | None, space: str | None, excluded: frozenset[str], *, is_checkpoint: bool = False
) -> str | None:
    """The sentence that says what a name claims wrongly; None where it doesn't.

    `vae` is the known VAE that the file is, None for an unknown one; `excluded` are those that it isn't, in no part.
    """
    claim = claim_of(name, is_checkpoint=is_checkpoint)
    if claim.vaes and vae is not None and vae not in claim.vaes:
        return f"its name says {' or '.join(claim.vaes)}, its content is {vae}."
    if claim.vaes and vae is None and excluded.issuperset(claim.vaes):
        return f"its name says {' or '.join(claim.vaes)}, but it has other weights."
    if claim.spaces and space is not None and space not in claim.spaces:
        return f"its name says {' or '.join(claim.spaces)}, its content is of {space}."
    return None


def format_contradiction(name: str, *, is_pickled: bool) -> str | None:
    """The sentence for a pickled file whose name says that it is none; None for any other."""
    if not is_pickled or not name.lower().endswith(UNPICKLED):
        return None
    return (
        "its name says safetensors, but it is a pickled file, which most programs can't read under this name. "
        "`vaelens convert` writes it as safetensors."
    )


def _words(vae: str) -> set[str]:
    """The words that name a VAE, in letters and digits alone: its name and those of its files."""
    names = {vae, *(_stem(name) for file in known_files() if file.vae == vae for name in file.names)}
    words = {_letters(name) for name in names} - GENERIC - {_letters(space) for space in registry().spaces}
    return {word for word in words if len(word) >= SHORTEST and not word.startswith(_letters(STEM))}


def _said(stem: str) -> set[str]:
    """All that consecutive words of a name say together, in letters and digits alone."""
    words = [word for word in re.split(r"[^a-z0-9]+", stem.lower()) if word]
    return {"".join(words[first:last]) for first in range(len(words)) for last in range(first + 1, len(words) + 1)}


def _stem(name: str) -> str:
    while (dot := name.rfind(".")) > 0 and name[dot:].lower() in SUFFIXES:
        name = name[:dot]
    return name


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
