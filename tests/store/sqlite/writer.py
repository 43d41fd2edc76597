"""Keeps a database's threads busy, and counts its commits."""

import asyncio
import threading

from metamorphd.store.database import Transaction
from metamorphd.store.sqlite.database import SqliteDatabase

from tests.support.rows import ACME

COUNTING = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
ENDLESS = COUNTING + "SELECT COUNT(*) AS count FROM n WHERE :vault_id <> ''"  # noqa: S608


def hold_writer(database: SqliteDatabase) -> threading.Event:
    """Keeps the writer thread busy until the event is set, so that writes made until then form one batch."""
    release = threading.Event()

    async def waits(tx: Transaction) -> None:
        release.wait(10)

    task = asyncio.ensure_future(database.write(waits, ACME))
    task.add_done_callback(lambda done: done.result())
    return release


async def cut_log(database: SqliteDatabase) -> None:
    """Empties a database's write-ahead log, on the writer's thread as the server does."""
    cut = threading.Event()
    database._writer.between_writes(database._log.cut)
    database._writer.between_writes(cut.set)
    assert await asyncio.to_thread(cut.wait, 10)


class Commits:
    """Counts the commits of a database from now on."""

    def __init__(self, database: SqliteDatabase) -> None:
        self.count = 0
        database._writer.connection.set_commit_hook(self._committed)

    def _committed(self) -> bool:
        self.count += 1
        return False
