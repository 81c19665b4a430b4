"""Published figures to compare with: those of the model cards, or of a TOML file with one table per VAE.

Figures are stored as printed, since their digits say how precisely they are known.
"""

import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from vaelens.errors import BadInputError, UsageError
from vaelens.evaluation.metric_table import METRICS, DatasetMetric
from vaelens.evaluation.results import Results
from vaelens.files import StrPath
from vaelens.images.datasets import coco
from vaelens.metrics.ssim import Padding
from vaelens.metrics.statistics import spread
from vaelens.weights.registry import Score, registry

DIGITS = {"rfid": 2, "psnr": 1, "ssim": 2, "psim": 2}  # decimals, as the model cards print them
STD = "_std"
FIGURES = tuple(name for key in DIGITS for name in (key, key + STD) if name != "rfid" + STD)
MOST_DIGITS = 9

Figures = Mapping[str, Decimal]  # by FIGURES' names, with as many digits as are printed


@dataclass(frozen=True)
class Match:
    """One printed figure and ours, which is None where there is none."""

    vae: str
    figure: str
    published: Decimal
    ours: float | None

    @property
    def digits(self) -> int:
        """How many decimals are printed."""
        return digits_of(self.published)

    @property
    def printed(self) -> str:
        """Ours as the table would print it."""
        return "none" if self.ours is None else f"{self.ours:.{self.digits}f}"

    @property
    def steps(self) -> float:
        """How far apart they are, in units of the last printed digit."""
        return math.inf if self.ours is None else float(abs(Decimal(self.printed) - self.published).scaleb(self.digits))


def published_figures(vaes: Sequence[StrPath], path: StrPath | None) -> list[Figures]:
    """The figures of each VAE, in order, by its name, its file's name, or the registry's name for its hub id.

    path: a TOML file; None for the model cards' figures for coco-val2017. Raises UsageError for a VAE without
    figures, BadInputError for a file that isn't such a table.
    """
    tables = {k: _card_figures(v) for k, v in card_scores().items()} if path is None else _read(Path(path))
    repos = {entry.repo: name for name, entry in registry().vaes.items()}
    found: list[Figures] = []
    for vae in [os.fspath(vae) for vae in vaes]:
        candidates = (vae, vae.lower(), Path(vae).stem, repos.get(vae, ""))
        name = next((name for name in candidates if name in tables), None)
        if name is None:
            where = f"in {path}" if path else f"by the model cards for {coco.NAME}"
            hint = "" if path else " Name another table with --table."
            raise UsageError(f"no figures of {vae} are published {where}, only of {', '.join(tables)}.{hint}")
        found.append(tables[name])
    if not found:
        raise UsageError("no VAE named. Name at least one with --vae.")
    return found


def card_scores() -> dict[str, Score]:
    """What the model cards print for coco-val2017."""
    known = registry().vaes.items()
    return {name: score for name, entry in known for score in entry.scores if score.set == coco.NAME}


def _card_figures(score: Score) -> Figures:
    return {key: Decimal(f"{getattr(score, key):.{DIGITS[key.removesuffix(STD)]}f}") for key in FIGURES}


def _read(path: Path) -> dict[str, Figures]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as error:
        raise BadInputError(f"{path}: can't be read: {error.strerror}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path} isn't a table of published figures: it isn't text. Name a .toml file.") from error
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise BadInputError(f"{path}: not a table of published figures: {error}. Correct it.") from error
    for name, table in tables.items():
        if not isinstance(table, dict) or not table:
            raise BadInputError(f"{path}: {name} is not a table. Write [{name}], and psnr = 23.4 under it.")
        for key, value in cast(dict[str, Any], table).items():
            if key not in FIGURES:
                raise BadInputError(f"{path}: {name}: unknown figure {key!r}. Known: {', '.join(FIGURES)}.")
            if not _is_figure(value):
                raise BadInputError(f"{path}: {name}: {key} = {value} is not a number such as 23.4.")
    if not tables:
        raise BadInputError(f"{path} has no figures. Write one table per VAE: [kl-f8], and psnr = 23.4 under it.")
    return {name: {key: Decimal(value) for key, value in table.items()} for name, table in tables.items()}


def _is_figure(value: object) -> bool:
    if isinstance(value, Decimal):
        return value.is_finite() and abs(value) < 10**MOST_DIGITS and digits_of(value) <= MOST_DIGITS
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**MOST_DIGITS


def digits_of(figure: Decimal) -> int:
    """How many decimals are printed."""
    return max(0, -cast(int, figure.as_tuple().exponent))


def published_matches(
    results: Results, published: Sequence[Figures], padding: Padding | None = None
) -> tuple[Match, ...]:
    """Each published figure of the results' VAEs beside ours; `published` is in the VAEs' order.

    padding: which SSIM to compare, "zero" or "valid", where both were measured; None: the preset's own.
    """
    return tuple(
        Match(vae, figure, value, _ours(results, vae, figure, padding))
        for vae, figures in zip(results.vaes, published, strict=True)
        for figure, value in figures.items()
    )


def figure_title(figure: str) -> str:
    """A key of FIGURES as a table's heading says it."""
    key = figure.removesuffix(STD)
    return f"{METRICS[key].title} ±" if figure != key else METRICS[key].title


def _ours(results: Results, vae: str, figure: str, padding: Padding | None) -> float | None:
    key = figure.removesuffix(STD)
    if isinstance(METRICS[key], DatasetMetric):
        return results.dataset_scores[vae, key].value
    metric = f"ssim_{padding}" if key == "ssim" and padding else key
    # Of a published row nobody knows which images another VAE reproduced exactly: each is over its own finite values.
    found = spread([row.value(metric) for row in results.rows if row.vae == vae])
    value = found.std if figure.endswith(STD) else found.mean
    return value if math.isfinite(value) else None
