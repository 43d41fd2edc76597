"""Operations on memories: how they are ranked, what is erased of them, and when."""

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from metamorphd.clock import Clock
from metamorphd.housekeeping import Housekeeping
from metamorphd.memories.memories import DAY, Memories
from metamorphd.models.caller import Scope
from metamorphd.models.memory import Memory, MemoryChanges, MemoryType, NewMemory, recency, score
from metamorphd.store.database import Database, Transaction
from metamorphd.store.memories import search
from metamorphd.store.memories.change import delete_memory, update_memory
from metamorphd.store.memories.create import create_memory
from metamorphd.store.memories.read import get_memory, list_memories
from metamorphd.store.memories.rows import INDEXED_WORDS
from metamorphd.store.memories.search import search_memories, words_of_query
from metamorphd.store.search import postings
from metamorphd.store.search.postings import GROUPS, MEMORIES, unpack
from metamorphd.store.storage import get_storage

from tests.support.rows import ACME, EVIL, KEY, erase, erase_next, new_session, stored_message
from tests.support.searching import Vault

COUNT = """
SELECT (SELECT COUNT(*) FROM memories WHERE vault_id = :vault_id) AS memories,
    (SELECT COUNT(*) FROM postings WHERE vault_id = :vault_id) AS postings,
    (SELECT memory_count FROM vaults WHERE vault_id = :vault_id) AS counted
"""
LIST_POSTINGS = "SELECT block, term, offsets FROM postings WHERE vault_id = :vault_id"


class Passing(Clock):
    """Time that passes when a test says so."""

    passed = 0

    def now(self) -> int:
        return super().now() + self.passed


@pytest.fixture
def clock() -> Passing:
    return Passing()


async def create(
    database: Database,
    content: str,
    *,
    scope: Scope = ACME,
    now: int | None = None,
    supersedes: Sequence[str] = (),
    **fields: Any,
) -> Memory:
    """Stores a memory, of type SEMANTIC unless given."""
    clock = Clock()
    memory, _ = await database.write(
        create_memory,
        scope,
        memory=NewMemory(**({"type": MemoryType.SEMANTIC, "content": content} | fields)),
        memory_id=clock.new_id("mem"),
        supersedes=supersedes,
        request=None,
        hash_key=KEY,
        most_memories=10_000,
        storage_limit=0,
        now=clock.now() if now is None else now,
    )
    return memory


async def find(
    database: Database,
    query: str,
    *,
    type_: MemoryType | None = None,
    limit: int = 100,
    half_life: int = DAY,
    now: int = 0,
) -> list[str]:
    """Returns the contents that a search finds."""
    found = await database.read(
        search_memories,
        ACME,
        words=words_of_query(query),
        type_=type_,
        limit=limit,
        half_life=half_life,
        now=now or Clock().now(),
    )
    return [match.memory.content for match in found]


async def counted(tx: Transaction) -> tuple[int, int, int]:
    row = await tx.one(COUNT)
    return (0, 0, 0) if row is None else (row.memories, row.postings, row.counted)


async def check_groups(tx: Transaction) -> None:
    """Asserts that groups have the blocks that have their terms."""
    first = MEMORIES >> postings.BLOCK_BITS
    expected, groups = defaultdict[tuple[int, bytes], set[int]](set), {}
    for row in await tx.all(LIST_POSTINGS):
        if row.block >= first:
            group, place = postings.split(row.block, postings.GROUP_BITS)
            expected[GROUPS + group, row.term].add(place)
        else:
            groups[row.block, row.term] = set(unpack(row.offsets))
    assert groups == expected


@pytest.mark.parametrize(
    ("relevance", "importance", "age_days", "expected"),
    [
        (1, 1, 0, 1),
        (1, 0, 0, 2 / 3),
        (1, 0, 90, 0.5),
        (0.5, 0, 0, 1 / 3),
        (0.5, 0.5, 180, 0.5 * 1.75 / 3),
        (0, 1, 0, 0),
    ],
)
def test_the_score_is_as_documented(relevance: float, importance: float, age_days: int, expected: float) -> None:
    assert score(relevance, importance, recency(age_days * DAY, 90 * DAY)) == pytest.approx(expected)


def test_importance_and_recency_can_at_most_triple_what_relevance_gives() -> None:
    source = random.Random(3)  # noqa: S311
    for _ in range(1000):
        relevance, importance, recent = (source.random() for _ in range(3))
        assert relevance / 3 <= score(relevance, importance, recent) <= relevance


async def test_a_search_ranks_as_the_formula_says(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    # Several blocks, and groups, of few memories.
    monkeypatch.setattr(search, "BLOCK_BITS", 2)
    monkeypatch.setattr(search, "GROUP_BITS", 2)
    monkeypatch.setattr(postings, "BLOCK_BITS", 2)
    monkeypatch.setattr(postings, "GROUP_BITS", 2)
    source = random.Random(5)  # noqa: S311
    now, live = Clock().now(), dict[str, Memory]()
    vocabulary = [f"w{number}" for number in range(12)]
    for number in range(80):
        words = source.choices(vocabulary, [1 / (place + 1) for place in range(12)], k=4)
        memory = await create(
            database,
            " ".join([*words, f"n{number}"]),
            importance=source.random(),
            now=now - source.randrange(300) * DAY,
        )
        live[memory.memory_id] = memory
        if number % 4 == 3:
            doomed = source.choice(sorted(live))
            await database.write(delete_memory, ACME, memory_id=doomed, etag="", now=now)
            await erase(database)
            del live[doomed]
    await database.read(check_groups, ACME)
    for _ in range(40):
        query = source.sample(vocabulary, 3)
        weights = {}
        for word in query:
            count = sum(word in memory.content.split() for memory in live.values())
            weights[word] = math.log(1 + (len(live) - count + 0.5) / (count + 0.5))
        expected = {}
        for memory in live.values():
            share = sum(weights[word] for word in query if word in memory.content.split()) / sum(weights.values())
            if share:
                recent = 0.5 ** ((now - memory.update_time) / (90 * DAY))
                expected[memory.content] = share * (1 + memory.importance + recent) / 3
        found = await database.read(
            search_memories, ACME, words=query, type_=None, limit=100, half_life=90 * DAY, now=now
        )
        assert {match.memory.content: pytest.approx(match.score) for match in found} == expected
        scores = [match.score for match in found]
        assert scores == sorted(scores, reverse=True)


async def test_of_too_many_memories_the_newest_are_compared(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MOST_RANKED", 5)
    monkeypatch.setattr(search, "STEP_RANKED", 5)
    for number in range(20):
        await create(database, f"tea {number}", importance=1 if number < 10 else 0)
    assert sorted(await find(database, "tea")) == [f"tea {number}" for number in range(15, 20)]
    monkeypatch.setattr(search, "MOST_CANDIDATES", 1)
    # What has none of the rarer words is left out then.
    assert await find(database, "tea 3") == ["tea 3"]


async def test_what_is_passed_over_takes_no_place_of_what_can_be_found(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MOST_RANKED", 5)
    monkeypatch.setattr(search, "STEP_RANKED", 5)
    monkeypatch.setattr(search, "FIRST_VISITED", 5)
    await create(database, "the tea ceremony", type=MemoryType.EPISODIC)
    superseded: list[str] = []
    for number in range(12):
        superseded = [(await create(database, f"Ada drinks tea {number}", supersedes=superseded)).memory_id]
    await create(database, "tea, says Ada", supersedes=superseded)
    assert await find(database, "Ada drinks tea") == ["tea, says Ada", "the tea ceremony"]
    for number in range(12):
        await create(database, f"tea {number}")
    assert await find(database, "tea", type_=MemoryType.EPISODIC) == ["the tea ceremony"]
    # Some of them, and no more, are looked at.
    monkeypatch.setattr(search, "MOST_VISITED", 10)
    assert await find(database, "tea", type_=MemoryType.EPISODIC) == []


async def test_a_search_reads_so_many_offsets_and_no_more(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "BLOCK_BITS", 2)
    monkeypatch.setattr(postings, "BLOCK_BITS", 2)
    for number in range(20):
        await create(database, f"tea {number}")
    assert len(await find(database, "tea")) == 20
    monkeypatch.setattr(search, "MOST_OFFSETS", 2 * search.LEAST_OF_A_LIST)
    assert sorted(await find(database, "tea"), reverse=True) == sorted(
        (f"tea {number}" for number in range(15, 20)), reverse=True
    )


async def test_common_words_do_not_keep_a_search_from_rare_ones(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "BLOCK_BITS", 2)
    monkeypatch.setattr(postings, "BLOCK_BITS", 2)
    for number in range(20):
        await create(database, f"green tea {number}" if number else "oolong green tea")
    monkeypatch.setattr(search, "MOST_OFFSETS", 4 * search.LEAST_OF_A_LIST)
    found = await find(database, "green tea oolong")
    assert found[0] == "oolong green tea"
    assert sorted(found[1:]) == sorted(f"green tea {number}" for number in range(15, 20))


async def test_messages_and_memories_of_one_vault_are_found_apart(database: Database) -> None:
    vault = Vault(database, ACME)
    await vault.add("a message about tea")
    await create(database, "a memory about tea")
    assert await vault.found("tea") == ["a message about tea"]
    assert await find(database, "tea") == ["a memory about tea"]


async def test_a_deleted_memory_is_erased_in_steps_with_its_words(database: Database) -> None:
    session = await new_session(database)
    await stored_message(database, session.session_id, "word0 stays")
    before = await database.read(counted, ACME)
    memory = await create(database, " ".join(f"word{number}" for number in range(INDEXED_WORDS + 50)))
    _, index, _ = await database.read(counted, ACME)
    assert index == before[1] + 2 * INDEXED_WORDS
    storage = await database.read(get_storage, ACME, default_limit=0)
    await database.write(delete_memory, ACME, memory_id=memory.memory_id, etag="", now=1)
    assert await find(database, "word1") == []
    assert (await database.read(counted, ACME))[2] == 0
    steps = 0
    while await erase_next(database):
        steps += 1
    assert steps == 3
    assert await database.read(counted, ACME) == before
    left = await database.read(get_storage, ACME, default_limit=0)
    assert storage.stored_bytes - left.stored_bytes == len(memory.content) + len("{}")


async def test_an_update_leaves_no_word_that_is_not_there_any_more(database: Database) -> None:
    before = await database.read(counted, ACME)
    memory = await create(database, "one two three")
    changes = MemoryChanges(content="two four")
    await database.write(
        update_memory, ACME, memory_id=memory.memory_id, changes=changes, etag="", storage_limit=0, now=2
    )
    assert (await database.read(counted, ACME))[1] == before[1] + 2 * 2
    assert [await find(database, word) for word in ("one", "two", "four")] == [[], ["two four"], ["two four"]]
    await database.write(delete_memory, ACME, memory_id=memory.memory_id, etag="", now=3)
    await erase(database)
    assert await database.read(counted, ACME) == (0, 0, 0)


async def test_expired_memories_are_erased_by_the_housekeeping(database: Database, clock: Passing) -> None:
    soon = clock.now() + 60_000_000
    for scope in (ACME, EVIL):
        for number in range(30):
            await create(database, f"memory {number}", scope=scope, expire_time=soon if number else None)
    memories = Memories(database=database, clock=clock, half_life_days=90)
    keeping = Housekeeping(
        database=database, clock=clock, event_retention_hours=1, request_retention_days=7, chores=[memories.work]
    )
    await keeping.sweep()
    assert (await database.read(counted, ACME))[0] == 30
    clock.passed = 120_000_000
    await keeping.sweep()
    await keeping.sweep()
    for scope in (ACME, EVIL):
        assert await database.read(counted, scope) == (1, 2 * 2, 1)


async def test_what_a_search_returned_was_used(database: Database, clock: Passing) -> None:
    used, other = await create(database, "red apple"), await create(database, "green pear")
    memories = Memories(database=database, clock=clock, half_life_days=90)
    clock.passed = 5_000_000
    for _ in range(3):
        await memories.search(ACME, query="red", type_=None, limit=10)
    assert await read(database, used, clock) == used
    await memories.work()
    assert (await read(database, used, clock)).last_use_time > used.last_use_time + 4_000_000
    assert await read(database, used, clock) == replace(
        used, last_use_time=(await read(database, used, clock)).last_use_time
    )
    assert await read(database, other, clock) == other


async def read(database: Database, memory: Memory, clock: Clock) -> Memory:
    return await database.read(get_memory, ACME, memory_id=memory.memory_id, now=clock.now())


async def test_a_filtered_page_visits_so_many_memories_and_no_more(database: Database) -> None:
    for number in range(30):
        await create(database, f"{number}", type=MemoryType.EPISODIC if number % 10 == 0 else MemoryType.SEMANTIC)
    found: list[str] = []
    after, pages = None, 0
    while True:
        page = await database.read(
            list_memories,
            ACME,
            after=after,
            page_size=2,
            max_size=10**6,
            by_use=False,
            type_=MemoryType.EPISODIC,
            superseded=False,
            superseded_by=None,
            now=1,
        )
        found += [memory.content for memory in page.items]
        after, pages = page.next_after, pages + 1
        if after is None:
            break
    assert found == ["20", "10", "0"]
    assert pages == 2
