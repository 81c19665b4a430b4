"""What the tests of downloads share: a file on each stand-in, and downloads in a process of their own."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from support.standins.hub import HubStandin
from support.standins.web import WebStandin

Fetch = Callable[..., Path]
WaitUntil = Callable[[Callable[[], object]], None]
SOURCE = Path(__file__).parents[3] / "src"

REPO = "someone/some-vae"
WEIGHTS = "diffusion_pytorch_model.safetensors"
CONTENT = bytes(range(256)) * 20_000  # 5.12 MB, so five of the chunks that a transfer is resumed at
HUB_PROGRAM = f"""
import sys
from vaelens.download.hub import RemoteFile, fetch
from vaelens.runtime import Runtime
print(fetch(RemoteFile({REPO!r}, {WEIGHTS!r}), Runtime(notify=lambda notice: print(notice, file=sys.stderr))))
"""

WEB_CONTENT = bytes(range(256)) * 12_000  # 3.07 MB: resumed at 1.05 or 2.10
SHA256 = hashlib.sha256(WEB_CONTENT).hexdigest()
CHUNK = 1 << 20
WEB_PROGRAM = f"""
import sys
from vaelens.download.web_files import WebFile, fetch_web
from vaelens.runtime import Runtime
print(fetch_web(WebFile((sys.argv[1],), "weights.pth", {len(WEB_CONTENT)}, {SHA256!r}), Runtime(notify=print)))
"""


def start_from_hub(hub: HubStandin, home: Path, stderr: int, program: str = HUB_PROGRAM) -> subprocess.Popen[bytes]:
    environment = hub.environment(home, PYTHONPATH=str(SOURCE), HF_TOKEN=os.environ["HF_TOKEN"])
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stderr)


def start_from_web(server: WebStandin, cache: Path, program: str = WEB_PROGRAM) -> subprocess.Popen[str]:
    environment = {**os.environ, "VAELENS_CACHE": str(cache), "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-W", "error", "-c", program, f"{server.address}/weights.pth"]
    out, err = subprocess.PIPE, subprocess.STDOUT
    return subprocess.Popen(command, env=environment, stdout=out, stderr=err, text=True)


def partial_files(home: Path) -> list[Path]:
    return list(home.rglob("*.incomplete"))


def snapshot_files(home: Path) -> list[Path]:
    return [path for path in home.rglob("snapshots/*/*") if not path.is_dir()]


def names(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.startswith("."))
