"""Serves as `metamorph serve` does, with a mutant: `python -m harness.abuse.serve [--mutant NAME]`."""

import argparse
from typing import Any

from metamorphd import server
from metamorphd.cli import cli

import harness.abuse.expensive_mutants
import harness.abuse.memory_mutants
import harness.abuse.mutants  # noqa: F401, they register theirs
from harness.mutants import mutate

SERVER: Any = server


def main() -> None:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutant", default="")
    parser.add_argument("--patience-seconds", type=float, help="how long it waits for a caller to read")
    arguments = parser.parse_args()
    if arguments.patience_seconds is not None:
        SERVER.PATIENCE_SECONDS = arguments.patience_seconds
    mutate(arguments.mutant)
    cli(["serve"])


if __name__ == "__main__":
    main()
