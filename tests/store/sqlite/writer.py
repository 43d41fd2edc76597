"""Keeps a writer thread busy."""

import asyncio
import threading

from metamorphd.store.database import Transaction
from metamorphd.store.sqlite.database import SqliteDatabase

from tests.support.rows import ACME


def hold_writer(database: SqliteDatabase) -> threading.Event:
    """Keeps the writer thread busy until the event is set, so that writes made until then form one batch."""
    release = threading.Event()

    async def waits(tx: Transaction) -> None:
        release.wait(10)

    task = asyncio.ensure_future(database.write(waits, ACME))
    task.add_done_callback(lambda done: done.result())
    return release
