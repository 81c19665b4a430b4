"""Check everything that needs a network, and write one report to attach to an issue.

    make connected                     or: python -m connected [OPTIONS]
    make connected ARGS="--plan"       says what it would download and how long it would take, and ends
    make connected ARGS="--full"       also the published rows: 5,000 images, hours without a GPU

Downloads each known VAE, checks size and sha256, loads it and compares it with diffusers; runs the article's program
through the three decoders; measures VAEs on COCO 2017 val by the preset card-2022. A step that fails is reported, and
the others run. The same command again resumes: what has passed isn't run again.
"""

import argparse
import hashlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from connected import article, coco_scores, vae_check
from connected.plan import make_plan
from connected.report import machine, write_report
from connected.settings import ROOT, Settings
from connected.steps import Outcome, Run, Step, exit_code, passed_before, run_steps
from vaelens.adapters import libraries
from vaelens.cli.output import (
    INTERRUPTED,
    code_with_loss,
    failure,
    notice,
    progress,
    result,
    result_table,
    streams,
)
from vaelens.errors import VaelensError
from vaelens.files import sha256_file
from vaelens.runs.lock import exclusive_run
from vaelens.runs.records import JsonLines
from vaelens.runtime import Runtime
from vaelens.text.numbers import parse_integer

KINDS = (vae_check.KIND, article.KIND, coco_scores.KIND)


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        "connected", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--full", action="store_true", help="also the published rows, on all 5,000 images")
    made.add_argument("--plan", action="store_true", help="only say what would be downloaded and computed")
    made.add_argument("--only", action="append", choices=KINDS, help="only these steps; repeatable")
    made.add_argument("--device", default="auto", help="auto (default), cpu, cuda or mps")
    made.add_argument(
        "--take", type=_count, default=Settings.take, help="images of the quick evaluation (default %(default)s)"
    )
    made.add_argument("--steps", type=_count, default=Settings.steps, help="of sampling (default %(default)s)")
    made.add_argument("-o", "--output", type=Path, default=ROOT / "runs" / "connected", help="default: runs/connected")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; gives the exit code."""
    with streams() as lost:
        return code_with_loss(_main(arguments), lost)


def _main(arguments: Sequence[str] | None) -> int:
    options = parser().parse_args(arguments)
    try:
        device = Runtime.of(device=options.device).device_name
        settings = Settings(options.output.absolute(), device, options.full, options.take, options.steps)
        with exclusive_run(settings.folder, 0):
            steps = [step for step in all_steps(settings) if not options.only or step.kind in options.only]
            return _run(steps, settings, plan_only=options.plan)
    except VaelensError as error:
        failure(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        failure("interrupted. The same command again resumes.")
        return INTERRUPTED


def all_steps(settings: Settings) -> list[Step]:
    """In their order: what later ones need comes first."""
    return [
        *vae_check.vae_steps(settings.device),
        *article.article_steps(settings),
        *coco_scores.score_steps(settings),
    ]


def _count(text: str) -> int:
    try:
        number = parse_integer(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is {error}. Give one, such as 100.") from error
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small. Give at least 1.")
    return number


def _run(steps: Sequence[Step], settings: Settings, *, plan_only: bool) -> int:
    surroundings = machine(settings.device)
    decisive = {key: surroundings[key] for key in ("versions", "device", "threads", "processor")} | {"code": _code()}
    log = JsonLines(settings.folder / "steps.jsonl")
    outcomes = passed_before(steps, log, decisive, notice)
    plan = make_plan(steps, outcomes)
    result_table(plan.table())
    for line in plan.summary():
        result(line)
    for planned in plan.steps:
        for note in planned.notes:
            notice(f"Note: {planned.step.name}: {note}")
    if plan_only:
        return 0

    def report() -> Path:
        return write_report(settings, steps, outcomes, plan, surroundings)

    try:
        with progress() as step:
            for _ in run_steps(steps, Run(settings, notice, step, outcomes), log, outcomes, decisive):
                report()
    finally:
        written = report()
    ended = list(outcomes.values())
    _say(ended, written)
    return exit_code(ended)


def _say(outcomes: Sequence[Outcome], report: Path) -> None:
    failed = [outcome for outcome in outcomes if outcome.code]
    result()
    result(f"{len(outcomes) - len(failed)} of {len(outcomes)} steps passed.")
    for outcome in failed:
        result(f"{outcome.name}: {outcome.status}: {' '.join(outcome.problems)}")
    result(f"Attach {report} and report.json beside it to an issue.")


def _code() -> str:
    """A hash of the program: what passed by another one is run again."""
    files = [file for place in ("src/vaelens", "connected") for file in sorted((ROOT / place).rglob("*"))]
    kept = [file for file in files if file.is_file() and "__pycache__" not in file.parts]
    digests = [(file.relative_to(ROOT).as_posix(), sha256_file(file)) for file in kept]
    return hashlib.sha256(repr(digests).encode()).hexdigest()


def _interrupt(*_: int | FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    libraries.owns_process = True
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main())
