"""Small evaluations: a cache of their own, no page, and a call of `evaluate` with few images."""

from collections.abc import Callable
from pathlib import Path

import pytest

from support.small_run import FAST, patch_small_runs
from vaelens.evaluation.results import Results
from vaelens.evaluation.run import evaluate


@pytest.fixture
def small_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch_small_runs(monkeypatch, tmp_path)


@pytest.fixture
def measure(photos: Path, two_vaes: list[Path], tmp_path: Path) -> Callable[..., Results]:
    """`evaluate` to the end, by default of `two_vaes` on `photos`, into tmp_path / "run"."""

    def call(
        vaes: object = two_vaes, source: object = photos, output: Path = tmp_path / "run", **options: object
    ) -> Results:
        results = evaluate(vaes, source, output=output, **FAST | options)  # type: ignore[arg-type]
        assert results is not None
        return results

    return call
