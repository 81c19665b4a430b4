"""Into which folders a VAE may be written: new and empty ones, and those of a VAE, which it replaces."""

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
    has_weights = any((path / name).is_file() for name in (*WEIGHT_NAMES, *PICKLED_NAMES))
    if not (has_weights and describes_vae(path / "config.json")):
        check_empty(path, "VAE")
