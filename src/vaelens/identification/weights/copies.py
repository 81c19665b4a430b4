"""Files that hold the same weights."""

import itertools
from collections.abc import Sequence

from vaelens.identification.weights.advice import coarseness, in_order
from vaelens.identification.weights.closeness.rounding import differing_tensors, precision_of
from vaelens.identification.weights.examined_file import ExaminedFile, ReadVAE


def groups_of_copies(files: Sequence[ExaminedFile]) -> list[list[ExaminedFile]]:
    """The files, those with the same weights together; in each group the one to keep first, in the order of names.

    Two files have the same weights if their bytes are equal, or if encoder and decoder have the same values, up to
    rounding to half precision, in whatever layout and format. Where several unlike files could have been rounded to one
    and the same copy, that copy joins the first of them and doesn't make them one group.
    """
    groups: list[list[ExaminedFile]] = []
    for file in sorted(in_order(files), key=lambda one: max(coarseness(one))):  # others are known by the finest
        fitting = (group for group in groups if _same(file, group[0]))
        through_others = (group for group in groups if any(_same(file, one) for one in group[1:]))
        group = next(itertools.chain(fitting, through_others), None)
        if group is None:
            groups.append([file])
        else:
            group.append(file)
    return sorted((in_order(group) for group in groups), key=place_in_table)


def place_in_table(group: Sequence[ExaminedFile]) -> tuple[bool, str]:
    """Groups are in the order of their first files' names; errors come last."""
    return _stands_alone(group[0]), str(group[0].path).lower()


def _same(a: ExaminedFile, b: ExaminedFile) -> bool:
    if a.is_copy(b):
        return True
    if a.vae is None or b.vae is None or a.vae.raw.family is not b.vae.raw.family:
        return False
    ours, theirs = a.vae.content, b.vae.content
    if ours.encoder.same_as(theirs.encoder) and ours.decoder.same_as(theirs.decoder):
        return True
    return _are_roundings(a.vae, b.vae)


def _are_roundings(a: ReadVAE, b: ReadVAE) -> bool:
    """Whether one is in float16 and the other in bfloat16, and each value is as close as that explains."""
    pairs = list(zip((a.content.encoder, a.content.decoder), (b.content.encoder, b.content.decoder), strict=True))
    for number, contents in enumerate(pairs):
        precisions = precision_of(contents[0].exact_in), precision_of(contents[1].exact_in)
        if {*precisions} != {"float16", "bfloat16"} or a.halves[number].signature != b.halves[number].signature:
            return False
    return not any(
        differing_tensors(one.tensors, other.tensors, ("float16", "bfloat16"))
        for one, other in zip(a.halves, b.halves, strict=True)
    )


def _stands_alone(file: ExaminedFile) -> bool:
    """Errors come last."""
    return file.error is not None and file.known is None
