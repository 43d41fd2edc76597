"""Records what is no change of a vault in its log: refusals, and what the operator does."""

from collections.abc import Mapping
from typing import Protocol

from metamorphd.clock import Clock
from metamorphd.models.caller import Scope
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.store.audit import record_event
from metamorphd.store.database import Database


class Recorder(Protocol):
    """Records what is done, or refused, for whoever audits the vault."""

    async def record(
        self,
        scope: Scope,
        *,
        resource: ChangedResource,
        resource_id: str,
        verb: ChangeVerb,
        details: Mapping[str, str] | None = None,
    ) -> None:
        """Appends an entry to the log of the scope's vault, and returns once it is durable.

        Raises as `Database.write`: what cannot be recorded must not be done, nor answered.
        """


class LogRecorder:
    """Records in the database. Implements Recorder."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def record(
        self,
        scope: Scope,
        *,
        resource: ChangedResource,
        resource_id: str,
        verb: ChangeVerb,
        details: Mapping[str, str] | None = None,
    ) -> None:
        await self._database.write(
            record_event,
            scope,
            resource=resource,
            resource_id=resource_id,
            verb=verb,
            details=details,
            now=self._clock.now(),
        )


class NoRecorder:
    """Records nothing: a server that only reads has no log to append to, only its log lines. Implements Recorder."""

    async def record(
        self,
        scope: Scope,
        *,
        resource: ChangedResource,
        resource_id: str,
        verb: ChangeVerb,
        details: Mapping[str, str] | None = None,
    ) -> None:
        """Does nothing."""
