"""`identify_weights`: what files of weights are, by reading, comparing and grouping them."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

from vaelens.files import StrPath
from vaelens.identification.weights.advice import in_order, uses, what_to_keep
from vaelens.identification.weights.closeness.comparing import verdict_by_digests, verdicts_by_weights
from vaelens.identification.weights.closeness.half_verdict import HalfVerdict
from vaelens.identification.weights.closeness.undone_scaling import verdict_with_scaling_undone
from vaelens.identification.weights.copies import groups_of_copies, place_in_table
from vaelens.identification.weights.examined_file import ExaminedFile, examine_file
from vaelens.identification.weights.findings import finding
from vaelens.identification.weights.latent_space import latent_space
from vaelens.identification.weights.name_claims import contradiction, format_contradiction
from vaelens.identification.weights.references import (
    DECODER,
    ENCODER,
    Reference,
    local_references,
    named_apart,
    named_references,
    recorded_references,
    reference_of,
)
from vaelens.identification.weights.results import Identification, IdentifiedWeights
from vaelens.runtime import Runtime

Verdicts = Mapping[Path, tuple[HalfVerdict, HalfVerdict]]


def identify_weights(files: Sequence[Path], against: Sequence[StrPath], runtime: Runtime) -> Identification:
    """What the files are, in groups of copies; `against` names further VAEs to compare with.

    Compared with: known VAEs that are on this machine, those recorded there, the embedded ones, and the other files.
    A file that can't be read has its error in the result and stops nothing. Raises what reading `against` raises.
    """
    named = named_references(against, runtime)
    examined = _examine(files, runtime)
    groups = groups_of_copies(examined)
    firsts = [reference for group in groups if (reference := _representative(group)) is not None]
    together = named_apart([*named, *firsts])
    named, firsts = together[: len(named)], together[len(named) :]
    runtime.progress(len(files), len(files), "comparing")
    verdicts, compared, not_here = _compare(firsts, examined, named)
    used = uses(examined)
    identified: list[list[IdentifiedWeights]] = []
    for group in groups:
        halves = next((verdicts[file.path] for file in group if file.path in verdicts), None)
        identified.append(_identified(group, halves, compared, used))
    identified.sort(key=lambda found: place_in_table([one.examined for one in found]))
    return Identification(tuple(one for found in identified for one in found), tuple(not_here))


def _examine(files: Sequence[Path], runtime: Runtime) -> list[ExaminedFile]:
    """Each file read; one that another has read with it, as the other half of a VAE, is left out."""
    examined: list[ExaminedFile] = []
    covered: set[Path] = set()
    for done, path in enumerate(files):
        if path.absolute() in covered:
            continue
        runtime.progress(done, len(files), f"reading {path.name}")
        file = examine_file(path)
        covered |= {one.absolute() for one in file.files}
        examined.append(file)
    return examined


def _representative(group: Sequence[ExaminedFile]) -> Reference | None:
    """The file of a group that is compared for all: the published one, else the first one that holds a VAE."""
    readable = [reference for file in group if (reference := reference_of(file)) is not None]
    first = next((one for one in readable if one.is_known), next(iter(readable), None))
    if first is None:
        return None
    return replace(first, scaling=next((one.scaling for one in readable if one.scaling is not None), None))


def _compare(
    targets: Sequence[Reference], examined: Sequence[ExaminedFile], named: Sequence[Reference]
) -> tuple[Verdicts, frozenset[str], list[str]]:
    """Each target's halves; the known VAEs whose weights they were compared with; those that weren't here."""
    references = [*named, *(target for target in targets if target.is_known), *recorded_references()]
    unknown = [target for target in targets if not target.is_known]
    not_here: list[str] = []
    if any(_is_open(target, references) for target in unknown):
        of_unknown = {target.path for target in unknown}
        local, not_here = local_references([file for file in examined if file.path in of_unknown])
        here = {one.name for one in references if one.half(DECODER).weights is not None}
        references += [one for one in local if one.name not in here]
        not_here = [name for name in not_here if name not in {one.name for one in references}]
    halves: list[dict[Reference, HalfVerdict]] = []
    for number in (ENCODER, DECODER):
        found = {
            one: verdict for one in targets if (verdict := verdict_by_digests(one, references, number)) is not None
        }
        left = [target for target in targets if target not in found]
        found |= verdicts_by_weights(left, references, number)
        others = [*references, *unknown]
        halves.append({one: verdict_with_scaling_undone(one, others, number, v) for one, v in found.items()})
    verdicts = {t.path: (halves[ENCODER][t], halves[DECODER][t]) for t in targets if t.path is not None}
    trusted = frozenset(one.name for one in references if one.is_known or one.is_named)
    if all(half.is_identified or _is_mixture_of(half, trusted) for found in halves for half in found.values()):
        not_here = []  # they would have told nothing more
    # Of what was only recorded, digests don't tell that weights are none of it: they may be close.
    compared = frozenset(one.name for one in references if one.is_known and one.half(DECODER).weights is not None)
    return verdicts, compared, not_here


def _is_mixture_of(half: HalfVerdict, names: Set[str]) -> bool:
    return half.mixture is not None and all(name in names for name, _ in half.mixture.parts)


def _is_open(target: Reference, references: Sequence[Reference]) -> bool:
    known = [one for one in references if one.is_known]  # a named one's encoder may be a known VAE's
    return any(verdict_by_digests(target, known, number) is None for number in (ENCODER, DECODER))


def _identified(
    group: Sequence[ExaminedFile],
    halves: tuple[HalfVerdict, HalfVerdict] | None,
    compared: frozenset[str],
    used: Mapping[Path, Sequence[Path]],
) -> list[IdentifiedWeights]:
    encoder, decoder = halves or (None, None)
    related = {name for half in halves or () for name in half.parts}
    found: list[IdentifiedWeights] = []
    told = {file.path: finding(file, encoder, decoder) for file in group}
    spaces = {file.path: latent_space(file, encoder or HalfVerdict(), decoder or HalfVerdict()) for file in group}
    excluded = compared - related
    wrong = {
        file.path: contradiction(
            file.path.name,
            told[file.path][1],
            spaces[file.path].name,
            excluded,
            is_checkpoint=file.vae is not None and bool(file.vae.beside),
        )
        for file in group
    }
    misnamed = {path for path, sentence in wrong.items() if sentence}
    group = in_order(group, misnamed)
    for file, keep in zip(group, what_to_keep(group, misnamed, used), strict=True):
        (what, vae), space = told[file.path], spaces[file.path]
        by_name = wrong[file.path], format_contradiction(file.path.name, is_pickled=file.is_pickled)
        sentences = (*(sentence for sentence in by_name if sentence), *space.contradictions)
        first = None if file is group[0] else group[0].path
        own = (encoder, decoder) if file.vae is not None else (None, None)
        found.append(IdentifiedWeights(file, what, vae, *own, space, sentences, first, keep))
    return found
