"""Writes what must not be lost: the events and the ends of turns, and what was used."""

import asyncio
from typing import TypeVar

import structlog

from metamorphd.errors import DomainError, TurnNotFound
from metamorphd.models.caller import Scope
from metamorphd.store.database import Database, Operation, P

T = TypeVar("T")

LONGEST_BACKOFF = 5.0

logger = structlog.get_logger(__name__)


class Insistent:
    """Runs operations of a tenant as the database does, again and again until one has succeeded."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, operation: Operation[P, T], scope: Scope, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Raises TurnNotFound."""
        delay = 0.1
        while True:
            try:
                return await self._database.write(operation, scope, *args, **kwargs)
            except TurnNotFound:
                raise
            except Exception as exc:
                # The trace is logged only for errors that the store does not expect.
                unknown = None if isinstance(exc, DomainError) else exc
                logger.warning(
                    "turn waits for the store", vaultId=scope.vault_id, error=type(exc).__name__, exc_info=unknown
                )
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_BACKOFF)
