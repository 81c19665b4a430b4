"""`vaelens`: the table of commands, and what an error looks like.

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

import os
import signal
import sys
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from vaelens.adapters import libraries
from vaelens.cli import options, usage
from vaelens.cli.commands import (
    blind,
    calibrate,
    compare,
    doctor,
    encode,
    evaluate,
    finetune,
    generate,
    reconstruct,
    replay,
    serve,
    vaes,
)
from vaelens.cli.commands.files import bake, convert, export, identify, inspect
from vaelens.cli.output import (
    INTERRUPTED,
    code_with_loss,
    failure,
    interrupted,
    is_verbose,
    result,
    show_traceback,
    streams,
)
from vaelens.errors import ResourceError, UsageError, VaelensError
from vaelens.text.display import shortened


def _version(requested: bool) -> None:
    if requested:
        result(f"vaelens {metadata.version('vaelens')}")
        raise typer.Exit


app = typer.Typer(
    name="vaelens",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: boxes leave no room for the texts
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def vaelens(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Look at one latent through many decoders: run, compare, measure and train the VAEs behind Stable Diffusion."""


for _command, _summary in (
    (compare.compare, "Compare VAEs: one latent through many decoders."),
    (generate.generate, "Generate images of a prompt."),
    (replay.replay, "Make an image again from its PNG's metadata."),
    (reconstruct.reconstruct, "Encode and decode photos with each VAE."),
    (blind.blind, "Pool the results of blind tests: who can see a difference?"),
    (evaluate.evaluate, "Measure VAEs on a dataset: rFID, PSNR, SSIM and more."),
    (encode.encode, "Encode a dataset once, for trainings and evaluations."),
    (finetune.finetune, "Train a better decoder, or a whole VAE."),
    (calibrate.calibrate, "Find out how published scores were measured."),
    (serve.serve, "Serve the comparison as a web page on this machine."),
    (vaes.list_vaes, "List the known VAEs and models."),
    (convert.convert, "Write a VAE in another layout or precision."),
    (bake.bake, "Put a VAE into a whole checkpoint."),
    (convert.extract, "Take the VAE out of a checkpoint."),
    (export.export, "Write a VAE for ONNX Runtime or OpenVINO."),
    (inspect.inspect, "Show what a VAE file is, and examine its health."),
    (identify.identify, "Say which VAE a file is, by its content."),
    (doctor.doctor, "Show versions, devices and hub settings, and check the devices."),
):
    _add = app.command(_command.__name__.removesuffix("_vaes"), cls=usage.Command, short_help=_summary)
    _add(options.with_level_options(_command))

MAX_UNEXPECTED = 500  # characters of an error that we didn't expect
_interrupts: list[int] = []  # the signals received


def main() -> None:
    """Run the command line; every failure becomes one message and its exit code (see `vaelens.errors`)."""
    libraries.owns_process = True
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    with streams() as lost:
        code = code_with_loss(_exit_code(), lost)
    sys.exit(code)


def _exit_code() -> int | str | None:
    try:
        return app(standalone_mode=False) if sys.argv[1:] else app()  # alone, it prints the help
    except SystemExit as ended:
        return ended.code
    except Exception as error:  # noqa: BLE001  (every error has its message)
        if is_verbose():
            show_traceback(error)
        if _interrupts:  # which compiled code may have turned into an error of its own
            return INTERRUPTED
        message, code = _explained(error)
        failure(message)
        return code


def _explained(error: Exception) -> tuple[str, int]:
    """Message and exit code."""
    if isinstance(error, VaelensError):
        return str(error), error.exit_code
    if isinstance(error, usage.TyperUsageError):
        return usage.explanation(error), UsageError.exit_code
    from vaelens.resources import is_out_of_memory
    from vaelens.text.paths import explained

    if isinstance(error, OSError) and error.filename is not None:
        system = explained(error, Path(os.fsdecode(error.filename)), "can't be used")
        return str(system), system.exit_code
    if is_out_of_memory(error):
        return "out of memory. Use smaller images (--max-side 1024), or fewer.", ResourceError.exit_code
    what = f"{type(error).__name__}: {shortened(str(error), MAX_UNEXPECTED)}"
    return f"an unexpected error, {what}. This is a bug in vaelens: please report it with the output of -v.", 1


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _interrupts.append(number)
    interrupted()
    if getattr(getattr(sys.modules.get("torch"), "__spec__", None), "_initializing", False):
        os._exit(INTERRUPTED)  # half-imported torch aborts the process at a normal exit; no work has started yet
    raise KeyboardInterrupt  # Typer turns it into exit code 130
