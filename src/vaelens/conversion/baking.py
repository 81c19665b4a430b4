"""`vaelens bake`: a VAE into a whole checkpoint, whose other tensors and metadata stay byte for byte.

vaelens bake ft-mse v1-5-pruned.safetensors -o v1-5-ft-mse.safetensors
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaelens.conversion.recasting import recast
from vaelens.errors import BadInputError, UsageError
from vaelens.families.discovery import recognise
from vaelens.families.family import Family
from vaelens.families.layouts import Layout
from vaelens.families.spec import VAESpec, config_values
from vaelens.files import StrPath, writable_path, written_beside
from vaelens.loading import read
from vaelens.runtime import Notify, Progress, Runtime, dtype_name, find_dtype
from vaelens.tensors.checkpoint_copy import CheckpointCopy, Replacement
from vaelens.tensors.file_types import check_file
from vaelens.tensors.safetensors_file import open_safetensors
from vaelens.tensors.tensor_file import TensorFile
from vaelens.text.file_kinds import file_kind
from vaelens.text.numbers import counted
from vaelens.text.paths import exists, user_path
from vaelens.weights.other_networks import space_of_checkpoint
from vaelens.weights.reading import VAEWeights
from vaelens.weights.registry import registry
from vaelens.weights.saving import HASHES, is_single_file
from vaelens.weights.wrappers import unwrapped_names

STORED = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in STORED.items()}


@dataclass(frozen=True)
class Baked:
    """What a checkpoint's VAE was replaced by: so many tensors `replaced`, or `added` where it had none.

    `layout` and `prefix` are those of the VAE's names in it, `stored` the dtype of its tensors, `kept` the number of
    the checkpoint's other tensors, `bytes` the size of the new file.
    """

    vae: str
    checkpoint: str
    latent_space: str
    layout: str
    prefix: str
    stored: str
    replaced: int
    added: int
    kept: int
    bytes: int
    written: Path

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"written": str(self.written)}


@dataclass(frozen=True)
class _Slot:
    """Where a tensor of a VAE belongs in a checkpoint: its diffusers name, and the checkpoint's shape and dtype."""

    diffusers_name: str
    shape: tuple[int, ...]
    dtype: str


def bake(
    vae: StrPath,
    checkpoint: StrPath,
    output: StrPath,
    *,
    dtype: str | None = None,
    space: str | None = None,
    offline: bool = False,
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> Baked:
    """Write `checkpoint` (safetensors) to `output` with the VAE that `vae` names (as `load` takes it) in its place.

    The VAE takes the names, layout and dtypes of the one that is there; `dtype` changes the latter. A checkpoint
    without one gets it as checkpoints of its latent space have theirs. `space` is the latent space of whichever file
    doesn't say its own. Besides the VAE no more than a few megabytes are in memory, whatever the checkpoint's size;
    its other tensors and its metadata stay byte for byte.

    Raises UsageError for a VAE of another latent space or shape than the checkpoint's, a pickled checkpoint, and an
    output that is one of the inputs; ResourceError where the disk has too little room; what reading and writing raise.
    """
    runtime = Runtime.of(device="cpu", offline=offline, notify=notify, progress=progress)
    path, target = user_path(checkpoint), user_path(output)
    cast = None if dtype is None else find_dtype(dtype)
    if not exists(str(path)):
        use = "the VAE comes first, the checkpoint second"
        raise BadInputError(f"{path}: there is no such file. {registry().advice(str(checkpoint), use)}")
    opened = _open(path)
    stored = _stored_names(opened)
    vaes = recognise({name: opened.shapes[original] for name, original in stored.items()})
    if any(all(name.startswith(prefix) for name in stored) for prefix, _, _ in vaes):
        raise UsageError(f"{opened.path} is a VAE by itself, not a checkpoint with one. Use `vaelens convert`.")
    if not is_single_file(target):
        raise UsageError(f"{target}: a checkpoint is written as safetensors. End the name in .safetensors.")
    resolved = writable_path(target)
    if resolved == path.resolve():
        raise UsageError(f"{target} is the checkpoint itself, which is never replaced. Name another output.")
    runtime.progress(0, 2, "reading the VAE")
    weights, name = read(vae, runtime, space=space)
    if resolved in {file.resolve() for file in weights.files}:
        raise UsageError(f"{target} is the VAE itself, which is never replaced. Name another output.")
    found = _check_space(opened, weights, name, space)
    slots, prefix, layout = (
        _slots(opened, stored, vaes, weights) if vaes else _new_slots(opened, stored, weights, found)
    )
    _check_shapes(slots, weights, name, path)
    replacements = _replacements(slots, weights, cast, path)
    copy = CheckpointCopy(path, replacements)
    copy.check_space(resolved.parent)
    _note_unseen(weights.spec, found, runtime)
    if stale := sorted(HASHES & opened.metadata.keys()):
        runtime.notify(
            f"Note: the metadata stay as they are, with hashes of the old file that are wrong for the new one: "
            f"{', '.join(stale)}."
        )
    if target.is_file():
        runtime.notify(f"Note: {target} exists and is replaced.")
    runtime.progress(1, 2, "writing the checkpoint")
    with written_beside([(target, copy.write)]) as (ready,):
        copy.check(ready.written, target)
        ready.place()
    added = len(slots.keys() - opened.shapes.keys())
    return Baked(
        vae=name,
        checkpoint=path.name,
        latent_space=found,
        layout=layout.name,
        prefix=prefix,
        stored=", ".join(sorted({dtype_name(STORED[r.dtype]) for r in replacements.values()})),
        replaced=len(slots) - added,
        added=added,
        kept=len(opened.shapes) - len(slots) + added,
        bytes=copy.size,
        written=ready.target,
    )


def _open(path: Path) -> TensorFile:
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder, and vaelens bakes into single files. A pipeline's VAE is a folder in it: write that "
            f"with `vaelens convert VAE -o {path / 'vae'}`."
        )
    head, _ = check_file(path)
    kind = file_kind(head)
    if kind is not None and kind.use == "pickle":
        raise UsageError(
            f"{path} is {kind.name}. vaelens bakes into .safetensors checkpoints only: save it as one with the program "
            "that you use it in, and bake into that."
        )
    return open_safetensors(path)


def _check_space(opened: TensorFile, weights: VAEWeights, name: str, space: str | None) -> str:
    """The checkpoint's latent space, if it is the VAE's."""
    found = space_of_checkpoint(opened) or space
    if found is None:
        raise UsageError(
            f"{opened.path}: its tensors don't tell which model it is. Name its latent space: --space sd1 or sdxl."
        )
    if weights.spec.latent_space != found:
        raise UsageError(
            f"{name} is a VAE of the latent space {weights.spec.latent_space}, and {opened.path} is a model of "
            f"{found}: its images would be wrong. Name a VAE of {found}; `vaelens list` shows some."
        )
    return found


def _stored_names(opened: TensorFile) -> dict[str, str]:
    """The checkpoint's names by those without wrappers."""
    try:
        return unwrapped_names(opened.shapes)
    except ValueError as error:
        raise BadInputError(f"{opened.path}: {error}. Save it again with one of them.") from error


def _slots(
    opened: TensorFile,
    stored: Mapping[str, str],
    vaes: Sequence[tuple[str, Family, Layout]],
    weights: VAEWeights,
) -> tuple[dict[str, _Slot], str, Layout]:
    """The places of the VAE's tensors by their names in the checkpoint, their prefix and layout."""
    if len(vaes) > 1:
        shown = " and ".join(repr(prefix) for prefix, _, _ in vaes[:4])
        raise UsageError(f"{opened.path} holds more than one VAE, under {shown}, so none is replaced.")
    prefix, family, layout = vaes[0]
    if family is not weights.spec.family:
        raise UsageError(
            f"{opened.path} holds {family.title}, and the VAE named is {weights.spec.family.title}. Name one of "
            "the same kind."
        )
    names = [n for n in stored if n.startswith(prefix) and not n.removeprefix(prefix).startswith(family.dropped)]
    # Each tensor is a number, so that its new name tells where it came from; layouts rename and reshape.
    numbers = {
        n.removeprefix(prefix): torch.full((1,), number, dtype=torch.int64).expand(opened.shapes[stored[n]] or (1,))
        for number, n in enumerate(names)
    }
    try:
        renamed = layout.to_diffusers(numbers)
    except ValueError as error:
        raise BadInputError(f"{opened.path}: {error}. Save it again with one of them.") from error
    parts = family.encoder_parts | family.decoder_parts
    if extra := [n for n in renamed if n not in weights.tensors and n.split(".")[0] in parts]:
        raise UsageError(
            f"{opened.path}: its VAE has {counted(len(extra), 'tensor')} that the one named lacks, first {extra[0]}. "
            "They are networks of different sizes; name a VAE with the tensors of the checkpoint's."
        )
    slots: dict[str, _Slot] = {}
    for name, tensor in renamed.items():
        original = stored[names[int(tensor.reshape(-1)[0])]]
        if name in weights.tensors:  # what training left there is kept as it is
            slots[original] = _Slot(name, opened.shapes[original], opened.dtypes[original])
    return slots, _stored_prefix(names[0], stored, prefix), layout


def _new_slots(
    opened: TensorFile, stored: Mapping[str, str], weights: VAEWeights, space: str
) -> tuple[dict[str, _Slot], str, Layout]:
    """For a checkpoint without a VAE: where its kind has it, behind the wrapper of all its names."""
    prefix = registry().spaces[space].checkpoint_prefix
    layout = next((one for one in weights.spec.family.layouts if one.name == "ldm"), None)
    if prefix is None or layout is None or layout.from_diffusers is None:
        raise UsageError(f"{opened.path} holds no VAE, and where models of {space} keep theirs isn't known.")
    if odd := next((name for name in stored if name.startswith(prefix)), None):
        raise UsageError(
            f"{opened.path} holds tensors of a VAE, first {stored[odd]}, and not a whole one that vaelens knows. Bake "
            "into the checkpoint as it was published."
        )
    wrappers = {original.removesuffix(name) if original.endswith(name) else "" for name, original in stored.items()}
    prefix = (wrappers.pop() if len(wrappers) == 1 else "") + prefix
    numbered = list(weights.tensors)
    numbers = {n: torch.full((1,), i).expand(weights.tensors[n].shape) for i, n in enumerate(numbered)}
    slots: dict[str, _Slot] = {}
    for name, tensor in layout.from_diffusers(numbers).items():
        source = numbered[int(tensor.reshape(-1)[0])]
        slots[prefix + name] = _Slot(source, tuple(tensor.shape), NAMES[weights.tensors[source].dtype])
    return slots, prefix, layout


def _stored_prefix(name: str, stored: Mapping[str, str], prefix: str) -> str:
    """What stands before the VAE's names in the file itself, wrappers included."""
    inner = name.removeprefix(prefix)
    return stored[name].removesuffix(inner) if stored[name].endswith(inner) else prefix


def _check_shapes(slots: Mapping[str, _Slot], weights: VAEWeights, name: str, path: Path) -> None:
    places = {slot.diffusers_name: slot for slot in slots.values()}
    if missing := [n for n in weights.tensors if n not in places]:
        raise UsageError(
            f"{path}: its VAE lacks {len(missing)} of the {len(weights.tensors)} tensors of {name}, first {missing[0]}."
            " It is incomplete, or a network of another size; bake into a complete checkpoint of the VAE's kind."
        )
    if misfits := [n for n, slot in places.items() if prod(slot.shape) != weights.tensors[n].numel()]:
        raise UsageError(
            f"{path}: {counted(len(misfits), 'tensor')} of its VAE and of {name} differ in shape, first {misfits[0]}. "
            "They are networks of different sizes; name a VAE with the shapes of the checkpoint's."
        )


def _replacements(
    slots: Mapping[str, _Slot], weights: VAEWeights, dtype: torch.dtype | None, path: Path
) -> dict[str, Replacement]:
    found: dict[str, Replacement] = {}
    for name, slot in slots.items():
        kept = STORED.get(slot.dtype) if dtype is None else dtype
        if kept is None:
            raise UsageError(
                f"{path}: its VAE is stored as {slot.dtype}, in which vaelens writes none. Choose --dtype float16."
            )
        source = weights.tensors[slot.diffusers_name]
        recast({slot.diffusers_name: source}, kept, path.name)  # refuses values that don't fit, before any writing
        size = source.numel() * kept.itemsize
        found[name] = Replacement(NAMES[kept], slot.shape, size, _maker(source, kept))
    return found


def _maker(source: Tensor, dtype: torch.dtype) -> Callable[[], Tensor]:
    return lambda: source.to(dtype)


def _note_unseen(spec: VAESpec, space: str, runtime: Runtime) -> None:
    """What the reader of a checkpoint assumes of its VAE and this one has otherwise."""
    usual = registry().space_spec(space)
    if usual is None or usual.family is not spec.family:
        return
    mine, theirs = config_values(spec.config), config_values(usual.config)
    for field in ("norm_eps", "norm_exponents", "norm_num_groups"):
        if mine.get(field) != theirs.get(field):
            runtime.notify(
                f"Note: programs that load checkpoints of {space} assume {field} {theirs.get(field)}, and this VAE has "
                f"{mine.get(field)}: its images will differ there."
            )
