"""The short form of each harness, and that each finds what it is there for."""

import asyncio
from pathlib import Path

import pytest

from harness.torture import drain, ledger, race, upstream
from harness.torture.__main__ import HARNESSES, ROUNDS
from harness.torture.mutants import MUTANTS

SEED = 1
# Wrong processes: the figures of which one tells at least, after so many rounds at the latest.
FOUND_IN_PROCESSES = {
    "answered-before-commit": (30, {ledger.LOST, ledger.UNREPLAYABLE, ledger.ENDLESS}),
    "published-before-commit": (30, {ledger.UNREPLAYABLE, ledger.ENDLESS}),
    "request-id-forgotten": (30, {ledger.REPEATED}),
    "running-turns-left": (2, {ledger.ENDLESS}),
    "says-it-serves": (1, {drain.TOLD}),
    "turns-are-dropped": (1, {drain.CUT}),
}
FOUND_IN_PLACE = {
    "wait-begins-late": {race.WAITING},
    "live-skips-what-replay-missed": {race.GAP},
    "end-wakes-nobody": {race.WAITING},
    "retries-after-the-first-token": {upstream.RETRIED},
    "leaks-connections": {upstream.LEAKED},
}


async def missed(mutant: str, directory: Path, rounds: int = 0) -> set[str]:
    """The names of the figures that a mutant's harness does not meet."""
    (name,) = (name for name, mutants in MUTANTS.items() if mutant in mutants)
    figures = await HARNESSES[name](directory, rounds=rounds or ROUNDS[name][1], seed=SEED, mutant=mutant)
    return {figure.name for figure in figures if not figure.met}


@pytest.mark.parametrize("name", HARNESSES)
async def test_turns_withstand(name: str, tmp_path: Path) -> None:
    _, rounds = ROUNDS[name]
    figures = await HARNESSES[name](tmp_path, rounds=rounds, seed=SEED)
    assert all(figure.met for figure in figures), "\n".join(map(str, figures))


async def test_wrong_processes_are_found(tmp_path: Path) -> None:
    async def find(mutant: str, rounds: int, told_by: set[str]) -> None:
        directory = tmp_path / mutant
        directory.mkdir()
        told = await missed(mutant, directory, rounds)
        assert told & told_by, f"{mutant}: {told}"

    await asyncio.gather(*(find(mutant, *found) for mutant, found in FOUND_IN_PROCESSES.items()))


@pytest.mark.parametrize("mutant", FOUND_IN_PLACE)
async def test_what_is_wrong_is_found(mutant: str, tmp_path: Path) -> None:
    told = await missed(mutant, tmp_path)
    assert told & FOUND_IN_PLACE[mutant], told


def test_every_mutant_is_found() -> None:
    mutants = {mutant for of_harness in MUTANTS.values() for mutant in of_harness}
    assert mutants == {*FOUND_IN_PROCESSES, *FOUND_IN_PLACE}
