"""Those who watch vaults: what they are sent, when, and what they cost."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from metamorphd.errors import RevisionAhead, RevisionCompacted, RevisionReplaced, ServerDraining, StoreBusy
from metamorphd.models.caller import Scope
from metamorphd.models.change import ChangedResource, ChangeFilter, ChangeVerb
from metamorphd.store.changes import append_change, list_changes
from metamorphd.store.database import Database, Transaction
from metamorphd.store.vaults import create_vault
from metamorphd.watching import PAGE_CHANGES, STEP_WATCHERS, Watching

from tests.support.rows import ACME, CLOCK, EVIL

SECONDS = 20
SESSIONS = ChangeFilter(resources=frozenset({ChangedResource.SESSION}))


class Watcher:
    """Reads what one watcher is sent."""

    def __init__(self, watching: Watching, after: int | None = 0, **fields: Any) -> None:
        scope: Scope = fields.pop("scope", ACME)
        self.mark: str = fields.pop("mark", "")
        wanted = fields.pop("wanted", ChangeFilter())
        self.sent = watching.watch(scope, after_revision=after, after_mark=self.mark, wanted=wanted)

    async def next(self) -> tuple[list[int], int]:
        """Returns the next (revisions of changes, revision)."""
        async with asyncio.timeout(SECONDS):
            changes, revision, self.mark = await anext(self.sent)
            return [change.revision for change in changes], revision

    async def silent(self, seconds: float = 0.2) -> bool:
        """Returns whether nothing is sent for a while. Nothing can be read afterwards."""
        reading = asyncio.ensure_future(anext(self.sent))
        await asyncio.wait({reading}, timeout=seconds)
        if reading.done():
            return False
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        return True


@pytest.fixture
async def watching(database: Database) -> AsyncIterator[Watching]:
    async with Watching(database=database, bookmark_seconds=0.3) as started:
        yield started


async def add(
    database: Database, count: int = 1, *, scope: Scope = ACME, resource: ChangedResource = ChangedResource.TURN
) -> None:
    async def added(tx: Transaction) -> None:
        for _ in range(count):
            await append_change(tx, resource=resource, resource_id="id", verb=ChangeVerb.UPDATED, now=1)

    await database.write(added, scope)


async def test_a_bookmark_says_once_that_all_is_sent(database: Database, watching: Watching) -> None:
    await add(database, 2)
    watcher = Watcher(watching)
    assert await watcher.next() == ([1, 2], 2)
    assert await watcher.next() == ([], 2)
    await add(database)
    assert await watcher.next() == ([3], 3)
    assert await watcher.silent(0.6)


async def test_a_filtered_watcher_is_sent_a_bookmark_at_times_and_not_for_each_change(
    database: Database, watching: Watching
) -> None:
    await add(database, 1000)
    watcher = Watcher(watching, wanted=SESSIONS)

    async def bookmarks(newest: int) -> list[int]:
        """Returns the revisions of the bookmarks up to one. A slow machine has some on the way."""
        found = [0]
        while found[-1] < newest:
            revisions, revision = await watcher.next()
            assert not revisions
            found.append(revision)
        return found[1:]

    assert await bookmarks(1000)
    for _ in range(5):
        await add(database)
    began = asyncio.get_running_loop().time()
    assert len(await bookmarks(1005)) < 5
    assert asyncio.get_running_loop().time() - began > 0.15
    await add(database, resource=ChangedResource.SESSION)
    assert await watcher.next() == ([1006], 1006)
    assert await watcher.silent(0.6)


async def test_pages_are_bounded_and_follow_each_other(database: Database, watching: Watching) -> None:
    newest = PAGE_CHANGES * 2 + 7
    await add(database, newest)
    watcher = Watcher(watching)
    pages = [await watcher.next() for _ in range(4)]
    assert [len(revisions) for revisions, _ in pages] == [PAGE_CHANGES, PAGE_CHANGES, 7, 0]
    assert [revision for revisions, _ in pages for revision in revisions] == list(range(1, newest + 1))


async def test_a_watcher_that_does_not_read_is_behind_and_misses_nothing(
    database: Database, watching: Watching
) -> None:
    slow, fast = Watcher(watching), Watcher(watching)
    for watcher in (slow, fast):
        assert await watcher.next() == ([], 0)
    seen: list[int] = []
    for _ in range(PAGE_CHANGES * 3):
        await add(database)
        seen += (await fast.next())[0]
    assert seen == list(range(1, PAGE_CHANGES * 3 + 1))
    late: list[int] = []
    while len(late) < len(seen):
        late += (await slow.next())[0]
    assert late == seen


async def test_the_newest_changes_are_read_once_for_all_watchers(
    database: Database, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    watchers = [Watcher(watching) for _ in range(50)]
    for watcher in watchers:
        await watcher.next()
    reads: list[Any] = []
    read = database.read

    async def counted(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if operation is list_changes:
            reads.append(operation)
        return await read(operation, *args, **kwargs)

    monkeypatch.setattr(database, "read", counted)
    await add(database)
    assert [await watcher.next() for watcher in watchers] == [([1], 1)] * 50
    assert len(reads) == 1


async def test_watchers_wait_while_the_store_is_busy(
    database: Database, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = Watcher(watching)
    await watcher.next()
    read, busy = database.read, 3

    async def refused_at_first(operation: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal busy
        if operation is list_changes and busy:
            busy -= 1
            raise StoreBusy(retry_delay=1.0)
        return await read(operation, *args, **kwargs)

    monkeypatch.setattr(database, "read", refused_at_first)
    await add(database)
    assert await watcher.next() == ([1], 1)
    assert busy == 0


async def test_a_change_that_nobody_reports_is_found_by_looking(database: Database) -> None:
    async with Watching(database=database) as watching:
        # As where another process has made it.
        database.listen(lambda *_: None)
        watcher = Watcher(watching)
        await watcher.next()
        await add(database)
        assert await watcher.next() == ([1], 1)


async def test_a_change_is_sent_to_all_even_if_a_watcher_comes_before_its_report(
    database: Database, watching: Watching
) -> None:
    waiting = Watcher(watching)
    await waiting.next()
    next_one = asyncio.ensure_future(waiting.next())
    await asyncio.sleep(0)
    database.listen(lambda *_: None)
    await add(database)
    assert await Watcher(watching).next() == ([1], 1)
    assert await next_one == ([1], 1)


async def test_watchers_of_one_vault_are_woken_some_at_a_time(database: Database, watching: Watching) -> None:
    watchers = [Watcher(watching, None) for _ in range(40)]
    for watcher in watchers:
        assert (await watcher.next())[0] == []
    beats, woken = 0, Counter[int]()

    async def read(watcher: Watcher) -> None:
        assert await watcher.next() == ([1], 1)
        woken[beats] += 1

    reading = [asyncio.create_task(read(watcher)) for watcher in watchers]
    await asyncio.sleep(0.05)
    await add(database)
    while not all(task.done() for task in reading):
        beats += 1
        await asyncio.sleep(0)
    await asyncio.gather(*reading)
    assert max(woken.values()) <= STEP_WATCHERS


async def test_a_vault_takes_no_memory_once_nobody_watches_it(database: Database, watching: Watching) -> None:
    watchers = [Watcher(watching), Watcher(watching), Watcher(watching, scope=EVIL)]
    for watcher in watchers:
        await watcher.next()
    assert watching.vaults == 2
    for watcher in watchers:
        await watcher.sent.aclose()
    assert watching.vaults == 0
    with pytest.raises(RevisionAhead):
        await Watcher(watching, 1).next()
    assert watching.vaults == 0


@pytest.mark.parametrize("waits", [True, False])
async def test_leaving_ends_all_watchers(database: Database, waits: bool) -> None:
    async with Watching(database=database) as watching:
        watcher = Watcher(watching)
        await watcher.next()
        next_one = asyncio.ensure_future(watcher.next()) if waits else None
        await asyncio.sleep(0.01)
    with pytest.raises(ServerDraining):
        await (next_one or watcher.next())


async def test_a_mark_is_of_its_revision_whichever_response_has_it(database: Database, watching: Watching) -> None:
    async def bookmark() -> str:
        """Returns the mark of the newest revision, from a watcher that begins there."""
        watcher = Watcher(watching, None)
        await watcher.next()
        return watcher.mark

    assert await bookmark() == ""
    await database.write(create_vault, ACME, hash_key=CLOCK.new_key(), now=1)
    marks = {1: await bookmark()}
    for revision in range(2, PAGE_CHANGES + 5):
        await add(database)
        marks[revision] = await bookmark()
    assert len(set(marks.values())) == PAGE_CHANGES + 4
    watcher = Watcher(watching)
    for _ in range(3):
        _, revision = await watcher.next()
        assert watcher.mark == marks[revision]
    for after in (1, PAGE_CHANGES, PAGE_CHANGES + 3):
        follower = Watcher(watching, after, mark=marks[after])
        _, revision = await follower.next()
        assert follower.mark == marks[revision]


async def test_a_mark_of_another_history_is_refused(database: Database, watching: Watching) -> None:
    for scope in (ACME, EVIL):
        await database.write(create_vault, scope, hash_key=CLOCK.new_key(), now=1)
        await add(database, 2, scope=scope)
    watcher, other = Watcher(watching), Watcher(watching, scope=EVIL)
    await watcher.next()
    await other.next()
    assert watcher.mark != other.mark
    for after, mark in ((3, other.mark), (2, watcher.mark), (3, "x")):
        with pytest.raises(RevisionReplaced, match=str(after)):
            await Watcher(watching, after, mark=mark).next()
    assert await Watcher(watching, 3, mark=watcher.mark).next() == ([], 3)
    # There is no entry that it could be of.
    with pytest.raises(RevisionCompacted):
        await Watcher(watching, 0, mark=watcher.mark).next()
