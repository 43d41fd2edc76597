"""A read-only server's copies of a replica, each newer than the one before."""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol, Self

import structlog

from metamorphd.clock import Clock
from metamorphd.errors import ReplicaFailed, StartupRefused
from metamorphd.models.finding import Finding, ok, warning
from metamorphd.replicas.litestream import Position

# After each copy, at least so many times as long as it took: restoring and checking grow with what is stored, and take
# at most a fifth of the time and so of a processor.
PAUSES = 4
# A copy is too old after so many pauses and so many seconds: each one takes its time to restore and to check.
LATE_PAUSES = 3
LATE_SECONDS = 60.0

logger = structlog.get_logger(__name__)


class Copies(Protocol):
    """Serves the copies. See `metamorphd.store.sqlite.replica.SqliteReplica`."""

    @property
    def incoming(self) -> Path: ...

    @property
    def time(self) -> int | None: ...

    async def adopt(self, *, time: int) -> None: ...


class Source(Protocol):
    """The replica. See `metamorphd.replicas.litestream.Litestream`."""

    async def newest(self) -> Position: ...

    async def restore(self, path: Path) -> None: ...


class Following:
    """While it is entered, serves a copy of the replica's newest state in every interval, if there is a new one.

    The interval is longer after a copy that took long. A copy that cannot be made or is damaged is logged, and the one
    before is served on. `adopted` is awaited after each new copy.
    """

    def __init__(
        self,
        *,
        copies: Copies,
        source: Source,
        clock: Clock,
        interval_seconds: float,
        adopted: Callable[[], Awaitable[None]],
    ) -> None:
        self._copies = copies
        self._source = source
        self._clock = clock
        self._interval = interval_seconds
        self._adopted = adopted
        self._transaction: str | None = None
        # How long the copy that is served took, and the last attempt, in seconds.
        self._took = self._tried = 0.0

    async def __aenter__(self) -> Self:
        """Makes the first copy, unless an earlier server left one. Raises StartupRefused."""
        if self._copies.time is None:
            try:
                await self._follow()
            except ReplicaFailed as exc:
                raise StartupRefused(
                    f"REPLICA_URL cannot be read ({exc}); start the primary with deploy/replicate first"
                ) from exc
        self._task = asyncio.create_task(self._follow_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    @property
    def age_seconds(self) -> float:
        """How long ago the state arrived at the replica that is served. A primary without callers writes, too.

        NaN before the first copy.
        """
        if self._copies.time is None:
            return math.nan
        return max(0.0, (self._clock.now() - self._copies.time) / 1e6)

    def degraded(self) -> str | None:
        """Returns `replica` if the copy is too old, or None."""
        return "replica" if self.age_seconds > self._limit else None

    def about(self) -> Mapping[str, object]:
        """Returns what `/health` says besides: nothing before the first copy."""
        return {} if self._copies.time is None else {"replica_age_seconds": round(self.age_seconds)}

    def finding(self) -> Finding:
        """Returns what an operator should know of the copy."""
        what = f"the copy of the primary's database is {self.age_seconds:.0f} seconds old"
        if self.degraded() is None:
            return ok("replica", what)
        remedy = "see whether the primary runs and replicates; the log says why no newer copy was made"
        return warning("replica", what, remedy)

    @property
    def _limit(self) -> float:
        """The age above which a copy is too old."""
        return LATE_PAUSES * self._pause_after(self._took) + LATE_SECONDS

    def _pause_after(self, seconds: float) -> float:
        return max(self._interval, PAUSES * seconds)

    async def _follow_on(self) -> None:
        if self._transaction is not None:
            # The start has just made a copy.
            await asyncio.sleep(self._pause_after(self._tried))
        while True:
            try:
                await self._follow()
            except (ReplicaFailed, StartupRefused) as exc:
                logger.error(  # The message says all there is to say.
                    "the replica cannot be followed; the copy before is served on",
                    error=str(exc),
                    age_seconds=round(self.age_seconds),
                )
            except Exception:
                logger.exception("following the replica failed; the copy before is served on")
            await asyncio.sleep(self._pause_after(self._tried))

    async def _follow(self) -> None:
        newest = await self._source.newest()
        if newest.transaction == self._transaction:
            return
        began = time.monotonic()
        try:
            await self._source.restore(self._copies.incoming)
            await self._copies.adopt(time=newest.time)
        finally:
            # One that fails may take as long.
            self._tried = time.monotonic() - began
        self._took = self._tried
        self._transaction = newest.transaction
        await self._adopted()
