"""No library call changes the process for good, and a torchvision that can't be imported stops no command."""

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

import vaelens as vl
from support.process_state import changes, process_state, random_state
from support.training import SIX_STEPS, SMALL_CONFIG, folder, small_presets, train
from support.vaes import random_vae
from vaelens.adapters.libraries import quiet
from vaelens.process import without_warnings
from vaelens.resources import full_precision, using_threads
from vaelens.web import server as web_server
from vaelens.web.choices import Choices
from vaelens.web.server import prepare
from vaelens.web.worker import JobRunner

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "examples" / "astronaut.png"
PROMPT = "the letter R in red on white"


@pytest.mark.parametrize(
    "call",
    [
        lambda out: vl.compare(PROMPT, seeds=[0], steps=1, device="cpu").save(out / "sheet.html"),
        lambda out: vl.generate(PROMPT, steps=1, device="cpu").save(out / "image.png"),
        lambda out: vl.reconstruct([PHOTO], max_side=64, device="cpu").save(out / "sheet.html"),
        lambda out: vl.as_diffusers(vl.load("tiny-ft-mse", device="cpu")),
        lambda out: vl.load("tiny-kl-f8", device="cpu").encode(vl.read_image(PHOTO)).sample(seed=0),
        lambda out: vl.examine(random_vae(SMALL_CONFIG), [PHOTO], max_side=64, round_trips=1, time_at=()),
        lambda out: vl.evaluate(
            random_vae(SMALL_CONFIG), "synthetic", preset="small", take=2, output=out / "e", device="cpu"
        ),
        lambda out: train(
            random_vae(SMALL_CONFIG).save(out / "vae.safetensors"), folder(out / "p", 9), out / "r", overrides=SIX_STEPS
        ),
    ],
    ids=["compare", "generate", "reconstruct", "as_diffusers", "load", "examine", "evaluate", "finetune"],
)
def test_a_library_call_leaves_the_process_as_it_was(call: Callable[[Path], object], tmp_path: Path) -> None:
    before = process_state() | random_state()
    with small_presets():
        call(tmp_path)
    assert changes(before, process_state() | random_state()) == []


@pytest.mark.parametrize(
    "make",
    [quiet, lambda: without_warnings, lambda: full_precision("cpu")],
    ids=["quiet", "without_warnings", "full_precision"],
)
def test_a_shared_context_ends_with_the_last_of_several_threads(
    make: Callable[[], AbstractContextManager[object]],
) -> None:
    """Entered twice and left in the order of entering, as two threads do."""
    before, first, second = process_state(), make(), make()
    first.__enter__()
    during = process_state()
    second.__enter__()
    first.__exit__(None, None, None)
    assert changes(during, process_state()) == []
    second.__exit__(None, None, None)
    assert changes(before, process_state()) == []
    assert changes(before, during) != []


def test_thread_counts_end_as_they_were_whichever_thread_is_the_last() -> None:
    before, first, second = torch.get_num_threads(), using_threads(2), using_threads(3)
    with ThreadPoolExecutor(1) as other:
        first.__enter__()
        other.submit(second.__enter__).result()
        assert (torch.get_num_threads(), other.submit(torch.get_num_threads).result()) == (2, 3)
        first.__exit__(None, None, None)
        other.submit(second.__exit__, None, None, None).result()
        assert (torch.get_num_threads(), other.submit(torch.get_num_threads).result()) == (before, before)
    with ThreadPoolExecutor(1) as new:
        assert new.submit(torch.get_num_threads).result() == before


def test_settings_of_servers_end_with_the_last_of_them(
    offer: Choices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource", reason="POSIX only")
    monkeypatch.setattr(JobRunner, "warm_up", lambda self: None)  # its own settings come and go meanwhile
    given = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, given[1]))
    for name in ("uvicorn.error", "uvicorn.access"):
        logging.getLogger(name)
    try:
        before = process_state()
        first = prepare(offer, tmp_path / "one", port=0)
        during = process_state()
        second = prepare(offer, tmp_path / "two", port=0)
        assert first.close()
        assert changes(during, process_state()) == []
        assert second.close()
        assert changes(before, process_state()) == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, given)
    changed = {"switch interval", "open files", "log level of uvicorn.error", "log level of uvicorn.access"}
    assert {change.partition(":")[0] for change in changes(before, during)} == changed


def test_a_server_that_fails_to_start_leaves_nothing_open(
    offer: Choices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    threads, before = threading.active_count(), process_state()
    with monkeypatch.context() as patch:
        patch.setattr(web_server, "make_app", lambda *given: given[-1] / 0)
        with pytest.raises(TypeError) as failure:  # it holds the frames with all that they opened
            prepare(offer, tmp_path, port=port)
    assert threading.active_count() == threads
    assert changes(before, process_state()) == []
    assert prepare(offer, tmp_path, port=port).close(), failure


@pytest.fixture
def beside_a_broken_torchvision(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run Python where torchvision was built for another torch."""
    package = tmp_path / "broken" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    path = os.pathsep.join(map(str, (package.parent, ROOT / "src", ROOT / "tests")))

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        env = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "VAELENS_CACHE": str(tmp_path / "none")}
        command = [sys.executable, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=env, timeout=240)

    return run


@pytest.mark.slow
def test_a_command_works_beside_a_broken_torchvision(
    beside_a_broken_torchvision: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    ran = beside_a_broken_torchvision("-m", "vaelens", "compare", PROMPT, "--steps", "1", "--device", "cpu")
    assert ran.returncode == 0, ran.stderr


LIBRARY = """
import sys
import vaelens as vl
from support.process_state import changes, process_state, random_state

calls = {
    "compare": lambda: vl.compare("the letter R", seeds=[0], steps=1, device="cpu"),
    "generate": lambda: vl.generate("the letter R", steps=1, device="cpu"),
    "as_diffusers": lambda: vl.as_diffusers(vl.load("tiny-ft-mse", device="cpu")),
}
import torch._dynamo, accelerate  # what the first import of these sets up for itself is theirs
for name, call in calls.items():
    before = process_state() | random_state()
    try:
        call()
    except vl.VaelensError as error:
        print(name, error)
    assert changes(before, process_state() | random_state()) == []
    assert "torchvision" not in sys.modules
from vaelens.cli.main import main  # the process is the command's from here on

sys.argv = ["vaelens", "generate", "the letter R", "--steps", "1", "--device", "cpu", "-o", "image.png"]
main()
"""


def test_the_library_names_a_broken_torchvision_and_a_command_works(
    beside_a_broken_torchvision: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    ran = beside_a_broken_torchvision("-c", LIBRARY)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "image.png").stat().st_size > 1000
    lines = ran.stdout.splitlines()[:3]
    assert [line.split()[0] for line in lines] == ["compare", "generate", "as_diffusers"]
    for line in lines:
        assert "torchvision" in line
        assert "operator torchvision::nms does not exist" in line
        assert "uninstall it" in line
