"""The calls that a run took, as run.json keeps them: what each measured, in what time, by which ranks."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from vaelens.resources import peak_memory

COUNTS = ("images", "reconstructions")
TIMES = ("seconds", "measuring_seconds")

Call = Mapping[str, Any]


def share(measured: Mapping[str, float]) -> dict[str, Any]:
    """What one rank did: `Work.measure`'s figures, and the process' largest memory in bytes, if it can be told."""
    return {**measured, "peak_memory_bytes": peak_memory()}


def call_record(shares: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any] | None:
    """One call from its ranks' shares, `seconds` being all of it but the report; None where nothing was measured.

    images and reconstructions are all ranks' together; measuring_seconds and peak_memory_bytes are the largest.
    """
    if not any(one["reconstructions"] for one in shares):
        return None
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        **{key: sum(one[key] for one in shares) for key in COUNTS},
        "seconds": round(seconds, 3),
        "measuring_seconds": max(one["measuring_seconds"] for one in shares),
        "peak_memory_bytes": largest_memory(shares),
        "ranks": [dict(one) for one in shares],
    }


def earlier_calls(file: Path) -> list[dict[str, Any]] | None:
    """The calls in a run.json: none where there is no such file, None where it is damaged."""
    try:
        calls = list(json.loads(file.read_bytes())["calls"])
        return calls if all(map(_is_call, calls)) else None
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def totals(calls: Sequence[Call]) -> dict[str, Any]:
    """`seconds` of all calls together and the `peak_memory_bytes` of the largest; None where no call is known."""
    seconds = round(sum(call["seconds"] for call in calls), 3) if calls else None
    return {"seconds": seconds, "peak_memory_bytes": largest_memory(calls)}


def largest_memory(of: Sequence[Mapping[str, Any]]) -> int | None:
    """The largest `peak_memory_bytes`; None where no system told."""
    return max((one["peak_memory_bytes"] for one in of if one["peak_memory_bytes"]), default=None)


def _is_call(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    call = cast(dict[str, Any], value)
    numbers = [*(call.get(key) for key in (*COUNTS, *TIMES)), call.get("peak_memory_bytes", -1) or 0]
    return all(isinstance(n, int | float) and math.isfinite(n) and n >= 0 for n in numbers)
