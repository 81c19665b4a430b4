"""The command against clients that only hold connections open."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from support.browser.held import half_open, is_closed


@pytest.mark.slow
def test_hundreds_of_half_open_connections_do_not_exhaust_the_command(tmp_path: Path) -> None:
    """Where the process may open 600 files: a token would never be asked, as no connection would be accepted."""
    command = f"ulimit -n 600; exec {sys.executable} -m vaelens serve --port 0 --offline --folder store -q"
    running = subprocess.Popen(
        ["bash", "-c", command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        assert running.stdout is not None
        port = int(re.search(r":(\d+)/", running.stdout.readline())[1])  # type: ignore[index]
        with half_open(port, 700) as opened:
            with urlopen(f"http://127.0.0.1:{port}/", timeout=20) as page:
                assert page.status == 200
            slow, end = opened[-1], time.monotonic() + 30
            while not is_closed(slow):
                with contextlib.suppress(OSError):
                    slow.sendall(b"x")
                assert time.monotonic() < end, "no deadline"
                time.sleep(0.5)
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(timeout=30)
        running.stdout.close()  # type: ignore[union-attr]
