"""The loop, on one page: images, an update, a line, a look at held-out images, a checkpoint, and again."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from vaelens.errors import CheckFailedError
from vaelens.evaluation.loaded_preset import LoadedPreset
from vaelens.families.spec import VAESpec
from vaelens.finetuning import checkpoints
from vaelens.finetuning.cache import PosteriorCache
from vaelens.finetuning.held_out import Scores, draw_strip, score
from vaelens.finetuning.images import Images
from vaelens.finetuning.records import EVALUATIONS, LOG, Records
from vaelens.finetuning.state import State
from vaelens.finetuning.step import NotFiniteError, Setting, update
from vaelens.finetuning.watch import ADVICE, WIDENING, Finding, Watch
from vaelens.images.datasets.items import Dataset
from vaelens.runs.ranks import Ranks, any_rank, mean_over_ranks
from vaelens.runtime import silent
from vaelens.vae import VAE

Show = Callable[[int, int, dict[str, float]], object]  # updates done, of how many, the newest numbers
RELEASED = "released"
KEPT = WIDENING + 1  # checkpoints of evaluations: as far back as a finding may send us


@dataclass
class Training:
    """All that the loop works with. `at_once`: images in one pass over all processes; it divides the batch."""

    run: Path
    state: State
    setting: Setting
    spec: VAESpec
    images: Images
    held_out: Dataset
    trained_on: Dataset
    instruments: LoadedPreset
    at_once: int
    ranks: Ranks
    records: Records
    cache: PosteriorCache | None = None
    show: Show = silent
    say: Callable[[str], object] = silent
    should_stop: Callable[[], bool] = lambda: False
    watch: Watch = field(default_factory=Watch)
    kept: list[int] = field(default_factory=list[int])  # the updates of the last evaluations

    def portions(self) -> Iterator[range]:
        """The numbers of the images of each pass from here to the end, for this process."""
        batch, mine = self.setting.recipe.data.batch, self.at_once // self.ranks.count
        for count in range(self.state.updates, self.setting.recipe.run.updates):
            for start in range(count * batch, (count + 1) * batch, self.at_once):
                yield range(start + self.ranks.number * mine, start + (self.ranks.number + 1) * mine)


def train(t: Training) -> Literal["finished", "interrupted"] | Finding:
    """From where the state stands to the end; gives how it ended. The state is then the one to release."""
    recipe, run, state = t.setting.recipe, t.setting.recipe.run, t.state
    parts = recipe.data.batch // t.at_once
    finding: Finding | None = None
    if checkpoints.checkpoints(t.run):
        recall(t)
    else:
        t.records.cut(-1)  # of a process that was killed before its first checkpoint
        finding = evaluate(t)
        checkpoint(t)
    batches = t.images.ahead(t.portions())
    while state.updates < run.updates and finding is None:
        # Images -> one update.
        made = ((batch, t.cache and t.cache.posterior(batch)) for batch in (next(batches) for _ in range(parts)))
        try:
            log = update(state, made, parts, t.setting)
        except NotFiniteError as error:
            finding = Finding(f"{error} {ADVICE}", state.updates)
            break
        n, last = state.updates, state.updates == run.updates
        # A line of the log.
        if n % run.log_every == 0 or last:
            line = numbers(log, t.ranks)
            t.records.add(LOG, {"update": n, **line})
            t.show(n, run.updates, line)
            finding = t.watch.log(n, line)
        # A look at images that it has never seen.
        if (n % run.evaluate_every == 0 or last) and finding is None:
            finding = evaluate(t)
        # A checkpoint; a process that was asked to stop leaves one too.
        stop = any_rank(t.should_stop(), t.ranks.count, next(state.network.parameters()).device)
        if finding is None and (n % run.checkpoint_every == 0 or n in t.kept or stop):
            checkpoint(t)
        if stop and not last and finding is None:
            batches.close()
            return "interrupted"
    batches.close()
    if finding is None:
        return "finished"
    roll_back(t, finding)
    return finding


def recall(t: Training) -> None:
    """What the watch knew before a stop, from the files; what came after the checkpoint is done again."""
    t.records.cut(t.state.updates)
    t.ranks.wait()
    for line in t.records.lines(LOG):
        t.watch.log(line["update"], {key: value for key, value in line.items() if key != "update"})
    for line in t.records.lines(EVALUATIONS):
        if line["weights"] == RELEASED:
            t.watch.evaluation(line["update"], _psnr(line["trained_on"]), _psnr(line["held_out"]))
            t.kept = [*t.kept, line["update"]][-KEPT:]


def evaluate(t: Training) -> Finding | None:
    """Measure the released weights, and the raw ones where these are others, on held-out images."""
    n, seed = t.state.updates, t.setting.seed
    t.kept = [*t.kept, n][-KEPT:]
    finding = None
    if t.ranks.is_first:
        released, raw = released_vae(t.state, t.spec), raw_vae(t.state, t.spec)
        on_trained = score(released, t.trained_on, t.instruments, seed)
        found = score(released, t.held_out, t.instruments, seed)
        vaes = {RELEASED: released}
        if t.state.ema is not None:
            vaes = {"raw": raw, RELEASED: released}
            _note(t, "raw", score(raw, t.held_out, t.instruments, seed), None)
        _note(t, RELEASED, found, on_trained)
        t.records.strip(n, draw_strip(vaes, t.held_out, t.instruments, seed))
        t.show(n, t.setting.recipe.run.updates, {f"held-out {key}": value for key, value in found.values.items()})
        if not (found.finite and on_trained.finite):
            finding = Finding(f"an image came out NaN or infinite. {ADVICE}", n - 1)
        else:
            finding = t.watch.evaluation(n, _psnr(on_trained.values), _psnr(found.values))
    return t.ranks.gather(finding)[0]  # what the first one found holds for all


def checkpoint(t: Training) -> None:
    """Keep the state, once for all processes."""
    if t.ranks.is_first:
        checkpoints.save(t.run, t.state, frozenset(t.kept))
    t.ranks.wait()


def roll_back(t: Training, finding: Finding) -> None:
    """To the newest checkpoint from a time when all was well."""
    if not checkpoints.restore_newest(t.run, t.state, t.say, until=finding.good_until):
        raise CheckFailedError(f"{t.run}: {finding.reason} It was so from the start: there is no state to go back to.")


def _psnr(values: Mapping[str, float]) -> float:
    """Infinite where every image came back as it was."""
    return values.get("psnr", math.inf)


def raw_vae(state: State, spec: VAESpec) -> VAE:
    """The network as it is."""
    return VAE(state.network, spec, "raw")


def released_vae(state: State, spec: VAESpec) -> VAE:
    """The network with its running average in the weights' place, where there is one."""
    if state.ema is None:
        return raw_vae(state, spec)
    weight = next(state.network.parameters())
    return VAE.from_tensors(state.averaged(), spec, RELEASED, device=weight.device, dtype=weight.dtype)


def numbers(log: dict[str, torch.Tensor], ranks: Ranks) -> dict[str, float]:
    """The scalars of an update, as means over the processes."""
    device = next(iter(log.values())).device
    values = torch.stack([value.to(device).double() for value in log.values()])
    mean_over_ranks([values], ranks.count)
    return {key: float(value) for key, value in zip(log, values.cpu(), strict=True)}


def _note(t: Training, weights: str, held_out: Scores, trained_on: Scores | None) -> None:
    line = {"update": t.state.updates, "weights": weights, "held_out": dict(held_out.values)}
    t.records.add(EVALUATIONS, line if trained_on is None else line | {"trained_on": dict(trained_on.values)})
