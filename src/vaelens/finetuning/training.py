"""`finetune`: images and a recipe to a VAE, in a folder in which an interrupted training resumes.

vaelens finetune photos/ --from ft-mse --recipe ft-mse -o runs/mine
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vaelens.errors import CheckFailedError, UsageError
from vaelens.evaluation.loaded_preset import check_networks, load_preset, published_networks
from vaelens.evaluation.presets import find_preset
from vaelens.evaluation.results import Results
from vaelens.files import StrPath
from vaelens.finetuning.checkpoints import clean, restore_newest
from vaelens.finetuning.data.batches import TrainingImages
from vaelens.finetuning.data.batches import micro_batch_size as find_micro_batch_size
from vaelens.finetuning.data.sources import SourceOptions, Sources, TrainingData, check_caches, open_sources
from vaelens.finetuning.data.training_sample import TrainingSample
from vaelens.finetuning.export import OUTPUTS, release
from vaelens.finetuning.initialization import Initial, check_encoder_unchanged, check_vae, initialize
from vaelens.finetuning.loop import OnLog, Training, train
from vaelens.finetuning.losses import PERCEPTUAL_NETWORKS, load_perceptual
from vaelens.finetuning.recipe import HELD_OUT, Recipe
from vaelens.finetuning.recipe_files import default_recipe, find_recipe
from vaelens.finetuning.state import State
from vaelens.finetuning.step import PosteriorCache, StepConfig, StoredPosteriors
from vaelens.finetuning.training_folder import (
    CHANGE_RECIPE,
    TrainingFolder,
    existing_plan,
    record_unreadable,
    refuse_changed,
    write_or_compare_plan,
)
from vaelens.finetuning.validation import CHUNK, StopReason
from vaelens.images.datasets.source_names import paths_of
from vaelens.kernels.paths import choose_path
from vaelens.loading import space_of
from vaelens.report.record import run_record, vae_record
from vaelens.resources import using_threads
from vaelens.runs.lock import exclusive_run
from vaelens.runs.outputs import RECORD_NAME, check_apart, check_outputs, end_outputs
from vaelens.runs.ranks import Ranks, join_ranks
from vaelens.runs.versions import DECISIVE, versions
from vaelens.runtime import SHORT_DTYPES, Notify, Progress, Runtime, ShouldStop, find_device, log, silent
from vaelens.vae import VAE

NO_DOWNLOAD = "A perceptual loss psim-small and --set run.preset=offline need no download."
DTYPES = {"float32": None, "bfloat16": torch.bfloat16}  # of the networks, with the autocast dtype


@dataclass(frozen=True)
class Tuned:
    """The result of a training: the VAE, its scores on held-out images, the record; `path` works as --vae."""

    path: Path
    vae: VAE
    results: Results | None  # None on all processes but the first
    record: dict[str, Any]


class Interrupted(Exception):  # noqa: N818  (not an error: the caller requested it)
    """The training was interrupted after `step` steps, and can be resumed."""

    def __init__(self, step: int) -> None:
        super().__init__(f"interrupted after step {step}; run the same command again to resume")
        self.step = step


@dataclass(frozen=True)
class _Job:
    """A call of `finetune` after all checks that need no network and no image."""

    vae: StrPath | VAE | None
    recipe: Recipe
    sources: SourceOptions
    path: Path
    found: Mapping[str, Any]  # the plan of the run to resume, or empty
    networks: Mapping[str, StrPath]
    space: str | None
    seed: int
    cache: bool
    micro_batch_size: int
    dtype: str
    ranks: Ranks
    runtime: Runtime
    on_log: OnLog


def finetune(
    vae: StrPath | VAE | None,
    data: TrainingData | Sequence[TrainingData],
    *,
    recipe: StrPath | Recipe | None = None,
    output: StrPath = "run",
    weights: Sequence[float] | None = None,
    boxes: Sequence[StrPath] | None = None,
    held_out: TrainingData | None = None,
    take: int | None = None,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    cache: bool = False,
    micro_batch_size: int | None = None,
    threads: int | None = None,
    networks: Mapping[str, StrPath] | None = None,
    device: str = "auto",
    dtype: str | None = None,
    space: str | None = None,
    offline: bool = False,
    max_memory: int | str | None = None,
    notify: Notify | None = None,
    progress: Progress | None = None,
    on_log: OnLog | None = None,
    should_stop: ShouldStop | None = None,
) -> Tuned:
    """Train a VAE, or a better decoder for one, and write it with its record to the folder `output`.

    vae: the VAE to continue; None for a recipe that trains from scratch
    recipe: a built-in one, a .toml file or a Recipe; by default ft-mse, or tiny-ft-mse for the embedded VAEs
    data: one or more sources as `open_dataset` takes them (synthetic images are never those of evaluations), or open
    datasets, mixed by `weights`, equally without; or latent caches of the VAE's encoder, for crops that don't change
    boxes: a file of labelled boxes for each source, for a recipe that weights them
    held_out: images to evaluate on, at most run.held_out; without it that many of the data are held out
    take: at most this many images of each source, chosen by the seed
    overrides: fields of the recipe with other values, {"run.steps": 500}
    cache: keep the posteriors of a frozen encoder; not with random crops
    micro_batch_size: images per forward and backward pass, over all processes; the gradient of a batch is accumulated
    dtype: of the networks, float32 or bfloat16 (autocast; the default on cuda). Weights, losses and averages are
    float32 in any case
    max_memory: by how much an evaluation on held-out images may let memory grow, "2GB"; training itself takes more.
    Where the last bits depend on how it is met, the first call's plan holds for all
    on_log: called with (steps done, of how many, values) for each log line; should_stop: called after each step

    The same call resumes an interrupted training. Raises what reading, loading and downloading raise; UsageError for
    a recipe that doesn't fit, or a folder with another run; CheckFailedError where the training stopped early, with the
    last good state released; `Interrupted` where `should_stop` returned True.
    """
    started = time.perf_counter()
    if recipe is None:
        recipe = _default_recipe(vae, space, Runtime.of(offline=offline, notify=notify))
    chosen = _find_recipe(recipe, overrides)
    kind = find_device(device).type
    precision = SHORT_DTYPES.get(dtype, dtype) if dtype else "bfloat16" if kind == "cuda" else "float32"
    sources = SourceOptions.of(data, weights=weights, boxes=boxes, held_out=held_out, take=take, seed=seed)
    _check_options(chosen, precision, cache, seed)
    check_caches(sources.caches, chosen, cache)
    if HELD_OUT in chosen.named:
        sources.check_counts(chosen.run.held_out)
    check_vae(vae, chosen, space)
    path = Path(output)
    check_apart(path, [one for source in (*sources.sources, held_out) for one in paths_of(source)])
    found = existing_plan(path)
    check_outputs(path / RECORD_NAME, OUTPUTS, "finetune")
    ranks = join_ranks(kind)
    runtime = Runtime.of(
        device=f"cuda:{os.environ['LOCAL_RANK']}" if ranks.count > 1 and kind == "cuda" else device,
        offline=offline,
        max_memory=max_memory,
        notify=(notify or log) if ranks.is_first else silent,
        progress=progress,
        should_stop=should_stop,
    )
    job = _Job(
        vae, chosen, sources, path, found, networks or {}, space, seed, cache,
        find_micro_batch_size(micro_batch_size, found.get("micro_batch_size"), chosen.data, kind, ranks.count),
        precision, ranks, runtime, on_log if on_log is not None and ranks.is_first else silent,
    )  # fmt: skip
    if chosen.gan_never_starts and not found:
        runtime.notify(
            f"Warning: the GAN starts after step {chosen.gan.start}, but this training ends at {chosen.run.steps} and "
            "never uses it. Lower gan.start and gan.warmup_steps with --set, or set gan.weight=0."
        )
    count = int(found.get("threads", torch.get_num_threads())) if threads is None else threads
    with using_threads(count), exclusive_run(path, ranks.number):
        training, initial, plan, metric_paths = _prepare(job, count)
        if _restore(training):
            step, steps = training.state.step, chosen.run.steps
            at = f"step {step} of {steps}"
            runtime.notify(f"Resuming after {at}." if step < steps else f"Already finished ({at}).")
        ended = train(training)
        skipped = record_unreadable(path, training.images.unreadable, runtime.notify, ranks)
        if ended == "interrupted":
            raise Interrupted(training.state.step)
        if chosen.model.trainable == "decoder":
            check_encoder_unchanged(initial, training.state)
        stopped = ended.message if isinstance(ended, StopReason) else None
        record = run_record("finetune", {k: v for k, v in plan.items() if k not in {"versions", "command"}}, [], 0.0)
        record |= {"recipe": chosen.name, "steps": training.state.step, "skipped": skipped}
        record |= {"stopped": stopped, "ranks": ranks.count}
        tuned, results = release(training, initial.vae, record, metric_paths, offline=offline)
        record |= {"vaes": [vae_record(tuned)], "seconds": round(time.perf_counter() - started, 3)}  # of this call
        if ranks.is_first:
            end_outputs(path / RECORD_NAME, record, OUTPUTS)
        if stopped:
            raise CheckFailedError(
                f"{path}: stopped early: {stopped} The released weights are those after step {training.state.step}. "
                f"{CHANGE_RECIPE}"
            )
        return Tuned(path, tuned, results, record)


def _default_recipe(vae: StrPath | VAE | None, space: str | None, runtime: Runtime) -> str:
    if isinstance(vae, VAE):
        return default_recipe(vae.spec.latent_space)
    return default_recipe(None if vae is None else space or space_of(vae, runtime))


def _find_recipe(recipe: StrPath | Recipe, overrides: Mapping[str, Any] | None) -> Recipe:
    if not isinstance(recipe, Recipe):
        return find_recipe(recipe, overrides)
    if overrides:
        raise UsageError("a Recipe object can't be overridden. Change its fields, or pass the recipe's name.")
    return recipe


def _check_options(recipe: Recipe, dtype: str, cache: bool, seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise UsageError(f"the seed must be between 0 and 2^63 - 1, not {seed}.")
    if dtype not in DTYPES:
        raise UsageError(f"networks train in {' or '.join(DTYPES)}, not {dtype}: float16 has too little range.")
    if cache and recipe.has_random_crops:
        raise UsageError(
            "--cache keeps one posterior per image, but this recipe crops it differently in each epoch. Remove it, or "
            "set data.crop=[1,1], data.flip=0 and data.color_jitter=0."
        )
    if cache and recipe.model.trainable != "decoder":
        raise UsageError("--cache keeps a frozen encoder's output, but this recipe trains the encoder. Remove --cache.")


def _prepare(job: _Job, threads: int) -> tuple[Training, Initial, dict[str, Any], Mapping[str, Path]]:
    """Load the networks, open the images and write the plan: what is cheap to check comes first.

    Gives the training at step 0, the initial network, the plan, and the given files of metric networks. Raises
    UsageError where the folder holds another run.
    """
    recipe, ranks, runtime = job.recipe, job.ranks, job.runtime
    settings = {
        "seed": job.seed,
        "micro_batch_size": job.micro_batch_size,
        "threads": threads,
        "device": runtime.device.type,
        "dtype": job.dtype,
        "cache": job.cache,
    }
    refuse_changed(job.path, job.found, {**settings, "recipe": recipe.as_dict()})
    loss_paths, metric_paths = _network_paths(recipe, job.networks)
    preset = find_preset(recipe.run.preset)
    check_networks(
        preset, {**metric_paths, **loss_paths}, runtime, also=PERCEPTUAL_NETWORKS[recipe.perceptual_name],
        user=f"The recipe {recipe.name}", hint=NO_DOWNLOAD,
    )  # fmt: skip
    initial = initialize(job.vae, recipe, job.seed, job.space, runtime)
    sources = open_sources(job.sources, recipe, runtime, initial.vae)
    perceptual, loss_networks = load_perceptual(recipe.perceptual_name, loss_paths, runtime.device, runtime)
    loaded = load_preset(preset, metric_paths, runtime, hint=NO_DOWNLOAD)
    if job.sources.held_out is None:
        recipe = recipe.with_held_out(len(sources.held_out.items))
    if recipe.followed and not job.found:
        runtime.notify(recipe.followed_sentence)
    plan: dict[str, Any] = {
        **_plan(recipe, initial, sources, loss_networks | loaded.networks),
        **settings,
        "kernels": choose_path(DTYPES[job.dtype] or torch.float32, runtime.device),  # of the training itself
        "engine": _evaluations(initial, loaded.preset.side, job),
    }
    ranks.require_same(plan)
    refused = ranks.gather(write_or_compare_plan(job.path, job.found, plan) if ranks.is_first else None)[0]
    if refused:
        raise UsageError(refused)
    config = StepConfig(recipe, perceptual, job.seed, ranks.count, DTYPES[job.dtype])
    training = Training(
        folder=TrainingFolder(job.path, ranks.is_first, runtime.notify),
        state=State(initial.network, recipe, job.seed),
        config=config,
        spec=initial.spec,
        images=TrainingImages(sources.training, sources.weights, recipe.data, job.seed),
        held_out=sources.held_out,
        training_sample=TrainingSample(sources.training, len(sources.held_out.items), job.seed),
        preset=loaded,
        pinned=plan["engine"]["budgets"],
        micro_batch_size=job.micro_batch_size,
        ranks=ranks,
        runtime=runtime,
        cache=_posteriors(job, initial, config),
        on_log=job.on_log,
    )
    return training, initial, plan, metric_paths


def _posteriors(job: _Job, initial: Initial, config: StepConfig) -> PosteriorCache | StoredPosteriors | None:
    """Where the frozen encoder's output comes from, unless each image is encoded whenever it is trained on."""
    if job.sources.caches:
        return StoredPosteriors(job.sources.caches)
    return PosteriorCache(initial.network, config) if job.cache else None


def _evaluations(initial: Initial, side: int, job: _Job) -> dict[str, Any]:
    """How the engine runs the VAE on held-out images: as the run began, else as on the first rank."""
    vae = VAE(initial.network, initial.spec, "", max_memory=job.runtime.max_memory, notify=job.runtime.notify)
    own = vae.settle((side, side), job.found.get("engine"), CHUNK)
    return vae.settle((side, side), job.ranks.gather(own)[0], CHUNK)


def _network_paths(recipe: Recipe, given: Mapping[str, StrPath]) -> tuple[dict[str, Path], dict[str, Path]]:
    """The given files of the networks in the loss, and of those in the preset's metrics."""
    in_loss = {*PERCEPTUAL_NETWORKS[recipe.perceptual_name]}
    in_metrics = {*published_networks(find_preset(recipe.run.preset))}
    for name in given:
        if name not in in_loss | in_metrics:
            used = ", ".join(sorted(in_loss | in_metrics)) or "none"
            raise UsageError(f"this training uses no network called {name}; it uses {used}.")
    paths = {name: Path(file) for name, file in given.items()}
    return {n: p for n, p in paths.items() if n in in_loss}, {n: p for n, p in paths.items() if n in in_metrics}


def _plan(recipe: Recipe, initial: Initial, sources: Sources, networks: Mapping[str, Any]) -> dict[str, Any]:
    """What the trained weights depend on, except for the options of the call."""
    return {
        "command": "finetune",
        "recipe": recipe.as_dict(),
        "from": initial.identity,
        "sources": sources.record(with_boxes=recipe.loss.box_weight != 1),
        "held_out": sources.held_out_record,
        "networks": dict(networks),
        "versions": {key: value for key, value in versions().items() if key in DECISIVE},
    }


def _restore(t: Training) -> bool:
    """Load the newest valid checkpoint into the state, if there is one, and remove partial and later ones."""
    restored = restore_newest(t.folder.path, t.state, t.runtime.notify)
    t.ranks.wait()
    if t.ranks.is_first:
        clean(t.folder.path, t.state.step if restored else -1)
    t.ranks.wait()
    return restored
