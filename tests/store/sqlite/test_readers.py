"""The readers: whose turn it is, and what a vault and its searches may take of them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from metamorphd.errors import OperationTimeout, SearchTooBroad, StoreBusy
from metamorphd.models.caller import server_scope
from metamorphd.store.database import SystemTransaction, Transaction, is_search_read, search_read
from metamorphd.store.search.query import search_messages
from metamorphd.store.sqlite import readers
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.sqlite.readers import KEPT, Used

from tests.store.sqlite.writer import ENDLESS
from tests.support.rows import ACME, EVIL, scope_of


class Held:
    """Operations that hold a reader until they are released."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.running = 0
        self.search = search_read(self._search)

    async def read(self, tx: Transaction) -> None:
        self.running += 1
        self.release.wait(10)

    async def runs(self, count: int) -> None:
        """Waits until so many run, and asserts that it stays so for a moment."""
        async with asyncio.timeout(5):
            while self.running < count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert self.running == count

    async def _search(self, tx: Transaction) -> None:
        await self.read(tx)


@pytest.fixture
async def held(database: SqliteDatabase) -> AsyncIterator[Held]:
    """Yields operations that hold a reader, and releases them before the database is closed."""
    operations = Held()
    yield operations
    operations.release.set()


async def quick(tx: Transaction) -> str:
    await tx.one("SELECT 1 AS one WHERE :vault_id <> ''")
    return tx.scope.vault_id


@search_read
async def quick_search(tx: Transaction) -> str:
    return await quick(tx)


@search_read
async def endless_search(tx: Transaction) -> None:
    await tx.one(ENDLESS)


async def look(tx: SystemTransaction) -> None:
    await tx.one("SELECT 1 AS one")


async def endless(tx: Transaction) -> None:
    await tx.one(ENDLESS)


def start(count: int, read: Callable[[], Coroutine[Any, Any, Any]]) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(read()) for _ in range(count)]


async def within(read: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.wait_for(read, 5)


async def test_reads_do_not_wait_behind_searches_of_any_number_of_vaults(database: SqliteDatabase, held: Held) -> None:
    searches = [asyncio.create_task(database.read(held.search, scope_of(f"vault-{number}"))) for number in range(20)]
    await held.runs(readers.SEARCH_READERS)
    assert await within(database.read(quick, ACME)) == "acme"
    held.release.set()
    await asyncio.gather(*searches)


async def test_searches_of_one_vault_leave_a_reader_to_those_of_others(database: SqliteDatabase, held: Held) -> None:
    searches = start(20, lambda: database.read(held.search, EVIL))
    await held.runs(1)
    assert await within(database.read(quick_search, ACME)) == "acme"
    held.release.set()
    await asyncio.gather(*searches)


async def test_a_vault_leaves_a_reader_to_others(database: SqliteDatabase, held: Held) -> None:
    reads = start(20, lambda: database.read(held.read, EVIL))
    await held.runs(readers.VAULT_READERS)
    assert readers.VAULT_READERS < readers.READERS
    assert await within(database.read(quick, ACME)) == "acme"
    held.release.set()
    await asyncio.gather(*reads)


async def test_a_vault_that_reads_much_has_one_reader_while_others_read_too(
    database: SqliteDatabase, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "COMPANY_SECONDS", 1.0)
    monkeypatch.setattr(readers, "MUCH", 0.005)
    monkeypatch.setattr(readers, "READ_SECONDS", 0.2)
    with pytest.raises(OperationTimeout):
        await database.read(endless, EVIL)
    await database.read(quick, ACME)
    reads = start(20, lambda: database.read(held.read, EVIL))
    await held.runs(1)
    # Its own reads are no company.
    await asyncio.sleep(1.0)
    reads += start(1, lambda: database.read(held.read, EVIL))
    await held.runs(readers.VAULT_READERS)
    held.release.set()
    await asyncio.gather(*reads)


async def test_a_vault_that_reads_little_has_as_many_as_alone(database: SqliteDatabase, held: Held) -> None:
    await database.read(quick, EVIL)
    await database.read(quick, ACME)
    reads = start(20, lambda: database.read(held.read, EVIL))
    await held.runs(readers.VAULT_READERS)
    held.release.set()
    await asyncio.gather(*reads)


async def test_the_reads_of_the_server_are_no_company(
    database: SqliteDatabase, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "MUCH", -1)
    await database.read_system(look, server_scope())
    reads = start(20, lambda: database.read(held.read, EVIL))
    await held.runs(readers.VAULT_READERS)
    held.release.set()
    await asyncio.gather(*reads)


def test_vaults_that_have_read_little_are_forgotten_once_there_are_many() -> None:
    used = Used()
    used.add("much", 1000.0, 0.0)
    for number in range(KEPT - 1):
        used.add(f"little-{number}", 1e-6, 0.0)
    assert used.of("little-0", 0.0) > 0
    used.add("one more", 1e-6, 0.0)
    assert used.of("little-0", 0.0) == 0
    assert used.of("much", 0.0) > 0


async def test_vaults_take_turns(database: SqliteDatabase, held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "READERS", 1)
    order: list[str] = []

    async def note(tx: Transaction) -> None:
        order.append(tx.scope.vault_id)

    holding = start(1, lambda: database.read(held.read, EVIL))
    await asyncio.sleep(0.05)
    flood = start(50, lambda: database.read(note, EVIL))
    await asyncio.sleep(0)
    last = start(1, lambda: database.read(note, ACME))
    await asyncio.sleep(0.05)
    held.release.set()
    await asyncio.gather(*holding, *flood, *last)
    assert order.index("acme") == 1


async def test_searches_and_other_reads_take_turns(
    database: SqliteDatabase, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "READERS", 1)
    order: list[str] = []

    async def note(tx: Transaction) -> None:
        order.append("read")

    @search_read
    async def note_search(tx: Transaction) -> None:
        order.append("search")

    holding = start(1, lambda: database.read(held.read, EVIL))
    await asyncio.sleep(0.05)
    reads = start(3, lambda: database.read(note, ACME))
    searches = start(3, lambda: database.read(note_search, EVIL))
    await asyncio.sleep(0.05)
    held.release.set()
    await asyncio.gather(*holding, *reads, *searches)
    assert order == ["search", "read"] * 3


async def test_a_vault_cannot_fill_the_queue_of_all(
    database: SqliteDatabase, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "VAULT_QUEUE", 10)
    reads = start(12, lambda: database.read(held.read, EVIL))
    await asyncio.sleep(0.05)
    with pytest.raises(StoreBusy) as refusal:
        await database.read(quick, EVIL)
    assert refusal.value.retry_delay
    assert await within(database.read(quick, ACME)) == "acme"
    held.release.set()
    await asyncio.gather(*reads)


async def test_a_search_that_takes_too_long_is_too_broad_and_another_read_a_timeout(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "SEARCH_SECONDS", 0.03)
    monkeypatch.setattr(readers, "READ_SECONDS", 0.05)
    with pytest.raises(SearchTooBroad) as search:
        await database.read(endless_search, ACME)
    with pytest.raises(OperationTimeout) as read:
        await database.read(endless, ACME)
    assert [error.value.metadata["limit_milliseconds"] for error in (search, read)] == ["30", "50"]
    assert await database.read(quick, ACME) == "acme"


async def test_a_search_stops_when_its_caller_is_gone(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "SEARCH_SECONDS", 60)
    (search,) = start(1, lambda: database.read(endless_search, ACME))
    await asyncio.sleep(0.05)
    search.cancel()
    assert await within(database.read(quick_search, ACME)) == "acme"


def test_searching_messages_is_a_search() -> None:
    assert readers.SEARCH_READERS < readers.READERS
    assert is_search_read(search_messages)


async def test_closing_finishes_the_reads_that_wait(database: SqliteDatabase, held: Held) -> None:
    reads = start(10, lambda: database.read(held.read, EVIL))
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(database.__aexit__())
    held.release.set()
    await asyncio.gather(*reads)
    await closing
    await database.__aenter__()
