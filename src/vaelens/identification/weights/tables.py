"""What `identify` prints: one file in detail, or the table of several; and the sentences below them."""

import os
from collections.abc import Iterator
from pathlib import Path

from vaelens.identification.weights.findings import layout, shared_by, stored
from vaelens.identification.weights.results import Identification, IdentifiedWeights
from vaelens.report.tables import Column, Table

COLUMNS = ("file", "what it is", "latent space", "stored as", "layout", "size", "keep")
UNREAD = "can't be read, see below"
SHOWN = 12  # names of what a pickled file holds beside tensors: some have hundreds


def summary(found: Identification) -> Table:
    """A row for each file, copies of the same weights below each other, the one to keep first."""
    names = _names(found)
    return Table(tuple(map(Column, COLUMNS)), tuple(_row(file, names) for file in found), shared=0)


def remarks(found: Identification) -> Iterator[str]:
    """What contradicts a name, what couldn't be read, and which known VAEs weren't there to compare with."""
    names = _names(found)
    for file in found:
        for sentence in file.contradictions:
            yield f"{names[file]}: {sentence}"
    for file in found:
        if file.examined.error is not None and len(found) > 1:  # one file's details say it
            yield str(file.examined.error)
    for first in found.not_here[:1]:
        are = "are" if len(found.not_here) > 1 else "is"
        yield (
            f"Not compared with {', '.join(found.not_here)}, which {are} not on this machine. --against {first} "
            "downloads it."
        )


def details(file: IdentifiedWeights) -> list[tuple[str, str]]:
    """Labels and values for one file."""
    examined, vae = file.examined, file.examined.vae
    rows = [("file", " + ".join(map(str, examined.halves_of_two or (file.path,)))), ("is", file.what)]
    if vae is not None and file.encoder is not None and file.decoder is not None:
        prints = vae.content.fingerprint
        encoder = str(file.encoder)
        if file.vae is not None and (owner := shared_by(file.encoder, file.vae)) not in {None, file.vae}:
            encoder = f"{owner} (as published: {file.vae} has its encoder)"
        rows += [("encoder", encoder), ("decoder", str(file.decoder))]
        rows += [
            (
                "fingerprint",
                f"{prints.short} (encoder-decoder, the same in any layout and format, not in another precision)",
            )
        ]
    space = file.latent_space
    if space.name is not None or examined.error is None:
        rows.append(("latent space", f"{space.name}: {space.evidence}" if space.name is not None else space.evidence))
    if vae is not None:
        where = f" under {vae.raw.prefix}" if vae.raw.prefix else ""
        pickled = ", pickled" if examined.is_pickled else ""
        rows.append(("stored as", f"{stored(vae)} in {layout(vae)} layout{where}{pickled}, {_size(examined.size)}"))
        if vae.beside:
            rows.append(("beside it", " and ".join(vae.beside)))
    if examined.dropped:
        rows.append(("dropped", f"{_listed(examined.dropped)} (not tensors; nothing in the file was run)"))
    if examined.halves_of_two:
        rows += [("sha256", f"{sha256} of {path.name}") for path, sha256 in examined.hashes]
    elif examined.sha256 is not None:
        rows.append(("sha256", examined.sha256))
        rows.append(("short hash", f"{file.short_hash} (as AUTOMATIC1111 and model sites show it)"))
    if examined.known is not None and len(examined.known.names) > 1:
        rows.append(("also called", ", ".join(examined.known.names[1:])))
    return rows


def _row(file: IdentifiedWeights, names: dict[IdentifiedWeights, str]) -> tuple[str, ...]:
    vae = file.examined.vae
    what = file.what
    if file.same_weights_as is not None:
        first = next(one for one in names if one.path == file.same_weights_as)
        same = "the same file" if first.examined.is_copy(file.examined) else "the same weights"
        what = f"{same} as {names[first]}"
        if vae is not None and vae.beside:
            what = f"a checkpoint with {what}"
    elif file.examined.error is not None and file.examined.known is None:
        what = UNREAD
    pickled = ", pickled" if file.examined.is_pickled else ""
    form = ("-", "-")
    if vae is not None:
        form = (stored(vae) + pickled, layout(vae) + (", in a checkpoint" if vae.beside else ""))
    space = file.latent_space.name or ("-" if vae is None and file.examined.other is None else "can't tell")
    called = " + ".join([names[file], *(path.name for path in file.examined.halves_of_two[1:])])
    return (called, what, space, *form, _size(file.examined.size), str(file.keep))


def _names(found: Identification) -> dict[IdentifiedWeights, str]:
    """The files' paths from the folder that they all lie in."""
    paths = {file: file.path.absolute() for file in found}
    folder = Path(os.path.commonpath([path.parent for path in paths.values()]))
    return {file: path.relative_to(folder).as_posix() for file, path in paths.items()}


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more (--json has them)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _size(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 10_000_000 else f"{size / 1e6:.1f} MB"
