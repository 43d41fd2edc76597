"""Checks the file for damage in steps, each on a snapshot of its own.

The position and the results are kept beside the database, in a file that belongs to the database's inode: a check goes
on after a restart, and a file that was put in its place is checked from the beginning.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import orjson
import structlog

from metamorphd.models.store_check import StoreCheck
from metamorphd.store.sqlite.gate import Gate
from metamorphd.store.sqlite.trees import Tree, read_trees

# Of a reader's time. Then others have four times as long without it.
STEP_SECONDS = 0.005
# The entries that are checked by one statement: fewer after one that took long, as with a cold cache.
FEWEST, MOST = 8, 512
# SQLite asks after so many steps of a statement whether to stop it.
STATEMENT_STEPS = 10_000
# After a complete check, the next one begins so much later; sooner, if something was found.
INTERVAL_SECONDS = 24 * 3600.0
DAMAGED_INTERVAL_SECONDS = 600.0
SAVE_SECONDS = 5.0
MOST_FAULTS = 16

logger = structlog.get_logger(__name__)


@dataclass(slots=True)
class _State:
    """The position and the results, as they are kept.

    Times are in seconds since the epoch. `tree` continues after `key`; a `tree` of None is the first one.
    """

    inode: int
    tree: str | None = None
    key: list[Any] | None = None
    running: bool = True
    complete_time: float | None = None
    faults: list[str] = field(default_factory=list)
    new_faults: list[str] = field(default_factory=list)


class Check:
    """Checks a database file, again and again. `step` does a part; any thread may call it, one at a time."""

    def __init__(self, path: Path, *, connect: Callable[[], apsw.Connection], gate: Gate, clean: bool) -> None:
        self._path = Path(f"{path}-check")
        self._connect = connect
        self._gate = gate
        self._connection: apsw.Connection | None = None
        self._schema_version = -1
        self._trees: list[Tree] = []
        self._entries = FEWEST
        self._stopping = False
        self._turn = threading.Lock()
        self._saved = time.monotonic()
        inode = path.stat().st_ino
        self._state = self._load(inode) or _State(inode)
        if not clean:
            # Whatever was checked before, the crash came later.
            self._begin()

    @property
    def found(self) -> StoreCheck:
        """The result so far."""
        state = self._state
        complete = None if state.complete_time is None else int(state.complete_time * 1e6)
        return StoreCheck(complete, tuple(dict.fromkeys([*state.faults, *state.new_faults])), self._progress())

    def step(self) -> bool:
        """Checks for a few milliseconds. Returns whether there is more to check now."""
        with self._turn:
            if not self._stopping and self._is_due():
                self._check_until(time.monotonic() + STEP_SECONDS)
            return self._state.running and not self._stopping

    def close(self) -> None:
        """Stops a step that is running, and keeps the position. The connection stays open."""
        self._stopping = True
        with self._turn:
            self._save()

    def _is_due(self) -> bool:
        state = self._state
        if not state.running:
            seconds = DAMAGED_INTERVAL_SECONDS if state.faults else INTERVAL_SECONDS
            # A clock that was set back counts as well.
            if state.complete_time is None or not 0 <= time.time() - state.complete_time < seconds:
                self._begin()
        return state.running

    def _begin(self) -> None:
        state = self._state
        state.running, state.tree, state.key, state.new_faults = True, None, None, []

    def _check_until(self, until: float) -> None:
        try:
            connection = self._opened()
            # Before the snapshot, which is to be short: this takes a hundred statements after the schema has changed.
            self._read_schema(connection)
            with self._snapshot(connection):
                more = _schema_version(connection) == self._schema_version
                while more:
                    self._check_some(connection)
                    more = self._state.running and time.monotonic() < until
        except apsw.InterruptError:
            # Hurried, or stopped: the same entries are next.
            self._entries = max(self._entries // 2, FEWEST)
        except (apsw.CorruptError, apsw.NotADBError, apsw.IOError, UnicodeDecodeError) as exc:
            self._found(f"{self._state.tree or 'the schema'} cannot be read ({exc})")
            self._next_tree()
        if time.monotonic() > self._saved + SAVE_SECONDS or not self._state.running:
            self._save()

    def _opened(self) -> apsw.Connection:
        if self._connection is None:
            self._connection = self._connect()
            self._connection.execute("PRAGMA cell_size_check = ON").fetchall()
            self._connection.set_progress_handler(lambda: self._stopping or self._gate.hurried, STATEMENT_STEPS)
        return self._connection

    @contextlib.contextmanager
    def _snapshot(self, connection: apsw.Connection) -> Iterator[None]:
        with self._gate.snapshot():
            connection.execute("BEGIN")
            try:
                yield
            finally:
                connection.execute("ROLLBACK")

    def _read_schema(self, connection: apsw.Connection) -> None:
        version = _schema_version(connection)
        if version != self._schema_version:
            self._trees, self._schema_version = read_trees(connection), version
        if self._state.tree not in [tree.name for tree in self._trees]:
            # The first, also if that where it was is gone.
            self._state.tree, self._state.key = self._trees[0].name, None

    def _check_some(self, connection: apsw.Connection) -> None:
        """Checks the next entries of the tree. If it has no more, the next tree is next."""
        tree, left, began = self._trees[self._place()], self._entries, time.monotonic()
        for condition, values in tree.ranges(self._state.key):
            row = connection.execute(tree.check(condition), (*values, left)).fetchall()[0]
            count, _, misplaced, *faulty = (int(float(str(value))) for value in row)
            for about, faults in zip(("not in order", *tree.faults), (misplaced, *faulty), strict=True):
                if faults:
                    self._found(f"{tree.name} has entries {about}")
            if count:
                key = connection.execute(tree.key_at(condition), (*values, count - 1)).fetchall()[0]
                self._state.key = list(key)
            left -= count
            if not left or misplaced:
                break
        # From an entry that is not in order, the next one could be an earlier one.
        if left or misplaced:
            self._next_tree()
        seconds = time.monotonic() - began
        self._entries = max(self._entries // 2, FEWEST) if seconds > STEP_SECONDS else min(self._entries * 2, MOST)

    def _place(self) -> int:
        return next((place for place, tree in enumerate(self._trees) if tree.name == self._state.tree), 0)

    def _next_tree(self) -> None:
        place = self._place() + 1
        if place < len(self._trees):
            self._state.tree, self._state.key = self._trees[place].name, None
        else:
            self._complete()

    def _complete(self) -> None:
        state = self._state
        state.running, state.tree, state.key = False, None, None
        state.faults, state.new_faults, state.complete_time = state.new_faults, [], time.time()
        logger.info("the database was checked", faults=state.faults)

    def _found(self, fault: str) -> None:
        if fault not in self._state.new_faults and len(self._state.new_faults) < MOST_FAULTS:
            self._state.new_faults.append(fault)
            logger.critical("the database is damaged; restore it from a backup", fault=fault)

    def _progress(self) -> float:
        if not self._state.running:
            return 1.0
        return self._place() / len(self._trees) if self._trees else 0.0

    def _load(self, inode: int) -> _State | None:
        try:
            kept = orjson.loads(self._path.read_bytes())
            state = _State(**kept)
            state.key = state.key and [
                bytes.fromhex(part["hex"]) if isinstance(part, dict) else part for part in state.key
            ]
        except (OSError, ValueError, TypeError, KeyError):
            # Missing or incomplete: all is checked.
            return None
        return state if state.inode == inode else None

    def _save(self) -> None:
        self._saved = time.monotonic()
        part = self._path.with_name(self._path.name + ".part")
        # On a full volume, only the position is lost.
        with contextlib.suppress(OSError):
            part.write_bytes(orjson.dumps(self._state, default=lambda value: {"hex": value.hex()}))
            part.chmod(0o600)
            os.replace(part, self._path)


def _schema_version(connection: apsw.Connection) -> int:
    ((version,),) = connection.execute("PRAGMA schema_version").fetchall()
    return int(str(version))
