"""The full-text index: matches, their order, pages, isolation and deletion."""

import pytest
from metamorphd.clock import Clock
from metamorphd.errors import SessionNotFound
from metamorphd.housekeeping import Housekeeping
from metamorphd.store.database import Database, Transaction
from metamorphd.store.erasure import STEP_WORDS
from metamorphd.store.messages import delete_message
from metamorphd.store.search import postings, query
from metamorphd.store.search.postings import CHARACTERS_AT_ONCE, WORDS_AT_ONCE
from metamorphd.store.search.words import SEARCHED_CHARACTERS
from metamorphd.store.sessions import delete_session

from tests.support.rows import ACME, CLOCK, EVIL, erase, new_session
from tests.support.searching import Vault


@pytest.fixture
def acme(database: Database) -> Vault:
    return Vault(database, ACME)


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes blocks of four messages, and groups of two blocks."""
    for module in (postings, query):
        monkeypatch.setattr(module, "BLOCK_BITS", 2)
        monkeypatch.setattr(module, "GROUP_BITS", 1)


async def count_postings(tx: Transaction) -> int:
    row = await tx.one("SELECT COUNT(*) AS postings FROM postings WHERE vault_id = :vault_id")
    assert row is not None
    return int(row.postings)


async def test_all_words_must_be_there_without_case_and_accents(acme: Vault) -> None:
    cafe, elsewhere = "Das Café am Ufer, the coffee is good", "coffee elsewhere"
    await acme.add(cafe, elsewhere)
    assert await acme.found("COFFEE cafe") == [cafe]
    assert await acme.found("coffee") == [elsewhere, cafe]
    assert await acme.found('"am ufer"') == [cafe]
    assert await acme.found('"ufer am"') == []
    assert await acme.found("coffee tea") == []
    assert await acme.found("am-ufer") == [cafe]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("\uff46\uff55\uff4c\uff4c width", "full"),
        ("ﬁne", "fine"),
        ("Straße", "STRASSE"),
        ("cafe\u0301", "café"),
        ("İstanbul", "istanbul"),
        ("\U0001d49clpha", "alpha"),
        ("東京タワーが好き", "タワー"),
        ("שָׁלוֹם", "שלום"),
        ("हिन्दी", "हिन्दी"),
        ("before\0after", "after"),
        ("a" + "\u0301\u0323" * 1_000, "a"),
        ("w" * SEARCHED_CHARACTERS, "w" * 900),
        ("\U0001f989 owl", "owl"),
        ("한국어 단어", "단어"),
    ],
)
async def test_words_of_every_script_are_found(acme: Vault, text: str, word: str) -> None:
    await acme.add(text)
    assert await acme.found(word) == ([] if len(word) == 900 else [text])
    assert await acme.found("absent") == []


async def test_marks_that_spell_a_word_are_compared(acme: Vault) -> None:
    await acme.add("कि", "が")
    assert await acme.found("कु") == []
    assert await acme.found("か") == []


async def test_matches_are_newest_first_in_pages_of_any_size(acme: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)
    await acme.add(*(f"word {number}" if number % 3 else f"other {number}" for number in range(40)))
    everything = [f"word {number}" for number in reversed(range(40)) if number % 3]
    for page_size in (1, 2, 7, 26, 100):
        assert await acme.found("word", page_size=page_size) == everything
    _, after = await acme.page("word", page_size=len(everything))
    assert after is None


async def test_pages_stay_where_they_are_when_messages_are_added(acme: Vault) -> None:
    await acme.add("word 1", "word 2", "word 3")
    first, after = await acme.page("word", page_size=2)
    await acme.add("word 4")
    assert (first, await acme.page("word", after=after)) == (["word 3", "word 2"], (["word 1"], None))


@pytest.mark.parametrize("text", ["word", "word other", "word absent", '"word other"', '"other word"'])
async def test_a_search_that_takes_too_much_continues_on_the_next_page(
    acme: Vault, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    make_small(monkeypatch)
    await acme.add(*(f"word other {number}" for number in range(30)))
    everything = await acme.found(text)
    assert len(everything) == (0 if text in ("word absent", '"other word"') else 30)
    monkeypatch.setattr(query, "EFFORT", 3)
    pages, after = 0, None
    found: list[str] = []
    while pages == 0 or after is not None:
        texts, after = await acme.page(text, after=after)
        found += texts
        pages += 1
    assert found == everything
    assert 1 < pages <= 31


async def test_a_vault_finds_its_own(acme: Vault, database: Database) -> None:
    evil = Vault(database, EVIL)
    await acme.add("alpha beta")
    await evil.add("beta")
    assert (await acme.found("beta"), await evil.found("beta")) == (["alpha beta"], ["beta"])
    assert await evil.found("alpha") == []
    with pytest.raises(SessionNotFound):
        await evil.found("alpha", session_id=acme.session)


async def test_a_session_is_searched_alone(acme: Vault, database: Database) -> None:
    await acme.add("word one")
    other = (await new_session(database)).session_id
    await acme.add("word two", session_id=other)
    assert await acme.found("word", session_id=other) == ["word two"]
    assert await acme.found("word") == ["word two", "word one"]
    # Its ID is no word.
    assert await acme.found(other) == []


async def test_deleted_messages_and_sessions_leave_no_words(acme: Vault, database: Database) -> None:
    await acme.add("first word")
    before = await database.read(count_postings, ACME)
    other = (await new_session(database)).session_id
    deleted, _ = await acme.add("second word", "third word", session_id=other)
    await database.write(delete_message, ACME, message_id=deleted, now=CLOCK.now())
    assert await acme.found("word") == ["third word", "first word"]
    await database.write(delete_session, ACME, session_id=other, etag="", now=9)
    assert await acme.found("word") == ["first word"]
    await erase(database)
    assert await database.read(count_postings, ACME) == before


async def test_a_long_message_is_indexed_and_removed_in_steps(acme: Vault, database: Database) -> None:
    await acme.add("first")
    before = await database.read(count_postings, ACME)
    words = [f"word{number}" for number in range(SEARCHED_CHARACTERS // 9)]
    text = " ".join(words)
    (message_id,) = await acme.add(text)
    assert await database.read(count_postings, ACME) == before + 2 * (WORDS_AT_ONCE - 1)
    assert await acme.found(words[100]) == [text]
    assert await acme.found(words[-1]) == []
    async with Housekeeping(
        database=database, clock=Clock(), event_retention_hours=1, request_retention_days=7
    ) as keeping:
        await keeping.sweep()
    assert await acme.found(words[-1]) == [text]
    assert await acme.found(f'"{words[3]} {words[4]}" {words[-2]}') == [text]

    await database.write(delete_message, ACME, message_id=message_id, now=CLOCK.now())
    assert await acme.found(words[5]) == []
    assert await erase(database) == len(words) // STEP_WORDS + 1
    assert await database.read(count_postings, ACME) == before


async def test_messages_are_found_by_their_beginning(acme: Vault, database: Database) -> None:
    text = "x " * CHARACTERS_AT_ONCE + "middle " + "y" * SEARCHED_CHARACTERS + " last"
    await acme.add(text)
    await Housekeeping(database=database, clock=Clock(), event_retention_hours=1, request_retention_days=7).sweep()
    assert await acme.found("middle x") == [text]
    assert await acme.found("last") == []
