"""Servers with one thing wrong, each of which a harness must find: `python -m tests.abuse.mutants NAME` serves so."""

import sys
from collections.abc import Callable
from typing import Any

from metamorphd.cli import cli
from metamorphd.interceptors.interceptor import Interceptor

MUTANTS: dict[str, Callable[[], None]] = {}


def mutant(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Registers what makes a server wrong."""

    def register(apply: Callable[[], None]) -> Callable[[], None]:
        MUTANTS[name] = apply
        return apply

    return register


@mutant("calls-outlive-their-callers")
def _calls_outlive_their_callers() -> None:
    held = []
    run = Interceptor._run

    async def holding(self: Interceptor, *args: Any, **kwargs: Any) -> Any:
        held.append(bytearray(4096))
        return await run(self, *args, **kwargs)

    Interceptor._run = holding  # type: ignore[method-assign]


if __name__ == "__main__":
    MUTANTS[sys.argv[1]]()
    cli(["serve"])
