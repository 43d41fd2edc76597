"""Long work goes on where the store is slow: what took too long has stored nothing, and is done again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from metamorphd.errors import OperationTimeout, StoreBusy
from metamorphd.models.caller import Scope
from metamorphd.store.database import Database, Operation

P = ParamSpec("P")
T = TypeVar("T")
# Longer and longer, for a minute in all.
PAUSES_SECONDS = (0.1, 0.5, 2.0, 5.0, 10.0, 20.0, 20.0)


class Patient:
    """Runs operations of a tenant as the database does. Raises StoreBusy and OperationTimeout only if they last."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, operation: Operation[P, T], scope: Scope, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await patiently(lambda: self._database.read(operation, scope, *args, **kwargs))

    async def write(self, operation: Operation[P, T], scope: Scope, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await patiently(lambda: self._database.write(operation, scope, *args, **kwargs))


async def patiently(run: Callable[[], Awaitable[T]]) -> T:
    """Runs something again and again while the store is slow, as `Patient` does, and returns its result."""
    for pause in PAUSES_SECONDS:
        try:
            return await run()
        except (StoreBusy, OperationTimeout):
            await asyncio.sleep(pause)
    return await run()
