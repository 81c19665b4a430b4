"""`calibrate`: which protocol gives a published table?

The published tables don't say how they were measured. This measures the same VAEs on the same images by all likely
protocols, resize x posterior x rounding x SSIM padding, and ranks these combinations by how many printed figures they
reproduce digit for digit.

vaelens calibrate coco-val2017 --vae kl-f8 --vae ft-mse -o calibration
"""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vaelens.errors import UsageError
from vaelens.evaluation.loaded_preset import check_networks, published_networks
from vaelens.evaluation.presets import Preset
from vaelens.evaluation.published_scores import (
    DIGITS,
    STD,
    Match,
    card_scores,
    figure_title,
    published_figures,
    published_matches,
)
from vaelens.evaluation.report.wording import list_skipped
from vaelens.evaluation.results import Results
from vaelens.evaluation.run import evaluate
from vaelens.files import StrPath
from vaelens.images.datasets.opening import check_name
from vaelens.images.datasets.source_names import paths_of
from vaelens.images.resizing import RESIZE_METHODS
from vaelens.metrics.pretrained import load_networks
from vaelens.metrics.ssim import Padding
from vaelens.report.tables import Column, Table
from vaelens.runs.outputs import check_apart, check_outputs, write_outputs
from vaelens.runs.ranks import world_size
from vaelens.runtime import Notify, Progress, Runtime

# What the published tables don't say. SSIM's padding has to be told apart too, but needs no other run.
POSTERIORS: tuple[Literal["sample", "mode"], ...] = ("sample", "mode")
ROUNDINGS: tuple[Literal["truncate", "half-up"], ...] = ("truncate", "half-up")
RESULT = "calibration.json"
METRICS_OF = {"rfid": ("rfid",), "psnr": ("psnr",), "ssim": ("ssim_zero", "ssim_valid"), "psim": ("psim",)}


@dataclass(frozen=True)
class Combination:
    """One protocol, and how it matches each printed figure; padding is None where no SSIM is published."""

    resize: str
    posterior: str
    rounding: str
    padding: Padding | None
    matches: tuple[Match, ...]

    @property
    def name(self) -> str:
        """In one line."""
        return ", ".join((self.resize, self.posterior, self.rounding, *([f"SSIM {self.padding}"] * bool(self.padding))))

    @property
    def reproduced_count(self) -> int:
        """How many printed figures it reproduces."""
        return sum(match.steps == 0 for match in self.matches)

    @property
    def worst(self) -> float:
        """The largest distance, in units of the last printed digit."""
        return max(match.steps for match in self.matches)

    @property
    def total(self) -> float:
        """The sum of all distances, in units of the last printed digit."""
        return sum(match.steps for match in self.matches)


@dataclass(frozen=True)
class Calibration:
    """All combinations, the best first: the one that reproduces most figures, and of those the nearest."""

    source: str
    images: int
    combinations: tuple[Combination, ...]
    skipped: Mapping[str, str] = field(default_factory=dict[str, str])  # images left out, with the reason

    @property
    def reproduced(self) -> tuple[Combination, ...]:
        """Those that reproduce every figure of the table."""
        return tuple(c for c in self.combinations if c.worst == 0)

    @property
    def verdict(self) -> str:
        """Which combinations reproduce the table, or which one comes nearest, in a sentence."""
        best = self.combinations[0]
        count = len(best.matches)
        if self.reproduced:
            names = "; ".join(c.name for c in self.reproduced)
            some = "1 combination reproduces" if len(self.reproduced) == 1 else f"{len(self.reproduced)} reproduce"
            return f"{some} all {count} published figures digit for digit: {names}."
        apart = f"{best.worst:.0f} in the last printed digit" if math.isfinite(best.worst) else "an unknown amount"
        return (
            f"No combination reproduces all {count} published figures. The nearest is {best.name}: "
            f"{best.reproduced_count} of {count} figures digit for digit, the others off by up to {apart}."
        )

    @property
    def left_out(self) -> str:
        """Which images are unreadable, in a sentence; empty where none is."""
        return f"Left out of every figure: {list_skipped(self.skipped)}" if self.skipped else ""

    def ranking(self) -> Table:
        """One row per combination: how many figures it reproduces, the largest and the mean distance in last digits."""
        names = ("resize", "posterior", "rounding", "SSIM", "figures reproduced", "largest distance", "mean distance")
        rows = [
            (
                c.resize, c.posterior, c.rounding, c.padding or "", f"{c.reproduced_count} of {len(c.matches)}",
                f"{c.worst:.0f}", f"{c.total / len(c.matches):.2f}",
            )
            for c in self.combinations
        ]  # fmt: skip
        return Table(tuple(map(Column, names)), tuple(rows))

    def figures(self) -> Table:
        """The best combination's figures beside the published ones, both as printed."""
        names = ("VAE", "figure", "published", "ours", "distance")
        rows = [
            (m.vae, figure_title(m.figure), f"{m.published:f}", m.printed, f"{m.steps:.0f}")
            for m in self.combinations[0].matches
        ]
        return Table(tuple(map(Column, names)), tuple(rows))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "source": self.source,
            "images": self.images,
            "skipped": dict(self.skipped),
            "verdict": self.verdict,
            "reproduced": [c.name for c in self.reproduced],
            "combinations": [
                {
                    **{k: getattr(c, k) for k in ("resize", "posterior", "rounding", "padding", "reproduced_count")},
                    "figures": [
                        {"vae": m.vae, "figure": m.figure, "published": f"{m.published:f}", "ours": m.ours,
                         "distance": m.steps}
                        for m in c.matches
                    ],
                }
                for c in self.combinations
            ],
        }  # fmt: skip


def calibrate(
    vaes: StrPath | Sequence[StrPath],
    source: StrPath,
    *,
    published: StrPath | None = None,
    output: StrPath = "calibration",
    take: int | None = None,
    skip_bad: bool = False,
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
) -> Calibration:
    """Measure the VAEs in every combination, each in a folder of its own under `output`, and rank them.

    published: a TOML file with one table per VAE (`published_scores.FIGURES`, those that are known, with the digits
    as printed); without it, what the model cards print for coco-val2017. The other options are `evaluate`'s; images
    that skip_bad leaves out are listed in the result. An interrupted call resumes. Writes calibration.json beside the
    folders. Raises as `evaluate` does; UsageError where nothing is published for a VAE, or under torchrun;
    BadInputError for a file that isn't a table of figures.
    """
    runtime = Runtime.of(device=device, dtype=dtype, offline=offline, max_memory=max_memory, notify=notify)
    check_name(source)
    check_apart(output, paths_of(source), holds_images=False)
    check_outputs(Path(output) / RESULT, [])
    sources = [vaes] if isinstance(vaes, str | os.PathLike) else list(vaes)
    figures = published_figures(sources, published)
    if world_size() > 1:
        raise UsageError("calibrate runs in one process, not under torchrun.")
    presets = _presets({name.removesuffix(STD) for one in figures for name in one})
    check_networks(presets[0], networks or {}, runtime, user="The published table", hint="")
    load_networks(published_networks(presets[0]), {k: Path(v) for k, v in (networks or {}).items()}, runtime=runtime)
    found: list[Results] = []
    for number, preset in enumerate(presets, 1):
        runtime.notify(f"{number} of {len(presets)}: {preset.resize}, {preset.posterior}, {preset.rounding}")
        folder = Path(output) / f"{preset.resize}-{preset.posterior}-{preset.rounding}"
        results = evaluate(
            sources, source, preset=preset, output=folder, take=take, skip_bad=skip_bad, batch=batch, threads=threads,
            networks=networks, device=device, dtype=dtype, space=space, offline=offline, max_memory=max_memory,
            notify=runtime.notify, progress=progress,
        )  # fmt: skip
        assert results is not None  # one process, no shards
        found.append(results)
    paddings: tuple[Padding | None, ...] = ("zero", "valid") if "ssim_zero" in presets[0].metrics else (None,)
    combinations = [
        Combination(
            of.preset.resize, of.preset.posterior, of.preset.rounding, padding, published_matches(of, figures, padding)
        )
        for of, padding in itertools.product(found, paddings)
    ]
    combinations.sort(key=lambda c: (-c.reproduced_count, c.total))
    skipped = {name: why for of in found for name, why in of.record["skipped"].items()}
    calibration = Calibration(found[-1].source, found[-1].count, tuple(combinations), skipped)
    card_images = next(iter(card_scores().values())).images
    if published is None and calibration.images != card_images:
        runtime.notify(
            f"Warning: the model cards' figures are for {card_images:,} images, and these are {calibration.images:,}."
        )
    write_outputs(Path(output) / RESULT, calibration.as_dict(), {})
    return calibration


def _presets(keys: set[str]) -> list[Preset]:
    """A preset for each combination, with the metrics that these figures need.

    PSNR in any case, by which the report orders images.
    """
    metrics = tuple(metric for key in DIGITS if key in keys | {"psnr"} for metric in METRICS_OF[key])
    return [
        Preset(
            name=f"calibrate {resize} {posterior} {rounding}",
            reading="plain",  # in 2022 nobody turned images upright or followed profiles
            resize=resize,
            side=256,
            posterior=posterior,
            rounding=rounding,
            ssim_padding="zero",
            inception="torch_fidelity" if "rfid" in metrics else None,
            metrics=metrics,
        )
        for resize, posterior, rounding in itertools.product(RESIZE_METHODS, POSTERIORS, ROUNDINGS)
    ]
