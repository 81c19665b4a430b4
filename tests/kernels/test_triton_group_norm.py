"""Triton's group norm and SiLU, by Triton's interpreter on the CPU, against PyTorch in float64."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton exists for Linux only")

SCRIPT = Path(__file__).parents[1] / "support" / "kernels" / "triton_checks.py"
# Relative L2. The interpreter cuts bf16 off where a GPU rounds: twice the error.
ROUNDING = {"bf16": 4e-3, "fp16": 3e-4, "the same in fp16": 3e-4, "384 channels": 4e-3}
CASES = (
    "fp32", "bf16", "fp16", "96 channels", "384 channels", "one position", "several tiles of each chunk",
    "more chunks than are merged at once", "without SiLU", "without weight and bias", "mean of a thousand deviations",
    "the same in fp16", "constant", "strips with different means",
)  # fmt: skip


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found = tmp_path_factory.mktemp("triton") / "errors.json"
    tests = {"PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[2]), *sys.path])}
    subprocess.run([sys.executable, SCRIPT, found], check=True, timeout=120, env=os.environ | tests)
    return json.loads(found.read_text())


@pytest.mark.parametrize("case", CASES)
def test_it_is_group_norm(errors: dict[str, Any], case: str) -> None:
    assert errors[case]["form"]
    assert errors[case]["affine"] < 2e-6
    assert errors[case]["result"] < ROUNDING.get(case, 3e-7)


def test_a_network_runs_with_it(errors: dict[str, Any]) -> None:
    assert errors["network"]["decode"] < 1e-5
    assert errors["network"]["encode"] < 1e-5


def test_every_case_is_looked_at(errors: dict[str, Any]) -> None:
    assert set(errors) == {*CASES, "network"}
