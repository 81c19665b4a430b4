"""The `vaelens` command, in a process of its own or in this one; the second is much faster."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from typer.testing import CliRunner

from vaelens.cli import main
from vaelens.errors import VaelensError

Ran = subprocess.CompletedProcess[str]


def vaelens(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, code: int = 0) -> Ran:
    """Run it as a user does, with every warning an error, and check its exit code."""
    command = [sys.executable, "-W", "error", "-m", "vaelens", *map(str, arguments)]
    environment = os.environ if env is None else env
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment, timeout=120)
    assert ran.returncode == code, ran.stderr
    return ran


def invoke(*arguments: object, code: int = 0) -> Ran:
    """Run it in this process, and check its exit code; an error's message is at the end of `stderr`."""
    ran = CliRunner().invoke(main.app, [*map(str, arguments)])
    error = ran.exception
    if error is not None and not isinstance(error, VaelensError | SystemExit):
        raise error
    found, message = (error.exit_code, str(error)) if isinstance(error, VaelensError) else (ran.exit_code, "")
    assert found == code, (ran.stderr, message)
    return Ran(arguments, found, ran.stdout, ran.stderr + message)
