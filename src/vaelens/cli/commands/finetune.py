"""`vaelens finetune`: images and a recipe to a better decoder, or a VAE from scratch."""

import signal
import tomllib
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from vaelens.cli import options
from vaelens.cli.output import live_log, notice, progress, result, result_json, result_table
from vaelens.errors import UsageError

EMBEDDED = "tiny-ft-ema"  # what is trained where neither a VAE nor a recipe is named
EMBEDDED_NOTICE = (
    f"No --from and no --recipe named. Training the small embedded VAE {EMBEDDED}. For a decoder of Stable Diffusion's "
    "latents: --from ft-ema."
)
PER_SOURCE = "Repeatable, once for each DATA."


@options.with_pixel_limit
def finetune(
    data: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATA", help="Training images: any source that `evaluate` accepts; several are mixed."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="VAE", help="The VAE to start from: a name, a file, folder, hub id or address."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A built-in recipe, or a .toml file. Default: ft-mse, or tiny-ft-mse for the embedded VAEs.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="Output folder. An interrupted run resumes here.")
    ] = Path("run"),
    explain: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="Print a recipe's fields and which were published, and exit."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Override a field of the recipe: run.steps=500. Repeatable."),
    ] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(metavar="W", help=f"Sampling weight of a source; equal by default. {PER_SOURCE}"),
    ] = None,
    boxes: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help=f"Labelled boxes: CSV or JSONL with id,label,left,top,right,bottom. {PER_SOURCE}"
        ),
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Images to evaluate on. By default some of DATA are held out."),
    ] = None,
    take: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Use at most N images of each DATA, chosen by --seed."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed for the image order, the crops and the noise.")] = 0,
    cache: Annotated[
        bool, typer.Option("--cache", help="Cache a frozen encoder's posteriors; not with random crops.")
    ] = False,
    micro_batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Images per forward and backward pass, over all processes. Smaller needs less memory.",
        ),
    ] = None,
    threads: options.Threads = None,
    network: options.Networks = None,
    device: options.Device = "auto",
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="DTYPE",
            help="Precision of the networks: float32 (fp32) or bfloat16 (bf16; default on cuda). Weights stay float32.",
        ),
    ] = None,
    space: options.Space = None,
    offline: options.Offline = False,
    max_memory: Annotated[
        str | None,
        typer.Option(
            "--max-memory",
            metavar="SIZE",
            help="Memory that evaluating held-out images may take beyond the weights: 2GB, 512MiB ... Training takes "
            "more. Default: what is free.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Train a better decoder for a VAE, or a VAE from scratch, by a recipe.

    Run the same command again to resume an interrupted run.

    Examples:

    vaelens finetune photos/ -o runs/try

    vaelens finetune photos/ --from ft-ema --recipe ft-mse -o runs/mine

    vaelens finetune synthetic --recipe tiny-scratch --set run.steps=1000 -o runs/scratch

    vaelens finetune --explain ft-mse
    """
    overrides = _overrides(setting)
    if explain is not None:
        _explain(explain, overrides, json)
        return
    if not data:
        raise UsageError(
            "no images given. Name a folder, a zip, shards, parquet files, a dataset on the hub, or `synthetic`."
        )
    if start is None and recipe is None:
        start = EMBEDDED
        notice(EMBEDDED_NOTICE)
    from vaelens.finetuning.training import Interrupted
    from vaelens.finetuning.training import finetune as run

    try:
        with _graceful_interrupt() as (should_stop, enable), ExitStack() as loading, live_log() as show:
            step = loading.enter_context(progress())

            def on_log(done: int, total: int, values: dict[str, float]) -> None:
                loading.close()  # its progress bar, before the live log takes the terminal
                enable(done < total)
                show(done, total, values)

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
                overrides=overrides,
                cache=cache,
                micro_batch_size=micro_batch_size,
                threads=threads,
                networks=options.network_paths(network),
                device=device,
                dtype=dtype,
                space=space,
                offline=offline,
                max_memory=max_memory,
                notify=notice,
                progress=step,
                on_log=on_log,
                should_stop=should_stop,
            )
    except Interrupted as interrupted:
        notice(f"{output}: {interrupted}.")
        raise typer.Exit(130) from None
    if tuned.results is None:
        return
    from vaelens.evaluation.report.exports import results_dict
    from vaelens.evaluation.report.score_tables import pairs_table, summary_table

    if json:
        result_json(tuned.record | {"held_out_results": results_dict(tuned.results)})
        return
    result_table(summary_table(tuned.results))
    if len(tuned.results.vaes) > 1:
        result()
        result_table(pairs_table(tuned.results))
    for warning in tuned.results.warnings:
        notice(f"Warning: {warning}")
    result()
    result(f"wrote {output} with README.md (the model card) and report/report.html (the scores); use --vae {output}")


def _explain(name: str, overrides: dict[str, Any], as_json: bool) -> None:
    from dataclasses import asdict

    from vaelens.finetuning.export import recipe_table
    from vaelens.finetuning.recipe import explain
    from vaelens.finetuning.recipe_files import find_recipe

    found = find_recipe(name, overrides)
    notes = explain(found)
    if as_json:
        fields = [asdict(note) for note in notes]
        result_json({"name": found.name, "title": found.title, "sha256": found.sha256(), "fields": fields})
        return
    for line in (found.title, *found.about.split("\n"), ""):
        result(line)
    result_table(recipe_table(notes))


def _overrides(settings: list[str] | None) -> dict[str, Any]:
    """The fields of --set, each value parsed as TOML, or else a string."""
    found: dict[str, Any] = {}
    for one in settings or ():
        name, equals, text = one.partition("=")
        if not equals or not name:
            raise UsageError(f"--set needs FIELD=VALUE, as in run.steps=500, not {one!r}.")
        try:
            found[name.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            found[name.strip()] = text.strip()
        except (ValueError, RecursionError) as error:  # thousands of digits or brackets
            raise UsageError(f"--set {name.strip()[:60]}: its value can't be read. Write a shorter one.") from error
    return found


@contextmanager
def _graceful_interrupt() -> Generator[tuple[Callable[[], bool], Callable[[bool], None]]]:
    """Two callables: whether an interrupt was requested, and one that enables or disables graceful interrupts.

    While enabled, the first Ctrl-C or SIGTERM only requests one, so that the step ends and a checkpoint is saved. A
    second signal, and any signal while disabled, has its usual effect.
    """
    requested: list[int] = []
    enabled = [False]
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        if not enabled[0]:
            handler = previous[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)
            return
        requested.append(number)
        restore()
        notice("Stopping after this step, with a checkpoint. Interrupt again to stop immediately, without one.")

    for number in previous:
        signal.signal(number, handle)
    try:
        yield (lambda: bool(requested)), (lambda now: enabled.__setitem__(0, now))
    finally:
        restore()
