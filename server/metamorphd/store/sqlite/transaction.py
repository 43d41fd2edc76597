"""Transactions of SQLite, and how an operation runs in one."""

from collections import namedtuple
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import apsw

from metamorphd.chain import Chain, Head
from metamorphd.models.caller import Scope
from metamorphd.store.database import Row, SqlValue, SystemTransaction, Transaction

T = TypeVar("T")

UNCHAINED = Chain()

# By the text of the statement. A class takes as long to make as thousands of rows, so each is made once.
_row_classes: dict[str, Callable[[Any], Any]] = {}


def _row_class(sql: str, cursor: apsw.Cursor) -> Callable[[Any], Any]:
    """Returns the class of a statement's rows. Raises ValueError for a column without a name of its own."""
    try:
        columns = [name for name, _ in cursor.get_description()]
    except apsw.ExecutionCompleteError:
        # There are no rows, and the columns are no longer known.
        return tuple
    # A plain tuple with the names' descriptors takes half as long to make as a namedtuple.
    named = namedtuple("Row", columns)  # type: ignore[misc]  # mypy expects the names in the source
    # Not `vars(namedtuple(…))`: a garbage collection would clear the dictionary of a class without references.
    row_class = type("Row", (tuple,), {"__slots__": (), **{column: vars(named)[column] for column in columns}})
    _row_classes[sql] = row_class
    return _row_classes[sql]


class _Connected:
    """Runs statements on a connection."""

    __slots__ = ("_connection", "scope")

    def __init__(self, connection: apsw.Connection, scope: Scope) -> None:
        self._connection = connection
        self.scope = scope

    async def one(self, sql: str, /, **parameters: SqlValue) -> Row | None:
        cursor = self._connection.execute(sql, self._bound(parameters))
        row_class = _row_classes.get(sql) or _row_class(sql, cursor)
        rows = cursor.fetchall()
        row: Row | None = row_class(rows[0]) if rows else None
        return row

    async def all(self, sql: str, /, **parameters: SqlValue) -> list[Row]:
        cursor = self._connection.execute(sql, self._bound(parameters))
        return list(map(_row_classes.get(sql) or _row_class(sql, cursor), cursor.fetchall()))

    async def run(self, sql: str, /, **parameters: SqlValue) -> int:
        self._connection.execute(sql, self._bound(parameters))
        return self._connection.changes()

    def _bound(self, parameters: dict[str, SqlValue]) -> dict[str, SqlValue]:
        return parameters


class SqliteTransaction(_Connected, Transaction):
    """Gives every statement the scope's vault as `:vault_id`. One that only reads needs no chain."""

    __slots__ = ("chain", "head")

    def __init__(self, connection: apsw.Connection, scope: Scope, chain: Chain = UNCHAINED) -> None:
        super().__init__(connection, scope)
        self.chain = chain
        self.head: Head | None = None

    def _bound(self, parameters: dict[str, SqlValue]) -> dict[str, SqlValue]:
        # Last, so that no operation can name another vault.
        parameters["vault_id"] = self.scope.vault_id
        return parameters


class SqliteSystemTransaction(_Connected, SystemTransaction):
    """Gives statements no vault."""

    __slots__ = ()


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
