"""Records calls, so that one that is repeated in a loop cannot fill a log."""

import time
from collections.abc import Callable, Hashable, Mapping

from metamorphd.audit.recording import Recorder
from metamorphd.edge.rate_limit import RateLimit
from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.change import ChangedResource, ChangeVerb

# Calls with a key that have an entry each: so many at once, and as many again in the window. Others are counted.
EACH, EACH_WINDOW_SECONDS = 50, 18_000.0
COUNT_SECONDS = 3600.0
# Above this number of keys, the calls with further ones are counted together, in the server's own log.
COUNTED_KEYS = 10_000


class Repeated:
    """Records calls with a verb: up to a rate each of them, and beyond it how many there were with a key in an hour.

    `now` is in seconds.
    """

    def __init__(self, *, recorder: Recorder, verb: ChangeVerb, now: Callable[[], float] = time.monotonic) -> None:
        self._recorder = recorder
        self._verb = verb
        self._now = now
        self._limit = RateLimit(requests=EACH, window_seconds=EACH_WINDOW_SECONDS, now=now)
        # With the method that all calls with the key have, empty if they may have others.
        self._counted: dict[Hashable, tuple[Scope, str, int]] = {}
        self._due = now() + COUNT_SECONDS

    async def take(self, key: Hashable, scope: Scope, method: str, details: Mapping[str, str], *, common: str) -> None:
        """Records a call, durably unless it is only counted. Raises as `Recorder.record`.

        `common` is the method that all calls with the key have, or empty.
        """
        if self._limit.take(key) > 0:
            self._count(key, scope, common)
        else:
            await self._record(scope, method, details)

    async def work(self) -> None:
        """Records how many calls were only counted, once an hour."""
        if self._now() >= self._due:
            self._due = self._now() + COUNT_SECONDS
            await self.flush()

    async def flush(self) -> None:
        """Records how many calls were only counted. Those that cannot be recorded stay."""
        for key in list(self._counted):
            scope, method, count = self._counted.pop(key)
            try:
                await self._record(scope, method, {"count": str(count)})
            except BaseException:
                _, _, more = self._counted.get(key, (scope, method, 0))
                self._counted[key] = (scope, method, count + more)
                raise

    def _count(self, key: Hashable, scope: Scope, method: str) -> None:
        if key not in self._counted and len(self._counted) >= COUNTED_KEYS:
            key, scope, method = "", server_scope().of_server(), ""
        scope, method, count = self._counted.get(key, (scope, method, 0))
        self._counted[key] = (scope, method, count + 1)

    async def _record(self, scope: Scope, method: str, details: Mapping[str, str]) -> None:
        await self._recorder.record(
            scope, resource=ChangedResource.CALL, resource_id=method, verb=self._verb, details=details
        )
