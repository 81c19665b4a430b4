"""The training loop: batches, an optimizer step, a log line, an evaluation, a checkpoint, and again."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from vaelens.errors import CheckFailedError
from vaelens.evaluation.loaded_preset import LoadedPreset
from vaelens.families.spec import VAESpec
from vaelens.finetuning import checkpoints
from vaelens.finetuning.data.batches import TrainingImages
from vaelens.finetuning.data.training_sample import TrainingSample
from vaelens.finetuning.state import State
from vaelens.finetuning.step import NotFiniteError, PosteriorCache, StepConfig, StoredPosteriors, train_step
from vaelens.finetuning.training_folder import TrainingFolder
from vaelens.finetuning.validation import (
    ADVICE,
    CHUNK,
    OVERFIT_EVALUATIONS,
    EarlyStopping,
    Scores,
    StopReason,
    readable_chunks,
    sample_sheet,
    score,
)
from vaelens.images.datasets.items import Dataset
from vaelens.runs.ranks import Ranks, any_rank, mean_over_ranks
from vaelens.runtime import Runtime, silent
from vaelens.vae import VAE

OnLog = Callable[[int, int, dict[str, float]], object]  # steps done, of how many, the newest values

RELEASED = "released"
STORED = OVERFIT_EVALUATIONS + 1  # evaluations whose checkpoints are stored: as far back as early stopping may return


@dataclass
class Training:
    """Everything that the loop works with. `micro_batch_size` is over all processes, and divides the batch size.

    `pinned` are the bytes of the engine's plans for evaluations, as `EngineCalls.pinned`.
    """

    folder: TrainingFolder
    state: State
    config: StepConfig
    spec: VAESpec
    images: TrainingImages
    held_out: Dataset
    training_sample: TrainingSample
    preset: LoadedPreset
    micro_batch_size: int
    ranks: Ranks
    runtime: Runtime
    pinned: dict[str, int] = field(default_factory=dict[str, int])
    cache: PosteriorCache | StoredPosteriors | None = None
    on_log: OnLog = silent
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    evaluated: list[int] = field(default_factory=list[int])  # the steps of the last STORED evaluations

    def micro_batches(self) -> Iterator[range]:
        """The image numbers of this process' micro-batches, from the current step to the end."""
        batch, own = self.config.recipe.data.batch_size, self.micro_batch_size // self.ranks.count
        for step in range(self.state.step, self.config.recipe.run.steps):
            for start in range(step * batch, (step + 1) * batch, self.micro_batch_size):
                yield range(start + self.ranks.number * own, start + (self.ranks.number + 1) * own)


def train(t: Training) -> Literal["finished", "interrupted"] | StopReason:
    """From the current step to the end; gives how it ended. The state is then the one to release."""
    run, state = t.config.recipe.run, t.state
    accumulated = t.config.recipe.data.batch_size // t.micro_batch_size
    reason: StopReason | None = None
    if checkpoints.checkpoints(t.folder.path):
        resume(t)
    else:
        t.folder.truncate(-1)  # of a process that was killed before its first checkpoint
        reason = evaluate(t)
        save_checkpoint(t)
    batches = t.images.prefetch(t.micro_batches())
    while state.step < run.steps and reason is None:
        # Optimizer step
        micro_batches = ((b, t.cache and t.cache.posterior(b)) for b in (next(batches) for _ in range(accumulated)))
        try:
            log = train_step(state, micro_batches, accumulated, t.config)
        except NotFiniteError as error:
            reason = StopReason(f"{error} {ADVICE}", state.step)
            break
        step, is_last = state.step, state.step == run.steps
        # Log line
        if step % run.log_every == 0 or is_last:
            values = log_values(log, t.ranks)
            t.folder.add_log({"step": step, **values})
            t.on_log(step, run.steps, values)
            reason = t.early_stopping.check_log(step, values)
        # Evaluation
        if (step % run.evaluate_every == 0 or is_last) and reason is None:
            reason = evaluate(t)
        # Checkpoint, also before an interruption
        stop = any_rank(t.runtime.should_stop(), t.ranks.count, next(state.network.parameters()).device)
        if reason is None and (step % run.checkpoint_every == 0 or step in t.evaluated or stop):
            save_checkpoint(t)
        if stop and not is_last and reason is None:
            batches.close()
            return "interrupted"
    batches.close()
    if reason is None:
        return "finished"
    roll_back(t, reason)
    return reason


def resume(t: Training) -> None:
    """Give early stopping the lines up to the checkpoint, and remove later ones, whose steps will be repeated."""
    t.folder.truncate(t.state.step)
    t.ranks.wait()
    for line in t.folder.log.read():
        t.early_stopping.check_log(line["step"], {key: value for key, value in line.items() if key != "step"})
    for line in t.folder.evaluations.read():
        if line["weights"] == RELEASED:
            training, held_out = (Scores(line[key], finite=True).psnr for key in ("training", "held_out"))
            t.early_stopping.check_evaluation(line["step"], training, held_out, line.get("exact"))
            t.evaluated = [*t.evaluated, line["step"]][-STORED:]


def evaluate(t: Training) -> StopReason | None:
    """Evaluate the released weights, and the raw ones where the released are an average, on held-out images."""
    step, seed = t.state.step, t.config.seed
    t.evaluated = [*t.evaluated, step][-STORED:]
    reason = None
    if t.ranks.is_first:
        released, raw = released_vae(t, t.spec), raw_vae(t, t.spec)
        preset = t.preset.preset
        training = score(released, t.training_sample.chunks(preset, CHUNK), t.preset, seed)
        held_out = score(released, readable_chunks(t.held_out, preset), t.preset, seed)
        vaes = {RELEASED: released}
        if t.state.ema is not None:
            vaes = {"raw": raw, RELEASED: released}
            values = score(raw, readable_chunks(t.held_out, preset), t.preset, seed).values
            t.folder.add_evaluation({"step": step, "weights": "raw", "held_out": dict(values)})
        exact = {"held_out": list(held_out.exact), "training": list(training.exact)}
        exact = exact if any(exact.values()) else None
        t.folder.add_evaluation(
            {
                "step": step,
                "weights": RELEASED,
                "held_out": dict(held_out.values),
                "training": dict(training.values),
                **({"exact": exact} if exact else {}),
            }
        )
        t.folder.add_samples(step, sample_sheet(vaes, t.held_out, t.preset, seed))
        t.on_log(step, t.config.recipe.run.steps, {f"held-out {key}": value for key, value in held_out.values.items()})
        if held_out.finite and training.finite:
            reason = t.early_stopping.check_evaluation(step, training.psnr, held_out.psnr, exact)
        else:
            reason = StopReason(f"a reconstruction is NaN or infinite. {ADVICE}", step - 1)
    return t.ranks.gather(reason)[0]


def save_checkpoint(t: Training) -> None:
    """Once for all processes."""
    if t.ranks.is_first:
        checkpoints.save(t.folder.path, t.state, frozenset(t.evaluated))
    t.ranks.wait()


def roll_back(t: Training, reason: StopReason) -> None:
    """Load the newest checkpoint up to the last good step."""
    if not checkpoints.restore_newest(t.folder.path, t.state, t.runtime.notify, until=reason.last_good_step):
        raise CheckFailedError(f"{t.folder.path}: {reason.message} There is no good checkpoint to return to.")


def raw_vae(t: Training, spec: VAESpec) -> VAE:
    """With the current weights."""
    return _settled(t, VAE(t.state.network, spec, "raw", max_memory=t.runtime.max_memory, notify=t.runtime.notify))


def released_vae(t: Training, spec: VAESpec) -> VAE:
    """With the EMA weights, where there are any."""
    if t.state.ema is None:
        return raw_vae(t, spec)
    weight = next(t.state.network.parameters())
    where: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    budget: dict[str, Any] = {"max_memory": t.runtime.max_memory, "notify": t.runtime.notify}
    return _settled(t, VAE.from_tensors(t.state.averaged(), spec, RELEASED, **where, **budget))


def _settled(t: Training, vae: VAE) -> VAE:
    vae.engine.pinned |= t.pinned
    return vae


def log_values(log: dict[str, torch.Tensor], ranks: Ranks) -> dict[str, float]:
    """The scalars of a step, as means over all processes."""
    device = next(iter(log.values())).device
    values = torch.stack([value.to(device).double() for value in log.values()])
    mean_over_ranks([values], ranks.count)
    return {key: float(value) for key, value in zip(log, values.cpu(), strict=True)}
