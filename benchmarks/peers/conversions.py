"""Conversions are made once and kept in the work folder, with the seconds that they took."""

import json
import time
from collections.abc import Callable
from pathlib import Path


def timed_conversion(file: Path, convert: Callable[[], None]) -> float:
    """Seconds that it took to make `file`, in this process or in an earlier one."""
    record = file.with_suffix(".json")
    if not record.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        convert()
        record.write_text(json.dumps({"seconds": time.perf_counter() - started}), encoding="utf-8")
    return float(json.loads(record.read_text(encoding="utf-8"))["seconds"])
