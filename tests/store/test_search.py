"""The full-text index: matches, their order, isolation and deletion."""

from collections.abc import Sequence

from metamorphd.models.caller import Scope
from metamorphd.store.database import Database, Transaction
from metamorphd.store.messages import delete_message
from metamorphd.store.search.index import SEARCHED_CHARACTERS, IndexedText
from metamorphd.store.sessions import delete_session

from tests.support.rows import ACME, CLOCK, EVIL, new_session, stored_message


async def create_text(tx: Transaction, *, session_id: str, message_id: str, text: str) -> None:
    await tx.search.create(session_id=session_id, message_id=message_id, text=text)


async def query_texts(
    tx: Transaction, *, phrases: Sequence[str], session_id: str | None, offset: int, limit: int
) -> list[IndexedText]:
    return await tx.search.query(phrases=phrases, session_id=session_id, offset=offset, limit=limit)


async def delete_texts(tx: Transaction, *, message_id: str, session_id: str) -> None:
    if message_id:
        await tx.search.delete_message(message_id=message_id)
    if session_id:
        await tx.search.delete_session(session_id=session_id)


async def add(database: Database, message_id: str, text: str, session_id: str = "s", scope: Scope = ACME) -> None:
    await database.write(create_text, scope, session_id=session_id, message_id=message_id, text=text)


async def delete(database: Database, *, message_id: str = "", session_id: str = "", scope: Scope = ACME) -> None:
    await database.write(delete_texts, scope, message_id=message_id, session_id=session_id)


async def query(
    database: Database,
    *phrases: str,
    session_id: str | None = None,
    offset: int = 0,
    limit: int = 10,
    scope: Scope = ACME,
) -> list[str]:
    """Returns the ids of the matches."""
    found = await database.read(query_texts, scope, phrases=phrases, session_id=session_id, offset=offset, limit=limit)
    return [text.message_id for text in found]


async def test_all_phrases_must_be_there_without_case_and_accents(database: Database) -> None:
    await add(database, "m1", "Das Café am Ufer, the coffee is good")
    await add(database, "m2", "coffee elsewhere")
    assert await query(database, "COFFEE", "cafe") == ["m1"]
    assert set(await query(database, "coffee")) == {"m1", "m2"}
    assert await query(database, "am ufer") == ["m1"]
    assert await query(database, "ufer am") == []
    assert await query(database, "coffee", "tea") == []


async def test_what_is_found_comes_with_its_text(database: Database) -> None:
    await add(database, "m1", "one two")
    found = await database.read(query_texts, ACME, phrases=["two"], session_id=None, offset=0, limit=1)
    assert found == [IndexedText("m1", "one two")]


async def test_a_phrase_is_no_expression(database: Database) -> None:
    await add(database, "m1", "rock NOT roll OR text near")
    for phrase in ("text : rock", "rock*", "^rock", "NEAR(rock roll)", "rock) OR (x", "rock AND roll", "vault_id"):
        assert set(await query(database, phrase)) <= {"m1"}
    assert await query(database, "NOT roll OR") == ["m1"]
    assert await query(database, "roll NOT") == []


async def test_the_best_come_first_the_newest_among_equals_in_any_portion(database: Database) -> None:
    await add(database, "often", "word word word word")
    for number in range(5):
        await add(database, f"m{number}", "word and more")
    everything = ["often", "m4", "m3", "m2", "m1", "m0"]
    assert await query(database, "word") == everything
    for limit in (1, 2, 5):
        pages = [await query(database, "word", offset=offset, limit=limit) for offset in range(0, 6, limit)]
        assert [message_id for page in pages for message_id in page] == everything
    assert await query(database, "word", offset=6) == []


async def test_a_vault_finds_its_own_and_what_others_hold_changes_no_order(database: Database) -> None:
    await add(database, "common", "alpha alpha beta")
    await add(database, "rare", "alpha beta beta")
    before = await query(database, "alpha", "beta")
    for number in range(20):
        await add(database, f"e{number}", "beta", scope=EVIL)
    assert await query(database, "alpha", "beta") == before
    assert await query(database, "alpha", scope=EVIL) == []
    assert len(await query(database, "beta", scope=EVIL, limit=100)) == 20
    # Of the same ids only the vault's own goes.
    await add(database, "common", "alpha", scope=EVIL)
    await delete(database, message_id="common", session_id="s", scope=EVIL)
    assert await query(database, "alpha", "beta") == before
    assert await query(database, "alpha", scope=EVIL) == []


async def test_a_session_is_searched_and_forgotten_alone(database: Database) -> None:
    await add(database, "m1", "word", session_id="one")
    await add(database, "m2", "word", session_id="two")
    assert await query(database, "word", session_id="one") == ["m1"]
    assert await query(database, "word", session_id="none") == []
    await delete(database, session_id="one")
    assert await query(database, "word") == ["m2"]
    await delete(database, message_id="m2")
    assert await query(database, "word") == []
    await delete(database, message_id="m2", session_id="two")


async def test_messages_are_found_by_their_beginning_until_they_are_deleted(database: Database) -> None:
    session = (await new_session(database)).session_id
    long = await stored_message(database, session, "first " + "x" * SEARCHED_CHARACTERS + " last")
    short = await stored_message(database, session, "first")
    assert set(await query(database, "first")) == {long.message_id, short.message_id}
    assert await query(database, "last") == []
    await database.write(delete_message, ACME, message_id=short.message_id, now=CLOCK.now())
    assert await query(database, "first") == [long.message_id]
    await database.write(delete_session, ACME, session_id=session, etag="")
    assert await query(database, "first") == []
