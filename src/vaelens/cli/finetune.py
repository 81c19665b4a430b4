"""`vaelens finetune`: images and a recipe to a better decoder, or a VAE."""

import signal
import tomllib
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from vaelens.cli import options
from vaelens.cli.output import live_log, notice, progress, result, result_json, result_table, set_level
from vaelens.errors import UsageError

ALIKE = "Repeatable, one for each DATA."


def finetune(
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA", help="Images: what `evaluate` takes, or drawn. Several are mixed.", show_default=False
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="VAE", help="What is continued: a name, a file, a folder or a hub id.", show_default=False
        ),
    ] = None,
    recipe: Annotated[str, typer.Option(metavar="NAME", help="A recipe of vaelens, or a .toml file.")] = "ft-mse",
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Of the run; goes on there.")] = Path(
        "run"
    ),
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE", help="Print a recipe's fields, and which were published; then stop.", show_default=False
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Change a field of the recipe: run.updates=500. Repeatable.",
            show_default=False,
        ),
    ] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(metavar="W", help=f"How often it is seen; alike without. {ALIKE}", show_default=False),
    ] = None,
    boxes: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help=f"Labelled boxes, a CSV or JSONL of id,label,left,top,right,bottom. {ALIKE}",
            show_default=False,
        ),
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Images to measure on; else some of DATA are kept back.", show_default=False),
    ] = None,
    take: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="At most so many of each DATA, chosen by --seed.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the order, the crops and the noise.")] = 0,
    cache: Annotated[
        bool, typer.Option("--cache", help="Keep a frozen encoder's posteriors; not with random crops.")
    ] = False,
    at_once: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Images in one pass, over all processes; less takes less memory.",
            show_default=False,
        ),
    ] = None,
    threads: options.Threads = None,
    network: options.Networks = None,
    device: options.Device = "auto",
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="DTYPE",
            help="Of the networks: float32, or bfloat16 (on cuda by default). Weights are float32.",
            show_default=False,
        ),
    ] = None,
    space: options.Space = None,
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train a better decoder for a VAE (or a VAE from scratch) by a recipe. The same command again goes on.

    Examples:

    vaelens finetune photos/ --from kl-f8 --recipe ft-mse -o runs/mine

    vaelens finetune synthetic --recipe tiny-begin --set run.updates=1000 -o runs/begun

    vaelens finetune --explain ft-mse
    """
    set_level(quiet, verbose)
    changed = _changed(setting)
    if explain is not None:
        _explain(explain, changed, json)
        return
    if not data:
        raise UsageError("no images named. Name a folder, a zip, shards, a dataset on the hub, or drawn.")
    from vaelens.finetuning.running import Interrupted
    from vaelens.finetuning.running import finetune as run

    try:
        with _stopping() as (should_stop, trains), ExitStack() as reading, live_log() as log:
            step = reading.enter_context(progress())

            def show(done: int, total: int, numbers: dict[str, float]) -> None:
                reading.close()  # two displays at once would write over each other
                trains(done < total)
                log(done, total, numbers)

            tuned = run(
                start,
                list(data),
                recipe=recipe,
                output=output,
                weights=weight,
                boxes=boxes,
                held_out=held_out,
                take=take,
                seed=seed,
                changed=changed,
                cache=cache,
                at_once=at_once,
                threads=threads,
                networks=options.network_paths(network),
                device=device,
                dtype=dtype,
                space=space,
                offline=offline,
                notify=notice,
                progress=step,
                show=show,
                should_stop=should_stop,
            )
    except Interrupted as stopped:
        notice(f"{output}: {stopped}.")
        raise typer.Exit(130) from None
    if tuned.results is None:
        return
    from vaelens.evaluation.exports import results_dict
    from vaelens.evaluation.report_tables import pairs_table, summary_table

    if json:
        result_json(tuned.record | {"held_out_results": results_dict(tuned.results)})
        return
    result_table(summary_table(tuned.results))
    if len(tuned.results.vaes) > 1:
        result("")
        result_table(pairs_table(tuned.results))
    for warning in tuned.results.warnings:
        notice(f"Mind: {warning}")
    result(f"\nwrote {output}: use it as --vae {output}; README.md is its model card, report/report.html its scores")


def _explain(name: str, changed: dict[str, Any], as_json: bool) -> None:
    from dataclasses import asdict

    from vaelens.finetuning.card import explained
    from vaelens.finetuning.explanation import explain
    from vaelens.finetuning.recipe import find_recipe

    found = find_recipe(name, changed)
    notes = explain(found)
    if as_json:
        fields = [asdict(note) for note in notes]
        result_json({"name": found.name, "title": found.title, "sha256": found.sha256(), "fields": fields})
        return
    result(f"{found.title}\n{found.about}\n")
    result_table(explained(notes))


def _changed(settings: list[str] | None) -> dict[str, Any]:
    """What --set names, each value read as TOML has it; a bare word is a text."""
    found: dict[str, Any] = {}
    for one in settings or ():
        name, equals, text = one.partition("=")
        if not equals or not name:
            raise UsageError(f"--set is FIELD=VALUE, as in run.updates=500; {one!r} isn't.")
        try:
            found[name.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            found[name.strip()] = text.strip()
    return found


@contextmanager
def _stopping() -> Generator[tuple[Callable[[], bool], Callable[[bool], None]]]:
    """Two callables: whether to stop, and one that is told whether it trains at the moment.

    While it trains, a first Ctrl-C or SIGTERM only says yes here, so that a whole state is saved; a second one, and any
    at another time, interrupts.
    """
    asked: list[int] = []
    training = [False]
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        if not training[0]:
            handler = before[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)
            return
        asked.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)
        notice("Stopping after this update, with a checkpoint. Once more stops at once, without one.")

    for number in before:
        signal.signal(number, ask)
    try:
        yield (lambda: bool(asked)), (lambda now: training.__setitem__(0, now))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
