"""How fast is an evaluation? vaelens against the obvious stack, one process against two, the Frechet distance.

    python -m venv bench && bench/bin/pip install -c constraints.txt -e '.[bench]'
    bench/bin/python benchmarks/evaluate.py

Both stacks measure the same images through the same VAEs with the same networks, threads and batch size, in turns
(A B A B ...). The tables show medians; the run fails if their scores differ. Ten minutes on two cores.
README.md says what is measured.
"""

import argparse
import itertools
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import instruction_sets
import machine_records
import numpy as np
import torch
from aims import evaluate_aims
from obvious_stack import ObviousStack
from PIL import Image
from result_tables import OURS, THEIRS, Result, as_markdown, part_as_markdown
from scipy.linalg import sqrtm

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))


from support.random_trunks import write_trunks  # noqa: E402
from vaelens.evaluation.chunks import quantize_originals, read_chunk  # noqa: E402
from vaelens.evaluation.evaluation_folder import EvaluationFolder  # noqa: E402
from vaelens.evaluation.feature_files import ORIGINALS, OriginalsCache  # noqa: E402
from vaelens.evaluation.loaded_preset import LoadedPreset, load_preset  # noqa: E402
from vaelens.evaluation.measurement import Measurement, reconstruct_chunk  # noqa: E402
from vaelens.evaluation.presets import PRESETS, Preset  # noqa: E402
from vaelens.families.discovery import build_network  # noqa: E402
from vaelens.images.datasets.items import Dataset  # noqa: E402
from vaelens.images.datasets.opening import open_dataset  # noqa: E402
from vaelens.images.faces import draw_face  # noqa: E402
from vaelens.images.letters import draw_letters  # noqa: E402
from vaelens.loading import load  # noqa: E402
from vaelens.metrics.frechet import Moments, frechet_distance  # noqa: E402
from vaelens.metrics.pretrained import MetricNetwork, load_networks  # noqa: E402
from vaelens.metrics.psim import normalised, psim  # noqa: E402
from vaelens.metrics.psnr import psnr  # noqa: E402
from vaelens.metrics.ssim import ssim  # noqa: E402
from vaelens.resources import full_precision  # noqa: E402
from vaelens.runtime import Runtime  # noqa: E402
from vaelens.vae import VAE  # noqa: E402
from vaelens.weights.registry import registry  # noqa: E402

SEED = 0
# card-2022's path, but SSIM of whole windows only: torchmetrics has no zero padding, and rows are compared.
PRESET = Preset(
    "benchmark", "plain", "opencv_bilinear", 256, "sample", "truncate", "valid", "torch_fidelity",
    ("rfid", "psnr", "ssim", "psim"),
)  # fmt: skip
PLAN = {"command": "evaluate", "preset": PRESET.as_dict(), "threads": 1, "vaes": {}}
# A difference in the last bit of the VAE's output may become a whole 8-bit step where it is truncated.
ALLOWED = {"psnr": 2e-3, "ssim": 1e-4, "psim": 1e-3}
LIBRARIES = ("vaelens", "torch", "diffusers", "torchmetrics", "scipy", "numpy", "pillow", "opencv-python-headless")
DIMENSION, COUNT = 2048, 5000  # of the Frechet distance: Inception's features, COCO's images

FULL = "a VAE of kl-f8's size with random weights"

Networks = dict[str, MetricNetwork]


def main() -> None:
    options = parsed()
    instruction_sets.restart_with(options.isa)
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        os.environ["VAELENS_CACHE"] = str(place / "cache")
        found: Result = {"conditions": conditions(options)}
        print(part_as_markdown("conditions", found["conditions"]), flush=True)
        paths = {
            name: path for name, path in write_trunks(place / "networks").items() if name in ("inception", "vgg16")
        }
        preset = load_preset(PRESET, paths, Runtime())
        networks = load_networks(["inception", "vgg16"], paths)
        images = write_images(place / "images", max(options.images, options.full_images))
        bench = Bench(images, preset, networks, options.batch_size, options.rounds)
        tiny = load("tiny-kl-f8")
        small = {"tiny-kl-f8": tiny, "tiny-kl-f8 again": tiny}
        runs: dict[str, Callable[[], Result]] = {
            "small": lambda: against(bench, small, options.images, place / "small"),
            "full": lambda: against(bench, {FULL: random_full_vae()}, options.full_images, place / "full"),
            "ranks": lambda: ranks(images, paths, options.images, place / "ranks"),
            "frechet": lambda: frechet(options.rounds),
        }
        for name in options.only or runs:
            found[name] = runs[name]()
            print(f"\n{part_as_markdown(name, found[name])}", flush=True)
    if options.write:
        folder = ROOT / "benchmarks" / "results"
        folder.mkdir(exist_ok=True)
        (folder / "evaluate.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        (folder / "evaluate.md").write_text(as_markdown(found), encoding="utf-8")
    if "full" in found:
        full = {name: found[name] for name in ("conditions", "full")}
        part = {"times": found["full"]["times_as_fast"], "table": as_markdown(full)}
        print(machine_records.keep(options.isa, "evaluate", part, options.write, evaluate_aims()))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16, help="measured through the small VAE, and by ranks")
    parser.add_argument("--full-images", type=int, default=4, help="measured through the VAE of kl-f8's size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    best = instruction_sets.best()
    parser.add_argument(
        "--isa", choices=instruction_sets.choices(), default=best, help=f"instructions; default: {best}"
    )
    parser.add_argument("--only", action="append", choices=["small", "full", "ranks", "frechet"])
    parser.add_argument("--no-write", dest="write", action="store_false", help="print only")
    return parser.parse_args()


@dataclass(frozen=True)
class Bench:
    """The images, networks and batch size of both stacks, and how often they are measured."""

    images: Path
    preset: LoadedPreset
    networks: Networks
    batch: int
    rounds: int


def against(bench: Bench, vaes: Mapping[str, VAE], count: int, place: Path) -> Result:
    """Both stacks in turns on `count` images: seconds of each round, images per second, times of parts, differences."""
    folders = {name: vae.save(place / f"vae{number}") for number, (name, vae) in enumerate(vaes.items())}
    chosen = sorted(bench.images.glob("*.jpg"))[:count]
    dataset = only(open_dataset(str(bench.images)), {file.name for file in chosen})
    inception, vgg = (bench.networks[name].module for name in ("inception", "vgg16"))
    peer = ObviousStack(folders, inception, vgg, bench.batch)

    def ours(number: int, of: Dataset = dataset) -> EvaluationFolder:
        folder = EvaluationFolder(place / f"run{number}", [item.id for item in of.items], bench.batch)
        folder.start(PLAN | {"batch": bench.batch})
        cache = OriginalsCache(place / f"cache{number}", {}, ["inception"])  # empty
        Measurement(of, bench.preset, vaes, SEED, False, folder, cache).run(folder.missing(vaes))
        folder.refresh()
        return folder

    ours(-1, only(dataset, {file.name for file in chosen[:1]}))  # warm-up, both
    peer.measure(chosen[:1])
    peer.parts.clear()
    seconds: dict[str, list[float]] = {OURS: [], THEIRS: []}
    for number in range(bench.rounds):
        started = time.perf_counter()
        folder = ours(number)
        between = time.perf_counter()
        rows, features = peer.measure(chosen)
        seconds[OURS].append(between - started)
        seconds[THEIRS].append(time.perf_counter() - between)
    each = count * len(vaes)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "images": count,
        "vaes": list(vaes),
        "seconds": seconds,
        "images_per_second": {name: each / median for name, median in medians.items()},
        "times_as_fast": medians[THEIRS] / medians[OURS],
        "milliseconds_per_image_and_vae": {
            OURS: our_parts(bench, vaes, dataset, folder),
            THEIRS: {k: 1000 * v / each / bench.rounds for k, v in peer.parts.items()},
        },
        "largest_differences": agreement(folder, list(vaes), rows, features),
    }


def our_parts(bench: Bench, vaes: Mapping[str, VAE], dataset: Dataset, done: EvaluationFolder) -> dict[str, float]:
    """Milliseconds of each part per image and VAE, one after another; in a run, reading overlaps with the rest."""
    parts: dict[str, float] = defaultdict(float)
    folder = EvaluationFolder(done.path.with_name("parts"), done.ids, done.batch)
    folder.start(PLAN | {"batch": done.batch})
    vgg: Any = bench.networks["vgg16"].module

    def timed(name: str, call: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        with full_precision("cpu"), torch.no_grad():
            value = call()
        parts[name] += time.perf_counter() - started
        return value

    for number in range(done.chunks):
        chunk = timed("read", partial(read_chunk, dataset, number, done.batch, PRESET, False))
        originals = timed("read", partial(quantize_originals, chunk.pixels, PRESET))
        reference = bench.preset.batch(originals)
        timed("PSIM", partial(reference.taps, "vgg16"))
        timed("Inception", partial(bench.preset.features, originals))
        for name, vae in vaes.items():
            reconstruction = timed("VAE", partial(reconstruct_chunk, vae, chunk, PRESET, SEED))
            image = reconstruction.pixels / 255
            timed("PSNR", partial(psnr, image, reference.image))
            timed("SSIM", partial(ssim, image, reference.image, PRESET.ssim_padding))
            taps = timed("PSIM", partial(vgg, normalised(image)))
            timed("PSIM", partial(psim, taps, reference.taps("vgg16")))
            timed("Inception", partial(bench.preset.features, reconstruction.pixels))
            timed("rows and features stored", partial(folder.add, number, name, *done.unit(number, name)))
    each = len(dataset.items) * len(vaes)
    return {name: 1000 * total / each for name, total in parts.items()}


def agreement(
    folder: EvaluationFolder, vaes: list[str], rows: Mapping[Any, Any], features: Mapping[str, Any]
) -> Result:
    """The largest differences between the stacks' scores, relative for features. Exits if one is too large."""
    largest: dict[str, float] = dict.fromkeys(ALLOWED, 0.0)
    for row in folder.rows(vaes):
        for key, theirs in zip(("psnr", "ssim", "psim"), rows[row.id, row.vae], strict=True):
            largest[key] = max(largest[key], abs((row.scores[key] or np.inf) - theirs))
    for name in (ORIGINALS, *vaes):
        ours = folder.features(name, "inception")
        assert ours is not None
        difference = float((ours - features[name]).norm() / ours.norm())
        largest["features"] = max(largest.get("features", 0.0), difference)
    wrong = {key: value for key, value in largest.items() if value > ALLOWED.get(key, 1e-2)}
    if wrong:
        sys.exit(f"The stacks' scores differ too much: {wrong}")
    return largest


def ranks(images: Path, paths: Mapping[str, Path], count: int, place: Path) -> Result:
    """The whole command, from start to report: one process with one thread, two ranks with one each, one with two."""
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    named = [f"--network={name}={path}" for name, path in paths.items()]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    setups = {
        "1 process, 1 thread": ([], "1"),
        "2 ranks, 1 thread each": (torchrun, "1"),
        "1 process, 2 threads": ([], "2"),
    }
    found: Result = {"images": count, "seconds": {}, "measuring_seconds": {}}
    rows: dict[str, list[str]] = {}
    for number, (setup, (launcher, threads)) in enumerate(setups.items()):
        output = place / str(number)
        command = ["-m", "vaelens", "evaluate", str(images), "--take", str(count), "--preset", "card-2022"]
        command += ["--vae", "tiny-kl-f8", *named, "--threads", threads, "--quiet", "-o", str(output)]
        cache = {"VAELENS_CACHE": str(place / f"cache{number}")}
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, *launcher, *command], check=True, env=environment | cache, stdout=subprocess.DEVNULL
        )
        found["seconds"][setup] = time.perf_counter() - started
        record = json.loads((output / "run.json").read_text(encoding="utf-8"))
        found["measuring_seconds"][setup] = record["calls"][0]["measuring_seconds"]
        rows[setup] = sorted((output / "rows.jsonl").read_text(encoding="utf-8").splitlines())
    alone, shared, _ = rows.values()
    if alone != shared:
        sys.exit("Two ranks gave other rows than one process.")
    found["rows_of_two_ranks_are_those_of_one"] = True
    return found


def frechet(rounds: int) -> Result:
    """Seconds from two sets of features [5000,2048] to the distance, by vaelens and with SciPy's matrix square root."""
    generator = torch.Generator().manual_seed(SEED)
    mixing = torch.randn(DIMENSION, DIMENSION, generator=generator) / DIMENSION**0.5
    x = (torch.randn(COUNT, DIMENSION, generator=generator) @ mixing).relu()
    y = (x + 0.3 * torch.randn(COUNT, DIMENSION, generator=generator)).relu()
    seconds: dict[str, list[float]] = {OURS: [], "scipy sqrtm": []}
    values: dict[str, float] = {}
    for number in range(rounds):
        for name, distance in ((OURS, by_vaelens), ("scipy sqrtm", by_scipy))[: 1 if number else 2]:  # SciPy's once
            started = time.perf_counter()
            values[name] = distance(x, y)
            seconds[name].append(time.perf_counter() - started)
    difference = abs(values[OURS] / values["scipy sqrtm"] - 1)
    if difference > 1e-6:
        sys.exit(f"The Frechet distances differ too much: {values}")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {"images": COUNT, "dimension": DIMENSION, "seconds": seconds, "medians": medians,
            "times_as_fast": medians["scipy sqrtm"] / medians[OURS], "relative_difference": difference}  # fmt: skip


def by_vaelens(x: torch.Tensor, y: torch.Tensor) -> float:
    return frechet_distance(Moments.of(x), Moments.of(y))


def by_scipy(x: torch.Tensor, y: torch.Tensor) -> float:
    """As in pytorch-fid, with NumPy's mean and cov."""
    a, b = x.double().numpy(), y.double().numpy()
    means, covariances = [f.mean(axis=0) for f in (a, b)], [np.cov(f, rowvar=False) for f in (a, b)]
    root = sqrtm(covariances[0] @ covariances[1]).real
    shift = means[0] - means[1]
    return float(shift @ shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(root))


def write_images(folder: Path, count: int) -> Path:
    """Synthetic faces and letters as JPEG files of 640x480, the size of most of COCO's."""
    folder.mkdir(parents=True)
    for number, draw in zip(range(count), itertools.cycle([draw_face, draw_letters])):
        image = Image.fromarray(draw(number).pixels).resize((640, 480), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:03d}.jpg", quality=95)
    return folder


def only(dataset: Dataset, ids: set[str]) -> Dataset:
    items = tuple(item for item in dataset.items if item.id in ids)
    return Dataset(dataset.name, dataset.origin, items, dataset.notes, dataset.source)


def random_full_vae() -> VAE:
    """A VAE with kl-f8's config and random weights, on which the time doesn't depend."""
    spec = registry().spec("kl-f8")
    return VAE(build_network(spec.config), spec, "random")


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def conditions(options: argparse.Namespace) -> Result:
    return {
        "cpu": instruction_sets.cpu(), "instructions": instruction_sets.NAMES[options.isa], "cores": os.cpu_count(),
        "threads": options.threads, "batch_size": options.batch_size,
        "dtype": "float32", "seed": SEED, "rounds": options.rounds, "load_at_the_start": round(os.getloadavg()[0], 2),
        "preset": f"as {PRESETS['card-2022'].name}, SSIM of whole windows",
        "versions": {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()},
    }  # fmt: skip


if __name__ == "__main__":
    main()
