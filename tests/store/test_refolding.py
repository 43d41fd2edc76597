"""Messages that an earlier server indexed: found before, while and after they are indexed anew, and removed."""

from collections.abc import Iterator

import pytest
from metamorphd.clock import Clock
from metamorphd.housekeeping import Housekeeping
from metamorphd.store.database import Database, Transaction
from metamorphd.store.messages import delete_message
from metamorphd.store.search import indexing, postings
from metamorphd.store.search.earlier import earlier_words_of
from metamorphd.store.search.indexing import add_pending_words, read_pending_words
from metamorphd.store.search.postings import EARLIER_FOLDING, FOLDING, WORDS_AT_ONCE
from metamorphd.store.search.refolding import REFOLDED_WORDS, read_earlier_folded, refold_messages
from metamorphd.store.sessions import delete_session

from tests.support.rows import ACME, CLOCK, erase
from tests.support.searching import Vault

ENGLISH, POLISH, CHINESE, GREEK = "the Café, old", "Łódź jest old", "我们今天去公园", "ΟΔΥΣΣΕΥΣ soft\u00adhyphen old"


@pytest.fixture
def acme(database: Database) -> Vault:
    return Vault(database, ACME)


@pytest.fixture
def earlier_server() -> Iterator[pytest.MonkeyPatch]:
    """Indexes as an earlier server did, until it is undone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postings, "words_of", earlier_words_of)
        patch.setattr(postings, "with_pairs", list)
        patch.setattr(postings, "FOLDING", EARLIER_FOLDING)
        yield patch


async def indexed(tx: Transaction) -> list[tuple[int, int, int]]:
    """Returns number, folding and count of words of every message in the index."""
    rows = await tx.all(
        "SELECT number, folding, word_count FROM indexed_messages WHERE vault_id = :vault_id ORDER BY number"
    )
    return [(row.number, row.folding, row.word_count) for row in rows]


async def stored_postings(tx: Transaction) -> dict[tuple[int, bytes], list[str]]:
    rows = await tx.all("SELECT block, term, offsets FROM postings WHERE vault_id = :vault_id")
    return {(row.block, row.term): sorted(row.offsets.hex(" ", 2).split()) for row in rows}


async def sweep(database: Database) -> None:
    await Housekeeping(database=database, clock=Clock(), event_retention_hours=1, request_retention_days=7).sweep()


async def step(database: Database) -> bool:
    """Takes one step of indexing anew, and returns whether there was something to do."""
    messages = await database.read(read_earlier_folded, ACME)
    await database.write(refold_messages, ACME, messages=messages)
    # Once more, as if the answer was lost.
    await database.write(refold_messages, ACME, messages=messages)
    return bool(messages)


async def test_messages_of_an_earlier_server_are_found_before_and_after_they_are_indexed_anew(
    acme: Vault, database: Database, earlier_server: pytest.MonkeyPatch
) -> None:
    await acme.add(ENGLISH, POLISH, CHINESE, GREEK)
    earlier_server.undo()
    await acme.add("newest, old 去公园")
    before = [text for text in reversed(acme.texts.values()) if "old" in text]
    # What is folded as before is found at once, in its place: also a part of a run, which has no pairs yet.
    assert await acme.found("old") == before
    assert await acme.found("cafe") == [ENGLISH]
    assert await acme.found("公园") == ["newest, old 去公园", CHINESE]
    assert await acme.found("园公") == []
    assert await acme.found("lodz") == []

    numbers = [number for number, *_ in await database.read(indexed, ACME)]
    await sweep(database)
    assert await acme.found("old") == before
    assert await acme.found("公园") == ["newest, old 去公园", CHINESE]
    assert await acme.found("园公") == []
    assert await acme.found("lodz") == [POLISH]
    assert await acme.found("softhyphen οδυσσεύς") == [GREEK]
    assert await acme.found("soft") == []
    rows = await database.read(indexed, ACME)
    assert [number for number, *_ in rows] == numbers
    assert {folding for _, folding, _ in rows} == {FOLDING}


async def test_an_index_that_was_made_anew_is_as_if_it_was_made_so(
    acme: Vault, database: Database, earlier_server: pytest.MonkeyPatch
) -> None:
    texts = (ENGLISH, POLISH, CHINESE, GREEK, " ".join(f"słowo{number}" for number in range(2 * WORDS_AT_ONCE)))
    await acme.add(*texts)
    earlier_server.undo()
    await sweep(database)
    found = await database.read(stored_postings, ACME), await database.read(indexed, ACME)
    # Another vault's hashes differ, so the same one is filled again.
    await database.write(delete_session, ACME, session_id=acme.session, etag="", now=CLOCK.now())
    await erase(database)
    await database.write(start_again, ACME)
    again = Vault(database, ACME)
    await again.add(*texts)
    await sweep(database)
    fresh = await database.read(stored_postings, ACME), await database.read(indexed, ACME)
    assert found[1] == fresh[1]
    # Both have the word of their own session.
    assert len(found[0]) == len(fresh[0])
    assert len(found[0].keys() - fresh[0].keys()) == 2


async def start_again(tx: Transaction) -> None:
    assert await stored_postings(tx) == {}
    await tx.run("UPDATE vaults SET last_message_number = 0 WHERE vault_id = :vault_id")


async def test_a_step_changes_a_bounded_number_of_words(
    acme: Vault, database: Database, earlier_server: pytest.MonkeyPatch
) -> None:
    await acme.add(" ".join(f"słowo{number}" for number in range(WORDS_AT_ONCE)), *[POLISH] * 100, *[ENGLISH] * 100)
    earlier_server.undo()
    steps = 0
    while messages := await database.read(read_earlier_folded, ACME):
        changed = sum(len(message.removed) + len(message.added) for message in messages)
        assert changed <= REFOLDED_WORDS + 2 * indexing.PENDING_WORDS
        await step(database)
        steps += 1
    assert steps > 200 // 32 + WORDS_AT_ONCE // indexing.PENDING_WORDS
    assert await acme.found("lodz") == [POLISH] * 100


@pytest.mark.parametrize("steps", range(6))
async def test_a_message_that_is_deleted_meanwhile_leaves_no_words(
    acme: Vault, database: Database, earlier_server: pytest.MonkeyPatch, steps: int
) -> None:
    (message_id,) = await acme.add(" ".join(f"słowo{number}" for number in range(2 * WORDS_AT_ONCE)))
    # It is indexed by its first words only, and by others before it is indexed anew.
    pending = await database.read(read_pending_words, ACME)
    assert pending is not None
    earlier_server.undo()
    await database.write(add_pending_words, ACME, pending=pending)
    for _ in range(steps):
        assert await step(database)
    messages = await database.read(read_earlier_folded, ACME)
    await database.write(delete_message, ACME, message_id=message_id, now=CLOCK.now())
    await database.write(refold_messages, ACME, messages=messages)
    assert await acme.found("slowo1") == []
    if steps % 2:
        await sweep(database)
    await erase(database)
    assert await database.read(stored_postings, ACME) == {}
    assert await database.read(indexed, ACME) == []
    await sweep(database)


async def test_words_that_were_read_before_a_message_was_indexed_anew_are_not_added(
    acme: Vault, database: Database, earlier_server: pytest.MonkeyPatch
) -> None:
    await acme.add(" ".join(f"słowo{number}" for number in range(2 * WORDS_AT_ONCE)))
    pending = await database.read(read_pending_words, ACME)
    earlier_server.undo()
    while await step(database):
        pass
    assert pending is not None
    await database.write(set_word_count, ACME, count=pending.word_count)
    await database.write(add_pending_words, ACME, pending=pending)
    assert [count for _, _, count in await database.read(indexed, ACME)] == [pending.word_count]


async def set_word_count(tx: Transaction, *, count: int) -> None:
    await tx.run("UPDATE indexed_messages SET word_count = :count WHERE vault_id = :vault_id", count=count)
