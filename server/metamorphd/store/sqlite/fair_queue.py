"""A queue in which vaults take turns."""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


def _any(_: str) -> bool:
    return True


class FairQueue(Generic[T]):
    """Items by vault. Vaults take turns; the items of one vault keep their order. For one thread."""

    def __init__(self) -> None:
        self._items: OrderedDict[str, deque[T]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._items)

    def put(self, vault_id: str, item: T) -> None:
        """Appends an item to those of its vault."""
        items = self._items.get(vault_id)
        if items is None:
            items = self._items[vault_id] = deque()
        items.append(item)

    def take(self, ready: Callable[[str], bool] = _any) -> T | None:
        """Removes and returns the next item of the first vault that is `ready`, or None if there is no such vault."""
        for vault_id in self._items:
            if ready(vault_id):
                return self._pop(vault_id)
        return None

    def _pop(self, vault_id: str) -> T:
        items = self._items[vault_id]
        item = items.popleft()
        if items:
            self._items.move_to_end(vault_id)
        else:
            del self._items[vault_id]
        return item
