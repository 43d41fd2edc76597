"""The attacks by name: the long form, a short one, and the broken servers that each must find."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.abuse import fuzz, idle_streams, isolation, rapid_reset, tokens, unread_streams
from harness.abuse.subject import Figure

Attack = Callable[..., Coroutine[Any, Any, list[Figure]]]


@dataclass(frozen=True)
class Harness:
    """An attack; `short` and `long` are what the two forms call it with."""

    attack: Attack
    long: dict[str, float]
    short: dict[str, float]
    mutants: tuple[str, ...]

    async def run(self, directory: Path, *, short: bool, mutant: str = "") -> list[Figure]:
        """Its figures."""
        return await self.attack(directory, **(self.short if short else self.long), mutant=mutant)


# What a short form allows is what a busy machine still meets, and a mutant does not.
HARNESSES = {
    "tokens": Harness(tokens.attack, {"mutants_count": 1_000_000}, {"mutants_count": 20_000}, tokens.MUTANTS),
    "isolation": Harness(isolation.attack, {"operations": 100_000}, {"operations": 1_500}, isolation.MUTANTS),
    "rapid-reset": Harness(
        rapid_reset.attack,
        {"seconds": 60},
        {"seconds": 3, "most_megabytes": 45, "most_milliseconds": 1000},
        rapid_reset.MUTANTS,
    ),
    "unread-streams": Harness(
        unread_streams.attack, {}, {"seconds": 2, "slack": 18, "most_megabytes": 150}, unread_streams.MUTANTS
    ),
    "idle-streams": Harness(
        idle_streams.attack,
        {},
        {"streams": 1000, "seconds": 2, "most_megabytes": 80, "most_milliseconds": 250},
        idle_streams.MUTANTS,
    ),
    "fuzz": Harness(fuzz.attack, {"seconds": 600}, {"seconds": 5}, fuzz.MUTANTS),
}
