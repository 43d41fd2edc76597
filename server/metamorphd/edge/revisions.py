"""The guard of reads that must not be older than a revision."""

import asyncio
from collections.abc import Awaitable
from typing import ClassVar

from metamorphd.edge.call import Call
from metamorphd.edge.guards import Authenticate, Authorize, LimitRate, LimitSize, Validate
from metamorphd.errors import RevisionNotReached
from metamorphd.models.caller import Scope
from metamorphd.store.changes import get_revision
from metamorphd.store.database import Database

PATIENCE_SECONDS = 2.0
POLL_SECONDS = 0.05


class AwaitRevision:
    """After validation: waits until the store has the vault's revision that a request names as `at_least_revision`.

    The server that writes has every revision that it has returned. A copy may be behind.
    """

    follows: ClassVar[frozenset[type]] = frozenset({Authenticate, Authorize, LimitRate, LimitSize, Validate})
    reads_requests: ClassVar[bool] = True

    def __init__(self, *, database: Database) -> None:
        self._database = database

    def __call__(self, call: Call) -> Awaitable[None] | None:
        revision = getattr(call.request, "at_least_revision", 0)
        return self._wait(call.scope, revision) if revision else None

    async def _wait(self, scope: Scope, revision: int) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_SECONDS
        while (newest := await self._database.read(get_revision, scope)) < revision:
            if loop.time() > until:
                raise RevisionNotReached(newest_revision=newest, retry_delay=1.0)
            await asyncio.sleep(POLL_SECONDS)
