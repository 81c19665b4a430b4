"""`vaelens doctor`: what this machine can run, and whether its devices agree."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from vaelens.cli import options
from vaelens.cli.output import notice, result, result_json, result_table
from vaelens.errors import CheckFailedError, UsageError

if TYPE_CHECKING:
    from vaelens.doctor.checks import NativeKernels, VAECheck
    from vaelens.engine.gpu.verdicts import Trial, Verdict


def doctor(
    vae: Annotated[
        str | None,
        typer.Option(
            "--vae",
            metavar="VAE",
            help="Compare this VAE through the engine with its plain network: error, time and memory.",
        ),
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
    space: options.Space = None,
    offline: options.Offline = False,
    max_memory: options.MaxMemory = None,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune", help="Find out how each GPU here runs VAEs fastest with the right pixels, and keep to it."
        ),
    ] = False,
    json: options.Json = False,
) -> None:
    """Show versions, devices, kernels and hub settings, and check that each device gives the same pixels as the CPU.

    With --vae, check that VAE instead: by which path it runs, its error against float64, time and memory.
    """
    if tune and (vae, device, dtype, space, offline, max_memory) != (None, "auto", "float32", None, False, None):
        raise UsageError("--tune looks at every GPU in every precision and downloads nothing. Give it no other option.")
    if tune:
        _tune(as_json=json)
        return
    if vae is not None:
        from vaelens.doctor.checks import check_vae

        _show_check(
            check_vae(
                vae, device=device, dtype=dtype, space=space, offline=offline, max_memory=max_memory, notify=notice
            ),
            as_json=json,
        )
        return
    if (device, dtype, space, offline, max_memory) != ("auto", "float32", None, False, None):
        raise UsageError("--device, --dtype, --space, --offline and --max-memory go with --vae. Name a VAE.")
    _show_machine(as_json=json)


def _show_machine(*, as_json: bool) -> None:
    from vaelens.doctor.checks import TOLERANCES, diagnose
    from vaelens.doctor.tuning import ways_in_use
    from vaelens.report.tables import Column, Table

    found, gpus = diagnose(), ways_in_use()
    if as_json:
        result_json(asdict(found) | {"gpus": gpus, "healthy": found.healthy})
    else:
        facts = found.versions | {"threads": found.threads} | _kernel_facts(found.kernels)
        _show_facts(facts | gpus | {f"hub {name}": value for name, value in found.hub.items()})
        result()
        rows = tuple(
            (
                trip.device,
                trip.dtype,
                "-" if trip.difference is None else f"{trip.difference:.2e}",
                f"{TOLERANCES[trip.dtype]:.0e}",
                "yes" if trip.agrees else trip.problem or "no",
            )
            for trip in found.round_trips
        )
        names = ("device", "dtype", "largest difference", "tolerance", "agrees with the CPU in float32")
        result_table(Table(tuple(map(Column, names)), rows))
    if not found.healthy:
        raise CheckFailedError(
            "a device and the CPU give different pixels in float32 (see the table). Use --device cpu or another driver."
        )


def _tune(*, as_json: bool) -> None:
    from vaelens.doctor.tuning import tune

    verdicts = tune(notify=notice)
    if as_json:
        result_json([asdict(verdict) for verdict in verdicts])
    elif not verdicts:
        result("There is nothing to tune: PyTorch sees no CUDA device on this machine.")
    for verdict in () if as_json else verdicts:
        _show_verdict(verdict)


def _show_verdict(verdict: "Verdict") -> None:
    from vaelens.report.tables import Column, Table

    result(f"{verdict.card.device}, {verdict.dtype}: {verdict.way} from now on")
    names = ("way", "encode error", "decode error", f"encode {verdict.side} ms", f"decode {verdict.side} ms", "")
    result_table(Table(tuple(map(Column, names)), tuple(_trial_row(trial, verdict.way) for trial in verdict.trials)))
    result()


def _trial_row(trial: "Trial", used: str) -> tuple[str, ...]:
    errors = ("-" if error is None else f"{error:.1e}" for error in (trial.encode_error, trial.decode_error))
    times = ("-" if s is None else f"{1000 * s:.2f}" for s in (trial.encode_seconds, trial.decode_seconds))
    return trial.way, *errors, *times, trial.problem or ("used" if trial.way == used else "")


def _kernel_facts(kernels: "NativeKernels") -> dict[str, str]:
    facts = {"kernels": ", ".join(kernels.paths)}
    facts |= {f"kernels for {dtype}": path for dtype, path in kernels.chosen.items()}
    missing = {"no native kernels": kernels.unavailable, "no AMX kernels": kernels.left_out}
    return facts | {name: why for name, why in missing.items() if why}


def _show_check(found: "VAECheck", *, as_json: bool) -> None:
    from vaelens.doctor.checks import EXACT
    from vaelens.kernels.paths import VARIABLE
    from vaelens.report.tables import Column, Table

    if as_json:
        result_json(asdict(found) | {"exact": found.exact})
    else:
        path = found.path + (f", because {found.why_plain}" if found.why_plain else "")
        _show_facts({"VAE": found.name, "runs": f"{found.dtype} on {found.device}", "path": path})
        result()
        rows = list[tuple[str, ...]]()
        for name, half in (("encode", found.encode), ("decode", found.decode)):
            what, difference = f"{name} {found.side}x{found.side}", f"{half.difference:.1e}"
            rows.append((what, "engine", f"{half.error:.1e}", difference, f"{half.seconds:.2f}", _mb(half.memory)))
            plain = f"{half.plain_error:.1e}", "", f"{half.plain_seconds:.2f}", _mb(half.plain_memory)
            rows.append((what, "plain network", *plain))
        names = ("", "by", "error (fp64)", "largest difference", "seconds", "memory MB")
        result_table(Table(tuple(map(Column, names)), tuple(rows)))
    if not found.exact:
        forced = os.environ.get(VARIABLE)
        advice = f"Leave {VARIABLE} unset." if forced else f"{VARIABLE}=torch runs it by PyTorch's operations."
        raise CheckFailedError(
            f"{found.name}: a decoded pixel differs by {found.decode.difference:.1e} from the network in float64, the "
            f"moments by {found.encode.error:.1e} of their size, and {EXACT:.0e} is the tolerance of both. "
            f"{advice}"
        )


def _show_facts(facts: Mapping[str, object]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        result(f"{name:<{width}} {'yes' if value is True else 'no' if value is False else value}")


def _mb(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.0f}"
