"""What every harness is called with."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One run: in an empty directory, with what is drawn at random from `seed`, against a server with a `mutant`."""

    directory: Path
    seed: int
    mutant: str = ""
