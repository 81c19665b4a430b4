"""Files that hold the same weights, and which of them to keep."""

import itertools
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from vaelens.identification.weights.closeness.rounding import differing_tensors, precision_of
from vaelens.identification.weights.examined_file import ExaminedFile, ReadVAE

PRECISIONS = ("float32", "float16", "bfloat16")  # from the finest


@dataclass(frozen=True)
class Keep:
    """Whether to keep a file, None where that isn't a question of its VAE, and why."""

    advice: bool | None
    reason: str

    def __str__(self) -> str:
        return {True: "yes", False: "no", None: "-"}[self.advice] + (f": {self.reason}" if self.reason else "")


def groups_of_copies(files: Sequence[ExaminedFile]) -> list[list[ExaminedFile]]:
    """The files, those with the same weights together; in each group the one to keep first, in the order of names.

    The same are: equal files; VAEs whose encoder and decoder have the same values, or the same but for rounding to
    half precision, whatever layout and format they are stored in. A rounded copy that several could have been rounded
    to is one of the first of these alone: it doesn't make them the same.
    """
    groups: list[list[ExaminedFile]] = []
    for file in sorted(files, key=lambda one: (_coarseness(one), _rank(one))):  # others are known by the finest
        fitting = (group for group in groups if _same(file, group[0]))
        through_others = (group for group in groups if any(_same(file, one) for one in group[1:]))
        group = next(itertools.chain(fitting, through_others), None)
        if group is None:
            groups.append([file])
        else:
            group.append(file)
    for group in groups:
        group.sort(key=_rank)
    return sorted(groups, key=place_in_table)


def place_in_table(group: Sequence[ExaminedFile]) -> tuple[bool, str]:
    """Groups are in the order of their first files' names; errors come last."""
    return _stands_alone(group[0]), str(group[0].path).lower()


def in_order(group: Sequence[ExaminedFile], misnamed: Set[Path]) -> list[ExaminedFile]:
    """A group, the file to keep first: `misnamed` are those whose names contradict their content."""
    return sorted(group, key=lambda file: _rank(file, misnamed))


def what_to_keep(group: Sequence[ExaminedFile], misnamed: Set[Path] = frozenset()) -> list[Keep]:
    """For each file of a group, in the order that `in_order` makes."""
    first, *others = group
    rivals = [one for one in others if not _is_checkpoint(one) and one.link_to is None]
    advice: list[Keep] = []
    for file in group:
        if file.error is not None and file.known is None:
            advice.append(Keep(None, ""))
        elif _is_checkpoint(file):
            advice.append(Keep(None, "a whole checkpoint"))
        elif file is not first and file.link_to is not None:
            advice.append(Keep(None, f"a link to {_target(file.path, file.link_to)}"))
        elif file is first:
            advice.append(Keep(True, _reason(file, rivals, misnamed)))
        else:
            advice.append(Keep(False, ""))
    return advice


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


def _rank(file: ExaminedFile, misnamed: Set[Path] = frozenset()) -> tuple[object, ...]:
    """What is kept rather.

    No link; no checkpoint; full precision; no pickle; the published file; no wrong name; the smaller.
    """
    rounded = file.vae is not None and _is_rounded(file.vae)
    name = str(file.path)
    return (
        file.link_to is not None,
        _is_checkpoint(file),
        rounded,
        file.is_pickled,
        file.known is None,
        file.path in misnamed,
        file.size,
        len(name),
        name,
    )


def _coarseness(file: ExaminedFile) -> int:
    """0 for full precision, then float16, then bfloat16, by the coarser half."""
    if file.vae is None:
        return 0
    contents = file.vae.content
    return max(PRECISIONS.index(precision_of(half.exact_in)) for half in (contents.encoder, contents.decoder))


def _target(link: Path, target: Path) -> str:
    """The file that a link leads to: its name, with its folder if that is another one."""
    return target.name if target.parent == link.parent.resolve() else str(target)


def _is_rounded(vae: ReadVAE) -> bool:
    return bool(vae.content.encoder.exact_in and vae.content.decoder.exact_in)


def _is_checkpoint(file: ExaminedFile) -> bool:
    return file.vae is not None and file.vae.raw.others > 0


def _stands_alone(file: ExaminedFile) -> bool:
    """Errors come last."""
    return file.error is not None and file.known is None


def _reason(kept: ExaminedFile, rivals: Sequence[ExaminedFile], misnamed: Set[Path]) -> str:
    if not rivals:
        return "the only copy"
    reasons: list[str] = []
    if kept.vae is not None and not _is_rounded(kept.vae) and any(r.vae and _is_rounded(r.vae) for r in rivals):
        reasons.append("full precision")
    if not kept.is_pickled and any(one.is_pickled for one in rivals):
        reasons.append("safetensors")
    if kept.known is not None and any(one.known is None for one in rivals):
        reasons.append("the published file")
    alike = [one for one in rivals if _rank(one)[:5] == _rank(kept)[:5]]  # what is said so far doesn't tell these
    if kept.path not in misnamed and any(one.path in misnamed for one in alike):
        reasons.append("not misnamed")
        alike = [one for one in alike if one.path not in misnamed]
    if any(kept.size < one.size for one in alike):
        reasons.append("the smaller" if reasons or len(alike) < len(rivals) else "the smallest")
        alike = [one for one in alike if one.size == kept.size]
    if alike:
        reasons.append(f"any of {len(alike) + 1} alike will do" if reasons else "any of these will do")
    return ", ".join(reasons)
