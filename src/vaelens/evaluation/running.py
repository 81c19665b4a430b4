"""`evaluate`: a dataset through VAEs, measured by a preset, in a folder from which a stopped run goes on.

vaelens evaluate photos/ --vae kl-f8 --vae ft-mse --preset modern -o report
"""

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vaelens.errors import BadInputError, UsageError
from vaelens.evaluation.calls import call_record, earlier_calls, share, totals
from vaelens.evaluation.equipment import (
    Source,
    build_instruments,
    check_networks,
    load_vaes,
    originals_cache,
    with_dinov2,
)
from vaelens.evaluation.examples import choose, make
from vaelens.evaluation.folder import RunFolder, missing_units
from vaelens.evaluation.gathering import gather
from vaelens.evaluation.plan import check_plan, read_plan
from vaelens.evaluation.presets import Preset, find_preset
from vaelens.evaluation.reporting import write_report
from vaelens.evaluation.results import Results
from vaelens.evaluation.summary import summarise
from vaelens.evaluation.work import Work
from vaelens.files import json_text, write_atomic
from vaelens.images.datasets.items import Dataset, boxes_sha256, manifest_sha256
from vaelens.images.datasets.opening import open_dataset
from vaelens.images.resizing import opencv
from vaelens.loading import check_source, is_published
from vaelens.report.record import run_record, vae_record
from vaelens.resources import using_threads
from vaelens.runs.ranks import join_ranks
from vaelens.runs.versions import DECISIVE, versions
from vaelens.runtime import Notify, Progress, Runtime
from vaelens.vae import VAE, check_seed

BATCH = {"cpu": 4}  # images a chunk; a full VAE takes about half a GB an image of 256x256
BATCH_ON_DEVICE = 16


def evaluate(  # noqa: PLR0915, PLR0912  (one call, readable from top to bottom)
    vaes: Source | VAE | Sequence[Source | VAE],
    source: Source | Dataset,
    *,
    preset: str | Preset = "modern",
    output: Source = "evaluation",
    take: int | None = None,
    seed: int = 0,
    min_aesthetic: float | None = None,
    split: str | None = None,
    boxes: Source | None = None,
    skip_bad: bool = False,
    shard: str | None = None,
    batch: int | None = None,
    threads: int | None = None,
    networks: Mapping[str, Source] | None = None,
    fd_dinov2: bool = False,
    device: str = "auto",
    dtype: str = "float32",
    space: str | None = None,
    offline: bool = False,
    notify: Notify | None = None,
    progress: Progress | None = None,
    unfinished: Callable[[dict[str, Any]], None] | None = None,
) -> Results | None:
    """Measure VAEs on a dataset; leaves rows, features and a report in the folder `output`.

    source: a folder, a zip, webdataset shards, a hub dataset, coco-val2017 or drawn (`open_dataset`'s, with take,
    seed, min_aesthetic, split and boxes), or a set that is open already. preset: a name of `presets.PRESETS`. The
    same call again goes on where it stopped, or adds a VAE. shard "2/3" measures the second third of the
    chunks; under torchrun the ranks share them.
    batch: images a chunk; threads: of the CPU; both are part of the plan, since they change the last bits.
    networks: files to use in place of the published metric networks, by name.

    Gives the results, or None where chunks are left for other shards or ranks; `unfinished` is then told, on the first
    rank, how many are left and what this call measured. Raises what reading, loading, downloading and running raise;
    UsageError where `output` holds another run.
    """
    began = time.perf_counter()
    protocol = preset if isinstance(preset, Preset) else find_preset(preset)
    if fd_dinov2:
        protocol = with_dinov2(protocol)
    part = _part(shard)
    check_seed(seed)
    runtime = Runtime.of(device=device, dtype=dtype, offline=offline, notify=notify, progress=progress)
    kind, say = runtime.device.type, runtime.notify
    sources = _checked(vaes)
    if (batch is not None and batch < 1) or (threads is not None and threads < 1):
        raise UsageError("batch and threads are at least 1.")
    if protocol.resize == "opencv_bilinear":
        opencv()
    path = Path(output)
    begun = check_plan(path, {"preset": protocol.as_dict(), "seed": seed, "device": kind})
    ranks = join_ranks(kind)
    if ranks.count > 1 and shard:
        raise UsageError("--shard and torchrun divide the same work; use one of them.")
    shared = ranks.count > 1 and kind == "cuda"
    if shared:
        runtime = runtime.on(torch.device(kind, int(os.environ["LOCAL_RANK"])))
    count = batch or int(begun.get("batch", 0)) or BATCH.get(kind, BATCH_ON_DEVICE)
    with using_threads(threads or int(begun.get("threads", 0)) or torch.get_num_threads()) as used:
        check_networks(protocol, networks or {}, runtime)
        dataset = source if isinstance(source, Dataset) else open_dataset(
            source, take=take, seed=seed, min_aesthetic=min_aesthetic, split=split, boxes=boxes, skip_bad=skip_bad,
            runtime=runtime,
    )  # fmt: skip
        instruments, networks_used = build_instruments(protocol, networks or {}, runtime)
        loaded = load_vaes(sources, space, runtime)
        records = {
            name: vae_record(vae)
            | {"name": name, "source": "an object" if isinstance(one, VAE) else str(one)}
            | {"published": not isinstance(one, VAE) and is_published(one)}
            for (name, vae), one in zip(loaded.items(), sources, strict=True)
        }
        plan: dict[str, Any] = {
            "schema": 1,
            "preset": protocol.as_dict(),
            "images": len(dataset.items),
            "manifest_sha256": manifest_sha256(dataset.items),
            "boxes_sha256": boxes_sha256(dataset.items),
            "batch": count,
            "threads": used,
            "device": kind,
            "dtype": runtime.dtype_name,
            "seed": seed,
            "networks": networks_used,
            "versions": {k: v for k, v in versions().items() if k in DECISIVE},
            "vaes": {name: _identity(loaded[name], record) for name, record in records.items()},
        }
        if ranks.is_first:
            _say_first(say, dataset, loaded, records)
        ranks.agree(plan)
        folder = RunFolder(path, [item.id for item in dataset.items], count)
        for first in (True, False):  # on a folder that all share, rank 0 makes the plan and the others check it
            if ranks.is_first == first:
                folder.begin(plan)
            ranks.wait()
        _check_bad(folder, skip_bad)
        work = Work(dataset, protocol, instruments, loaded, seed, skip_bad, folder, originals_cache(plan))
        mine = {
            chunk: names
            for chunk, names in missing_units(folder, loaded).items()
            if chunk % part[1] == part[0] and chunk % ranks.count == ranks.number
        }
        if ranks.count == 1 and (kept := len(folder.rows(list(loaded)))):
            say(f"{kept} of {len(folder.ids) * len(loaded)} reconstructions were measured before, and are kept.")
        measured = share(work.measure(mine, runtime.progress))
        ranks.wait()
        shares = ranks.collect(measured)
        gather(ranks, folder, loaded)
        folder.refresh()
        left = missing_units(folder, loaded)
        if left and ranks.is_first:
            _tell_left(folder, left, say, unfinished, {"shard": shard, "measured": measured})
        if left or not ranks.is_first:
            return None
        _check_bad(folder, skip_bad)
        others = [name for name in (read_plan(path) or {}).get("vaes", {}) if name not in loaded]
        if others:
            say(f"{path} also holds rows of {', '.join(others)}: name them too, and the report compares all.")
        asked = {"source": dataset.name, "skip_bad": skip_bad, "shard": shard, "take": take, "ranks": ranks.count}
        asked |= {"min_aesthetic": min_aesthetic, "split": split}
        settings = {k: plan[k] for k in plan if k not in {"vaes", "versions", "schema"}} | asked
        took = time.perf_counter() - began
        calls = earlier_calls(path / "run.json")
        if calls is None:
            say(f"{path / 'run.json'} is damaged: the times of earlier calls are lost, and it is written anew.")
        calls = [*(calls or ()), *filter(None, [call_record(shares, took)])]
        record = run_record("evaluate", settings, list(records.values()), took) | totals(calls)
        record |= {"skipped": folder.bad(), "notes": list(dataset.notes), "calls": calls}
        write_atomic(path / "run.json", json_text(record).encode())
        results = summarise(folder, dataset, protocol, record, runtime.progress)
        write_report(results, make(choose(results), work), path)
        return results


def _checked(vaes: Source | VAE | Sequence[Source | VAE]) -> list[Source | VAE]:
    """As a list; raises where one can't be had, as far as can be told at once."""
    sources = [vaes] if isinstance(vaes, str | os.PathLike | VAE) else list(vaes)
    if not sources:
        raise UsageError("no VAE named. Name at least one.")
    for one in sources:
        if not isinstance(one, VAE):
            check_source(one)
    return sources


def _check_bad(folder: RunFolder, skip_bad: bool) -> None:
    """Raises BadInputError where images were left out and now shouldn't be, and where none is left."""
    bad = folder.bad()
    if bad and (not skip_bad or len(bad) == len(folder.ids)):
        name, why = next(iter(bad.items()))
        which = "none of the images" if len(bad) == len(folder.ids) else f"{len(bad)} of the images"
        could = "could be read" if which.startswith("none") else "couldn't be read; --skip-bad goes on without them"
        raise BadInputError(f"{folder.path}: {which} {could}. The first is {name}: {why}")


def _tell_left(
    folder: RunFolder,
    left: Mapping[int, Sequence[str]],
    say: Notify,
    unfinished: Callable[[dict[str, Any]], None] | None,
    done: Mapping[str, Any],
) -> None:
    """How much is left to measure, in words and, with what this call did, in numbers."""
    say(f"{len(left)} of {folder.chunks} chunks are left for the other shards; the last one writes the report.")
    if unfinished:
        count = sum(len(folder.ids_of(chunk)) * len(names) for chunk, names in left.items())
        of = {"chunks": folder.chunks, "chunks_left": len(left), "reconstructions_left": count}
        unfinished({"output": str(folder.path), **of, **done})


def _part(shard: str | None) -> tuple[int, int]:
    """ "2/3" to (1, 3)."""
    if shard is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    number, count = (int(n) for n in match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(f"a shard is written like 2/3, the second of three; {shard!r} isn't.")
    return number - 1, count


def _say_first(say: Notify, dataset: Dataset, loaded: Mapping[str, VAE], records: Mapping[str, Any]) -> None:
    """What to know before numbers come: what there is to say of the set, and which VAE is which."""
    for note in dataset.notes:
        say(f"{dataset.name}: {note}.")
    for name, record in records.items():
        if name != loaded[name].name:
            say(f"{record['source']} is called {name}, since another VAE has its name.")


def _identity(vae: VAE, record: Mapping[str, Any]) -> dict[str, Any]:
    """What a VAE's rows depend on: its weights, all of its spec, its precision."""
    return {key: record[key] for key in ("weights", "dtype")} | {"spec": asdict(vae.spec)}
