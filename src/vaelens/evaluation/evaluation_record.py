"""run.json: what a run measured, in which calls, in what time, on how many ranks, and how its VAEs ran."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vaelens.resources import peak_memory
from vaelens.runs.outputs import RECORD_NAME, read_record
from vaelens.runs.ranks import Ranks
from vaelens.vae import VAE

COUNTS = ("images", "reconstructions")

Call = Mapping[str, Any]
Records = dict[str, dict[str, Any]]  # of VAEs, by name


def settled(
    models: dict[str, VAE], records: Records, side: int, found: Mapping[str, Any], ranks: Ranks, *, batch: int
) -> tuple[dict[str, VAE], Records]:
    """The VAEs, pinned to how they ran by the folder's plan, else to how the first rank runs them: free memory differs.

    The records say how.
    """
    before: Mapping[str, Any] = found.get("vaes", {}) if found.get("batch") == batch else {}  # else refused later
    for name, vae in models.items():
        own = vae.settle((side, side), before.get(name, {}).get("engine"), batch)
        records[name]["engine"] |= vae.settle((side, side), ranks.gather(own)[0], batch)
    return models, records


def rank_record(measured: Mapping[str, float]) -> dict[str, Any]:
    """What one rank did: `Measurement.run`'s figures, and the process' peak memory in bytes where it is known."""
    return {**measured, "peak_memory_bytes": peak_memory()}


def call_record(ranks: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any] | None:
    """One call from its ranks' records, `seconds` being all of it but the report; None where nothing was measured.

    images and reconstructions are all ranks' together; measuring_seconds and peak_memory_bytes are the largest.
    """
    if not any(rank["reconstructions"] for rank in ranks):
        return None
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        **{key: sum(rank[key] for rank in ranks) for key in COUNTS},
        "seconds": round(seconds, 3),
        "measuring_seconds": max(rank["measuring_seconds"] for rank in ranks),
        "peak_memory_bytes": _largest_memory(ranks),
        "ranks": [dict(rank) for rank in ranks],
    }


def earlier_calls(folder: Path) -> list[dict[str, Any]]:
    """The calls in the folder's run.json, none where there isn't one."""
    return (read_record(folder / RECORD_NAME) or {}).get("calls", [])


def totals(calls: Sequence[Call]) -> dict[str, Any]:
    """`seconds` of all calls together and the largest `peak_memory_bytes`; None where no call is known."""
    seconds = round(sum(call["seconds"] for call in calls), 3) if calls else None
    return {"seconds": seconds, "peak_memory_bytes": _largest_memory(calls)}


def _largest_memory(records: Sequence[Mapping[str, Any]]) -> int | None:
    return max((one["peak_memory_bytes"] for one in records if one["peak_memory_bytes"]), default=None)
