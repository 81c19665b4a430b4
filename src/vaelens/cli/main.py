"""`vaelens`: the table of commands, and what an error looks like.

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

import os
import signal
import sys
import traceback
from importlib import metadata
from types import FrameType
from typing import Annotated

import typer

from vaelens.adapters import libraries
from vaelens.cli import (
    calibrate,
    compare,
    doctor,
    evaluate,
    finetune,
    generate,
    inspect,
    reconstruct,
    replay,
    serve,
    vaes,
)
from vaelens.cli.output import failure, is_verbose, result
from vaelens.errors import ResourceError, VaelensError


def _version(asked: bool) -> None:
    if asked:
        result(f"vaelens {metadata.version('vaelens')}")
        raise typer.Exit


app = typer.Typer(
    name="vaelens",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def vaelens(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Look at one latent through many decoders: the VAEs behind Stable Diffusion, run, compared and measured."""


app.command("compare")(compare.compare)
app.command("generate")(generate.generate)
app.command("replay")(replay.replay)
app.command("reconstruct")(reconstruct.reconstruct)
app.command("evaluate")(evaluate.evaluate)
app.command("finetune")(finetune.finetune)
app.command("calibrate")(calibrate.calibrate)
app.command("serve")(serve.serve)
app.command("list")(vaes.list_vaes)
app.command("inspect")(inspect.inspect)
app.command("doctor")(doctor.doctor)

INTERRUPTED = 130
_interrupts: list[int] = []  # the signals that asked us to stop


def main() -> None:
    """Run the command line; every failure becomes one message and its exit code (see `vaelens.errors`)."""
    libraries.owns_process = True
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except VaelensError as error:
        _leave_if_interrupted()
        _leave(str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001  (the last resort for what nobody foresaw)
        _leave_if_interrupted()
        from vaelens.resources import is_out_of_memory

        if is_out_of_memory(error):
            _leave("out of memory. Use a smaller image (--max-side 1024), or fewer.", ResourceError.exit_code)
        what = f"{type(error).__name__}: {error}"
        _leave(f"an unexpected error, {what}. This is a fault in vaelens: please report it with -v's output.", 1)


def _leave(message: str, code: int) -> None:
    if is_verbose():
        traceback.print_exc()
    failure(message)
    sys.exit(code)


def _leave_if_interrupted() -> None:
    """Compiled code may answer an interrupt with an error of its own: that is no fault of anybody's."""
    if _interrupts:
        if is_verbose():
            traceback.print_exc()
        sys.exit(INTERRUPTED)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _interrupts.append(number)
    failure("interrupted.")
    if getattr(getattr(sys.modules.get("torch"), "__spec__", None), "_initializing", False):
        os._exit(INTERRUPTED)  # half-loaded, its threads abort the process; nothing of ours has begun yet
    raise KeyboardInterrupt  # which Typer turns into exit code 130, as it does for Ctrl-C
