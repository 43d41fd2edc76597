"""The gate that snapshots pass, so that for a moment there are none."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Snapshots have so long to end by themselves once the gate is closed, while all other reads wait.
PATIENCE_SECONDS = 0.02
# Asked every few thousand steps of a statement, they end within milliseconds. One that does not is not waited for.
HURRY_SECONDS = 1.0


class Gate:
    """Counts the snapshots of a database. While it is closed, new ones wait."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._snapshots = 0
        self._closed = False
        self.hurried = False
        """Whether operations on a snapshot must stop and start again."""

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Waits until the gate is open, and counts a snapshot during the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._snapshots += 1
        try:
            yield
        finally:
            with self._changed:
                self._snapshots -= 1
                if not self._snapshots:
                    self._changed.notify_all()

    @contextmanager
    def closed(self, *, hurry: bool) -> Iterator[bool]:
        """Keeps the gate closed during the block. Yields whether no snapshot is open.

        With `hurry`, operations whose snapshots do not end by themselves are asked to stop.
        """
        with self._changed:
            self._closed = True
            empty = self._changed.wait_for(self._is_empty, PATIENCE_SECONDS)
            if not empty and hurry:
                self.hurried = True
                empty = self._changed.wait_for(self._is_empty, HURRY_SECONDS)
        try:
            yield empty
        finally:
            with self._changed:
                self._closed = self.hurried = False
                self._changed.notify_all()

    def _is_empty(self) -> bool:
        return not self._snapshots
