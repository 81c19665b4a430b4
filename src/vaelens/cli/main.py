"""`vaelens`: the table of commands, and what an error looks like.

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

import signal
import sys
import traceback
from types import FrameType

import typer

from vaelens.cli import calibrate, doctor, evaluate, inspect, reconstruct, vaes
from vaelens.cli.output import failure, is_verbose
from vaelens.errors import ResourceError, VaelensError, is_out_of_memory

app = typer.Typer(
    name="vaelens",
    help="Look at one latent through many decoders: the VAEs behind Stable Diffusion, run, compared and measured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("reconstruct")(reconstruct.reconstruct)
app.command("evaluate")(evaluate.evaluate)
app.command("calibrate")(calibrate.calibrate)
app.command("list")(vaes.list_vaes)
app.command("inspect")(inspect.inspect)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Run the command line; every failure becomes one message and its exit code (see `vaelens.errors`)."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except VaelensError as error:
        _leave(str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001  (the last resort for what nobody foresaw)
        if is_out_of_memory(error):
            _leave("out of memory. Use a smaller picture (--max-side 1024), or fewer.", ResourceError.exit_code)
        what = f"{type(error).__name__}: {error}"
        _leave(f"an unexpected error, {what}. This is a fault in vaelens: please report it with -v's output.", 1)


def _leave(message: str, code: int) -> None:
    if is_verbose():
        traceback.print_exc()
    failure(message)
    sys.exit(code)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    failure("interrupted.")
    raise KeyboardInterrupt  # which Typer turns into exit code 130, as it does for Ctrl-C
