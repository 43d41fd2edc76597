"""A queue in which vaults take turns."""

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")


def _any(_: str) -> bool:
    return True


class FairQueue(Generic[T]):
    """Items by vault. The items of one vault keep their order. For one thread.

    Next is the vault that was charged least, among equals the one that has waited longest. So one whose items cost
    much gets as much as one with many cheap ones, and without charges each gets an item in turn. A vault that had none
    waiting owes nothing, and is owed nothing. This is start-time fair queueing (Goyal, Vin and Cheng, 1996), but that
    costs are known afterwards.
    """

    def __init__(self) -> None:
        self._items: dict[str, deque[T]] = {}
        # A heap with an entry for each vault that waits: its tag, a number that orders equals, and its ID. The tag is
        # old if the vault was charged since.
        self._order: list[tuple[float, int, str]] = []
        self._number = 0
        # What each vault that waits was charged, from where it began: the tag of the item that was taken last.
        self._tags: dict[str, float] = {}
        self._now = 0.0

    def __bool__(self) -> bool:
        return bool(self._items)

    def put(self, vault_id: str, item: T) -> None:
        """Appends an item to those of its vault."""
        items = self._items.get(vault_id)
        if items is None:
            items = self._items[vault_id] = deque()
            self._tags[vault_id] = self._now
            self._wait(vault_id)
        items.append(item)

    def charge(self, vault_id: str, cost: float) -> None:
        """Adds to what a vault is charged, in any unit, if it has more waiting."""
        if vault_id in self._tags:
            self._tags[vault_id] += cost

    def take(self, ready: Callable[[str], bool] = _any) -> T | None:
        """Removes and returns the next item of the first vault that is `ready`, or None if there is no such vault."""
        passed: list[tuple[float, int, str]] = []
        item = None
        while self._order and item is None:
            tag, number, vault_id = heappop(self._order)
            if tag < self._tags[vault_id]:
                heappush(self._order, (self._tags[vault_id], number, vault_id))
            elif ready(vault_id):
                self._now = tag
                item = self._pop(vault_id)
            else:
                passed.append((tag, number, vault_id))
        for entry in passed:
            heappush(self._order, entry)
        return item

    def _pop(self, vault_id: str) -> T:
        items = self._items[vault_id]
        item = items.popleft()
        if items:
            self._wait(vault_id)
        else:
            del self._items[vault_id], self._tags[vault_id]
        return item

    def _wait(self, vault_id: str) -> None:
        self._number += 1
        heappush(self._order, (self._tags[vault_id], self._number, vault_id))
