"""What a run is asked for, and where its files lie."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Settings:
    """The options of the command line.

    folder: where report, log and results lie
    device: cpu, cuda or mps; VAEs are compared on the CPU in any case
    full: also the published rows; take: images of the quick evaluation; steps: of sampling
    """

    folder: Path
    device: str = "cpu"
    full: bool = False
    take: int = 200
    steps: int = 50
