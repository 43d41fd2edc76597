"""The short form of each attack: a sound server bears it, and each broken one is found."""

from pathlib import Path

import pytest

from harness.abuse.harnesses import HARNESSES
from harness.abuse.mutants import MUTANTS


@pytest.mark.parametrize("name", HARNESSES)
async def test_the_server_bears_it(tmp_path: Path, name: str) -> None:
    figures = await HARNESSES[name].run(tmp_path, short=True)
    assert all(figure.met for figure in figures), "\n".join(map(str, figures))


@pytest.mark.parametrize(
    ("name", "mutant"), [(name, mutant) for name, harness in HARNESSES.items() for mutant in harness.mutants]
)
async def test_a_broken_server_does_not(tmp_path: Path, name: str, mutant: str) -> None:
    figures = await HARNESSES[name].run(tmp_path, short=True, mutant=mutant)
    assert not all(figure.met for figure in figures), "\n".join(map(str, figures))


def test_every_mutant_is_some_attacks_to_find() -> None:
    assert set(MUTANTS) == {mutant for harness in HARNESSES.values() for mutant in harness.mutants}
