"""Records refusals of permission, so that a caller who is refused in a loop cannot fill a vault."""

import time
from collections.abc import Callable, Mapping

from metamorphd.audit.recording import Recorder
from metamorphd.edge.rate_limit import RateLimit
from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.change import ChangedResource, ChangeVerb

# Refusals of a user that have an entry each: so many at once, and as many again in the window. Others are counted.
EACH, EACH_WINDOW_SECONDS = 50, 18_000.0
COUNT_SECONDS = 3600.0
# Above this number of users, the refusals of further ones are counted together, in the server's own log.
COUNTED_USERS = 10_000


class Refusals:
    """Records refusals: up to a rate each of them, and beyond it how many there were of a user in an hour.

    `now` is in seconds.
    """

    def __init__(self, *, recorder: Recorder, now: Callable[[], float] = time.monotonic) -> None:
        self._recorder = recorder
        self._now = now
        self._limit = RateLimit(requests=EACH, window_seconds=EACH_WINDOW_SECONDS, now=now)
        self._counted: dict[tuple[str, str], tuple[Scope, int]] = {}
        self._due = now() + COUNT_SECONDS

    async def record(self, scope: Scope, *, method: str, permission: str) -> None:
        """Records that a call was refused, durably unless it is only counted. Raises as `Recorder.record`."""
        if self._limit.take((scope.vault_id, scope.actor.user_id)) > 0:
            self._count(scope)
        else:
            await self._record(scope, method, {"permission": permission})

    async def work(self) -> None:
        """Records how many refusals were only counted, once an hour."""
        if self._now() >= self._due:
            self._due = self._now() + COUNT_SECONDS
            await self.flush()

    async def flush(self) -> None:
        """Records how many refusals were only counted. Those that cannot be recorded stay."""
        for key in list(self._counted):
            scope, count = self._counted.pop(key)
            try:
                await self._record(scope, "", {"count": str(count)})
            except BaseException:
                self._counted[key] = (scope, count + self._counted.get(key, (scope, 0))[1])
                raise

    def _count(self, scope: Scope) -> None:
        key = (scope.vault_id, scope.actor.user_id)
        if key not in self._counted and len(self._counted) >= COUNTED_USERS:
            key, scope = ("", ""), server_scope().of_server()
        counted, count = self._counted.get(key, (scope, 0))
        self._counted[key] = (counted, count + 1)

    async def _record(self, scope: Scope, method: str, details: Mapping[str, str]) -> None:
        await self._recorder.record(
            scope, resource=ChangedResource.CALL, resource_id=method, verb=ChangeVerb.REFUSED, details=details
        )
