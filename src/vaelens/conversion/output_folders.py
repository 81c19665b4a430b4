"""Into which folders a VAE may be written: new and empty ones, and those of a VAE, which it replaces."""

from collections.abc import Set
from pathlib import Path

from vaelens.errors import UsageError
from vaelens.runs.outputs import check_empty
from vaelens.weights.folders import PICKLED_NAMES, WEIGHT_NAMES, describes_vae, is_pipeline

PIPELINE = "model_index.json"


def check_folder(path: Path) -> None:
    """Raises UsageError for a file, a pipeline's folder, and one that holds other things than a VAE."""
    if path.is_file():
        raise UsageError(
            f"{path} is a file, and a name that doesn't end in .safetensors is that of a folder. Choose another."
        )
    if (path / PIPELINE).is_file() or is_pipeline(path):
        raise UsageError(
            f"{path} is the folder of a whole pipeline, whose VAE lies in a folder of it: name that, -o {path / 'vae'}."
        )
    weights = {name for name in (*WEIGHT_NAMES, *PICKLED_NAMES) if (path / name).is_file()}
    if not (weights and (describes_vae(path / "config.json") or _holds_only(path, weights))):
        check_empty(path, "VAE")


def _holds_only(path: Path, weights: Set[str]) -> bool:
    """Whether nothing lies beside them, as a kill before config.json's turn leaves it."""
    return {one.name for one in path.iterdir() if not one.name.startswith(".")} == weights
