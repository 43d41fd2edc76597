"""Faults of what keeps one vault's work from being felt by another."""

from typing import Any

from metamorphd.edge import guards
from metamorphd.store.sqlite import readers
from metamorphd.store.sqlite.fair_queue import FairQueue

from harness.mutants import Patch, mutant

# Untyped, because none of it is meant to be changed.
READERS: Any = readers
QUEUE: Any = FairQueue
GUARDS: Any = guards

HARNESS = "expensive-neighbour"
P99 = "p99 of the neighbour, to its idle p99"
GAP = "longest gap in a stream, beyond the pace"
MEMORY = "memory growth"


@mutant("first-come-first-served", harness=HARNESS, shown_by={P99}, alone=True)
def _first_come_first_served(patch: Patch) -> None:
    put = QUEUE.put
    patch(QUEUE, "put", lambda self, _, item: put(self, "", item))
    for name in ("SEARCH_READERS", "VAULT_READERS", "VAULT_SEARCHES"):
        patch(READERS, name, READERS.READERS)


@mutant("any-request-is-parsed", harness=HARNESS, shown_by={GAP, MEMORY}, alone=True)
def _any_request_is_parsed(patch: Patch) -> None:
    patch(GUARDS.LimitSize, "__call__", lambda *_: None)
    patch(GUARDS, "LARGEST_INLINE", float("inf"))
