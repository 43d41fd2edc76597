"""Serves with other pauses in a rotation, or a mutant: `python -m harness.torture.rotating [--mutant NAME]`."""

import argparse
from typing import Any

from metamorphd.cli import cli
from metamorphd.secrets import rotation

import harness.torture.rotation_mutants  # noqa: F401, registers them
from harness.mutants import mutate

ROTATION: Any = rotation


def main() -> None:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutant", default="")
    parser.add_argument("--pause-seconds", type=float, required=True)
    arguments = parser.parse_args()
    ROTATION.PAUSE_SECONDS = arguments.pause_seconds
    mutate(arguments.mutant)
    cli(["serve"])


if __name__ == "__main__":
    main()
