"""Points at which a server can be made to die as by kill -9, reported by wrappers around the real code."""

import os
import signal
from collections.abc import Callable
from typing import Any

import apsw
from metamorphd.edge.call import Exchange
from metamorphd.edge.streams import Stream, Streams
from metamorphd.models.caller import Caller
from metamorphd.store.database import Operation
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.sqlite.writer import Writer

STATEMENTS = {"BEGIN IMMEDIATE": "BEGIN", "COMMIT": "COMMIT"}
OPERATIONS = {"create_turn": "start", "append_events": "append", "finish_turn": "finish"}
NOUNS = (*STATEMENTS.values(), "send", *OPERATIONS.values())
POINTS = tuple(f"{when} {noun}" for noun in NOUNS for when in ("before", "after"))
FILES = {"replace": "rename", "unlink": "unlink", "fsync": "sync"}
# Of work on files: those of a restore, and of a start that completes one.
FILE_POINTS = tuple(f"{when} {noun}" for noun in FILES.values() for when in ("before", "after"))

Pass = Callable[[str], None]


def counted(point: str, count: int, *, by: signal.Signals = signal.SIGKILL) -> Pass:
    """Returns what is called with each point that is passed. Signals this process at `point`, the `count`-th time."""
    left = count

    def passed(where: str) -> None:
        nonlocal left
        if where == point:
            left -= 1
            if not left:
                os.kill(os.getpid(), by)

    return passed


def arm(point: str, count: int, *, by: signal.Signals = signal.SIGKILL) -> None:
    """Signals this process when it passes `point`, of POINTS or FILE_POINTS, for the `count`-th time."""
    passed = counted(point, count, by=by)
    if point in FILE_POINTS:
        _watch_files(passed)
        return
    _watch_statements(passed)
    _watch_operations(passed)
    _watch_sends(passed)


def _watch_statements(passed: Pass) -> None:
    class Watched:
        def __init__(self, connection: apsw.Connection) -> None:
            self._connection = connection

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

        def execute(self, sql: str, *arguments: Any) -> Any:
            noun = STATEMENTS.get(sql)
            if noun is None:
                return self._connection.execute(sql, *arguments)
            passed(f"before {noun}")
            executed = self._connection.execute(sql, *arguments)
            passed(f"after {noun}")
            return executed

    made = Writer.__init__

    def making(self: Writer, connection: Any, **parts: Any) -> None:
        made(self, Watched(connection), **parts)  # type: ignore[arg-type]

    Writer.__init__ = making  # type: ignore[method-assign]


def _watch_operations(passed: Pass) -> None:
    write = SqliteDatabase.write

    async def writing(self: SqliteDatabase, operation: Operation[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        noun = OPERATIONS.get(operation.__name__)
        if noun is None:
            return await write(self, operation, *args, **kwargs)
        passed(f"before {noun}")
        written = await write(self, operation, *args, **kwargs)
        passed(f"after {noun}")
        return written

    SqliteDatabase.write = writing  # type: ignore[method-assign]


def _watch_files(passed: Pass) -> None:
    for name, noun in FILES.items():
        setattr(os, name, _watched(getattr(os, name), noun, passed))


def _watched(real: Callable[..., Any], noun: str, passed: Pass) -> Callable[..., Any]:
    def watched(*arguments: Any, **named: Any) -> Any:
        passed(f"before {noun}")
        returned = real(*arguments, **named)
        passed(f"after {noun}")
        return returned

    return watched


def _watch_sends(passed: Pass) -> None:
    class Watched:
        def __init__(self, exchange: Exchange) -> None:
            self._exchange = exchange

        def __getattr__(self, name: str) -> Any:
            return getattr(self._exchange, name)

        async def write(self, response: bytes) -> None:
            passed("before send")
            await self._exchange.write(response)
            passed("after send")

    opened = Streams.opened

    def opening(self: Streams, exchange: Exchange, caller: Caller, *, in_any_vault_state: bool) -> Stream:
        watched: Any = Watched(exchange)
        return opened(self, watched, caller, in_any_vault_state=in_any_vault_state)

    Streams.opened = opening  # type: ignore[method-assign]
