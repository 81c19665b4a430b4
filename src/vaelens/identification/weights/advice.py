"""Which of several files with the same weights to keep.

A file is advised against only where another one, which is kept, holds all that it holds: each half in a precision at
least as fine, the same spec where it states one, its metadata, and all that isn't weights; and where nothing else
needs it.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import torch

from vaelens.identification.weights.closeness.rounding import precision_of
from vaelens.identification.weights.examined_file import ExaminedFile
from vaelens.weights.fingerprint import HalfContent
from vaelens.weights.folders import STEM

PRECISIONS = ("float64", "float32", "float16", "bfloat16")  # from the finest
FULL = PRECISIONS.index("float32")
PIPELINE = "model_index.json"  # what diffusers writes into a pipeline's folder
NOWHERE: Mapping[Path, Sequence[Path]] = {}


@dataclass(frozen=True)
class Keep:
    """Whether to keep a file, None where that isn't a question of its VAE, and why."""

    advice: bool | None
    reason: str

    def __str__(self) -> str:
        return {True: "yes", False: "no", None: "-"}[self.advice] + (f": {self.reason}" if self.reason else "")


def in_order(group: Sequence[ExaminedFile], misnamed: Set[Path] = frozenset()) -> list[ExaminedFile]:
    """A group, the file to keep first: `misnamed` are those whose names contradict their content."""

    def rank(file: ExaminedFile) -> tuple[object, ...]:
        name = str(file.path)
        return (
            file.link_to is not None,
            _part_of(file) is not None,
            *_quality(file),
            file.path in misnamed,
            file.size,
            len(name),
            name,
        )

    return sorted(group, key=rank)


def uses(files: Sequence[ExaminedFile]) -> Mapping[Path, Sequence[Path]]:
    """Which of the files need what lies at each place: their own parts, and what their links lead to."""
    users: defaultdict[Path, list[Path]] = defaultdict(list)
    for file in files:
        for place in file.places:
            users[place].append(file.path)
    return users


def what_to_keep(
    group: Sequence[ExaminedFile], misnamed: Set[Path] = frozenset(), used: Mapping[Path, Sequence[Path]] = NOWHERE
) -> list[Keep]:
    """For each file of a group, in the order that `in_order` makes; `used` are the `uses` of all files of the call."""
    set_aside = {file.path: why for file in group if (why := _set_aside(file, file is group[0])) is not None}
    rivals = [file for file in group if file.path not in set_aside]
    kept: list[ExaminedFile] = []
    advice: list[Keep] = []
    for file in group:
        covering = [one for one in kept if _covers(one, file)]
        if file.path in set_aside:
            advice.append(Keep(None, set_aside[file.path]))
        elif not covering:
            kept.append(file)
            advice.append(Keep(True, _reason(file, [one for one in rivals if one is not file], misnamed)))
        elif file.vae and file.vae.has_training_state and not any(file.is_copy(one) for one in covering):
            advice.append(Keep(None, "also holds training state"))
        elif file.notes - {note for one in covering for note in one.notes}:
            advice.append(Keep(None, "its metadata hold more"))
        elif others := _other_users(file, used):
            advice.append(Keep(None, _needed_by(others, file.path)))
        else:
            advice.append(Keep(False, ""))
    return advice


def coarseness(file: ExaminedFile) -> tuple[int, int]:
    """The precisions that hold the values of encoder and decoder, 0 for the finest."""
    if file.vae is None:
        return FULL, FULL
    encoder, decoder = (PRECISIONS.index(precision_of(half.exact_in)) for half in _contents(file))
    if "float64" in file.vae.stored_as:
        needed = [
            any(t.dtype == torch.float64 and not torch.equal(t.float().double(), t) for t in half.tensors.values())
            for half in file.vae.halves
        ]
        encoder, decoder = (0 if wide else held for wide, held in zip(needed, (encoder, decoder), strict=True))
    return encoder, decoder


def _set_aside(file: ExaminedFile, is_first: bool) -> str | None:
    """Why keeping a file isn't a question of its VAE; None where it is one."""
    if file.error is not None and file.known is None:
        return ""
    if (whole := _part_of(file)) is not None:
        return whole
    if file.link_to is not None and not is_first:
        return f"a link to {_target(file.path, file.link_to)}"
    return None


def _other_users(file: ExaminedFile, used: Mapping[Path, Sequence[Path]]) -> list[Path]:
    """The other files that need what lies where this one's files lie."""
    users = (user for place in file.places for user in used.get(place, ()) if user != file.path)
    return sorted(dict.fromkeys(users))


def _needed_by(others: Sequence[Path], path: Path) -> str:
    first = others[0].name if others[0].parent == path.parent else str(others[0])
    return f"{first} needs it" if len(others) == 1 else f"{first} and {len(others) - 1} more need it"


def _part_of(file: ExaminedFile) -> str | None:
    """What larger thing a VAE is a part of, which is kept or removed as a whole; None for a VAE by itself."""
    if file.vae is not None and file.vae.raw.others > 0:
        return "a whole checkpoint"
    pipeline = os.path.realpath(file.path.parent / "..")  # of `os.path`, as its functions raise nothing
    if file.path.name.startswith(STEM) and os.path.isfile(os.path.join(pipeline, PIPELINE)):  # noqa: PTH113, PTH118
        return "part of a pipeline"
    return None


def _target(link: Path, target: Path) -> str:
    """The file that a link leads to: its name, with its folder if that is another one."""
    return target.name if target.parent == link.parent.resolve() else str(target)


def _quality(file: ExaminedFile) -> tuple[object, ...]:
    """What is kept rather: the finer precision; no pickle; what states its spec; the published file; metadata."""
    precisions = coarseness(file)
    how = file.is_pickled, not file.tells_spec, file.known is None
    return max(precisions), sum(precisions), *how, -len(file.notes)


def _contents(file: ExaminedFile) -> tuple[HalfContent, HalfContent]:
    assert file.vae is not None
    return file.vae.content.encoder, file.vae.content.decoder


def _covers(kept: ExaminedFile, file: ExaminedFile) -> bool:
    """Whether nothing of a file's VAE and of its spec is missing in another of its group."""
    return all(_half_is_held(kept, file, number) for number in (0, 1)) and _spec_is_held(kept, file)


def _half_is_held(kept: ExaminedFile, file: ExaminedFile, number: int) -> bool:
    if file.vae is None or kept.vae is None:  # equal files, as no others are grouped
        return True
    ours, theirs = _contents(kept)[number], _contents(file)[number]
    if ours.digests.stored == theirs.digests.stored:
        return True
    precisions = coarseness(kept)[number], coarseness(file)[number]
    equal = ours.values == theirs.values and precisions[1] >= FULL  # in float32, which holds them all
    return equal or precisions[0] < precisions[1]


def _spec_is_held(kept: ExaminedFile, file: ExaminedFile) -> bool:
    return file.vae is None or file.vae.stated.items() <= kept.spec_values.items()


def _reason(kept: ExaminedFile, rivals: Sequence[ExaminedFile], misnamed: Set[Path]) -> str:
    """What `kept` has before its rivals."""
    if not rivals:
        return "the only copy"
    reasons = [finer] if (finer := _finer(kept, rivals)) is not None else []
    if not kept.is_pickled and any(one.is_pickled for one in rivals):
        reasons.append("safetensors")
    if any(not _spec_is_held(one, kept) for one in rivals):
        reasons.append("another spec" if all(one.tells_spec for one in rivals) else "states its spec")
    if kept.known is not None and any(one.known is None for one in rivals):
        reasons.append("the published file")
    if any(kept.notes - one.notes for one in rivals if _quality(one)[:-1] == _quality(kept)[:-1]):
        reasons.append("metadata of its own")
    alike = [one for one in rivals if _are_alike(one, kept)]
    if kept.path not in misnamed and any(one.path in misnamed for one in alike):
        reasons.append("not misnamed")
        alike = [one for one in alike if one.path not in misnamed]
    if any(kept.size < one.size for one in alike):
        reasons.append("the smaller" if reasons or len(alike) < len(rivals) else "the smallest")
        alike = [one for one in alike if one.size == kept.size]
    if alike:
        reasons.append(f"any of {len(alike) + 1} alike will do" if reasons else "any of these will do")
    return ", ".join(reasons) or "other values"


def _are_alike(one: ExaminedFile, other: ExaminedFile) -> bool:
    """Whether only names and sizes tell which of two is kept rather."""
    equal = _quality(one) == _quality(other) and one.notes == other.notes
    return equal and _covers(one, other) and _covers(other, one)


def _finer(kept: ExaminedFile, rivals: Sequence[ExaminedFile]) -> str | None:
    """In what the precision of a file is finer than that of some rival; None for nothing."""
    ours = coarseness(kept)
    finer = [[held < other for held, other in zip(ours, coarseness(one), strict=True)] for one in rivals]
    if not any(any(halves) for halves in finer):
        return None
    coarser = any(held > other for one in rivals for held, other in zip(ours, coarseness(one), strict=True))
    if coarser:
        return f"the finer {'encoder' if any(halves[0] for halves in finer) else 'decoder'}"
    rounded = any(max(coarseness(one)) > FULL for one in rivals)
    return "full precision" if rounded and max(ours) <= FULL else "the finer precision"
