"""The published tables: the VAEs that have a row in them, on COCO 2017 val by the preset `card-2022`.

On some of the images means have to lie where so many images allow; on all of them the figures have to be the published
ones, digit for digit.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import vaelens as vl
from connected.settings import Settings
from connected.steps import Download, Finding, Run, Step
from connected.vae_check import round_trip_operations, vae_downloads
from vaelens.download.web_files import cached_web
from vaelens.evaluation.loaded_preset import published_networks
from vaelens.evaluation.presets import PRESETS
from vaelens.evaluation.published_scores import (
    STD,
    Match,
    card_scores,
    figure_title,
    published_figures,
    published_matches,
)
from vaelens.evaluation.report.exports import results_dict
from vaelens.evaluation.report.score_tables import summary_table
from vaelens.evaluation.results import Results
from vaelens.images.datasets import coco
from vaelens.metrics.pretrained import missing
from vaelens.report.tables import table_markdown

KIND = "scores"
PRESET = "card-2022"
SIGMAS = 4  # standard errors that a mean over some of the images may be away from the published one
OVERHEAD = 1.2  # the metric networks, beside the VAEs' work


def score_steps(settings: Settings) -> list[Step]:
    """On `take` images; with `full` on all of them too."""
    vaes = list(card_scores())
    counts = {take: f"scores on {take} images" for take in [settings.take]}
    sizes: dict[int | None, str] = {**counts, **({None: "scores as published"} if settings.full else {})}
    return [_step(name, take, vaes, settings) for take, name in sizes.items()]


def _step(name: str, take: int | None, vaes: Sequence[str], settings: Settings) -> Step:
    images = take or next(iter(card_scores().values())).images
    work = images * OVERHEAD * sum(round_trip_operations(vae, PRESETS[PRESET].side) for vae in vaes)
    published = {vae: score.model_dump() for vae, score in card_scores().items()}
    return Step(
        kind=KIND,
        name=name,
        about=f"{images:,} images of {coco.NAME}, {PRESET}, {', '.join(vaes)}",
        inputs={"take": take, "preset": PRESETS[PRESET].as_dict(), "published": published},
        downloads={coco.NAME: _archives, "metric networks": _networks, **vae_downloads(vaes)},
        operations={settings.device: work},
        run=partial(_evaluate, take, vaes),
    )


def _archives() -> list[Download]:
    return [Download(file.name, file.size) for file in coco.coco_files().values() if cached_web(file) is None]


def _networks() -> list[Download]:
    return [Download(one.file, one.bytes) for one in missing(published_networks(PRESETS[PRESET]))]


def _evaluate(take: int | None, known: Sequence[str], run: Run) -> Finding:
    vaes, problems = run.usable(known)
    folder = f"coco-{take or 'all'}"
    results = vl.evaluate(
        vaes, coco.NAME, preset=PRESET, take=take, output=run.settings.folder / folder, device=run.settings.device,
        notify=run.notify, progress=run.progress,
    )  # fmt: skip
    assert results is not None  # one process, no shards
    matches = published_matches(results, published_figures(vaes, None))
    details = {
        "folder": folder,
        **results_dict(results),
        "table": table_markdown(summary_table(results)),
        "device": run.settings.device,
        "figures": [_figure(match) for match in matches],
    }
    problems += _lost(results)
    problems += far_off(results.count, matches) if take else unlike_published(results.count, matches)
    return Finding(details, tuple(problems))


def _figure(match: Match) -> dict[str, Any]:
    return {
        "vae": match.vae, "figure": figure_title(match.figure), "published": f"{match.published:f}",
        "ours": match.ours, "printed": match.printed, "agrees": match.steps == 0,
    }  # fmt: skip


def _lost(results: Results) -> list[str]:
    lost = sum(not row.finite for row in results.rows)
    return [f"{lost} reconstructions have NaN or infinite values."] if lost else []


def far_off(count: int, matches: Sequence[Match]) -> list[str]:
    """A sentence for each mean that so many images don't explain; not for rFID, which depends on their number."""
    printed = {(match.vae, match.figure): match for match in matches}
    problems: list[str] = []
    for match in matches:
        spread = printed.get((match.vae, match.figure + STD))
        if spread is None:
            continue
        allowed = SIGMAS * float(spread.published) / math.sqrt(count) + 10.0**-match.digits / 2
        if match.ours is None or abs(match.ours - float(match.published)) > allowed:
            problems.append(
                f"{match.vae}: {figure_title(match.figure)} {match.printed} on {count} images and "
                f"{match.published:f} published: more than {SIGMAS} standard errors apart."
            )
    return problems


def unlike_published(count: int, matches: Sequence[Match]) -> list[str]:
    """What isn't as published, in a sentence, and another number of images."""
    images = next(iter(card_scores().values())).images
    problems = [f"{count:,} images were measured, not {images:,}."] if count != images else []
    other = [match for match in matches if match.steps]
    if other:
        named = "; ".join(
            f"{m.vae} {figure_title(m.figure)} {m.published:f} published, {m.printed} here" for m in other
        )
        agree = len(matches) - len(other)
        problems.append(f"{agree} of {len(matches)} published figures agree digit for digit. The others: {named}.")
    return problems
