"""What several ranks measured, brought together in rank 0's folder.

Whole chunks go round the ranks, so nothing is padded and no image counts twice. Where all ranks share one folder,
nothing has to be sent.
"""

from collections.abc import Iterable

from vaelens.evaluation.folder import RunFolder
from vaelens.runs.ranks import Ranks

PORTION = 256  # units sent at once


def gather(ranks: Ranks, folder: RunFolder, vaes: Iterable[str]) -> None:
    """Bring every unit that rank 0's folder lacks, and another rank's has, into rank 0's."""
    if ranks.count == 1:
        return
    folder.refresh()
    units = [(chunk, vae) for chunk in range(folder.chunks) for vae in vaes]
    lacking = ranks.from_first([unit for unit in units if not folder.is_done(*unit)])
    for start in range(0, len(lacking), PORTION):  # a portion at a time is in memory
        portion = lacking[start : start + PORTION]
        mine = [] if ranks.is_first else [unit for unit in portion if folder.is_done(*unit)]
        sent = ranks.collect([(unit, folder.unit(*unit)) for unit in mine])
        if ranks.is_first:
            for (chunk, vae), (rows, bad, features) in (one for of_rank in sent for one in of_rank):
                folder.add(chunk, vae, rows, bad, features)
