"""`encode`: a dataset through one encoder, into a cache from which training and evaluation read its posteriors.

vaelens encode photos/ --vae ft-ema -o latents
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from vaelens.errors import BadInputError, ResourceError, UsageError
from vaelens.files import StrPath, json_text, sha256_file, write_atomic
from vaelens.images.datasets.items import Dataset, Item, boxes_sha256, manifest_sha256
from vaelens.images.datasets.opening import check_name, name_in, open_dataset
from vaelens.images.datasets.source_names import files_of, paths_of
from vaelens.images.resizing import opencv
from vaelens.images.size_rules import SizeRule
from vaelens.latent_cache.cache import LatentCache, open_cache
from vaelens.latent_cache.formats.known import format_named
from vaelens.latent_cache.formats.writing import check_latents, check_rule, write_files
from vaelens.latent_cache.index import COMMAND, INDEX, Encoder, Index, Origin, ShardRecord, is_cache
from vaelens.latent_cache.shard_making import Job, make_shard
from vaelens.latent_cache.shards import FOLDER, holds_logvar, is_whole, read_items, shard_path
from vaelens.loading import check_source, vae_of
from vaelens.resources import using_threads
from vaelens.runs.lock import exclusive_run
from vaelens.runs.outputs import check_apart, check_empty
from vaelens.runs.plan import PLAN, as_stored, differences, read_plan, refuse_differences, write_plan
from vaelens.runs.ranks import Ranks, join_ranks
from vaelens.runs.versions import DECISIVE, versions
from vaelens.runtime import Notify, Progress, Runtime, dtype_name, silent
from vaelens.text.numbers import counted
from vaelens.text.paths import explained, user_path
from vaelens.text.private_paths import without_folders
from vaelens.vae import VAE

SIDE = 256
SHARD_SIZE = 128  # images: what a kill costs at most; 16 MB with images of 256x256
BATCH = {"cpu": 4}  # images encoded at once, as in `evaluate`
BATCH_ON_DEVICE = 16
NAMES = ("vae", "dataset")  # of a plan: what an image's moments don't depend on
NOT_IN_KEY = (*NAMES, "images_at")  # nor anything else in a shard


def encode_dataset(
    vae: StrPath | VAE,
    source: StrPath | Dataset,
    *,
    output: StrPath = "latents",
    size: int = SIDE,
    rule: str = "area",
    shard_size: int | None = None,
    images: bool = True,
    take: int | None = None,
    seed: int = 0,
    min_aesthetic: float | None = None,
    split: str | None = None,
    boxes: StrPath | None = None,
    training: bool = False,
    skip_bad: bool = False,
    trainer: str | None = None,
    batch: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    space: str | None = None,
    offline: bool = False,
    max_memory: int | str | None = None,
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> LatentCache | None:
    """Encode each image of a dataset once and keep its posterior, rounded to float16, in the folder `output`.

    source: what `evaluate` takes, with take, seed, min_aesthetic, split and boxes, or an open dataset
    rule, size: how an image becomes the square that is encoded: area (as `finetune` with crops of [1,1]), bicubic (as
    the presets modern and offline) or opencv (as card-2022), of `size` pixels; see `images.size_rules`
    images: keep the squares too, losslessly; without them the images are read again where they are now
    training: of a synthetic dataset, the images that are never measured on
    trainer: also write the latents as the files of another one, to a folder of that name: a name of
    `formats.known.FORMATS`; the files hold samples by `seed`
    shard_size: images per file, the unit of work; batch: images encoded at once; threads: of the CPU. All three are
    part of the plan: batch and threads change the last bits

    The same call again resumes an interrupted one; under torchrun the ranks, which need one folder, share the shards.
    The bytes are the same in any case. Gives the cache, on the first rank alone. Raises what reading, loading,
    downloading and running raise; UsageError where `output` holds something else.
    """
    how, path = SizeRule.named(rule, size), Path(output)
    if any(number is not None and number < 1 for number in (shard_size, batch, threads)):
        raise UsageError("shard_size, batch and threads must be at least 1.")
    _check_call(vae, source, path, how)
    files = None if trainer is None else format_named(trainer)
    if files is not None:
        check_rule(files, how)
    if not images and isinstance(source, Dataset):
        raise UsageError("an open dataset can't be opened again by name: keep its images in the cache.")
    runtime = Runtime.of(
        device=device, dtype=dtype, offline=offline, max_memory=max_memory, notify=notify, progress=progress
    )
    kind = runtime.device.type
    found = check_folder(path) or {}
    ranks = join_ranks(kind)
    if ranks.count > 1 and kind == "cuda":
        runtime = runtime.on(f"cuda:{os.environ['LOCAL_RANK']}")
    count = threads or found.get("threads") or torch.get_num_threads()
    with using_threads(count), exclusive_run(path, ranks.number):
        dataset = source if isinstance(source, Dataset) else open_dataset(
            source, take=take, seed=seed, min_aesthetic=min_aesthetic, split=split, boxes=boxes, skip_bad=skip_bad,
            training=training, runtime=runtime,
    )  # fmt: skip
        model = vae_of(vae, runtime, space=space)
        if files is not None:
            check_latents(files, model, size, dataset.items)
        batch = int(batch or found.get("batch", 0)) or BATCH.get(kind, BATCH_ON_DEVICE)
        size_of_shards = int(shard_size or found.get("shard_size", 0)) or SHARD_SIZE
        job = Job(path, dataset, model, how, size_of_shards, min(batch, size_of_shards), images, skip_bad)
        call = None if images else _call(source, take=take, seed=seed, split=split, training=training)
        plan = _plan(job, call, found, ranks, runtime)
        ranks.require_same(plan)
        refused = ranks.gather(_write_or_compare(path, found, plan) if ranks.is_first else None)[0]
        if refused:
            raise UsageError(refused)
        if ranks.is_first:
            for note in dataset.notes:
                runtime.notify(f"{dataset.name}: {note}.")
        job = replace(job, key=_key(plan))
        left = ranks.broadcast(_left(job, runtime.notify) if ranks.is_first else [])
        if ranks.is_first and 0 < len(left) < job.shards:
            done = job.shards - len(left)
            runtime.notify(f"Resuming: {done} of {counted(job.shards, 'shard')} {'is' if done == 1 else 'are'} there.")
        _encode(job, left[ranks.number :: ranks.count], runtime.progress)
        ranks.wait()
        if not ranks.is_first:
            return None
        was_complete = not left and (path / INDEX).exists()
        _finish(job, plan, call)
        cache = open_cache(path)
        cache.was_complete = was_complete
        if files is not None:
            written = write_files(files, cache, model, path / files.name, seed)
            unread = len(cache) - len(written)
            left_out = f", none for {counted(unread, 'image')} that {files.name} doesn't read" if unread else ""
            runtime.notify(
                f"Wrote {counted(len(written), 'file')} to {path / files.name}{left_out}. Copy them beside the images, "
                f"and in {files.name} set {files.settings_for(size)}."
            )
        return cache


def check_folder(path: Path) -> dict[str, Any] | None:
    """The plan of the cache in the folder, None where there is none; cheap.

    Raises UsageError where the folder holds another command's run, or anything else; BadInputError and
    CheckFailedError as `read_plan`.
    """
    found = read_plan(path, COMMAND, ("batch", "threads", "shard_size"))
    if found is None:
        check_empty(path, "cache")
    return found


def _check_call(vae: StrPath | VAE, source: StrPath | Dataset, output: Path, rule: SizeRule) -> None:
    """What can be checked before anything is opened."""
    if rule.resize == "opencv_bilinear":
        opencv()
    check_name(source)
    check_apart(output, paths_of(source), holds_images=False)
    if is_cache(source):
        raise UsageError(f"{source} is a latent cache itself. Name the images that it was made of.")
    if not isinstance(vae, VAE):
        check_source(vae)


def _call(source: StrPath | Dataset, **options: Any) -> dict[str, Any]:
    """How the images can be opened again; a path or a pattern from wherever the cache is read."""
    name = "" if isinstance(source, Dataset) else os.fspath(source)
    if name and not name_in(name) and (user_path(name).exists() or files_of(name) is not None):
        name = str(user_path(name).absolute())
    return {"source": name, **options}


def _plan(
    job: Job, call: Mapping[str, Any] | None, found: Mapping[str, Any], ranks: Ranks, runtime: Runtime
) -> dict[str, Any]:
    """All that the bytes of the shards depend on; and names, which a cache that is resumed keeps."""
    before, side = found.get("engine"), job.rule.side
    own = job.vae.settle((side, side), before if found.get("batch") == job.batch else None, job.batch)
    engine = job.vae.settle((side, side), ranks.gather(own)[0], job.batch)
    encoder = asdict(Encoder.of(job.vae))
    name = encoder.pop("vae")
    items = job.dataset.items
    return {
        "schema": 1,
        "command": COMMAND,
        "vae": name,
        "dataset": job.dataset.name,
        "encoder": encoder,
        "rule": job.rule.as_dict(),
        "images": len(items),
        "manifest_sha256": manifest_sha256(items),
        "boxes_sha256": boxes_sha256(items),
        "holds_images": job.images,
        "images_at": call,
        "shard_size": job.shard_size,
        "batch": job.batch,
        "threads": torch.get_num_threads(),
        "device": runtime.device.type,
        "dtype": dtype_name(job.vae.dtype),
        "engine": {key: engine[key] for key in ("path", "budgets")},
        "versions": {key: value for key, value in versions().items() if key in DECISIVE},
    }


def _write_or_compare(path: Path, found: Mapping[str, Any], plan: dict[str, Any]) -> str | None:
    """Write the plan, or say why the folder's isn't the same; names are those of the folder's."""
    if not found:
        write_plan(path, plan)
        return None
    plan.update({name: found[name] for name in NAMES if name in found})
    instead = f"choose another folder with -o, or delete {path} and encode anew"
    try:
        refuse_differences(path, differences(dict(found), as_stored(plan)), instead)
    except UsageError as error:
        return str(error)
    return None


def _key(plan: Mapping[str, Any]) -> str:
    """Of all that the shards depend on."""
    return hashlib.sha256(json_text({k: v for k, v in plan.items() if k not in NOT_IN_KEY}).encode()).hexdigest()


def _left(job: Job, notify: Notify) -> list[int]:
    """The shards that aren't there; damaged ones and another cache's are removed with a notice."""
    left: list[int] = []
    removed: list[str] = []
    for number in range(job.shards):
        path = shard_path(job.path, number)
        try:
            if not is_whole(path, job.key_of(number)):
                left.append(number)
                if path.exists():
                    removed.append(path.name)
                    path.unlink()
        except OSError as error:
            raise explained(error, path, "can't be read") from error
    if left:  # an index that lists other shards would be wrong until the end
        (job.path / INDEX).unlink(missing_ok=True)
    if removed:
        some = ", ".join(removed[:4]) + f" and {len(removed) - 4} more" * (len(removed) > 4)
        notify(f"Warning: {job.path}: made again, since damaged or of another cache: {some}.")
    return left


def _encode(job: Job, shards: Sequence[int], progress: Progress = silent) -> None:
    """Write these shards, each whole or not at all."""
    total, done = sum(len(job.items_of(number)) for number in shards), 0
    for number in shards:

        def step(more: int, name: str, before: int = done) -> None:
            progress(before + more, total, name)

        write_atomic(shard_path(job.path, number), make_shard(job, number, step).file())
        done += len(job.items_of(number))


def _remove(job: Job, shards: Sequence[Path]) -> None:
    """Remove shards that hold nothing, and their plan: no later run can use them."""
    for path in (*shards, job.path / PLAN):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # it holds something else
        (job.path / FOLDER).rmdir()


def _finish(job: Job, plan: Mapping[str, Any], call: dict[str, Any] | None) -> None:
    """Write cache.json. Raises ResourceError where a shard is missing: another rank has written it elsewhere.

    Raises BadInputError for images that can't be read; where that are all of them, nothing is left in the folder.
    """
    paths = [shard_path(job.path, number) for number in range(job.shards)]
    if missing := [path for path in paths if not path.exists()]:
        raise ResourceError(
            f"{job.path}: {counted(len(missing), 'shard')} of other ranks {'is' if len(missing) == 1 else 'are'} "
            "missing. Give all ranks one folder that they share, or copy their shards here, and run the command again."
        )
    items: list[Item] = []
    skipped: dict[str, str] = {}
    records: list[ShardRecord] = []
    for path in paths:
        held, bad = read_items(path)
        items += held
        skipped |= dict(bad)
        records.append(ShardRecord(len(held), sha256_file(path)))
    if skipped and not (job.skip_bad and items):
        if not items:
            _remove(job, paths)
        what = f"{len(skipped)} of the images can't be read; --skip-bad leaves them out."
        name, why = next(iter(skipped.items()))
        raise BadInputError(
            f"{job.dataset.name}: {what if items else 'none of the images can be read.'} The first: {name}: {why}"
        )
    encoder, notes = Encoder.of(job.vae), tuple(map(without_folders, job.dataset.notes))
    index = Index(
        encoder=Encoder(plan["vae"], encoder.fingerprint, encoder.pixel_range, encoder.config),
        rule=job.rule,
        posterior="gaussian" if any(holds_logvar(path) for path in paths) else "mean",
        latent=job.latent,
        precision=str(plan["dtype"]),
        dataset=Origin(
            plan["dataset"], job.dataset.origin, notes, manifest_sha256(items), boxes_sha256(items),
            skipped, call,
        ),
        shards=tuple(records),
        vaelens=versions()["vaelens"],
    )  # fmt: skip
    write_atomic(job.path / INDEX, index.content())
