"""The postings of any messages, in small blocks and groups: what is found, and that groups agree with their blocks."""

import random
import struct
from collections import defaultdict

import pytest
from metamorphd.clock import Clock
from metamorphd.housekeeping import Housekeeping
from metamorphd.store.database import Database, Transaction
from metamorphd.store.messages import delete_message
from metamorphd.store.search import postings, query
from metamorphd.store.search.postings import GROUPS, place_of, split, unpack
from metamorphd.store.search.query import phrases_of, search_messages
from metamorphd.store.sessions import delete_session

from tests.support.rows import ACME, CLOCK, erase, new_session, stored_message

# The first ones are in most messages, the last ones in few.
WORDS = [f"w{number}" for number in range(8)]
WEIGHTS = [1 / (number + 1) ** 2 for number in range(8)]


class Model:
    """Messages of a vault by their IDs, oldest first: session and words."""

    def __init__(self, database: Database, source: random.Random) -> None:
        self.database = database
        self.source = source
        self.live: dict[str, tuple[str, set[str]]] = {}
        # In the order of their IDs, in which earlier messages are indexed.
        self.ids = (f"msg_{number:03}" for number in range(1_000))

    async def add(self, count: int, *sessions: str) -> None:
        """Stores messages in some of the sessions."""
        for _ in range(count):
            words = self.source.choices(WORDS, WEIGHTS, k=3)
            session_id = self.source.choice(sessions)
            message_id = next(self.ids)
            await stored_message(self.database, session_id, " ".join(words), message_id=message_id)
            self.live[message_id] = session_id, set(words)

    async def delete(self, count: int) -> None:
        """Deletes any messages."""
        for message_id in self.source.sample(sorted(self.live), count):
            await self.database.write(delete_message, ACME, message_id=message_id, now=CLOCK.now())
            del self.live[message_id]

    async def check(self) -> None:
        """Compares searches with those of every message, and groups with their blocks."""
        await self.database.read(check_groups, ACME)
        for session_id in (None, *dict(self.live.values())):
            for wanted in ([], *([word] for word in WORDS)):
                texts = [*wanted, self.source.choice(WORDS)]
                expected = [
                    message_id
                    for message_id, (within, words) in reversed(self.live.items())
                    if session_id in (None, within) and words.issuperset(texts)
                ]
                assert await self.found(" ".join(texts), session_id) == expected

    async def found(self, text: str, session_id: str | None) -> list[str]:
        """Returns the IDs of all matches, by pages."""
        found: list[str] = []
        after = None
        while True:
            page = await self.database.read(
                search_messages,
                ACME,
                phrases=phrases_of(text),
                session_id=session_id,
                after=after,
                page_size=self.source.choice((1, 3, 100)),
            )
            found += [match.message_id for match in page.items]
            after = page.next_after
            if after is None:
                return found


async def check_groups(tx: Transaction) -> None:
    """Checks that groups have the blocks that have a word, each once."""
    groups: dict[tuple[int, bytes], list[int]] = {}
    expected: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)
    for row in await tx.all("SELECT block, term, offsets FROM postings WHERE vault_id = :vault_id ORDER BY block"):
        if row.block > GROUPS // 2:
            groups[row.block - GROUPS, row.term] = sorted(unpack(row.offsets))
        else:
            group, place = split(row.block, postings.GROUP_BITS)
            expected[group, row.term].append(place)
    assert groups == expected


async def forget_index(tx: Transaction) -> None:
    """Leaves the vault as an upgrade from a server without this index does."""
    await tx.run("DELETE FROM postings WHERE vault_id = :vault_id")
    await tx.run("DELETE FROM indexed_messages WHERE vault_id = :vault_id")
    await tx.run("UPDATE vaults SET last_message_number = 0, unindexed_before = '~' WHERE vault_id = :vault_id")


async def count_postings(tx: Transaction) -> int:
    row = await tx.one("SELECT COUNT(*) AS postings FROM postings WHERE vault_id = :vault_id")
    assert row is not None
    return int(row.postings)


def test_an_offset_is_found_where_it_begins_only() -> None:
    # 01 00 00 02 00 00
    offsets = struct.pack(">3H", 0x100, 0x002, 0x000)
    assert [place_of(offset, offsets) for offset in (0x100, 0x002, 0x000, 0x200)] == [0, 2, 4, -1]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("effort", [5, 10_000])
async def test_messages_are_found_until_they_are_deleted_and_leave_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch, seed: int, effort: int
) -> None:
    for module in (postings, query):
        monkeypatch.setattr(module, "BLOCK_BITS", 2)
        monkeypatch.setattr(module, "GROUP_BITS", 2)
    monkeypatch.setattr(query, "EFFORT", effort)
    # Of a few common offsets, and of more.
    monkeypatch.setattr(query, "FEW_OFFSETS", 1)
    model = Model(database, random.Random(seed))  # noqa: S311, not for secrets
    first, second, third = [(await new_session(database)).session_id for _ in range(3)]
    await model.add(50, first, second)
    await model.delete(20)
    await erase(database)
    await model.check()
    # These get numbers below 0, from the newest on.
    await database.write(forget_index, ACME)
    await model.add(20, second, third)
    await Housekeeping(database=database, clock=Clock(), event_retention_hours=1, request_retention_days=7).sweep()
    await model.check()
    await model.delete(25)
    await model.check()
    await erase(database)
    await model.add(10, first)
    await model.check()
    for session_id in (first, second, third):
        await database.write(delete_session, ACME, session_id=session_id, etag="", now=CLOCK.now())
    await erase(database)
    assert await database.read(count_postings, ACME) == 0
