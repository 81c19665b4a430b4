"""What goes wrong in a training, seen early: each finding stops it at its last good state."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

PERFECT = 0.01  # a judge's hinge loss below this: it is sure of everything, and teaches nothing
CLUELESS = 1e-3  # its mean logits of real and made are this close, and its loss that of one who knows nothing
PATIENCE = 20  # log lines in a row
WIDENING = 4  # evaluations in a row over which the gap grows while the held-out images get worse
GAP_DB = 0.5  # by at least so much, in all
ADVICE = "A lower optimizer.rate, or a smaller gan.weight, may help."


@dataclass(frozen=True)
class Finding:
    """Why a training has to stop, and the update up to which all was well."""

    reason: str
    good_until: int


@dataclass
class Watch:
    """Looks at a log and at evaluations, in order; a method gives what it finds, or None."""

    perfect: list[int] = field(default_factory=list[int])  # updates in a row
    clueless: list[int] = field(default_factory=list[int])
    evaluations: list[tuple[int, float, float]] = field(default_factory=list[tuple[int, float, float]])

    def log(self, update: int, values: Mapping[str, float]) -> Finding | None:
        """One line of the log."""
        for key, value in values.items():
            if not math.isfinite(value):
                return Finding(f"{key} is {value}. {ADVICE}", update - 1)
        if "generator" not in values:  # nobody hears the discriminator yet
            return None
        loss, apart = values["discriminator"], abs(values["real"] - values["fake"])
        self.perfect = [*self.perfect, update] if loss < PERFECT else []
        self.clueless = [*self.clueless, update] if apart < CLUELESS and abs(loss - 1) < CLUELESS else []
        if len(self.perfect) >= PATIENCE:
            reason = (
                f"the discriminator has been sure of everything for {PATIENCE} lines of the log (loss {loss:.4f}), and "
                "teaches nothing. A lower gan.rate, or fewer gan.layers, may help."
            )
            return Finding(reason, self.perfect[0])
        if len(self.clueless) >= PATIENCE:
            reason = (
                f"the discriminator has told nothing apart for {PATIENCE} lines of the log (loss {loss:.4f}): it has "
                "collapsed. A lower gan.rate may help."
            )
            return Finding(reason, self.clueless[0])
        return None

    def evaluation(self, update: int, trained: float, held_out: float) -> Finding | None:
        """PSNR in dB on images trained on and held out, of the weights that will be released."""
        self.evaluations.append((update, trained, held_out))
        last = self.evaluations[-WIDENING - 1 :]
        if len(last) <= WIDENING:
            return None
        gaps = [t - h for _, t, h in last]
        grows = all(b > a for a, b in itertools.pairwise(gaps)) and gaps[-1] - gaps[0] >= GAP_DB
        worse = all(b[2] < a[2] for a, b in itertools.pairwise(last))
        if not (grows and worse):
            return None
        reason = (
            f"it learns its images by heart: over {WIDENING} evaluations the held-out images lost "
            f"{last[0][2] - held_out:.2f} dB, and those trained on drew away. More images or fewer updates may help."
        )
        return Finding(reason, last[0][0])
