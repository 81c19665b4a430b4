"""Examinations with fewer plain colours."""

import pytest

from vaelens.health import examination


@pytest.fixture(autouse=True)
def few_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three plain colours are as good as eleven for all tests but one."""
    monkeypatch.setattr(examination, "COLOURS", examination.COLOURS[:3])
