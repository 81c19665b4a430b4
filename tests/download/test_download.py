"""Downloads against a stand-in for the hub, each in a process of its own, as a user's would be.

The token is in the environment of every one, and `run` looks for it in whatever they print.
"""

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.hub_standin import HubStandin

REPO = "someone/some-vae"
WEIGHTS = "diffusion_pytorch_model.safetensors"
CONTENT = bytes(range(256)) * 20_000  # 5.12 MB, so five of the pieces that a transfer is resumed at
SECRET = "hf_secretsecretsecretsecretsecret"
MINUTE = 60

PROGRAM = """
import json, sys
from vaelens.download.hub import RemoteFile, access, cached, fetch, try_fetch
from vaelens.errors import VaelensError
from vaelens.runtime import Runtime
def say(notice):
    print(notice, file=sys.stderr)
try:
    print(eval(sys.argv[1]), end="")
except VaelensError as error:
    assert error.__cause__ is None, "a traceback would have the library's own words"
    assert error.__context__ is None or error.__suppress_context__
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
"""
SOURCE = Path(__file__).parents[2] / "src"


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str
    seconds: float

    @property
    def path(self) -> Path:
        assert self.code == 0, self.err
        return Path(self.out)


@pytest.fixture
def hub() -> Iterator[HubStandin]:
    with HubStandin() as hub:
        hub.add(REPO, WEIGHTS, CONTENT)
        hub.add(REPO, "config.json", b"{}", lfs=False)
        yield hub


def a_file(filename: str = WEIGHTS, **more: object) -> str:
    return f"RemoteFile({', '.join(f'{k}={v!r}' for k, v in {'repo': REPO, 'filename': filename, **more}.items())})"


def fetching(filename: str = WEIGHTS, offline: bool = False, call: str = "fetch", **more: object) -> str:
    return f"{call}({a_file(filename, **more)}, Runtime(offline={offline}, notify=say))"


def start(
    hub: HubStandin, home: Path, call: str, stderr: int = subprocess.PIPE, **environment: str
) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, call],
        env=hub.environment(home, PYTHONPATH=str(SOURCE), HF_TOKEN=SECRET, **environment),
        stdout=subprocess.PIPE,
        stderr=stderr,
    )


def run(hub: HubStandin, home: Path, call: str | None = None, **environment: str) -> Outcome:
    begin = time.monotonic()
    process = start(hub, home, call or fetching(), **environment)
    out, err = (stream.decode() for stream in process.communicate(timeout=200))
    assert SECRET not in out + err
    assert "Traceback" not in err, err
    return Outcome(process.returncode, out, err, time.monotonic() - begin)


def read_to_the_end(terminal: int) -> str:
    shown = b""
    with suppress(OSError):  # EIO, when the last program has closed its side
        while more := os.read(terminal, 1 << 12):
            shown += more
    os.close(terminal)
    return shown.decode()


def partial_files(home: Path) -> list[Path]:
    return list(home.rglob("*.incomplete"))


def snapshot_files(home: Path) -> list[Path]:
    return [path for path in home.rglob("snapshots/*/*") if not path.is_dir()]


def wait_until(true: Callable[[], object]) -> None:
    give_up = time.monotonic() + 30
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.02)


# What is downloaded


def test_a_download_is_announced_and_shows_its_progress_on_the_terminal(hub: HubStandin, tmp_path: Path) -> None:
    hub.fault(REPO, WEIGHTS, methods=("GET",), pause=0.01)
    terminal, stderr = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    process = start(hub, tmp_path, fetching(), stderr=stderr)
    os.close(stderr)
    shown = read_to_the_end(terminal)
    out, _ = process.communicate()
    assert Path(out.decode()).read_bytes() == CONTENT
    assert f"downloading {REPO} {WEIGHTS}, 5 MB" in shown
    assert "100%" in shown
    assert "MB/s" in shown
    assert SECRET not in shown
    assert all(seen.authorized for seen in hub.requests_for(WEIGHTS))


def test_no_progress_bar_goes_to_a_file(hub: HubStandin, tmp_path: Path) -> None:
    assert run(hub, tmp_path).err == f"downloading {REPO} {WEIGHTS}, 5 MB\n"


def test_a_current_copy_is_not_downloaded_again(hub: HubStandin, tmp_path: Path) -> None:
    first = run(hub, tmp_path)
    hub.requests.clear()
    again = run(hub, tmp_path)
    assert (again.path, again.err) == (first.path, "")
    assert [seen.method for seen in hub.requests_for(WEIGHTS)] == ["HEAD"]


def test_a_newer_file_on_the_branch_is_downloaded(hub: HubStandin, tmp_path: Path) -> None:
    run(hub, tmp_path)
    hub.add(REPO, WEIGHTS, b"newer")
    assert run(hub, tmp_path).path.read_bytes() == b"newer"


@pytest.mark.parametrize("pin", ["sha256", "revision"])
def test_a_copy_of_known_content_needs_no_hub(hub: HubStandin, tmp_path: Path, pin: str) -> None:
    known = {"sha256": hub.add(REPO, WEIGHTS, CONTENT), "revision": hub.commit(REPO)}
    run(hub, tmp_path, fetching(**{pin: known[pin]}))
    hub.requests.clear()
    assert run(hub, tmp_path, fetching(**{pin: known[pin]})).path.read_bytes() == CONTENT
    assert hub.requests == []


def test_a_file_in_xet_storage_comes_by_plain_http(hub: HubStandin, tmp_path: Path) -> None:
    xet = {"X-Xet-Hash": "ab" * 32, "X-Xet-Refresh-Route": f"{hub.endpoint}/api/models/{REPO}/xet-read-token/main"}
    hub.fault(REPO, WEIGHTS, methods=("HEAD",), headers=xet)
    assert run(hub, tmp_path, HF_HUB_DISABLE_XET="").path.read_bytes() == CONTENT


def test_try_fetch_gives_none_for_a_missing_file_and_remembers_it(hub: HubStandin, tmp_path: Path) -> None:
    assert run(hub, tmp_path, fetching("other.json", call="try_fetch")).out == "None"
    assert run(hub, tmp_path, fetching("other.json", call="try_fetch", offline=True)).out == "None"
    assert run(hub, tmp_path, fetching(repo="someone/nothing", call="try_fetch")).code == 5


def test_access_tells_that_there_is_a_token_and_not_which(hub: HubStandin, tmp_path: Path) -> None:
    told = json.loads(
        run(hub, tmp_path, "json.dumps(access())", HF_ENDPOINT=hub.endpoint.replace("://", f"://user:{SECRET}@")).out
    )
    assert told == {"endpoint": hub.endpoint, "cache": str(tmp_path / "hub"), "token": True, "offline": False}


def test_importing_the_module_brings_in_no_http_library() -> None:
    found = "[m for m in sys.modules if m.startswith(('httpx', 'requests', 'torch'))]"
    code = f"import sys, vaelens.download.hub; print({found})"
    assert subprocess.check_output([sys.executable, "-c", code], env={"PYTHONPATH": str(SOURCE)}) == b"[]\n"


# Transfers that break


def test_a_transfer_that_ends_early_is_resumed(hub: HubStandin, tmp_path: Path) -> None:
    hub.fault(REPO, WEIGHTS, methods=("GET",), break_after=3_000_000, times=1)
    outcome = run(hub, tmp_path)
    assert outcome.path.read_bytes() == CONTENT
    assert outcome.err == f"downloading {REPO} {WEIGHTS}, 5 MB\n"  # and nothing from the library, which warns of it
    assert [seen.range for seen in hub.requests_for(WEIGHTS) if seen.method == "GET"] == [None, "bytes=2097152-"]


def test_a_transfer_that_is_reset_is_tried_again(hub: HubStandin, tmp_path: Path) -> None:
    hub.fault(REPO, WEIGHTS, methods=("GET",), break_after=3_000_000, reset=True, times=2)
    assert run(hub, tmp_path).path.read_bytes() == CONTENT


def test_a_hub_that_fails_for_a_moment_is_asked_again(hub: HubStandin, tmp_path: Path) -> None:
    hub.fault(REPO, WEIGHTS, status=503, times=2)
    assert run(hub, tmp_path).path.read_bytes() == CONTENT


def test_a_killed_download_leaves_no_file_and_the_next_one_succeeds(hub: HubStandin, tmp_path: Path) -> None:
    hub.fault(REPO, WEIGHTS, methods=("GET",), pause=0.1, times=1)
    process = start(hub, tmp_path, fetching())
    wait_until(lambda: any(path.stat().st_size for path in partial_files(tmp_path)))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert snapshot_files(tmp_path) == []
    assert run(hub, tmp_path).path.read_bytes() == CONTENT


def test_what_a_killed_download_left_is_removed_when_it_is_old(hub: HubStandin, tmp_path: Path) -> None:
    blob = run(hub, tmp_path).path.resolve()
    old, recent = (blob.with_name(f"{blob.name}.{name}.incomplete") for name in ("0a0a0a0a", "1b1b1b1b"))
    other = blob.with_name(f"{'0' * 64}.0a0a0a0a.incomplete")
    for path in (old, recent, other):
        path.write_bytes(b"part")
    for path in (old, other):
        os.utime(path, (time.time() - 3600,) * 2)
    run(hub, tmp_path)
    assert [path.exists() for path in (old, recent, other)] == [False, True, True]


def test_what_another_process_is_downloading_stays(hub: HubStandin, tmp_path: Path) -> None:
    from filelock import FileLock

    blob = run(hub, tmp_path).path.resolve()
    partial = blob.with_name(f"{blob.name}.0a0a0a0a.incomplete")
    partial.write_bytes(b"part")
    os.utime(partial, (time.time() - 3600,) * 2)
    with FileLock(tmp_path / "hub" / ".locks" / blob.parts[-3] / f"{blob.name}.lock"):
        run(hub, tmp_path)
    assert partial.exists()


# A hub that says no

REFUSALS = {
    "gated": ({"status": 401, "code": "GatedRepo"}, ["is gated", "licence", "/someone/some-vae,", "hf auth login"]),
    "gated for this token": ({"status": 403, "code": "GatedRepo"}, ["is gated", "licence", "HF_TOKEN"]),
    "private": ({"status": 401, "code": "RepoNotFound"}, ["no such repository", "private", "hf auth login"]),
    "wrong token": (
        {"status": 401, "headers": {"X-Error-Message": f"bad token {SECRET}"}},
        ["401", "token", "hf auth login"],
    ),
    "forbidden": ({"status": 403}, ["403", "hf auth login", "HF_TOKEN"]),
    "too many": ({"status": 429, "headers": {"Retry-After": "300"}}, ["429", "too many requests", "Wait"]),
    "not found": ({"status": 404}, ["404", "Check the name"]),
    "another status": ({"status": 418}, ["418"]),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_named_with_what_to_do(hub: HubStandin, tmp_path: Path, case: str) -> None:
    fault, words = REFUSALS[case]
    hub.fault(REPO, WEIGHTS, **fault)
    outcome = run(hub, tmp_path)
    assert outcome.code == 5
    assert outcome.err.startswith(f"error: {REPO} {WEIGHTS}: ")
    for word in words:
        assert word in outcome.err
    assert outcome.seconds < 10
    assert any(seen.authorized for seen in hub.requests_for(WEIGHTS))


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ({"filename": "other.safetensors"}, "no such file in the repository"),
        ({"revision": "v9"}, "no such revision"),
        ({"repo": "someone/nothing"}, "no such repository"),
    ],
)
def test_what_does_not_exist_is_named(hub: HubStandin, tmp_path: Path, file: dict[str, str], words: str) -> None:
    outcome = run(hub, tmp_path, fetching(**file))
    assert outcome.code == 5
    assert words in outcome.err
    assert all(name in outcome.err for name in file.values())


def test_an_impossible_name_is_a_usage_error(hub: HubStandin, tmp_path: Path) -> None:
    assert run(hub, tmp_path, fetching(repo="a/b/c/d")).code == 2
    assert run(hub, tmp_path, fetching("../escape.json")).code == 2
    assert run(hub, tmp_path, fetching("/etc/hostname")).code == 2
    assert hub.requests == []


@pytest.mark.parametrize("methods", [("HEAD", "GET"), ("GET",)])
def test_a_login_page_in_place_of_the_file_is_recognised(
    hub: HubStandin, tmp_path: Path, methods: tuple[str, ...]
) -> None:
    hub.fault(REPO, WEIGHTS, html=True, methods=methods)
    outcome = run(hub, tmp_path)
    assert outcome.code == 5
    assert "an HTML page came back" in outcome.err
    assert "login page" in outcome.err
    assert snapshot_files(tmp_path) == []


# Without a network


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_uses_the_cache_and_nothing_else(hub: HubStandin, tmp_path: Path, how: str) -> None:
    call = fetching(offline=how == "argument")
    environment = {"HF_HUB_OFFLINE": "1"} if how == "environment" else {}
    missing = run(hub, tmp_path, call, **environment)
    assert missing.code == 5
    assert "not in the cache, and offline" in missing.err
    run(hub, tmp_path)
    hub.requests.clear()
    present = run(hub, tmp_path, call, **environment)
    assert present.path.read_bytes() == CONTENT
    assert "offline: using the cached copy" in present.err
    assert hub.requests == []


def test_cached_looks_without_any_network(hub: HubStandin, tmp_path: Path) -> None:
    assert run(hub, tmp_path, f"cached({a_file()})").out == "None"
    assert hub.requests == []
    path = run(hub, tmp_path).path
    hub.requests.clear()
    assert run(hub, tmp_path, f"cached({a_file()})").path == path
    assert run(hub, tmp_path, f"cached({a_file(sha256='0' * 64)})").out == "None"
    assert hub.requests == []


def test_a_network_that_is_down_is_named_and_a_cached_copy_used(hub: HubStandin, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    missing = run(hub, tmp_path, HF_ENDPOINT=nobody)
    assert missing.code == 5
    assert f"{nobody} refuses the connection" in missing.err
    run(hub, tmp_path)
    present = run(hub, tmp_path, HF_ENDPOINT=nobody)
    assert present.path.read_bytes() == CONTENT
    assert "Using the cached copy." in present.err


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("https://hub.invalid", "https://hub.invalid can't be found (DNS)"),
        ("https://{host}", "https://{host} can't prove who it is (TLS)"),  # where only http is spoken
        ("{host}", "HF_ENDPOINT should begin with https://"),
    ],
)
def test_a_wrong_endpoint_is_named(hub: HubStandin, tmp_path: Path, endpoint: str, words: str) -> None:
    host = hub.endpoint.removeprefix("http://")
    outcome = run(hub, tmp_path, HF_ENDPOINT=endpoint.format(host=host))
    assert outcome.code == 5
    assert words.format(host=host) in outcome.err


# Other bytes than expected


def test_a_flipped_bit_is_noticed_and_the_next_run_downloads_anew(hub: HubStandin, tmp_path: Path) -> None:
    flipped = bytearray(CONTENT)
    flipped[1000] ^= 1
    hub.fault(REPO, WEIGHTS, body=bytes(flipped), times=3)
    outcome = run(hub, tmp_path)
    assert outcome.code == 7
    assert f"sha256 {hub.add(REPO, WEIGHTS, CONTENT)} expected" in outcome.err
    assert "found" in outcome.err
    assert snapshot_files(tmp_path) == list(tmp_path.rglob("blobs/*")) == []
    assert run(hub, tmp_path).path.read_bytes() == CONTENT


def test_a_file_that_is_not_the_pinned_one_is_refused(hub: HubStandin, tmp_path: Path) -> None:
    for pin in ({"sha256": "0" * 64}, {"size": 7}):
        outcome = run(hub, tmp_path, fetching(**pin))
        assert outcome.code == 7
        assert f"{next(iter(pin.values()))} expected" in outcome.err
    assert [seen.method for seen in hub.requests_for(WEIGHTS)] == ["HEAD", "HEAD"]


def test_a_small_file_has_its_pinned_sha256_checked(hub: HubStandin, tmp_path: Path) -> None:
    outcome = run(hub, tmp_path, fetching("config.json", sha256="0" * 64))
    assert outcome.code == 7
    assert f"sha256 {'0' * 64} expected" in outcome.err
    assert snapshot_files(tmp_path) == []


def test_a_cached_copy_of_another_size_is_removed(hub: HubStandin, tmp_path: Path) -> None:
    pinned = fetching(size=len(CONTENT), sha256=hub.add(REPO, WEIGHTS, CONTENT))
    run(hub, tmp_path, pinned).path.resolve().write_bytes(CONTENT[:-1])
    outcome = run(hub, tmp_path, pinned)
    assert outcome.code == 7
    assert "5,120,000 bytes expected, 5,119,999 found" in outcome.err
    assert run(hub, tmp_path, pinned).path.read_bytes() == CONTENT


def test_an_undamaged_file_of_another_size_stays_in_the_cache(hub: HubStandin, tmp_path: Path) -> None:
    path = run(hub, tmp_path).path
    outcome = run(hub, tmp_path, fetching(size=7, revision=hub.commit(REPO)))
    assert outcome.code == 7
    assert "7 bytes expected, 5,120,000 found" in outcome.err
    assert path.read_bytes() == CONTENT


# The disk


def test_a_disk_that_fills_up_is_a_resource_error(hub: HubStandin, tmp_path: Path) -> None:
    limit = "__import__('resource').setrlimit(__import__('resource').RLIMIT_FSIZE, (2_500_000, 2_500_000))"
    outcome = run(hub, tmp_path, f"{limit} or {fetching()}")
    assert outcome.code == 6
    assert "the disk is full" in outcome.err
    assert partial_files(tmp_path) == snapshot_files(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_named(hub: HubStandin, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = str(tmp_path / "file" / "hub")
    outcome = run(hub, tmp_path, HF_HUB_CACHE=cache)
    assert outcome.code == 3
    assert f"not written to {cache}: Not a directory" in outcome.err


def test_a_disk_without_room_is_noticed_before_the_transfer(hub: HubStandin, tmp_path: Path) -> None:
    no_room = "setattr(__import__('shutil'), 'disk_usage', lambda _: type('', (), {'free': 1_000_000})())"
    outcome = run(hub, tmp_path, f"{no_room} or {fetching()}")
    assert outcome.code == 6
    assert "has room for 1 MB" in outcome.err
    assert [seen.method for seen in hub.requests_for(WEIGHTS)] == ["HEAD"]


# A hub in trouble: all of these wait for timeouts, so they run side by side, and beside the tests above

SILENT = [{"silent": True, "methods": ("GET",)}]
TROUBLES = {
    "5xx": ([{"status": 503, "headers": {"Retry-After": "120"}}], "503"),
    "5xx for the transfer": ([{"status": 500, "methods": ("GET",)}], "500"),
    "silent when asked": ([{"silent": True}], "stays silent"),
    "silent when the transfer begins": (SILENT, "stays silent"),
    "silent in each transfer": ([{"stall_after": 500_000, "methods": ("GET",)}], "stays silent"),
    "silent after a while": (
        [{"break_after": 2_500_000, "methods": ("GET",), "times": 1}, {"silent": True, "methods": ("GET",)}],
        "stays silent",
    ),
    "always reset": ([{"break_after": 2_500_000, "reset": True, "methods": ("GET",)}], "broke"),
}
SLOW = [{"methods": ("GET",), "piece": 370_000, "pause": 4}]  # 14 pieces: 56 s, and less than 1 MiB in 6 s


@pytest.fixture(scope="module")
def in_trouble(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Outcome]]]:
    def attempt(faults: list[dict[str, object]], home: Path, **environment: str) -> Outcome:
        with HubStandin() as hub:
            hub.add(REPO, WEIGHTS, CONTENT)
            for fault in faults:
                hub.fault(REPO, WEIGHTS, **fault)
            return run(hub, home, **environment)

    here = [item for item in request.session.items if item.path == request.path]
    slow = {"slow": SLOW} if any(item.get_closest_marker("slow") for item in here) else {}
    with ThreadPoolExecutor(len(TROUBLES) + 2) as pool:
        begun = {
            name: pool.submit(attempt, faults, tmp_path_factory.mktemp("home"))
            for name, faults in {**slow, **{case: faults for case, (faults, _) in TROUBLES.items()}}.items()
        }
        home = tmp_path_factory.mktemp("home")
        begun["impatient"] = pool.submit(attempt, SILENT, home, HF_HUB_DOWNLOAD_TIMEOUT="1")
        yield begun


@pytest.fixture(scope="module", autouse=True)
def in_trouble_from_the_start(request: pytest.FixtureRequest) -> None:
    """Lets the waiting go on behind the other tests."""
    if any("in_trouble" in item.fixturenames for item in request.session.items if item.path == request.path):
        request.getfixturevalue("in_trouble")


@pytest.mark.parametrize("case", TROUBLES)
def test_a_hub_in_trouble_is_given_up_within_a_minute(in_trouble: dict[str, Future[Outcome]], case: str) -> None:
    outcome = in_trouble[case].result()
    assert outcome.code == 5
    assert TROUBLES[case][1] in outcome.err
    assert outcome.err.count("\n") == 1 + outcome.err.count("downloading ")  # and no warning of the library's
    assert outcome.seconds < MINUTE


@pytest.mark.slow
def test_a_slow_transfer_that_moves_is_not_given_up(in_trouble: dict[str, Future[Outcome]]) -> None:
    outcome = in_trouble["slow"].result()
    assert outcome.path.read_bytes() == CONTENT
    assert outcome.seconds > 50


def test_a_timeout_of_the_users_own_is_kept(in_trouble: dict[str, Future[Outcome]]) -> None:
    outcome = in_trouble["impatient"].result()
    assert outcome.code == 5
    assert outcome.seconds < 25  # 6 x 1 s and 5 s between; with our 6 s it would be 41
