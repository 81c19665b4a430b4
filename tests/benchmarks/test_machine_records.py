"""What the benchmarks say is reached, and how a machine's section of RESULTS.md is renewed."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def aims(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import aims

    return aims


@pytest.fixture
def machine_records(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import machine_records

    return machine_records


def record_with(**medians: tuple[float, float]) -> dict[str, Any]:
    """Of a decode at 512 with AMX: (seconds, relative error) by peer, `_` for a blank in its name."""
    peers = {
        name.replace("_", " "): {"median": seconds, "relative_error": error, "seconds": [seconds], "memory": 10**9}
        for name, (seconds, error) in medians.items()
    }
    peers["ONNX Runtime"] = {"failed": "ModuleNotFoundError: No module named 'onnxruntime'"}
    case = {"date": "2026-11-27", "load": 0.1, "reference": "diffusers float64", "peers": peers}
    condition = {"threads": 2, "seed": 0, "settings": "", "versions": {"torch": "2.13.0"}}
    return {
        "machine": "A processor, 2 cores, amx", "flags": "amx_bf16", "best": "amx", "parts": {"amx": {}},
        "conditions": {"amx": condition}, "cases": {"amx": {"decode 512x512": case}},
    }  # fmt: skip


def verdicts(aims: ModuleType, record: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {aim.text: aim.verdict(record) for aim in aims.all_aims(record)}


def test_an_inexact_peer_and_one_that_failed_are_no_exact_peers(aims: ModuleType):
    record = record_with(vaelens=(2, 2e-5), diffusers=(10, 0), ncnn=(3, 2e-3), OpenVINO_f32=(7, 6e-6))
    found = verdicts(aims, record)
    assert found["fp32 decode at 512, AMX: diffusers / vaelens"] == ("5", "goal reached")
    assert found["fp32 decode at 512, AMX: best exact peer / vaelens"] == ("3.5", "goal reached")


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(10.0, "goal reached"), (8.0, "reached"), (6.9, "**not reached**")], ids=str
)
def test_a_number_is_held_against_both_limits(aims: ModuleType, seconds: float, verdict: str):
    found = verdicts(aims, record_with(vaelens=(2, 0), diffusers=(seconds, 0)))
    assert found["fp32 decode at 512, AMX: diffusers / vaelens"][1] == verdict


def test_a_share_of_an_error_must_stay_below_its_limits(aims: ModuleType):
    medians = {"vaelens_bfloat16": (1, 0.011), "diffusers_bfloat16_channels_last": (2, 0.022)}
    peers = record_with(**medians)["cases"]["amx"]["decode 512x512"]["peers"]
    peers["diffusers bfloat16 channels_last"] = peers.pop("diffusers bfloat16 channels last")
    record = record_with()
    record["cases"]["amx"]["decode 512x512"]["peers"] = peers
    assert verdicts(aims, record)["its error against fp64, vaelens / diffusers"] == ("0.5", "reached")


def test_what_has_no_number_is_not_measured(aims: ModuleType):
    found = verdicts(aims, record_with(vaelens=(2, 0)))
    assert {verdict for _, verdict in found.values()} == {"not measured here"}


def test_a_machine_s_section_is_replaced_and_the_others_stay(machine_records: ModuleType):
    record = record_with(vaelens=(2, 2e-5), diffusers=(10, 0))
    section = machine_records.as_markdown(record)
    assert "| diffusers | 10.00 |  | 5.00 |" in section
    assert "| ONNX Runtime | failed | ModuleNotFoundError" in section
    first = machine_records.with_section("# Results\n", "one", "old")
    both = machine_records.with_section(first, "two", "kept")
    renewed = machine_records.with_section(both, "one", section)
    assert "old" not in renewed
    assert renewed.index(section) < renewed.index("kept")
    assert renewed.count("<!-- begin: one -->") == 1
