"""`finetune`: images and a recipe to a VAE, in a folder from which a stopped training goes on.

vaelens finetune photos/ --from ft-mse --recipe ft-mse -o runs/mine
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vaelens.errors import CheckFailedError, UsageError
from vaelens.evaluation.loaded_preset import check_networks, load_preset, published_networks
from vaelens.evaluation.presets import find_preset
from vaelens.evaluation.results import Results
from vaelens.files import json_text, write_atomic
from vaelens.finetuning.cache import PosteriorCache
from vaelens.finetuning.checkpoints import clean, restore_newest
from vaelens.finetuning.held_out import sample_of
from vaelens.finetuning.images import Images
from vaelens.finetuning.loop import Show, Training, train
from vaelens.finetuning.outcome import release
from vaelens.finetuning.perceptual import NETWORKS, load_perceptual
from vaelens.finetuning.recipe import Recipe, find_recipe
from vaelens.finetuning.records import Records
from vaelens.finetuning.run_folder import begun, hold_to
from vaelens.finetuning.starting import (
    Material,
    Source,
    Start,
    Wanted,
    check_encoder,
    check_start,
    gather,
    pass_size,
    start_from,
)
from vaelens.finetuning.state import State
from vaelens.finetuning.step import Setting
from vaelens.finetuning.watch import Finding
from vaelens.images.datasets.items import Dataset, boxes_sha256, manifest_sha256
from vaelens.report.record import run_record, vae_record
from vaelens.resources import using_threads
from vaelens.runs.lock import exclusive_run
from vaelens.runs.ranks import Ranks, join_ranks
from vaelens.runs.versions import DECISIVE, versions
from vaelens.runtime import Notify, Progress, Runtime, find_device, log, silent
from vaelens.vae import VAE

AUTOCASTS = {"float32": None, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Tuned:
    """What a training gave: the VAE, its scores on held-out images, the record; `path` works as --vae."""

    path: Path
    vae: VAE
    results: Results | None  # None on all processes but the first
    record: dict[str, Any]


class Interrupted(Exception):  # noqa: N818  (no error: it was asked for)
    """The training was asked to stop, and is kept; `updates` are done."""

    def __init__(self, updates: int) -> None:
        super().__init__(f"stopped after update {updates}; the same command goes on from there")
        self.updates = updates


def finetune(  # noqa: PLR0915  (one call, readable from top to bottom)
    vae: Source | VAE | None,
    data: Source | Dataset | Sequence[Source | Dataset],
    *,
    recipe: Source | Recipe = "ft-mse",
    output: Source = "run",
    weights: Sequence[float] | None = None,
    boxes: Sequence[Source] | None = None,
    held_out: Source | Dataset | None = None,
    take: int | None = None,
    seed: int = 0,
    changed: Mapping[str, Any] | None = None,
    cache: bool = False,
    at_once: int | None = None,
    threads: int | None = None,
    networks: Mapping[str, Source] | None = None,
    device: str = "auto",
    dtype: str | None = None,
    space: str | None = None,
    offline: bool = False,
    notify: Notify | None = None,
    progress: Progress | None = None,
    show: Show | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Tuned:
    """Train a VAE, or a better decoder for one; leaves it with its record in the folder `output`.

    vae: what is continued; None for a recipe that starts from scratch
    data: one or more of `open_dataset`'s sources (drawn ones: images that are never measured on), or sets that are
    open already, mixed by `weights`, alike without
    boxes: a file of labelled boxes for each source, for a recipe that weights them
    held_out: images to measure on, at most run.held_out; without it so many of the data are kept back
    take: at most so many of each source, chosen by the seed
    changed: fields of the recipe to set otherwise, {"run.updates": 500}
    cache: keep the posteriors of a frozen encoder; not with random crops
    at_once: images in one pass, over all processes
    dtype: the networks' precision, float32 or bfloat16 (autocast; the default on cuda). Weights, losses and averages
    are float32 in any case
    show: called with each line of the log; should_stop: asked after each update

    The same call again goes on where it stopped. Raises what reading, loading and downloading raise; UsageError for a
    recipe that doesn't fit, or a folder with another run; CheckFailedError where the training went wrong, with the last
    good state released; `Interrupted` where it was asked to stop.
    """
    began = time.perf_counter()
    plan_of = _chosen(recipe, changed)
    wanted = Wanted.of(data, weights=weights, boxes=boxes, held_out=held_out, take=take, seed=seed)
    kind = find_device(device).type
    precision = dtype or ("bfloat16" if kind == "cuda" else "float32")
    _check_options(plan_of, precision, cache, seed)
    check_start(vae, plan_of, space)
    path = Path(output)
    found = begun(path)
    ranks = join_ranks(kind)
    local = torch.device(kind, int(os.environ["LOCAL_RANK"])) if ranks.count > 1 and kind == "cuda" else None
    notify = (notify or log) if ranks.is_first else silent
    runtime = Runtime.of(device=device, offline=offline, notify=notify, progress=progress)
    say = runtime.notify
    _tell_of_late_gan(plan_of, say if not found else silent)
    if local is not None:
        runtime = runtime.on(local)
    size = pass_size(at_once, found.get("at_once"), plan_of, kind, ranks.count)
    count = threads or int(found.get("threads", 0)) or torch.get_num_threads()
    with using_threads(count) as used, exclusive_run(path, ranks.number):
        # Everything cheap is checked before anything heavy is loaded.
        judged, measured = _networks(plan_of, networks or {})
        preset = find_preset(plan_of.run.preset)
        check_networks(preset, measured, runtime)
        perceptual, loss_networks = load_perceptual(judge_name(plan_of), judged, runtime.device, runtime)
        instruments = load_preset(preset, measured, runtime)
        start = start_from(vae, plan_of, seed, space, runtime)
        material = gather(wanted, plan_of, runtime)
        plan = {
            **_plan(plan_of, start, material, loss_networks | instruments.networks),
            "seed": seed,
            "at_once": size,
            "threads": used,
            "device": kind,
            "networks_run_in": precision,
            "cache": cache,
        }
        ranks.require_same(plan)
        refused = ranks.gather(hold_to(path, found, plan) if ranks.is_first else None)[0]
        if refused:
            raise UsageError(refused)
        state = State(start.network, plan_of, seed)
        if _restore(path, state, ranks, say):
            say(f"Going on after update {state.updates} of {plan_of.run.updates}.")
        setting = Setting(plan_of, perceptual, seed, ranks.count, AUTOCASTS[precision])
        training = Training(
            run=path,
            state=state,
            setting=setting,
            spec=start.spec,
            images=Images(material.sources, material.weights, plan_of.data, seed),
            held_out=material.held_out,
            trained_on=sample_of(material.sources, len(material.held_out.items), seed),
            instruments=instruments,
            at_once=size,
            ranks=ranks,
            records=Records(path, ranks.is_first),
            cache=PosteriorCache(start.network, setting) if cache else None,
            say=say,
            show=show if show is not None and ranks.is_first else silent,
            should_stop=should_stop or (lambda: False),
        )
        ended = train(training)
        skipped = _list_bad(path, training.images.bad, say, ranks)
        if ended == "interrupted":
            raise Interrupted(state.updates)
        if plan_of.model.trains == "decoder":
            check_encoder(start, state)
        settings = {k: v for k, v in plan.items() if k not in {"versions", "schema", "command"}}
        record = run_record("finetune", settings, [], 0.0)
        record |= {"recipe": plan_of.name, "updates": state.updates, "skipped": skipped}
        record |= {"stopped": ended.reason if isinstance(ended, Finding) else None, "ranks": ranks.count}
        tuned, results = release(training, start.vae, record, measured, offline=offline)
        record |= {"vaes": [vae_record(tuned)], "seconds": round(time.perf_counter() - began, 3)}  # of the last call
        if ranks.is_first:
            write_atomic(path / "run.json", json_text(record).encode())
        if isinstance(ended, Finding):
            raise CheckFailedError(
                f"{path}: stopped: {ended.reason} What stands there is the state after update {state.updates}. "
                "Change the recipe with --set, and begin in another folder."
            )
        return Tuned(path, tuned, results, record)


def judge_name(recipe: Recipe) -> str:
    """Which perceptual distance the recipe uses: "none" where its weight is 0."""
    return recipe.loss.perceptual if recipe.loss.perceptual_weight > 0 else "none"


def _chosen(recipe: Source | Recipe, changed: Mapping[str, Any] | None) -> Recipe:
    if not isinstance(recipe, Recipe):
        return find_recipe(recipe, changed)
    if changed:
        raise UsageError("a Recipe is taken as it is. Change its fields before, or name the recipe.")
    return recipe


def _check_options(recipe: Recipe, precision: str, cache: bool, seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise UsageError(f"a training's seed lies between 0 and 2^63 - 1; {seed} doesn't.")
    if precision not in AUTOCASTS:
        raise UsageError(f"networks train in {' or '.join(AUTOCASTS)}, not {precision}: float16 has too little range.")
    if cache and recipe.has_random_crops:
        raise UsageError(
            "--cache keeps one posterior an image, and this recipe shows another crop each time. Leave it out, or set "
            "data.crop=[1,1], data.flip=0 and data.recolour=0."
        )
    if cache and recipe.model.trains != "decoder":
        raise UsageError("--cache keeps what a frozen encoder says, and this recipe trains it. Leave --cache out.")


def _tell_of_late_gan(recipe: Recipe, say: Notify) -> None:
    if recipe.gan_is_late:
        say(
            f"The GAN starts after update {recipe.gan.start}, and this training ends at {recipe.run.updates}: it goes "
            "without. Lower gan.start and gan.warm_up with --set, or set gan.weight=0."
        )


def _networks(recipe: Recipe, given: Mapping[str, Source]) -> tuple[dict[str, Path], dict[str, Path]]:
    """The given files of the networks that the loss uses, and of those that the held-out images are measured by."""
    judges = {*NETWORKS[judge_name(recipe)]}
    measures = {*published_networks(find_preset(recipe.run.preset))}
    for name in given:
        if name not in judges | measures:
            used = ", ".join(sorted(judges | measures)) or "none"
            raise UsageError(f"this training uses no network called {name}; it uses {used}.")
    paths = {name: Path(file) for name, file in given.items()}
    return {n: p for n, p in paths.items() if n in judges}, {n: p for n, p in paths.items() if n in measures}


def _plan(recipe: Recipe, start: Start, material: Material, networks: Mapping[str, Any]) -> dict[str, Any]:
    """What a training's weights depend on, but for the options of the call."""
    sources = [
        {"name": source.name, "weight": weight, "manifest_sha256": manifest_sha256(source.items)}
        | ({"boxes_sha256": boxes_sha256(source.items)} if recipe.loss.box_weight != 1 else {})
        for source, weight in zip(material.sources, material.weights, strict=True)
    ]
    kept = material.held_out
    return {
        "schema": 1,
        "command": "finetune",
        "recipe": recipe.as_dict(),
        "from": start.identity,
        "sources": sources,
        "held_out": {"name": kept.name, "manifest_sha256": manifest_sha256(kept.items)},
        "networks": dict(networks),
        "versions": {key: value for key, value in versions().items() if key in DECISIVE},
    }


def _restore(path: Path, state: State, ranks: Ranks, say: Notify) -> bool:
    """Put the newest sound checkpoint into the state, if there is one, and tidy up behind it."""
    restored = restore_newest(path, state, say)
    ranks.wait()
    if ranks.is_first:
        clean(path, state.updates if restored else -1)
    ranks.wait()
    return restored


def _list_bad(path: Path, bad: Mapping[str, str], say: Notify, ranks: Ranks) -> dict[str, str]:
    """All images that couldn't be read, by any process, now or before a stop; with the reason."""
    file = path / "skipped.json"
    found: dict[str, str] = {}
    with suppress(OSError, ValueError, TypeError):  # none yet, or damaged: what is known now counts
        found = dict(json.loads(file.read_bytes()))
    for one in ranks.gather(dict(bad)):
        found |= one
    if found and ranks.is_first:
        name, why = next(iter(found.items()))
        count = len(found)
        say(f"{count} image{'s' * (count > 1)} couldn't be read, and others took their place. {name}: {why}")
        write_atomic(file, json_text(found).encode())
    return found
