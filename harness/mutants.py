"""Mutants: faults that are put into the server on purpose. A harness that does not find its mutants proves nothing."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Sets an attribute, as `setattr` does.
Patch = Callable[[Any, str, Any], None]
Apply = Callable[[Patch], None]


@dataclass(frozen=True)
class Mutant:
    """A fault for `harness` to find: at least one of the figures `shown_by` must not be met.

    `form` replaces parts of the harness's short form. One that is `alone` is found by time, and runs beside nothing.
    """

    name: str
    harness: str
    apply: Apply
    shown_by: frozenset[str]
    form: Mapping[str, float]
    alone: bool


MUTANTS: dict[str, Mutant] = {}


def mutant(
    name: str, *, harness: str, shown_by: set[str], alone: bool = False, **form: float
) -> Callable[[Apply], Apply]:
    """Registers a mutant; what is decorated puts the fault into the process, by a patch."""

    def register(apply: Apply) -> Apply:
        assert name not in MUTANTS
        MUTANTS[name] = Mutant(name, harness, apply, frozenset(shown_by), form, alone)
        return apply

    return register


def mutate(name: str, patch: Patch = setattr) -> None:
    """Puts a mutant into this process, if there is a name."""
    if name:
        MUTANTS[name].apply(patch)


@contextmanager
def patching() -> Iterator[Patch]:
    """A patch that is undone at the end of the block."""
    replaced = []

    def patch(owner: Any, name: str, value: Any) -> None:
        replaced.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    try:
        yield patch
    finally:
        for owner, name, value in reversed(replaced):
            setattr(owner, name, value)
