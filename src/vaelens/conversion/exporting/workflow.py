"""`vaelens export`: a VAE's encoder and decoder as graphs for ONNX Runtime or OpenVINO, each checked against it.

vaelens export ft-mse -o ft-mse-onnx --format onnx
"""

import dataclasses
import importlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vaelens.conversion.exporting.graphs import FILES, ExportedNetwork, Format, graphs
from vaelens.conversion.recasting import recast
from vaelens.conversion.trial_images import TrialImages
from vaelens.conversion.verification import Differences, verify
from vaelens.errors import CheckFailedError, UsageError
from vaelens.families.family import Family
from vaelens.files import StrPath, writable_path, write_together
from vaelens.loading import load
from vaelens.runs.outputs import check_empty
from vaelens.runtime import Notify, Progress, dtype_name, find_dtype, silent
from vaelens.text.paths import user_path
from vaelens.vae import VAE
from vaelens.weights.spec_sources import metadata_text

PARTS, CONFIG = ("vae_encoder", "vae_decoder"), "config.json"
TOLERANCE = 1e-3  # of latents and of pixels on [0,1]
STEPS = ("reading", "writing", "comparing")
# By format: the module and its class, the packages that it imports, and the extra that installs them.
FORMATS = {
    "onnx": ("onnx_format", "OnnxFormat", {"onnx", "onnxruntime"}),
    "openvino": ("openvino_format", "OpenVinoFormat", {"openvino"}),
}


@dataclass(frozen=True)
class Export:
    """What was exported and how it differs from the source.

    `differences` are those between the graphs and the same weights in PyTorch; `by_dtype` those that a narrower
    `stored` dtype makes, None in float32. `images` tells in words what they were measured on, `sizes` (height, width)
    at which sizes.
    """

    source: str
    format: str
    stored: str
    written: tuple[Path, ...]
    bytes: int
    images: str
    sizes: tuple[tuple[int, int], ...]
    differences: Differences
    by_dtype: Differences | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self) | {"written": [str(path) for path in self.written]}


def export(
    source: StrPath | VAE,
    output: StrPath,
    *,
    format: str,
    dtype: str = "float32",
    photos: Sequence[StrPath] | None = None,
    space: str | None = None,
    subfolder: str | None = None,
    offline: bool = False,
    notify: Notify | None = None,
    progress: Progress = silent,
) -> Export:
    """Write a VAE to the folder `output` in the format "onnx" or "openvino": `vae_encoder/` and `vae_decoder/`.

    Each has a graph with free batch and sizes and a `config.json`, by the names that pipelines look for (see
    `exporting.graphs`). `dtype` float16 stores the weights so; the runtime computes in the precision that it is set to.
    Before anything is written to `output` both graphs are run on `photos` (files or folders; synthetic images where
    none are named) at two sizes and in a batch.

    Raises UsageError where `output` isn't empty and holds no earlier export, where the format's packages aren't
    installed, for a VAE that pipelines can't be told of, for another dtype, and where float16 doesn't hold a weight;
    CheckFailedError where latents or pixels differ by more than 1e-3; and what reading and writing raise.
    """
    how, half = find_format(format), find_dtype(dtype) == torch.float16
    if find_dtype(dtype) not in (torch.float16, torch.float32):
        raise UsageError(f"graphs are stored in float32 or float16, not {dtype_name(find_dtype(dtype))}.")
    target, images = user_path(output), TrialImages.of(photos)
    names = [f"{part}/{name}" for part in PARTS for name in (*FILES[format], CONFIG)]
    if not any((target / name).exists() for name in names):
        check_empty(target, "earlier export")
    for name in names:
        writable_path(target / name)
    progress(0, len(STEPS), STEPS[0])
    vae = _loaded(source, space=space, subfolder=subfolder, offline=offline, notify=notify)
    config = _config_json(vae)
    _check_one_vae(target, format, config)
    trials = list(_trials(images.read()))
    exported = _rounded(vae) if half else vae
    with tempfile.TemporaryDirectory(prefix="vaelens-") as folder:
        here = Path(folder)
        progress(1, len(STEPS), STEPS[1])
        for graph in graphs(exported):
            (here / graph.name).mkdir()
            how.write(graph, here / graph.name, half=half, metadata=metadata_text(vae.spec))
            (here / graph.name / CONFIG).write_bytes(config)
        progress(2, len(STEPS), STEPS[2])
        network = ExportedNetwork(vae.spec, how.open(here / "vae_encoder"), how.open(here / "vae_decoder"))
        again = VAE(network, vae.spec, f"{vae.name} in {format}")
        differences = verify(exported, again, trials)
        _check(vae.name, format, differences, _spreads(exported, again, trials[-1]))
        by_dtype = verify(vae, exported, trials) if half else None
        written = write_together({target / name: _copied(here / name) for name in names})
    return Export(
        source=vae.name,
        format=format,
        stored="float16" if half else "float32",
        written=tuple(written),
        bytes=sum(path.stat().st_size for path in written),
        images=images.title,
        sizes=tuple(sorted({(image.shape[2], image.shape[3]) for image in trials}, reverse=True)),
        differences=differences,
        by_dtype=by_dtype,
    )


def find_format(name: str) -> Format:
    """The format of that name. Raises UsageError for another one, and where its packages aren't installed."""
    if name not in FORMATS:
        raise UsageError(f"no format is called {name!r}. Known: {', '.join(FORMATS)}.")
    module, kind, packages = FORMATS[name]
    try:
        return getattr(importlib.import_module(f"vaelens.conversion.exporting.{module}"), kind)()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in packages:
            raise
        raise UsageError(
            f"the format {name} needs {' and '.join(sorted(packages))}, and {error.name} isn't installed. Install "
            f"them: pip install 'vaelens[{name}]'"
        ) from error


def _loaded(source: StrPath | VAE, **how: Any) -> VAE:
    """In float32 on the CPU: where graphs are traced and compared."""
    vae = source if isinstance(source, VAE) else load(source, device="cpu", **how)
    if vae.device.type != "cpu" or vae.weight_dtype != torch.float32 or vae.dtype != torch.float32:
        raise UsageError(f"{vae.name} is exported from float32 on the CPU; load it with dtype float32 and device cpu.")
    return vae


def _config_json(vae: VAE) -> bytes:
    """diffusers' config.json, which tells pipelines the scale. Raises UsageError for a VAE that it can't describe."""
    family = type(vae.spec.family)
    if family.to_latents is not Family.to_latents or family.to_z is not Family.to_z:
        raise UsageError(
            f"{vae.name} is {vae.spec.family.title}, whose latents aren't a scaled and shifted z: no pipeline of these "
            "formats runs it."
        )
    if lacking := vae.spec.family.diffusers_lacks(vae.spec):
        raise UsageError(
            f"{vae.name} can't be exported: pipelines read the VAE's scale from diffusers' config.json, and diffusers "
            f"has no such network ({lacking}). Use it in vaelens, or export another VAE."
        )
    values = vae.spec.family.to_config_json(vae.spec)
    if "decoder_block_out_channels" in values:  # pipelines count levels in the field of a full VAE
        values.setdefault("block_out_channels", values["decoder_block_out_channels"])
    return json.dumps(values, indent=2, sort_keys=True).encode()


def _check_one_vae(target: Path, format: str, config: bytes) -> None:
    """Raises UsageError where graphs of another format, which stay, would get another VAE's config.json."""
    others = [name for other, names in FILES.items() if other != format for name in names]
    for folder in (target / part for part in PARTS):
        held = folder / CONFIG
        if not held.is_file() or held.read_bytes() == config:
            continue
        if other := next((folder / name for name in others if (folder / name).exists()), None):
            raise UsageError(
                f"{other} is of another VAE, by the {CONFIG} beside it, which pipelines read the scale from. Name "
                "another folder."
            )


def _rounded(vae: VAE) -> VAE:
    """With weights that float16 holds exactly. Raises UsageError where one is too large for it."""
    tensors = recast(recast(vae.tensors(), torch.float16, vae.name), torch.float32, vae.name)
    return VAE.from_tensors(tensors, vae.spec, vae.name, device=vae.device, dtype=torch.float32)


def _trials(images: Sequence[Tensor]) -> Iterator[Tensor]:
    """Each image and a part of another shape; of the last part also a batch."""
    part = images[0]
    for image in images:
        h, w = image.shape[2:]
        part = image[..., : -(-h * 5 // 8), : -(-w * 3 // 4)]
        yield image
        yield part
    yield torch.cat([part, part.flip(3)])


def _spreads(vae: VAE, other: VAE, image: Tensor) -> float:
    """The largest difference of the posterior's standard deviations, of which modes tell nothing."""
    a, b = (one.encode(image).posterior.std for one in (vae, other))
    return float((a - b).abs().max())


def _check(name: str, format: str, found: Differences, spreads: float) -> None:
    """Raises CheckFailedError."""
    if not all(one <= TOLERANCE for one in (found.latents_largest, found.pixels_largest, spreads)):  # NaN is larger
        raise CheckFailedError(
            f"{name} in {format} differs by {found.latents_largest:.2g} in latents, {spreads:.2g} in their spread and "
            f"{found.pixels_largest:.2g} in pixels on [0,1], more than {TOLERANCE:g}; nothing was written."
        )


def _copied(path: Path) -> Callable[[BinaryIO], object]:
    def copy(file: BinaryIO) -> None:
        with path.open("rb") as written:
            shutil.copyfileobj(written, file, 1 << 20)

    return copy
