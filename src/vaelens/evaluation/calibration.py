"""`calibrate`: which way of measuring gives a published table?

The published tables don't say how they were measured. This measures the same VAEs on the same images in all ways
that are likely, resize x posterior x rounding x SSIM's padding, and ranks the ways by how many printed figures they
give again, digit for digit.

vaelens calibrate coco-val2017 --vae kl-f8 --vae ft-mse -o calibration
"""

import itertools
import math
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, cast

from vaelens.errors import BadInputError, UsageError
from vaelens.evaluation.equipment import Source
from vaelens.evaluation.measures import MEASURES
from vaelens.evaluation.presets import Preset
from vaelens.evaluation.report_words import listed
from vaelens.evaluation.results import Results
from vaelens.evaluation.running import evaluate
from vaelens.files import json_text, write_atomic
from vaelens.images.datasets import coco
from vaelens.images.resizing import RESIZE_METHODS
from vaelens.metrics.pretrained import load_networks, missing
from vaelens.report.tables import Column, Table
from vaelens.runtime import Notify, Progress, Runtime
from vaelens.weights.registry import Score, registry

DIGITS = {"rfid": 2, "psnr": 1, "ssim": 2, "psim": 2}  # after the point, as the cards print them
SPREAD = "_std"
FIGURES = tuple(name for key in DIGITS for name in (key, key + SPREAD) if name != "rfid" + SPREAD)
MOST_DIGITS = 9
POSTERIORS: tuple[Literal["sample", "mode"], ...] = ("sample", "mode")
ROUNDINGS: tuple[Literal["truncate", "half-up"], ...] = ("truncate", "half-up")

Padding = Literal["zero", "valid"]
Figures = Mapping[str, Decimal]  # by FIGURES' names, with as many digits as are printed


@dataclass(frozen=True)
class Match:
    """One printed figure and ours, which is None where it can't be had."""

    vae: str
    figure: str
    published: Decimal
    ours: float | None

    @property
    def digits(self) -> int:
        """How many are printed after the point."""
        return _digits(self.published)

    @property
    def printed(self) -> str:
        """Ours as the table would print it."""
        return "none" if self.ours is None else f"{self.ours:.{self.digits}f}"

    @property
    def steps(self) -> float:
        """How far apart they are, in units of the last printed digit."""
        return math.inf if self.ours is None else float(abs(Decimal(self.printed) - self.published).scaleb(self.digits))


@dataclass(frozen=True)
class Combination:
    """One way of measuring, and how it matches each printed figure; no padding where no SSIM is published."""

    resize: str
    posterior: str
    rounding: str
    padding: Padding | None
    matches: tuple[Match, ...]

    @property
    def name(self) -> str:
        """As a sentence has it."""
        return ", ".join((self.resize, self.posterior, self.rounding, *([f"SSIM {self.padding}"] * bool(self.padding))))

    @property
    def fitting(self) -> int:
        """How many printed figures come out the same."""
        return sum(match.steps == 0 for match in self.matches)

    @property
    def worst(self) -> float:
        """The largest distance, in units of the last printed digit."""
        return max(match.steps for match in self.matches)

    @property
    def total(self) -> float:
        """All distances together."""
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
        """Those that print every figure of the table."""
        return tuple(c for c in self.combinations if c.worst == 0)

    @property
    def verdict(self) -> str:
        """Which combinations reproduce the table, or which one comes nearest, in words."""
        best = self.combinations[0]
        count = len(best.matches)
        if self.reproduced:
            names = "; ".join(c.name for c in self.reproduced)
            some = "1 combination reproduces" if len(self.reproduced) == 1 else f"{len(self.reproduced)} reproduce"
            return f"{some} all {count} published figures digit for digit: {names}."
        apart = f"{best.worst:.0f} in the last printed digit" if math.isfinite(best.worst) else "more than can be said"
        return (
            f"No combination reproduces all {count} published figures. The nearest is {best.name}: {best.fitting} of "
            f"{count} figures digit for digit, the others off by up to {apart}."
        )

    @property
    def left_out(self) -> str:
        """Which images couldn't be read, in words; empty where all could."""
        return f"Left out of every figure: {listed(self.skipped)}" if self.skipped else ""

    def ranking(self) -> Table:
        """A row a combination: how many figures it reproduces, the largest and the mean distance in last digits."""
        names = ("resize", "posterior", "rounding", "SSIM", "figures reproduced", "largest distance", "mean distance")
        rows = [
            (
                c.resize, c.posterior, c.rounding, c.padding or "", f"{c.fitting} of {len(c.matches)}",
                f"{c.worst:.0f}", f"{c.total / len(c.matches):.2f}",
            )
            for c in self.combinations
        ]  # fmt: skip
        return Table(tuple(map(Column, names)), tuple(rows))

    def figures(self) -> Table:
        """The best combination's figures beside the published ones, both as printed."""
        names = ("VAE", "figure", "published", "ours", "distance")
        rows = [
            (m.vae, _title(m.figure), f"{m.published:f}", m.printed, f"{m.steps:.0f}")
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
                    **{k: getattr(c, k) for k in ("resize", "posterior", "rounding", "padding", "fitting")},
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
    vaes: Source | Sequence[Source],
    source: Source,
    *,
    published: Source | None = None,
    output: Source = "calibration",
    take: int | None = None,
    skip_bad: bool = False,
    batch: int | None = None,
    threads: int | None = None,
    networks: Mapping[str, Source] | None = None,
    device: str = "auto",
    dtype: str = "float32",
    space: str | None = None,
    offline: bool = False,
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Measure the VAEs in every combination, each in a folder of its own under `output`, and rank them.

    published: a TOML file with a table a VAE (FIGURES' names, those that are known, with the digits as printed);
    without it, what the model cards print for coco-val2017. The other options are `evaluate`'s; what skip_bad leaves
    out is listed in the result. A stopped call goes on. Leaves calibration.json beside the folders. Raises as
    `evaluate` does; UsageError where nothing is published for a VAE, or under torchrun; BadInputError for a table that
    isn't one.
    """
    runtime = Runtime.of(device=device, dtype=dtype, offline=offline, notify=notify)
    say = runtime.notify
    sources = [vaes] if isinstance(vaes, str | os.PathLike) else list(vaes)
    wanted = _published(sources, published)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("calibrate runs in one process, not under torchrun.")
    measures = _measures(name for figures in wanted for name in figures)
    _have_networks(measures, networks or {}, runtime)
    paddings: tuple[Padding | None, ...] = ("zero", "valid") if "ssim_zero" in measures else (None,)
    ways = list(itertools.product(RESIZE_METHODS, POSTERIORS, ROUNDINGS))
    combinations: list[Combination] = []
    skipped: dict[str, str] = {}
    results: Results | None = None
    for number, (resize, posterior, rounding) in enumerate(ways, 1):
        say(f"{number} of {len(ways)}: {resize}, {posterior}, {rounding}")
        preset = Preset(
            name=f"calibrate {resize} {posterior} {rounding}",
            reading="plain",  # in 2022 nobody turned images upright or followed profiles
            resize=resize,
            side=256,
            posterior=posterior,
            rounding=rounding,
            ssim_padding="zero",
            inception="torch_fidelity" if "rfid" in measures else None,
            measures=measures,
        )
        results = evaluate(
            sources, source, preset=preset, output=Path(output) / f"{resize}-{posterior}-{rounding}", take=take,
            skip_bad=skip_bad, batch=batch, threads=threads, networks=networks, device=device, dtype=dtype, space=space,
            offline=offline, notify=say, progress=progress,
        )  # fmt: skip
        assert results is not None  # one process, no shards
        skipped |= results.record["skipped"]
        combinations += [
            Combination(resize, posterior, rounding, padding, _matches(results, wanted, padding))
            for padding in paddings
        ]
    assert results is not None
    combinations.sort(key=lambda c: (-c.fitting, c.total))
    found = Calibration(results.source, results.count, tuple(combinations), skipped)
    theirs = next(iter(_cards().values())).images
    if published is None and found.images != theirs:
        say(f"Mind: the model cards' figures are of {theirs:,} images, and these are {found.images:,}.")
    write_atomic(Path(output) / "calibration.json", json_text(found.as_dict()).encode())
    return found


def _published(vaes: Sequence[Source], path: Source | None) -> list[Figures]:
    """The figures of each VAE, in order: of its name, of its file's, or of what the registry knows its hub id as."""
    tables = {k: _card_figures(v) for k, v in _cards().items()} if path is None else _read(Path(path))
    repos = {entry.repo: name for name, entry in registry().vaes.items()}
    found: list[Figures] = []
    for vae in [os.fspath(vae) for vae in vaes]:
        candidates = (vae, vae.lower(), Path(vae).stem, repos.get(vae, ""))
        name = next((name for name in candidates if name in tables), None)
        if name is None:
            where = f"in {path}" if path else f"by the model cards for {coco.NAME}"
            hint = "" if path else " Name another table with --table."
            raise UsageError(f"nothing is published for {vae} {where}; there is for {', '.join(tables)}.{hint}")
        found.append(tables[name])
    if not found:
        raise UsageError("no VAE named. Name at least one with --vae.")
    return found


def _cards() -> dict[str, Score]:
    """What the model cards print for coco-val2017."""
    known = registry().vaes.items()
    return {name: score for name, entry in known for score in entry.scores if score.set == coco.NAME}


def _card_figures(score: Score) -> Figures:
    return {key: Decimal(f"{getattr(score, key):.{DIGITS[key.removesuffix(SPREAD)]}f}") for key in FIGURES}


def _read(path: Path) -> dict[str, Figures]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, ValueError, ArithmeticError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise BadInputError(f"{path}: no table of published figures can be read from it: {why}.") from error
    for name, table in tables.items():
        if not isinstance(table, dict) or not table:
            raise BadInputError(f"{path}: {name} is no table of figures. It wants [{name}], and psnr = 23.4 under it.")
        for key, value in cast(dict[str, Any], table).items():
            if key not in FIGURES:
                raise BadInputError(f"{path}: {name}: no figure is called {key!r}. Known: {', '.join(FIGURES)}.")
            if not _is_figure(value):
                raise BadInputError(f"{path}: {name}: {key} = {value} is no figure such as 23.4.")
    if not tables:
        raise BadInputError(f"{path} holds no figures. It wants a table a VAE: [kl-f8], and psnr = 23.4 under it.")
    return {name: {key: Decimal(value) for key, value in table.items()} for name, table in tables.items()}


def _is_figure(value: object) -> bool:
    if isinstance(value, Decimal):
        return value.is_finite() and abs(value) < 10**MOST_DIGITS and _digits(value) <= MOST_DIGITS
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**MOST_DIGITS


def _digits(figure: Decimal) -> int:
    return max(0, -cast(int, figure.as_tuple().exponent))


def _measures(figures: Iterable[str]) -> tuple[str, ...]:
    """What has to be measured for these figures; PSNR in any case, by which the report orders images."""
    wanted = {name.removesuffix(SPREAD) for name in figures} | {"psnr"}
    keys = {"rfid": ("rfid",), "psnr": ("psnr",), "ssim": ("ssim_zero", "ssim_valid"), "psim": ("psim",)}
    return tuple(measure for key, of_key in keys.items() if key in wanted for measure in of_key)


def _have_networks(measures: Sequence[str], given: Mapping[str, Source], runtime: Runtime) -> None:
    """Check the networks that the measures need, and download those that aren't there, before anything is measured."""
    names = list(dict.fromkeys(name for key in measures for name in MEASURES[key].networks))
    for name in given:
        if name not in names:
            used = ", ".join(names) or "none"
            raise UsageError(f"the published figures need no network called {name}; they need {used}.")
    paths = {name: Path(path) for name, path in given.items()}
    wanted = missing(names, paths)
    if wanted:
        size = sum(file.bytes for file in wanted) / 1e6
        runtime.notify(
            f"The published figures need {', '.join(file.name for file in wanted)}: {size:,.0f} MB, downloaded once."
        )
    load_networks(names, paths, runtime=runtime)


def _matches(results: Results, published: Sequence[Figures], padding: Padding | None) -> tuple[Match, ...]:
    return tuple(
        Match(vae, figure, value, _ours(results, vae, figure, padding))
        for vae, figures in zip(results.vaes, published, strict=True)
        for figure, value in figures.items()
    )


def _ours(results: Results, vae: str, figure: str, padding: Padding | None) -> float | None:
    key = figure.removesuffix(SPREAD)
    if MEASURES[key].of == "set":
        return results.sets[vae, key].value
    spread = results.spreads[vae, f"ssim_{padding}" if key == "ssim" else key]
    value = spread.std if figure.endswith(SPREAD) else spread.mean
    return value if math.isfinite(value) else None


def _title(figure: str) -> str:
    key = figure.removesuffix(SPREAD)
    return f"{MEASURES[key].title} ±" if figure != key else MEASURES[key].title
