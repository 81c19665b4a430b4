"""Which known VAEs a fingerprint is of: the embedded ones', and those whose content was recorded on this machine."""

import re
from collections.abc import Iterator
from dataclasses import astuple
from functools import cache

from vaelens.weights.fingerprint import SHORT, Digests, Fingerprint
from vaelens.weights.known_files import known_files
from vaelens.weights.recorded_contents import known_fingerprint, recorded_contents
from vaelens.weights.registry import registry

SHORT_FORM = re.compile(rf"([0-9a-f]{{{SHORT}}})-([0-9a-f]{{{SHORT}}})")


def display_name(vae: str, title: str) -> str:
    """What a known VAE is called in sentences: by its title, which of an embedded one only says what it stands for."""
    entry = registry().vaes.get(vae)
    return vae if entry is not None and entry.embedded else title


def vaes_by_fingerprint(short: str, whole: Fingerprint | None = None) -> tuple[list[str], set[str]]:
    """The VAEs, as `display_name` calls them, that have a fingerprint; and all that it could be compared with.

    `short` is its short form, `whole` all its digests if they are there. Copies in half precision count as the same.
    """
    match = SHORT_FORM.fullmatch(short)
    if match is None:
        return [], set()
    digests = whole if whole is not None and whole.short == short else None
    found: dict[str, None] = {}
    compared: set[str] = set()
    for name, known in _known():
        compared.add(name)
        encoder = _is_same(match[1], digests and digests.encoder, known.encoder)
        if encoder and _is_same(match[2], digests and digests.decoder, known.decoder):
            found[name] = None
    return list(found), compared


def vaes_by_decoder(decoder: Digests) -> list[str]:
    """The VAEs, as `display_name` calls them, that have a decoder, perhaps stored in another precision."""
    return list(dict.fromkeys(name for name, known in _known() if decoder.is_same(known.decoder)))


def comparable_vaes() -> set[str]:
    """The VAEs, as `display_name` calls them, whose weights are known: those that `vaes_by_decoder` can give."""
    return {name for name, _ in _known()}


def _known() -> Iterator[tuple[str, Fingerprint]]:
    yield from _embedded()
    titles = {file.vae: file.title for file in known_files()}
    for one in recorded_contents():
        if one.vae in titles:
            yield titles[one.vae], one.content.fingerprint


@cache
def _embedded() -> tuple[tuple[str, Fingerprint], ...]:
    prints = ((name, known_fingerprint(name)) for name in registry().embedded())
    return tuple((name, found) for name, found in prints if found is not None)


def _is_same(short: str, whole: Digests | None, known: Digests) -> bool:
    if whole is not None and whole.is_same(known):
        return True
    return any(digest.startswith(short) for digest in astuple(known))
