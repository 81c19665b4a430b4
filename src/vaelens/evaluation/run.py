"""`evaluate`: a dataset through VAEs, measured by a preset, in a folder from which an interrupted run resumes.

vaelens evaluate photos/ --vae kl-f8 --vae ft-mse --preset modern -o report
"""

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vaelens.blind.pooling import PooledResults, file_records, pool_blind_results
from vaelens.errors import BadInputError, UsageError
from vaelens.evaluation.aggregation import aggregate
from vaelens.evaluation.chunks import size_rule
from vaelens.evaluation.evaluation_folder import COMMAND, EvaluationFolder, check_folder
from vaelens.evaluation.evaluation_record import Records, call_record, earlier_calls, rank_record, settled, totals
from vaelens.evaluation.feature_files import OriginalsCache
from vaelens.evaluation.loaded_preset import LoadedPreset, check_networks, load_preset, with_metrics
from vaelens.evaluation.measurement import Measurement
from vaelens.evaluation.presets import Preset, find_preset
from vaelens.evaluation.report.blind_section import evaluated
from vaelens.evaluation.report.examples import choose_examples, make_examples
from vaelens.evaluation.report.report_files import write_report
from vaelens.evaluation.report.wording import name_and_reason
from vaelens.evaluation.results import Results
from vaelens.families.spec import spec_values
from vaelens.files import StrPath
from vaelens.images.datasets.items import Dataset, boxes_sha256, manifest_sha256
from vaelens.images.datasets.opening import check_name
from vaelens.images.datasets.source_names import paths_of
from vaelens.images.resizing import opencv
from vaelens.json_reading import quoted
from vaelens.latent_cache.cache import Images, LatentCache, check_images, open_images
from vaelens.loading import check_source, is_published, vae_of
from vaelens.report.record import public_name, run_record, vae_record
from vaelens.resources import processor, using_threads
from vaelens.runs.lock import folder_lock, removed_if_unused
from vaelens.runs.outputs import check_apart
from vaelens.runs.plan import PLAN
from vaelens.runs.ranks import Ranks, join_ranks
from vaelens.runs.versions import DECISIVE, versions
from vaelens.runtime import Notify, Progress, Runtime, silent
from vaelens.text.numbers import counted
from vaelens.text.paths import cache_folder
from vaelens.text.private_paths import without_folders
from vaelens.vae import VAE, check_seed
from vaelens.weights.names import distinct_names

BATCH = {"cpu": 4}  # images per chunk; a full VAE takes about half a GB per image of 256x256
BATCH_ON_DEVICE = 16
ONLY_IN_PLAN = {"schema", "command", "vaes", "versions"}  # the record says these elsewhere


def evaluate(
    vaes: StrPath | VAE | Sequence[StrPath | VAE],
    source: Images,
    *,
    preset: str | Preset = "modern",
    metrics: Sequence[str] = (),
    output: StrPath = "evaluation",
    take: int | None = None,
    seed: int = 0,
    min_aesthetic: float | None = None,
    split: str | None = None,
    boxes: StrPath | None = None,
    blind_results: StrPath | Sequence[StrPath] = (),
    skip_bad: bool = False,
    shard: str | None = None,
    batch: int | None = None,
    threads: int | None = None,
    networks: Mapping[str, StrPath] | None = None,
    device: str = "auto",
    dtype: str = "float32",
    space: str | None = None,
    offline: bool = False,
    max_memory: int | str | None = None,
    notify: Notify | None = None,
    progress: Progress | None = None,
    on_unfinished: Callable[[dict[str, Any]], None] | None = None,
) -> Results | None:
    """Measure VAEs on a dataset; writes rows, features and a report to the folder `output`.

    source: a folder, zip, webdataset shards, parquet files, a hub dataset, coco-val2017 or synthetic (`open_dataset`'s,
    with take, seed, min_aesthetic, split and boxes), an open dataset, or a latent cache of the VAEs' encoder.
    preset: a name of `presets.PRESETS`; metrics: keys of `metric_table.METRICS` to add to it.
    The same call again resumes an interrupted run, or adds a VAE. shard "2/3" measures the second third of the chunks;
    under torchrun the ranks share them.
    batch: images per chunk; threads: of the CPU; both are part of the plan, since they change the last bits.
    max_memory: by how much running a VAE may let memory grow, "2GB"; where the last bits depend on how it is met, the
    first call's plan holds for all.
    networks: files to use in place of the published metric networks, by name.
    blind_results: files of a blind test of these VAEs, which the report shows beside the measured differences; a
    finished run called again with them only writes its report again.

    Gives the results, or None where chunks are left for other shards or ranks; `on_unfinished` then gets, on the first
    rank, how many are left and what this call measured. Raises what reading, loading, downloading and running raise;
    UsageError where `output` holds another run.
    """
    started = time.perf_counter()
    protocol = with_metrics(preset if isinstance(preset, Preset) else find_preset(preset), metrics)
    part = _parse_shard(shard)
    pooled = pool_blind_results(blind_results) if blind_results else None
    check_seed(seed)
    runtime = Runtime.of(
        device=device, dtype=dtype, offline=offline, max_memory=max_memory, notify=notify, progress=progress
    )
    sources = _check_vaes(vaes)
    path, kind = Path(output), runtime.device.type
    source = _check_call(protocol, source, path, batch, threads)
    found = check_folder(path, _known(protocol, seed, runtime, batch=batch, threads=threads)) or {}
    ranks = join_ranks(kind)
    runtime = _on_own_device(runtime, ranks, shard)
    batch = int(batch or found.get("batch", 0)) or BATCH.get(kind, BATCH_ON_DEVICE)
    count = threads or found.get("threads") or torch.get_num_threads()
    with using_threads(count), removed_if_unused(path, also=(PLAN,)):  # a failure before any result leaves no folder
        check_networks(protocol, networks or {}, runtime)
        dataset, latents = open_images(
            source, take=take, seed=seed, min_aesthetic=min_aesthetic, split=split, boxes=boxes, skip_bad=skip_bad,
            rule=size_rule(protocol), runtime=runtime,
        )  # fmt: skip
        models, records, pooled = _load_vaes(sources, space, runtime, latents, pooled)  # before the networks
        loaded = load_preset(protocol, networks or {}, runtime)
        models, records = settled(models, records, protocol.side, found, ranks, batch=batch)
        plan = _plan(dataset, latents, loaded, models, records, batch=batch, seed=seed, runtime=runtime)
        if ranks.is_first:
            _notify_names(dataset, models, records, runtime.notify)
        ranks.require_same(plan)
        folder = EvaluationFolder(path, [item.id for item in dataset.items], batch)
        _start(folder, plan, ranks, runtime.notify)
        _check_bad(folder, skip_bad)
        cache = _originals_cache(plan, loaded, runtime.notify)
        measurement = Measurement(dataset, loaded, models, seed, skip_bad, folder, cache, latents)
        units = folder.missing_in(models, part, ranks)
        if ranks.count == 1 and (stored := len(folder.rows(list(models)))):
            _notify_resuming(stored, len(folder.ids) * len(models), runtime.notify)
        measured = rank_record(measurement.run(units, runtime.progress))
        ranks.wait()
        rank_records = ranks.gather(measured)
        folder.gather(ranks, models)
        folder.refresh()
        left = folder.missing(models)
        if left and ranks.is_first:
            counts = _notify_unfinished(folder, left, runtime.notify)
            if on_unfinished:
                on_unfinished({"output": str(path), **counts, "shard": shard, "measured": measured})
        if left or not ranks.is_first:
            return None
        _check_bad(folder, skip_bad)
        settings = {key: value for key, value in plan.items() if key not in ONLY_IN_PLAN} | {
            "source": dataset.name, "skip_bad": skip_bad, "shard": shard, "take": take, "ranks": ranks.count,
            "min_aesthetic": min_aesthetic, "split": split,
        }  # fmt: skip
        record = _record(folder, dataset, settings, records, ranks=rank_records, started=started, notify=runtime.notify)
        record |= {"blind_results": file_records(pooled.files)} if pooled else {}
        results = replace(aggregate(folder, dataset, protocol, record, runtime.progress), blind=pooled)
        _write_report(results, measurement)
        return results


def _check_call(preset: Preset, source: Images, output: Path, batch: int | None, threads: int | None) -> Images:
    """The source, opened where it is a cache: what can be checked before anything is loaded."""
    if (batch is not None and batch < 1) or (threads is not None and threads < 1):
        raise UsageError("batch and threads must be at least 1.")
    if preset.resize == "opencv_bilinear":
        opencv()
    check_name(source if not isinstance(source, LatentCache) else source.path)
    check_apart(output, paths_of(source), holds_images=False)
    return check_images(source, size_rule(preset))


def _known(preset: Preset, seed: int, runtime: Runtime, *, batch: int | None, threads: int | None) -> dict[str, Any]:
    """What is known of the plan before anything is opened."""
    known = {"preset": preset.as_dict(), "seed": seed, "device": runtime.device.type, "dtype": runtime.dtype_name}
    return known | {name: n for name, n in (("batch", batch), ("threads", threads)) if n is not None}


def _check_vaes(vaes: StrPath | VAE | Sequence[StrPath | VAE]) -> list[StrPath | VAE]:
    """As a list; raises where a source certainly can't be loaded, before anything is."""
    sources = [vaes] if isinstance(vaes, str | os.PathLike | VAE) else list(vaes)
    if not sources:
        raise UsageError("no VAE named. Name at least one.")
    for one in sources:
        if not isinstance(one, VAE):
            check_source(one)
    return sources


def _parse_shard(shard: str | None) -> tuple[int, int]:
    """ "2/3" to (1, 3)."""
    if shard is None:
        return 0, 1
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", shard)
    number, count = (int(n) for n in match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(f"{quoted(shard)} is not a shard. Write it like 2/3, the second of three.")
    return number - 1, count


def _on_own_device(runtime: Runtime, ranks: Ranks, shard: str | None) -> Runtime:
    """Under torchrun each rank has a CUDA device of its own."""
    if ranks.count == 1:
        return runtime
    if shard:
        raise UsageError("--shard and torchrun divide the same work. Use one of them.")
    return runtime.on(f"cuda:{os.environ['LOCAL_RANK']}") if runtime.device.type == "cuda" else runtime


def _load_vaes(
    sources: Sequence[StrPath | VAE],
    space: str | None,
    runtime: Runtime,
    latents: LatentCache | None,
    pooled: PooledResults | None,
) -> tuple[dict[str, VAE], Records, PooledResults | None]:
    """The VAEs by distinct names, what the record says of each, and blind tests by these names.

    Raises UsageError unless all have the cached latents' encoder, and include the blind tests' decoders.
    """
    loaded = [vae_of(one, runtime, space=space) for one in sources]
    if latents is not None:
        for vae in loaded:
            latents.check_encoder(vae)
    models = dict(zip(distinct_names([vae.name for vae in loaded], sources), loaded, strict=True))
    records = {
        name: vae_record(vae)
        | {"name": name, "source": "an object" if isinstance(one, VAE) else public_name(one)}
        | {"published": not isinstance(one, VAE) and is_published(one)}
        for (name, vae), one in zip(models.items(), sources, strict=True)
    }
    return models, records, pooled and evaluated(pooled, records)


def _plan(
    dataset: Dataset,
    latents: LatentCache | None,
    loaded: LoadedPreset,
    models: Mapping[str, VAE],
    records: Records,
    *,
    batch: int,
    seed: int,
    runtime: Runtime,
) -> dict[str, Any]:
    """All that rows depend on; of a VAE its weights, its whole spec and its precision."""
    return {
        "schema": 2,  # 1: without `engine` in each of `vaes`
        "command": COMMAND,
        "preset": loaded.preset.as_dict(),
        "images": len(dataset.items),
        "manifest_sha256": manifest_sha256(dataset.items),
        "boxes_sha256": boxes_sha256(dataset.items),
        "batch": batch,
        "threads": torch.get_num_threads(),
        "device": runtime.device.type,
        "dtype": runtime.dtype_name,
        "seed": seed,
        **({"latents": latents.identity} if latents is not None else {}),
        "networks": loaded.networks,
        "versions": {k: v for k, v in versions().items() if k in DECISIVE},
        "vaes": {
            name: {key: record[key] for key in ("weights", "dtype")}
            | {"spec": spec_values(models[name].spec)}
            | {"engine": {key: record["engine"][key] for key in ("path", "budgets")}}
            for name, record in records.items()
        },
    }


def _notify_names(dataset: Dataset, models: Mapping[str, VAE], records: Records, notify: Notify) -> None:
    """Notes on the dataset, and which VAE has another name than its own."""
    for note in dataset.notes:
        notify(f"{dataset.name}: {note}.")
    for name, record in records.items():
        if name != models[name].name:
            notify(f"{record['source']} is called {name}, since another VAE has its name.")


def _start(folder: EvaluationFolder, plan: Mapping[str, Any], ranks: Ranks, notify: Notify) -> None:
    """On a folder that all ranks share, rank 0 writes the plan and the others check it."""
    for first in (True, False):
        if ranks.is_first == first:
            folder.start(plan, notify)
        ranks.wait()


def _check_bad(folder: EvaluationFolder, skip_bad: bool) -> None:
    """Raises BadInputError where images were left out and now shouldn't be, and where none is left."""
    bad = folder.bad()
    if bad and (not skip_bad or len(bad) == len(folder.ids)):
        name, why = next(iter(bad.items()))
        if len(bad) == len(folder.ids):
            what = "none of the images can be read."
        else:
            what = f"{len(bad)} of the images can't be read; --skip-bad leaves them out."
        raise BadInputError(f"{folder.path}: {what} The first: {name_and_reason(name, why)}")


def _originals_cache(plan: Mapping[str, Any], loaded: LoadedPreset, notify: Notify = silent) -> OriginalsCache:
    protocol = {key: plan[key] for key in ("preset", "threads", "device", "networks", "versions")}
    protocol["processor"] = processor(plan["device"])
    return OriginalsCache(cache_folder() / "originals", protocol, loaded.extractors, notify)


def _notify_resuming(stored: int, total: int, notify: Notify) -> None:
    notify(
        f"Resuming: {stored} of {counted(total, 'reconstruction')} {'is' if stored == 1 else 'are'} already measured."
    )


def _notify_unfinished(folder: EvaluationFolder, left: Mapping[int, Sequence[str]], notify: Notify) -> dict[str, int]:
    """How much is left to measure."""
    verb = "is" if len(left) == 1 else "are"
    notify(
        f"{len(left)} of {counted(folder.chunks, 'chunk')} {verb} left for the other shards; the last one writes "
        "the report."
    )
    count = sum(len(folder.ids_of(chunk)) * len(names) for chunk, names in left.items())
    return {"chunks": folder.chunks, "chunks_left": len(left), "reconstructions_left": count}


def _write_report(results: Results, measurement: Measurement) -> None:
    examples = make_examples(choose_examples(results), measurement)
    with folder_lock(measurement.folder.path):
        write_report(results, examples, measurement.folder.path)


def _record(
    folder: EvaluationFolder,
    dataset: Dataset,
    settings: Mapping[str, Any],
    vaes: Records,
    *,
    ranks: Sequence[Mapping[str, Any]],
    started: float,
    notify: Notify,
) -> dict[str, Any]:
    """For run.json, with this call added to the earlier ones."""
    others = [name for name in folder.vaes() if name not in vaes]
    if others:
        notify(f"{folder.path} also has rows of {', '.join(others)}. Name them too for a report that compares all.")
    seconds = time.perf_counter() - started
    calls = [*earlier_calls(folder.path), *filter(None, [call_record(ranks, seconds)])]
    record = run_record(COMMAND, settings, list(vaes.values()), seconds) | totals(calls)
    return record | {"skipped": folder.bad(), "notes": [*map(without_folders, dataset.notes)], "calls": calls}
