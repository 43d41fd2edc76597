"""The argument of every harness."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One run: an empty directory, the seed of everything random, and the mutant in the server, if any."""

    directory: Path
    seed: int
    mutant: str = ""
