"""Transactions of SQLite, and how an operation runs in one."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import apsw

from metamorphd.store.database import Row, SqlValue, SystemTransaction, Transaction

T = TypeVar("T")


class _Connected:
    """Runs statements on a connection; `fixed` parameters win over given ones."""

    def __init__(self, connection: apsw.Connection, **fixed: SqlValue) -> None:
        self._connection = connection
        self._fixed = fixed

    async def one(self, sql: str, /, **parameters: SqlValue) -> Row | None:
        rows = self._connection.execute(sql, parameters | self._fixed).fetchall()
        return rows[0] if rows else None

    async def all(self, sql: str, /, **parameters: SqlValue) -> list[Row]:
        return self._connection.execute(sql, parameters | self._fixed).fetchall()

    async def run(self, sql: str, /, **parameters: SqlValue) -> int:
        self._connection.execute(sql, parameters | self._fixed)
        return self._connection.changes()


class SqliteTransaction(_Connected, Transaction):
    """Made with `vault_id`, which every statement gets."""


class SqliteSystemTransaction(_Connected, SystemTransaction):
    """Made without a vault."""


# An operation with its arguments and its vault, waiting for a connection.
Bound = Callable[[apsw.Connection], Coroutine[Any, Any, T]]


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs an operation to its end. Its transaction never suspends, so neither may the operation."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a store operation awaited something other than its transaction")
