"""Transactions of SQLite, and how an operation runs in one."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import apsw

from metamorphd.models.caller import Scope
from metamorphd.store.database import Row, SqlValue, SystemTransaction, Transaction

T = TypeVar("T")


class _Connected:
    """Runs statements on a connection; `fixed` parameters win over given ones."""

    __slots__ = ("_connection", "_fixed", "scope")

    def __init__(self, connection: apsw.Connection, scope: Scope, fixed: Mapping[str, SqlValue]) -> None:
        self._connection = connection
        self._fixed = fixed
        self.scope = scope

    async def one(self, sql: str, /, **parameters: SqlValue) -> Row | None:
        rows = self._connection.execute(sql, {**parameters, **self._fixed}).fetchall()
        return rows[0] if rows else None

    async def all(self, sql: str, /, **parameters: SqlValue) -> list[Row]:
        return self._connection.execute(sql, {**parameters, **self._fixed}).fetchall()

    async def run(self, sql: str, /, **parameters: SqlValue) -> int:
        self._connection.execute(sql, {**parameters, **self._fixed})
        return self._connection.changes()


class SqliteTransaction(_Connected, Transaction):
    """Gives every statement the scope's vault as `:vault_id`."""

    __slots__ = ()

    def __init__(self, connection: apsw.Connection, scope: Scope) -> None:
        super().__init__(connection, scope, {"vault_id": scope.vault_id})


class SqliteSystemTransaction(_Connected, SystemTransaction):
    """Gives statements no vault."""

    __slots__ = ()

    def __init__(self, connection: apsw.Connection, scope: Scope) -> None:
        super().__init__(connection, scope, {})


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
