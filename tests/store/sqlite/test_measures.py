"""Metrics of the store."""

import asyncio
import threading

from metamorphd.metrics import Metrics
from metamorphd.store.database import Transaction
from metamorphd.store.sqlite.database import SqliteDatabase
from prometheus_client import generate_latest

from tests.store.sqlite.writer import hold_writer
from tests.support.rows import ACME, EVIL, new_session
from tests.support.scraping import Scrape

HELD_SECONDS = 0.3


def measured(database: SqliteDatabase) -> Scrape:
    metrics = Metrics()
    metrics.register(*database.collectors)
    return Scrape(generate_latest(metrics.registry).decode())


def figure(database: SqliteDatabase, name: str) -> float:
    return database.gauges[f"metamorph_{name}"][1]()


async def test_writes_that_wait_are_a_queue_then_one_commit_and_their_wait_is_known(database: SqliteDatabase) -> None:
    before = measured(database)
    release = hold_writer(database)
    await asyncio.sleep(0.05)
    writes = [asyncio.create_task(new_session(database)) for _ in range(3)]
    await asyncio.sleep(HELD_SECONDS)
    assert figure(database, "write_queue_operations") == 4
    release.set()
    await asyncio.gather(*writes)
    assert figure(database, "write_queue_operations") == 0
    after = measured(database)

    def more(name: str, **labels: str) -> float:
        return after.sum(name, **labels) - before.sum(name, **labels)

    assert (more("metamorph_commit_operations_count"), more("metamorph_commit_operations_sum")) == (2, 4)
    assert (
        more("metamorph_commit_operations_bucket", le="4.0") - more("metamorph_commit_operations_bucket", le="2.0") == 1
    )
    assert more("metamorph_commit_duration_seconds_sum") >= HELD_SECONDS
    assert 3 * HELD_SECONDS <= more("metamorph_write_wait_seconds_sum") < 3 * HELD_SECONDS + 3


async def test_reads_that_wait_are_a_queue_and_their_wait_is_known(database: SqliteDatabase) -> None:
    release = threading.Event()

    async def hold(tx: Transaction) -> None:
        release.wait(10)

    reads = [asyncio.create_task(database.read(hold, scope)) for scope in (ACME, ACME, ACME, EVIL, EVIL)]
    # They begin, and only then is the time that they wait counted.
    await asyncio.sleep(0)
    await asyncio.sleep(HELD_SECONDS)
    assert figure(database, "read_queue_operations") == 2
    release.set()
    await asyncio.gather(*reads)
    assert figure(database, "read_queue_operations") == 0
    page = measured(database)
    assert page.sum("metamorph_read_wait_seconds_count") == len(reads)
    assert page.sum("metamorph_read_wait_seconds_sum") >= 2 * HELD_SECONDS
