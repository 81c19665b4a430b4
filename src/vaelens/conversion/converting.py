"""`vaelens convert` and `vaelens extract`: a VAE in another layout and precision, checked against its source.

vaelens convert ft-mse.ckpt -o ft-mse.safetensors --layout diffusers --dtype float16
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaelens.conversion.fp16_checks import STEPS as RESCUE_STEPS
from vaelens.conversion.fp16_checks import Rescue, largest_of, rescue
from vaelens.conversion.output_folders import check_folder
from vaelens.conversion.recasting import check_same, recast
from vaelens.conversion.trial_images import TrialImages
from vaelens.conversion.verification import Differences, verify
from vaelens.errors import BadInputError, CheckFailedError, UsageError
from vaelens.families.discovery import families
from vaelens.families.spec import VAESpec
from vaelens.files import Ready, StrPath, writable_path, written_beside
from vaelens.health.activations import HALF_LIMIT, recorded
from vaelens.loading import read
from vaelens.networks.autoencoder_kl import AutoencoderKLConfig
from vaelens.runtime import Notify, Progress, Runtime, dtype_name, find_dtype, part_of
from vaelens.tensors.file_types import PICKLED
from vaelens.text.paths import exists, user_path
from vaelens.vae import VAE
from vaelens.weights.reading import VAEWeights, read_vae
from vaelens.weights.registry import registry
from vaelens.weights.saving import HASHES, OURS, check_target, is_single_file, vae_files, vae_paths

STEPS = 3  # of the progress: reading, writing, comparing


@dataclass(frozen=True)
class Conversion:
    """What was read, what was written, and how the two differ on `images` (in words), both computed in float32.

    `layout` and `stored` (a dtype, or several) are those of the files written; `dropped` is what the source had beyond
    the VAE: tensors, metadata. `rescue` is what was done and measured to make it safe for float16.
    """

    source: str
    source_layout: str
    source_stored: str
    layout: str
    stored: str
    spec: VAESpec
    tensors: int
    bytes: int
    written: tuple[Path, ...]
    dropped: tuple[str, ...]
    images: str
    differences: Differences
    rescue: Rescue | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        held = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("spec", "rescue")}
        held["written"] = [str(path) for path in self.written]
        held["differences"] = self.differences.as_dict()
        held["fp16_safe"] = None if self.rescue is None else self.rescue.as_dict()
        return held | {"network": self.spec.family.title, "latent_space": self.spec.latent_space}


def convert(
    source: StrPath,
    output: StrPath,
    *,
    layout: str | None = None,
    dtype: str | None = None,
    fp16_safe: bool = False,
    photos: Sequence[StrPath] | None = None,
    space: str | None = None,
    subfolder: str | None = None,
    device: str = "auto",
    offline: bool = False,
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Write the VAE that `source` names to `output`: a .safetensors file, or a diffusers folder.

    `source` is what `load` takes, also a whole checkpoint. `layout` ("diffusers", "ldm") and `dtype` are the source's
    where they aren't named (diffusers' for a TAESD's two files, whose layout one file can't have); without another
    dtype every tensor keeps its bits. The metadata of a stand-alone file stay, its own hashes excepted; our complete
    spec is added. What was written is read back and compared: tensor by tensor, and by encoding and decoding `photos`
    (files or folders; synthetic images where none are named). With `fp16_safe` what float16 can't hold is scaled first,
    as measured on these images (`fp16_checks.rescue`), and the default dtype is float16.

    Raises UsageError where output, layout and family don't fit, for an output that is the source, and for a value too
    large for the dtype; CheckFailedError where the result isn't the source's function; what reading and writing raise.
    Then nothing is left at `output`, and an old file there is untouched.
    """
    images = TrialImages.of(photos)
    runtime = Runtime.of(device=device, offline=offline, notify=notify, progress=progress)
    cast = None if dtype is None else find_dtype(dtype)
    _check_call(output, layout)
    more = len(RESCUE_STEPS) if fp16_safe else 0
    runtime.progress(0, STEPS + more, "reading")
    weights, name = read(source, runtime, space=space, subfolder=subfolder)
    rescued = None
    if fp16_safe:
        check_target(user_path(output), layout or _usual_layout(weights, user_path(output)), weights.spec, name)
        _check_not_source(weights, user_path(output))
        plain = VAE.from_tensors(weights.tensors, weights.spec, name, device=runtime.device, dtype=torch.float32)
        rescued = rescue(plain, images.read(), part_of(runtime.progress, 1, STEPS + more))
        cast = cast or torch.float16
    runtime = dataclasses.replace(runtime, progress=part_of(runtime.progress, more, STEPS + more))
    changed = None if rescued is None else rescued.vae
    done = write_checked(
        weights, name, output, layout=layout, dtype=cast, images=images, runtime=runtime, changed=changed
    )
    return dataclasses.replace(done, rescue=rescued)


def extract(
    checkpoint: StrPath,
    output: StrPath,
    *,
    layout: str | None = None,
    dtype: str | None = None,
    photos: Sequence[StrPath] | None = None,
    space: str | None = None,
    device: str = "auto",
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """As `convert`, of the VAE in a whole checkpoint, of whose file it leaves only that.

    The metadata of a checkpoint describe the whole model and don't go with its VAE. Raises UsageError for a file
    that is a VAE alone.
    """
    images = TrialImages.of(photos)
    runtime = Runtime.of(device=device, notify=notify, progress=progress)
    cast = None if dtype is None else find_dtype(dtype)
    _check_call(output, layout)
    path = user_path(checkpoint)
    if path.is_dir():
        raise UsageError(f"{path} is a folder, whose VAE is a file by itself already. Use `vaelens convert`.")
    if not exists(str(path)):
        use = f"`vaelens convert {checkpoint} -o {output}` writes it to a file"
        raise BadInputError(f"{path}: there is no such file. {registry().advice(str(checkpoint), use)}")
    runtime.progress(0, STEPS, "reading")
    weights, _ = read(path.absolute(), runtime, space=space)  # a path, never a name that would be downloaded
    if not is_within(weights):
        raise UsageError(f"{path} is a VAE by itself, not a checkpoint with one. Use `vaelens convert`.")
    return write_checked(weights, path.name, output, layout=layout, dtype=cast, images=images, runtime=runtime)


def is_within(weights: VAEWeights) -> bool:
    """Whether a VAE was read out of a checkpoint of a whole model."""
    return weights.others > 0


def write_checked(
    weights: VAEWeights,
    name: str,
    output: StrPath,
    *,
    layout: str | None,
    dtype: torch.dtype | None,
    images: TrialImages,
    runtime: Runtime,
    changed: VAE | None = None,
) -> Conversion:
    """Write a VAE that was read, read it back, compare it with the source, and only then move it to `output`.

    changed: the VAE to write instead of the one that was read, which it must agree with
    """
    target = user_path(output)
    spec = weights.spec if changed is None else changed.spec
    tensors = weights.tensors if changed is None else changed.tensors()
    chosen = layout or _usual_layout(weights, target)
    check_target(target, chosen, spec, name)
    _check_not_source(weights, target)
    intended = recast(tensors, dtype, name)
    kept = {} if is_within(weights) else {k: v for k, v in weights.metadata.items() if k not in HASHES | OURS}
    if layout is None and chosen != weights.layout:
        runtime.notify(_other_layout(weights, target, chosen))
    if any(path.is_file() for path in vae_paths(target)):
        runtime.notify(f"Note: {target} exists and is replaced.")
    runtime.progress(1, STEPS, "writing")
    files = vae_files(intended, spec, target, layout=chosen, name=name, metadata=kept)
    with written_beside(list(files.items())) as ready:
        _check_read_back(ready[0], intended, spec)
        runtime.progress(2, STEPS, "comparing")
        after = VAE.from_tensors(intended, spec, name, device=runtime.device, dtype=torch.float32)
        differences, largest_output = _compare(
            weights, after, images, measured=any(tensor.dtype == torch.float16 for tensor in intended.values())
        )
        largest = max(differences.latents_largest, differences.pixels_largest)
        if stored_as(intended) == stored_as(weights.tensors) and changed is None and largest > 0:
            raise CheckFailedError(
                f"{target}: the same weights gave other latents or pixels, by {largest:.2g}, when they were read back; "
                "nothing is left there."
            )
        for one in ready:
            one.place()
    if largest_output is not None:
        _note_overflow(spec, *largest_output, runtime)
    left = {k for k in weights.metadata if k not in kept and k not in OURS}
    return Conversion(
        source=name,
        source_layout=weights.layout + (f", under {weights.prefix}" if weights.prefix else ""),
        source_stored=stored_as(weights.tensors),
        layout=chosen,
        stored=stored_as(intended),
        spec=spec,
        tensors=len(intended),
        bytes=sum(len(content) for content in files.values()),
        written=tuple(one.target for one in ready),
        dropped=(
            *weights.dropped,
            *weights.not_weights,
            *weights.not_tensors,
            *(f"metadata {key}" for key in sorted(left)),
        ),
        images=images.title,
        differences=differences,
    )


def stored_as(tensors: Mapping[str, Tensor]) -> str:
    """The dtypes of tensors, in words."""
    return ", ".join(sorted({dtype_name(t.dtype) for t in tensors.values()}))


def _check_call(output: StrPath, layout: str | None) -> None:
    """What can be known before anything is read. Raises UsageError for a pickled output and for an unknown layout."""
    target = user_path(output)
    if target.suffix.lower() in PICKLED:
        raise UsageError(f"{target}: vaelens writes no pickled files. End the name in .safetensors.")
    known = sorted({one.name for family in families().values() for one in family.layouts if one.from_diffusers})
    if layout is not None and layout not in known:
        raise UsageError(f"no layout is called {layout!r}. VAEs are saved as {' or '.join(known)}.")
    if not is_single_file(target):
        check_folder(target)
    for path in vae_paths(target):
        writable_path(path)


def _usual_layout(weights: VAEWeights, target: Path) -> str:
    """The source's own where one file can have it; a folder is diffusers'."""
    layouts = {one.name for one in weights.spec.family.layouts if one.from_diffusers}
    return weights.layout if weights.layout in layouts and is_single_file(target) else "diffusers"


def _other_layout(weights: VAEWeights, target: Path, layout: str) -> str:
    """The note for a source whose layout the output can't have."""
    if not is_single_file(target):
        return (
            f"Note: {target} doesn't end in .safetensors, so it becomes a folder for diffusers, in the layout {layout} "
            f"instead of {weights.layout}."
        )
    return (
        f"Note: the layout {weights.layout} has encoder and decoder in files of their own, so {target.name} gets the "
        f"layout {layout}."
    )


def _check_not_source(weights: VAEWeights, target: Path) -> None:
    sources = {file.resolve() for file in weights.files}
    for path in vae_paths(target):
        if writable_path(path) in sources:
            raise UsageError(f"{target} is the source itself, which is never replaced. Name another output.")


def _check_read_back(ready: Ready, intended: Mapping[str, Tensor], spec: VAESpec) -> None:
    again = read_vae(ready.written)
    check_same(again.tensors, intended, ready.target)
    if again.spec != spec:
        raise CheckFailedError(f"{ready.target}: its spec was read back otherwise than it was written: {again.spec}.")


def _compare(
    weights: VAEWeights, converted: VAE, images: TrialImages, *, measured: bool
) -> tuple[Differences, tuple[str, float] | None]:
    """The source's function against the converted VAE's, both in float32: only their weights can differ.

    Where it is to be measured, also the layer of the converted one with the largest absolute output, and that output.
    """
    where: dict[str, Any] = {"device": converted.device, "dtype": torch.float32}
    before = VAE.from_tensors(weights.tensors, weights.spec, converted.name, **where)
    if not measured:
        return verify(before, converted, images.read()), None
    sums = converted.spec.family.residual_blocks
    # Both are recorded: layers that are watched aren't merged, and that alone would change the last digits.
    with recorded(before.network, sums), recorded(converted.network, sums) as maxima:
        differences = verify(before, converted, images.read())
    return differences, largest_of(maxima.largest())


def _note_overflow(spec: VAESpec, layer: str, largest: float, runtime: Runtime) -> None:
    """Weights in float16 are mostly run in it, where black images come from values that it can't hold."""
    if largest > HALF_LIMIT:
        remedy = (
            "`vaelens convert --fp16-safe` scales it so that they fit"
            if isinstance(spec.config, AutoencoderKLConfig)
            else "--dtype bfloat16 or float32 has no such limit"
        )
        runtime.notify(
            f"Note: run in float16, this VAE gives black or NaN images: {layer} reaches {largest:.4g}, and float16 "
            f"ends at {HALF_LIMIT:,.0f}. {remedy}."
        )
