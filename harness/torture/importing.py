"""Serves and dies in an import, in small steps: `python -m harness.torture.importing [--point NAME --count N]`."""

import argparse
from typing import Any

from metamorphd.cli import cli
from metamorphd.store.database import Operation
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.transfers import imports, planning

import harness.torture.import_mutants  # noqa: F401, registers them
from harness.mutants import mutate
from harness.torture.kill_points import counted

STEP_RECORDS = 16
IMPORTS: Any = imports
PLANNING: Any = planning
DATABASE: Any = SqliteDatabase


def main() -> None:
    """Serves until SIGTERM, or until a point is passed for the `count`-th time: then it dies as by kill -9."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutant", default="")
    parser.add_argument("--point", default="")
    parser.add_argument("--count", type=int, default=1)
    arguments = parser.parse_args()
    PLANNING.STEP_RECORDS = STEP_RECORDS
    _arm(arguments.point, arguments.count)
    mutate(arguments.mutant)
    cli(["serve"])


def _arm(point: str, count: int) -> None:
    passed = counted(point, count)
    write, verify = DATABASE.write, IMPORTS.verify

    async def writing(self: SqliteDatabase, operation: Operation[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        passed(f"before {operation.__name__}")
        written = await write(self, operation, *args, **kwargs)
        passed(f"after {operation.__name__}")
        return written

    async def verifying(*args: Any) -> Any:
        passed("before verify")
        verified = await verify(*args)
        passed("after verify")
        return verified

    DATABASE.write, IMPORTS.verify = writing, verifying


if __name__ == "__main__":
    main()
