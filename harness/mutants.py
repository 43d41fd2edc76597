"""Mutants: deliberate faults in the server. A harness that does not find its mutants proves nothing."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Sets an attribute, as `setattr` does.
Patch = Callable[[Any, str, Any], None]
Apply = Callable[[Patch], None]


@dataclass(frozen=True)
class Mutant:
    """A fault that `harness` must find: at least one of the figures `shown_by` must not be met.

    `form` replaces parts of the harness's short form. A mutant that is `alone` is found by timing, and runs by itself.
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
    """Registers a mutant; the decorated function applies the fault to this process by a patch."""

    def register(apply: Apply) -> Apply:
        assert name not in MUTANTS
        MUTANTS[name] = Mutant(name, harness, apply, frozenset(shown_by), form, alone)
        return apply

    return register


def _set(owner: Any, name: str, value: Any) -> None:
    # What was renamed would not be changed, and the mutant would be the sound server.
    getattr(owner, name)
    setattr(owner, name, value)


def mutate(name: str, patch: Patch = _set) -> None:
    """Applies a mutant to this process, if a name is given."""
    if name:
        MUTANTS[name].apply(patch)


@contextmanager
def patching() -> Iterator[Patch]:
    """Yields a patch function whose changes are undone after the block."""
    replaced = []

    def patch(owner: Any, name: str, value: Any) -> None:
        replaced.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    try:
        yield patch
    finally:
        for owner, name, value in reversed(replaced):
            setattr(owner, name, value)
