"""Tuning a GPU: the CPU in its place, with a clock that tells what a test wants it to tell."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from support.commands import invoke
from support.vaes import CONFIGS, random_network
from vaelens.doctor import tuning
from vaelens.doctor.tuning import ROUNDS, WARM_UP, Subject, fastest, tune, ways_in_use
from vaelens.engine.gpu import verdicts, whole_maps, whole_network
from vaelens.engine.gpu.verdicts import Card, Trial, read_verdicts, way_for
from vaelens.engine.gpu.ways import WAYS, Way

CARD = Card("Card A", "9.0", "580.1", "0.1.0", "2.13.0", "-")
CPU = torch.device("cpu")


@dataclass
class Bench:
    """One card whose calls take so many seconds."""

    times: dict[str, float] = field(default_factory=dict[str, float])
    devices: tuple[torch.device, ...] = (CPU,)
    has_triton: bool = False
    timed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def card(self, _: torch.device) -> Card:
        return CARD

    def seconds(self, way: str, direction: str, call: Callable[[], object], device: torch.device) -> float:
        if not self.timed or self.timed[-1] != (way, direction):
            call()
        self.timed.append((way, direction))
        return self.times.get(way, 1.0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(verdicts, "_said", set[str]())
    return tmp_path / "cache"


@pytest.fixture
def subjects() -> list[Subject]:
    return [Subject(random_network(CONFIGS["flux1"]), 32), Subject(random_network(CONFIGS["no attention"]), 16, 16)]


def trial(trials: tuple[Trial, ...], way: str) -> Trial:
    return next(one for one in trials if one.way == way)


@pytest.mark.parametrize(("seconds", "chosen"), [(0.5, "gpu"), (2.0, "torch")])
def test_the_fastest_right_way_is_kept(subjects: list[Subject], seconds: float, chosen: str) -> None:
    bench = Bench({"gpu": seconds, "plain": 0.1})
    (verdict,) = tune(bench=bench, subjects=subjects, dtypes=["float32"])
    assert (verdict.way, verdict.side, [one.way for one in verdict.trials]) == (chosen, 16, ["plain", "torch", *WAYS])
    assert all(one.problem == "Triton isn't installed" for one in verdict.trials if "triton" in one.way)
    assert trial(verdict.trials, "gpu-graphs").problem  # there are no graphs on a CPU
    whole = trial(verdict.trials, "gpu")
    assert (whole.problem, whole.encode_seconds, whole.seconds) == (None, seconds, 2 * seconds)
    assert 0 < (whole.decode_error or 1) < 1e-5
    assert bench.timed.count(("gpu", "decode")) == WARM_UP + ROUNDS
    assert read_verdicts() == ((verdict,), None)
    assert way_for(CARD, "float32", pytest.fail) == WAYS.get(chosen)


def test_half_precision_is_compared_with_the_network_as_it_is(subjects: list[Subject]) -> None:
    (verdict,) = tune(bench=Bench({"gpu": 0.5}), subjects=subjects[1:], dtypes=["bfloat16"])
    plain, whole = trial(verdict.trials, "plain"), trial(verdict.trials, "gpu")
    assert 1e-3 < (plain.decode_error or 0) < 0.1
    assert (whole.decode_error or 1) < 1.1 * (plain.decode_error or 0)
    assert verdict.way == "gpu"


@pytest.mark.parametrize("added", [1e-2, float("nan")])
def test_a_wrong_way_is_not_taken(subjects: list[Subject], monkeypatch: pytest.MonkeyPatch, added: float) -> None:
    own = whole_network.WholeMaps.run
    monkeypatch.setattr(whole_network.WholeMaps, "run", lambda *args: own(*args) + added)
    (verdict,) = tune(bench=Bench({"gpu": 0.01}), subjects=subjects[1:], dtypes=["float32"])
    assert verdict.way == "torch"
    assert str(trial(verdict.trials, "gpu").problem).endswith("more than 1.0e-04")
    assert ("gpu" in str(read_verdicts()[0][0].way), way_for(CARD, "float32", pytest.fail)) == (False, None)


def test_memory_that_runs_out_is_a_verdict(subjects: list[Subject], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(whole_network.WholeMaps, "run", fails)
    (verdict,) = tune(bench=Bench(), subjects=subjects[1:], dtypes=["float32"])
    assert "Memory ran out" in str(trial(verdict.trials, "gpu").problem)
    assert verdict.way == "torch"


def test_an_error_of_the_driver_is_a_verdict(subjects: list[Subject], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Tensor:
        raise RuntimeError("no kernel image is available\nfor this device")

    monkeypatch.setattr(type(subjects[0].network), "moments", fails)
    (verdict,) = tune(bench=Bench(), subjects=subjects, dtypes=["float32"])
    assert verdict.trials == (Trial("plain", problem="no kernel image is available"),)
    assert verdict.way == "torch"


def test_plans_serve_where_nothing_else_is_right() -> None:
    assert fastest(()) == "torch"
    assert (
        fastest((Trial("plain", 0, 0, 1, 1), Trial("gpu", 0, 0, 1, 1, "wrong"), Trial("torch", 0, 0, 9, 9))) == "torch"
    )


def test_the_subjects_are_a_trained_and_a_full_width_network() -> None:
    embedded, wide = tuning.default_subjects()
    assert wide.network.config.block_out_channels == (128, 256, 512, 512)
    queries = (embedded.checked_side // embedded.network.config.factor) ** 2
    assert queries**2 > whole_maps.SCORES  # more than one chunk takes


def test_doctor_shows_the_ways_in_use(subjects: list[Subject], monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench({"gpu": 0.5})
    assert ways_in_use(bench) == {f"Card A, {d}": "torch (not tuned)" for d in ("float32", "float16", "bfloat16")}
    tune(bench=bench, subjects=subjects[1:], dtypes=["float32"])
    assert ways_in_use(bench)["Card A, float32"] == "gpu"
    monkeypatch.setattr(Bench, "card", lambda *_: Card("Card A", "9.0", "590.2", "0.1.0", "2.13.0", "-"))
    stale = ways_in_use(bench)["Card A, float32"]
    assert stale == "torch (not tuned; driver is 590.2, and was 580.1)"
    monkeypatch.setattr(tuning, "CudaBench", lambda: bench)
    shown = invoke("doctor").stdout
    assert f"Card A, float32 {stale}" in " ".join(shown.split())


def test_without_a_gpu_there_is_nothing_to_tune(cache: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert invoke("doctor", "--tune").stdout == (
        "There is nothing to tune: PyTorch sees no CUDA device on this machine.\n"
    )
    assert json.loads(invoke("doctor", "--tune", "--json").stdout) == []
    assert ways_in_use() == {}
    assert not cache.exists()


def test_the_command_shows_each_trial(subjects: list[Subject], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "CudaBench", lambda: Bench({"gpu": 0.25}))
    monkeypatch.setattr(tuning, "default_subjects", lambda: subjects[1:])
    monkeypatch.setattr(tuning, "DTYPES", ("float32",))
    ran = invoke("doctor", "--tune")
    shown = " ".join(ran.stdout.split())
    assert "Card A, float32: gpu from now on" in shown
    assert "250.00 250.00 used" in shown
    assert "Triton isn't installed" in shown
    assert "tuning float32 on Card A" in ran.stderr
    found = json.loads(invoke("doctor", "--tune", "--json").stdout)
    assert [(one["dtype"], one["way"], one["card"]["driver"]) for one in found] == [("float32", "gpu", "580.1")]
    assert "Give it no other option" in invoke("doctor", "--tune", "--dtype", "bf16", code=2).stderr


def test_ways_are_looked_up_by_their_names() -> None:
    assert WAYS["gpu-triton-graphs"] == Way(triton=True, graphs=True)
