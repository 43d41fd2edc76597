"""The readers: a few threads that run operations, each on one snapshot."""

import asyncio
import math
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import apsw

from metamorphd.errors import OperationTimeout, SearchTooBroad, StoreBusy
from metamorphd.store.sqlite.fair_queue import FairQueue
from metamorphd.store.sqlite.gate import Gate
from metamorphd.store.sqlite.measures import StoreMetrics
from metamorphd.store.sqlite.transaction import Bound, drive
from metamorphd.store.sqlite.waiting import Waiting

T = TypeVar("T")

READERS = 3
# The most readers that searches have, that one vault has, and that the searches of one vault have.
SEARCH_READERS = 2
VAULT_READERS = 2
VAULT_SEARCHES = 1
# A vault that reads much has one reader while others read too. They share the GIL and few processors, and a second
# reader of such a vault makes the calls of all others take twice as long. It is one that has used so many seconds of
# processor time a second lately, and it has company for so long after another one's last read.
SHARED_READERS = 1
MUCH = 0.25
LATELY_SECONDS = 2.0
COMPANY_SECONDS = 1.0
KEPT = 1_000
# The most operations that wait, of all vaults and of one.
READ_QUEUE = 8192
VAULT_QUEUE = 1024
# An operation is stopped after so many seconds. SQLite checks the time after so many steps of a statement.
READ_SECONDS = 2.0
SEARCH_SECONDS = 1.0
READ_STEPS = 10_000
BUSY_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class Read(Waiting):
    """An operation that waits for a reader. `until` is when it is stopped, `used` the processor time it took."""

    search: bool = False
    until: float = 0
    used: float = 0

    @property
    def seconds(self) -> float:
        """How long it may run."""
        return SEARCH_SECONDS if self.search else READ_SECONDS

    def late(self) -> Exception:
        """Returns the error of an operation that was stopped."""
        limit = int(self.seconds * 1000)
        return SearchTooBroad(limit_milliseconds=limit) if self.search else OperationTimeout(limit_milliseconds=limit)


class Readers:
    """Runs operations on threads. Vaults take turns, none has more than its share, and searches leave readers free.

    The event loop decides what runs next. A thread has one operation at a time, and none waits at a thread.
    """

    def __init__(self, *, connect: Callable[[], apsw.Connection], gate: Gate, metrics: StoreMetrics) -> None:
        self._connect = connect
        self._gate = gate
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._ready: queue.SimpleQueue[Read | None] = queue.SimpleQueue()
        # What waits and what runs, only for the event loop's thread. True is for searches.
        self._waiting: dict[bool, FairQueue[Read]] = {False: FairQueue(), True: FairQueue()}
        self._waiting_of: Counter[str] = Counter()
        self._waiting_count = 0
        self._running = {False: 0, True: 0}
        self._running_of: Counter[tuple[str, bool]] = Counter()
        self._next_is_search = False
        self._latest = _Latest()
        self._used = Used()
        self._idle = asyncio.Event()
        self._idle.set()
        self._threads = [
            threading.Thread(target=self._read_forever, name=f"sqlite-reader-{number}", daemon=True)
            for number in range(READERS)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Returns how many operations wait."""
        return self._waiting_count

    async def read(self, bound: Bound[T], *, vault_id: str, search: bool) -> T:
        """Runs an operation, and stops it if its caller is cancelled.

        Raises what the operation raises, StoreBusy if too many wait, SearchTooBroad and OperationTimeout.
        """
        if self._waiting_count >= READ_QUEUE or self._waiting_of[vault_id] >= VAULT_QUEUE:
            raise StoreBusy(retry_delay=BUSY_SECONDS)
        self._latest.note(vault_id, self._loop.time())
        read = Read(vault_id, bound, self._loop.create_future(), search=search)
        self._waiting[search].put(vault_id, read)
        self._waiting_of[vault_id] += 1
        self._waiting_count += 1
        self._idle.clear()
        self._start_ready()
        result: T = await read.future
        return result

    async def close(self) -> None:
        """Finishes the operations that run or wait, then ends the threads. The connections stay open."""
        await self._idle.wait()
        for _ in self._threads:
            self._ready.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _start_ready(self) -> None:
        while sum(self._running.values()) < READERS and (read := self._take()) is not None:
            _discount(self._waiting_of, read.vault_id)
            self._waiting_count -= 1
            if not read.future.done():
                self._metrics.read_wait.add(time.monotonic() - read.since)
                self._running[read.search] += 1
                self._running_of[read.vault_id, read.search] += 1
                self._ready.put(read)
        if not self._waiting_count and not any(self._running.values()):
            self._idle.set()

    def _take(self) -> Read | None:
        """Removes and returns the next operation. If searches wait as well as others, they take turns."""
        for search in (self._next_is_search, not self._next_is_search):
            if search and self._running[True] >= SEARCH_READERS:
                continue
            read = self._waiting[search].take(self._has_search if search else self._has_reader)
            if read is not None:
                self._next_is_search = not search
                return read
        return None

    def _has_reader(self, vault_id: str) -> bool:
        now = self._loop.time()
        company = now < self._latest.of_others(vault_id) + COMPANY_SECONDS
        share = SHARED_READERS if company and self._used.of(vault_id, now) > MUCH else VAULT_READERS
        return self._running_of[vault_id, False] + self._running_of[vault_id, True] < share

    def _has_search(self, vault_id: str) -> bool:
        return self._running_of[vault_id, True] < VAULT_SEARCHES and self._has_reader(vault_id)

    def _ended(self, read: Read) -> None:
        self._running[read.search] -= 1
        _discount(self._running_of, (read.vault_id, read.search))
        if read.vault_id:
            self._used.add(read.vault_id, read.used, self._loop.time())
        read.answer()
        self._start_ready()

    def _read_forever(self) -> None:
        reader = _Reader(self._connect, self._gate)
        while (read := self._ready.get()) is not None:
            reader.run(read)
            self._loop.call_soon_threadsafe(self._ended, read)
            # Its result, possibly megabytes, would stay in memory until the next one.
            del read


class _Latest:
    """The vault that read last, when it did, and when another one last did. The server's own reads have no vault."""

    def __init__(self) -> None:
        self._vault_id = ""
        self._at = self._of_others = float("-inf")

    def note(self, vault_id: str, now: float) -> None:
        """Notes that a vault reads."""
        if not vault_id:
            return
        if vault_id != self._vault_id:
            self._vault_id, self._of_others = vault_id, self._at
        self._at = now

    def of_others(self, vault_id: str) -> float:
        """Returns when a vault other than this one last read."""
        return self._of_others if vault_id == self._vault_id else self._at


class Used:
    """The processor time that each vault has used lately, in seconds a second: an average that decays exponentially.

    Vaults that have used next to nothing are forgotten.
    """

    def __init__(self) -> None:
        self._of: dict[str, tuple[float, float]] = {}
        self._most = KEPT

    def add(self, vault_id: str, seconds: float, now: float) -> None:
        """Adds the time of a read."""
        self._of[vault_id] = self.of(vault_id, now) + seconds / LATELY_SECONDS, now
        if len(self._of) > self._most:
            self._of = {vault_id: used for vault_id, used in self._of.items() if self.of(vault_id, now) > MUCH / 10}
            self._most = max(KEPT, 2 * len(self._of))

    def of(self, vault_id: str, now: float) -> float:
        """Returns the average of a vault."""
        used, at = self._of.get(vault_id, (0.0, now))
        return used * math.exp((at - now) / LATELY_SECONDS)


class _Reader:
    """A thread's connection, which is opened when it is first needed."""

    def __init__(self, connect: Callable[[], apsw.Connection], gate: Gate) -> None:
        self._connect = connect
        self._gate = gate
        self._connection: apsw.Connection | None = None
        self._reading: Read | None = None
        self._hurried = False

    def run(self, read: Read) -> None:
        """Runs an operation, and sets its result or its error. If it was hurried, it runs again."""
        self._reading = read
        began = time.thread_time()
        read.until = time.monotonic() + read.seconds
        try:
            read.result = self._run(read, again=False)
        except apsw.InterruptError as exc:
            read.error = read.late()
            read.error.__cause__ = exc
        except BaseException as exc:  # Whatever it is, it belongs to the caller, not to this thread.
            read.error = exc
        read.used = time.thread_time() - began
        self._reading = None

    def _run(self, read: Read, *, again: bool) -> Any:
        self._hurried = False
        try:
            with self._gate.snapshot():
                return self._on_snapshot(read.bound)
        except apsw.InterruptError:
            if not self._hurried or again:
                raise
        read.until = time.monotonic() + read.seconds
        return self._run(read, again=True)

    def _on_snapshot(self, bound: Bound[T]) -> T:
        if self._connection is None:
            self._connection = self._connect()
            self._connection.set_progress_handler(self._stops, READ_STEPS)
        self._connection.execute("BEGIN")
        try:
            return drive(bound(self._connection))
        finally:
            self._connection.execute("ROLLBACK")

    def _stops(self) -> bool:
        """Called every so many steps of a statement; true stops it."""
        read = self._reading
        if read is None or time.monotonic() > read.until or read.future.cancelled():
            return read is not None
        self._hurried = self._gate.hurried
        return self._hurried


def _discount(counter: Counter[Any], key: Any) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
