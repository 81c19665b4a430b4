"""A step for each VAE of the registry: downloaded, checked by size and sha256, loaded, and compared with diffusers."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import vaelens as vl
from connected.settings import ROOT
from connected.steps import Download, Finding, Run, Step
from vaelens.adapters.libraries import diffusers, quiet
from vaelens.download.hub import RemoteFile, cached, fetch, try_fetch
from vaelens.download.hub_listing import list_files
from vaelens.errors import UsageError
from vaelens.families.discovery import build_network, diffusers_classes, family_of
from vaelens.families.spec import NetworkConfig
from vaelens.files import sha256_file
from vaelens.loading import remote_files
from vaelens.resources import full_precision
from vaelens.runtime import Runtime
from vaelens.vae import VAE
from vaelens.weights.folders import WEIGHT_NAMES
from vaelens.weights.registry import Entry, registry

KIND = "vaes"
PHOTO, SIDE = "astronaut.png", 256
# The largest relative difference, ||ours - theirs|| / ||theirs||, in float32 without TF32: as docs/exactness.md says.
TOLERANCE = 1e-4


def vae_steps(device: str) -> list[Step]:
    """One for each known VAE, the embedded ones too."""
    return [_vae_step(name, entry, device) for name, entry in registry().vaes.items()]


def missing_files(name: str) -> list[Download]:
    """What has to be downloaded for a VAE of the registry; asks the hub where the registry lacks a size."""
    missing = [file for file in remote_files(registry().vaes[name]) if cached(file) is None]
    sizes: dict[str, int | None] = {}
    if any(file.size is None for file in missing):
        sizes = {file.filename: file.size for file in list_files(missing[0].repo, revision=missing[0].revision).files}
    return [Download(str(file), file.size or sizes.get(file.filename)) for file in missing]


def vae_downloads(names: Sequence[str]) -> dict[str, Callable[[], Sequence[Download]]]:
    """`missing_files` of each, for a step."""
    return {f"VAE {name}": partial(missing_files, name) for name in names}


def round_trip_operations(name: str, side: int = SIDE) -> float:
    """Floating-point operations to encode and decode one image, counted on a network without weights."""
    return _operations(registry().spec(name).config, side)


@cache
def _operations(config: NetworkConfig, side: int) -> float:
    family = family_of(config)
    with torch.device("meta"):
        network, pixels = build_network(config), torch.empty(1, 3, side, side)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        family.decode(network, family.encode(network, pixels).mode())
    return counter.get_total_flops()


def _vae_step(name: str, entry: Entry, device: str) -> Step:
    devices = dict.fromkeys(("cpu", device))
    twice = 2 * round_trip_operations(name)  # ours and diffusers'
    return Step(
        kind=KIND,
        name=f"vae {name}",
        about=f"{entry.repo or 'embedded'}, {entry.licence}: size, sha256, loading, diffusers",
        inputs={"entry": entry.model_dump(), "photo": sha256_file(ROOT / "examples" / PHOTO)},
        downloads=vae_downloads([name]),
        operations=dict.fromkeys(devices, twice),
        run=partial(_check, name, tuple(devices)),
    )


def _check(name: str, devices: Sequence[str], run: Run) -> Finding:
    entry, runtime = registry().vaes[name], Runtime(notify=run.notify)
    files = [(file, fetch(file, runtime)) for file in remote_files(entry)]
    details: dict[str, Any] = {
        "source": entry.repo or "embedded",
        "licence": entry.licence,
        "files": [_file_details(file, path) for file, path in files],
    }
    vae = vl.load(name, device="cpu", notify=run.notify)
    details |= {
        "weights": vae.fingerprint.short,
        "fingerprint": vae.fingerprint.as_dict(),
        "scaling_factor": vae.spec.scaling_factor,
        "shift_factor": vae.spec.shift_factor,
    }
    theirs, how = _in_diffusers(vae, entry, files, runtime)
    details["diffusers"] = how
    if theirs is None:
        return Finding(details)
    problems = _other_factors(vae, theirs)
    image = vl.read_image(ROOT / "examples" / PHOTO)[:, :, :SIDE, :SIDE]
    details["differences"] = {}
    for device in devices:
        there = vae if device == "cpu" else vl.load(name, device=device)
        found = differences(there, theirs.to(device), image)
        details["differences"][device] = {"tolerance": TOLERANCE, **found}
        problems += [
            f"{name} on {device}: {what} differ from diffusers' by {value:.2g}, more than {TOLERANCE:g}."
            for what, value in found.items()
            if not value <= TOLERANCE
        ]
    return Finding(details, tuple(problems))


def _file_details(file: RemoteFile, path: Path) -> dict[str, Any]:
    """As found, which may be more than the registry knows: its size and sha256 are None where it knows none."""
    return {
        "name": file.filename,
        "commit": _commit(path),
        "bytes": path.stat().st_size,
        "sha256": sha256_file(path),
        "registry": {"revision": file.revision, "bytes": file.size, "sha256": file.sha256},
    }


def _commit(path: Path) -> str:
    """The commit in the path of a file in the hub's cache."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else ""


def _in_diffusers(
    vae: VAE, entry: Entry, files: Sequence[tuple[RemoteFile, Path]], runtime: Runtime
) -> tuple[Any, str]:
    """The same VAE as diffusers opens it, or None where it has no such network; and in words what was opened.

    By diffusers' own reading of config.json and weights where they are published for it, else its class with our
    tensors.
    """
    config = _published_config(files, runtime)
    if config is not None:
        values = json.loads(config.read_bytes())
        class_name = values.get("_class_name")
        if class_name in diffusers_classes():
            with tempfile.TemporaryDirectory() as place, quiet():
                _linked(config, Path(place) / "config.json")
                _linked(files[0][1], Path(place) / WEIGHT_NAMES[0])
                opened = getattr(diffusers(), class_name).from_pretrained(place, torch_dtype=torch.float32)
                return opened.eval(), f"{class_name}, from the repository's config.json and weights"
    family = vae.spec.family
    try:
        values = family.to_config_json(vae.spec)
    except UsageError:
        return None, "not compared: diffusers has no such network"
    with quiet():
        made = getattr(diffusers(), values["_class_name"]).from_config(values)
    made.load_state_dict(vae.network.state_dict(), strict=True)
    return (
        made.eval(),
        f"{values['_class_name']}, with our config and tensors: {entry.repo or 'it'} has none for diffusers",
    )


def _published_config(files: Sequence[tuple[RemoteFile, Path]], runtime: Runtime) -> Path | None:
    """The config.json beside weights that have the name which diffusers looks for."""
    if len(files) != 1 or PurePosixPath(files[0][0].filename).name != WEIGHT_NAMES[0]:
        return None
    weights = files[0][0]
    name = str(PurePosixPath(weights.filename).with_name("config.json"))
    return try_fetch(RemoteFile(weights.repo, name, weights.revision), runtime)


def _linked(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source.resolve())
    except OSError:  # a system without links
        target.write_bytes(source.read_bytes())


def _other_factors(vae: VAE, theirs: Any) -> list[str]:
    """A sentence for each factor that config.json has and the registry has otherwise."""
    pairs = {
        "scaling_factor": (vae.spec.scaling_factor, theirs.config.scaling_factor),
        "shift_factor": (vae.spec.shift_factor, theirs.config.get("shift_factor") or 0.0),
    }
    return [f"{vae.name}: {what} is {a:g} here, and {b:g} in diffusers." for what, (a, b) in pairs.items() if a != b]


@torch.no_grad()
def differences(vae: VAE, theirs: Any, image: Tensor) -> dict[str, float]:
    """How far apart the two are on an image [1,3,h,w] in [0,1]: ||ours - theirs|| / ||theirs|| by what is compared.

    The moments of the posterior (of a tiny autoencoder its latents), and the image decoded from our latents.
    """
    with full_precision(vae.device):
        encoded = vae.encode(image)
        latents = encoded.mode()
        decoded = vae.decode(latents)
        output = theirs.encode((image * 2 - 1).to(vae.device))
        z = latents / theirs.config.scaling_factor + (theirs.config.get("shift_factor") or 0.0)
        expected = (theirs.decode(z).sample / 2 + 0.5).clamp(0, 1)
    ours, posterior = encoded.posterior, getattr(output, "latent_dist", None)
    pairs: Mapping[str, tuple[Tensor | None, Tensor]] = (
        {"latents": (ours.mean, output.latents)}
        if posterior is None
        else {"means": (ours.mean, posterior.mean), "log-variances": (ours.logvar, posterior.logvar)}
    )
    return {what: relative(a, b) for what, (a, b) in {**pairs, "decoded pixels": (decoded, expected)}.items()}


def relative(ours: Tensor | None, theirs: Tensor) -> float:
    """||ours - theirs|| / ||theirs||, infinite where we have none."""
    if ours is None:
        return float("inf")
    a, b = ours.cpu().double(), theirs.cpu().double()  # Apple's GPUs have no float64
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))
