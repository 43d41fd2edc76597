"""Migrations of rows that an earlier server stored."""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import apsw
import pytest
from metamorphd.clock import Clock
from metamorphd.housekeeping import Housekeeping
from metamorphd.models.content import TextBlock
from metamorphd.store import fills, migrations
from metamorphd.store.codec import encode_content
from metamorphd.store.fills import FILLS
from metamorphd.store.messages import create_message, delete_message
from metamorphd.store.search.earlier import earlier_words_of
from metamorphd.store.search.indexing import EARLIER_MESSAGES, index_earlier_messages, read_earlier_messages
from metamorphd.store.search.postings import GROUPS, hasher, session_word
from metamorphd.store.search.query import phrases_of, search_messages
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.sqlite.migrate import APPLICATION_ID
from metamorphd.store.sqlite.migrate import migrate as migrate_file

from tests.support.rows import ACME, new_message


@pytest.fixture
def connection() -> Iterator[apsw.Connection]:
    opened = apsw.Connection(":memory:")
    yield opened
    opened.close()


def migrate(connection: apsw.Connection, *, first: int = 1, last: int) -> None:
    for version, script in migrations.load("sqlite"):
        if first <= version <= last:
            connection.execute(script).fetchall()
            if version in FILLS:
                list(FILLS[version](connection.execute))


def insert(connection: apsw.Connection, table: str, **values: Any) -> None:
    """Inserts a row of the vault `acme`. Columns without a value or a default become 0 or empty."""
    columns = connection.execute("SELECT name, type, dflt_value FROM pragma_table_info(?)", (table,)).fetchall()
    usual: Mapping[str, Any] = {"TEXT": "", "INTEGER": 0, "BLOB": b""}
    row = {str(name): usual[str(kind)] for name, kind, default in columns if default is None}
    row |= {"vault_id": "acme"} | values
    names = ", ".join(row)
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join(f':{name}' for name in row)})", row)  # noqa: S608


def test_replies_interrupted_before_the_migration_are_partial(connection: apsw.Connection) -> None:
    migrate(connection, last=6)
    insert(connection, "vaults")
    insert(connection, "sessions", session_id="ses_1")
    statuses = ("COMPLETED", "CANCELLED", "INTERRUPTED", "FAILED")
    for number, status in enumerate(statuses):
        turn, user, reply = f"turn_{number}", f"msg_user_{number}", f"msg_reply_{number}"
        common = {"session_id": "ses_1", "turn_id": turn, "content": "[]"}
        insert(connection, "messages", message_id=user, role="USER", ordinal=2 * number, **common)
        insert(connection, "messages", message_id=reply, role="ASSISTANT", ordinal=2 * number + 1, **common)
        insert(
            connection,
            "turns",
            turn_id=turn,
            session_id="ses_1",
            user_message_id=user,
            reply_message_id=reply,
            status=status,
        )
    migrate(connection, first=7, last=7)
    partial = connection.execute("SELECT message_id FROM messages WHERE partial = 1 ORDER BY message_id").fetchall()
    assert partial == [("msg_reply_1",), ("msg_reply_2",), ("msg_reply_3",)]


def test_messages_stored_before_the_migration_are_linked(connection: apsw.Connection) -> None:
    migrate(connection, last=9)
    insert(connection, "vaults")
    insert(connection, "sessions", session_id="ses_1")
    parents: list[str | None] = [None, "m1", "m2", "m3", "m4", "m5", "m2", "m7"]
    for ordinal, parent in enumerate(parents, 1):
        content = '[{"type": "text", "text": "Hello"}]' if ordinal != 3 else '[{"type": "compaction", "summary": ""}]'
        insert(
            connection,
            "messages",
            message_id=f"m{ordinal}",
            session_id="ses_1",
            ordinal=ordinal,
            parent_message_id=parent,
            role=("ASSISTANT", "USER")[ordinal % 2],
            content=content,
            size=ordinal,
        )
    migrate(connection, first=10, last=10)
    links = connection.execute(
        "SELECT parent_message_id, depth, jump_message_id, jump_depth, size, opens, summarizes FROM message_links "
        "ORDER BY message_id"
    ).fetchall()
    assert links == [
        (None, 1, "m1", 1, 1, 1, 0),
        ("m1", 2, "m1", 1, 2, 0, 0),
        ("m2", 3, "m2", 2, 3, 0, 1),
        ("m3", 4, "m1", 1, 4, 0, 0),
        ("m4", 5, "m4", 4, 5, 1, 0),
        ("m5", 6, "m5", 5, 6, 0, 0),
        ("m2", 3, "m2", 2, 7, 1, 0),
        ("m7", 4, "m1", 1, 8, 0, 0),
    ]


def test_a_fill_that_is_interrupted_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fills, "COMMITTED_MESSAGES", 2)
    path = tmp_path / "metamorph.db"
    connection = apsw.Connection(str(path))
    migrate(connection, last=9)
    insert(connection, "vaults")
    for session in range(10):
        insert(connection, "sessions", session_id=f"s{session}", metadata="{}")
        row = {"session_id": f"s{session}", "role": "USER", "content": "[]"}
        for ordinal in range(1, session + 1):
            parent = f"m{session}{ordinal - 1}" if ordinal > 1 else None
            insert(
                connection,
                "messages",
                message_id=f"m{session}{ordinal}",
                ordinal=ordinal,
                parent_message_id=parent,
                **row,
            )
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 9").fetchall()
    commits = 0

    def fail() -> bool:
        nonlocal commits
        commits += 1
        return commits == 4

    connection.set_commit_hook(fail)
    with pytest.raises(apsw.ConstraintError):
        migrate_file(connection, path)
    connection.set_commit_hook(None)
    assert connection.pragma("user_version") == 9
    assert 0 < int(str(connection.execute("SELECT COUNT(*) FROM message_links").get)) < 45
    # An earlier server goes on with a session that is linked.
    insert(
        connection,
        "messages",
        session_id="s1",
        message_id="m12",
        ordinal=2,
        parent_message_id="m11",
        role="USER",
        content="[]",
    )
    migrate_file(connection, path)
    links = "SELECT message_id, depth FROM message_links ORDER BY message_id"
    expected = [(f"m{session}{n}", n) for session in range(10) for n in range(1, session + 1 + (session == 1))]
    assert connection.execute(links).fetchall() == expected
    connection.close()


ADD_EARLIER = """
INSERT INTO postings VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET offsets = CAST(offsets || excluded.offsets AS BLOB)
WHERE instr(offsets, excluded.offsets) = 0
"""


async def found(database: SqliteDatabase, word: str) -> list[str]:
    """Returns the snippets of a search, newest first."""
    page = await database.read(
        search_messages, ACME, phrases=phrases_of(word), session_id=None, after=None, page_size=200
    )
    return [match.snippet for match in page.items]


async def index_some(database: SqliteDatabase, steps: int) -> None:
    for _ in range(steps):
        messages = await database.read(read_earlier_messages, ACME)
        assert messages is not None
        await database.write(index_earlier_messages, ACME, messages=messages)


async def test_messages_stored_before_the_migration_are_indexed_in_steps(tmp_path: Path) -> None:
    path = tmp_path / "metamorph.db"
    connection = apsw.Connection(str(path))
    migrate(connection, last=10)
    insert(connection, "vaults", hash_key=bytes(32))
    insert(connection, "sessions", session_id="ses_1", metadata="{}", message_count=100)
    for number in range(1, 101):
        row = {"message_id": f"msg_{number:03}", "session_id": "ses_1"}
        insert(
            connection,
            "messages",
            ordinal=number,
            delete_time=None,
            role="USER",
            content=encode_content((TextBlock(f"old {number}"),)),
            **row,
        )
        connection.execute("INSERT INTO message_search (message_id, text) VALUES (:message_id, 'old')", row)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 10").fetchall()
    connection.close()

    everything = [f"old {number}" for number in range(100, 0, -1)]
    async with SqliteDatabase(path=path, synchronous="FULL") as database:
        message = new_message("ses_1", "newest, not old")
        await database.write(create_message, ACME, message=message)
        await index_some(database, 2)
        assert await found(database, "old") == ["newest, not old", *everything[: 2 * EARLIER_MESSAGES]]
        # An index of the messages that were read before they are deleted.
        messages = await database.read(read_earlier_messages, ACME)
        assert messages is not None
        await database.write(delete_message, ACME, message_id=messages[0].message_id, now=1)
        everything.remove(messages[0].text)
        await database.write(index_earlier_messages, ACME, messages=messages)
        # Once more, as if the answer was lost.
        await database.write(index_earlier_messages, ACME, messages=messages)
    # A server that starts between two steps finds nothing damaged.
    more = True
    while more:
        async with SqliteDatabase(path=path, synchronous="FULL") as database:
            more = await database.maintain()
    async with SqliteDatabase(path=path, synchronous="FULL") as database:
        await Housekeeping(database=database, clock=Clock(), event_retention_hours=1, request_retention_days=7).sweep()
        assert await found(database, "old") == ["newest, not old", *everything]
        assert await found(database, "newest") == ["newest, not old"]
    connection = apsw.Connection(str(path))
    assert connection.execute("SELECT name FROM sqlite_schema WHERE name LIKE 'message_search%'").fetchall() == []
    assert connection.execute("SELECT unindexed_before FROM vaults").fetchall() == [(None,)]
    connection.close()


async def test_messages_indexed_before_the_migration_are_indexed_anew(tmp_path: Path) -> None:
    path = tmp_path / "metamorph.db"
    connection = apsw.Connection(str(path))
    migrate(connection, last=15)
    texts = {1: "Łódź stoi", 2: "plain stoi", 3: "我们去公园"}
    insert(connection, "vaults", hash_key=bytes(32), last_message_number=len(texts))
    insert(connection, "sessions", session_id="ses_1", metadata="{}", message_count=len(texts), delete_time=None)
    term = hasher(bytes(32))
    for number, text in texts.items():
        message = {"message_id": f"msg_{number}", "session_id": "ses_1", "role": "USER", "delete_time": None}
        insert(connection, "messages", ordinal=number, content=encode_content((TextBlock(text),)), **message)
        words = [session_word("ses_1"), *earlier_words_of(text)]
        insert(connection, "indexed_messages", message_id=f"msg_{number}", number=number, word_count=len(words))
        for word in words:
            for block, place in ((0, number), (GROUPS, 0)):
                connection.execute(ADD_EARLIER, ("acme", block, term(word), struct.pack(">H", place)))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 15").fetchall()
    connection.close()

    async with SqliteDatabase(path=path, synchronous="FULL") as database:
        assert await found(database, "stoi") == ["plain stoi", "Łódź stoi"]
        assert await found(database, "公园") == ["我们去公园"]
        assert await found(database, "lodz") == []
        await Housekeeping(database=database, clock=Clock(), event_retention_hours=1, request_retention_days=7).sweep()
        assert await found(database, "stoi") == ["plain stoi", "Łódź stoi"]
        assert await found(database, "公园") == ["我们去公园"]
        assert await found(database, "lodz") == ["Łódź stoi"]
    connection = apsw.Connection(str(path))
    assert connection.execute("SELECT DISTINCT folding, pending FROM indexed_messages").fetchall() == [(2, 0)]
    removed = connection.execute("SELECT COUNT(*) FROM postings WHERE term = ?", (term("łodz"),)).get
    assert removed == 0
    connection.close()


def stored(connection: apsw.Connection) -> tuple[int, int]:
    """Returns the bytes that the vault's row counts, and those that are stored."""
    counted = connection.execute("SELECT stored_bytes FROM vaults").get
    summed = connection.execute(
        """
        SELECT (SELECT COALESCE(SUM(size), 0) FROM messages) + (SELECT COALESCE(SUM(size), 0) FROM attachments)
            + (SELECT COALESCE(SUM(octet_length(title) + octet_length(system_prompt) + octet_length(metadata)), 0)
               FROM sessions)
        """
    ).get
    return int(str(counted)), int(str(summed))


def test_stored_bytes_are_counted_from_the_migration_on_and_by_every_change(connection: apsw.Connection) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    migrate(connection, last=12)
    insert(connection, "vaults")
    insert(connection, "sessions", session_id="ses_1", title="Grüße", metadata="{}")
    insert(connection, "attachments", attachment_id="att_1", size=7)
    migrate(connection, first=13, last=13)
    assert stored(connection) == (16, 16)
    insert(connection, "sessions", session_id="ses_2", title="two")
    for number in range(3):
        insert(connection, "messages", message_id=f"m{number}", session_id="ses_2", ordinal=number, size=100)
    assert stored(connection) == (319, 319)
    for change in (
        "UPDATE messages SET size = 2 WHERE message_id = 'm0'",
        "UPDATE sessions SET system_prompt = 'ü' WHERE session_id = 'ses_2'",
        "DELETE FROM messages WHERE message_id = 'm1'",
        "DELETE FROM attachments",
        "DELETE FROM sessions WHERE session_id = 'ses_2'",
    ):
        connection.execute(change)
        counted, summed = stored(connection)
        assert counted == summed
    assert stored(connection) == (9, 9)


def test_what_imports_store_is_counted_from_the_migration_on_and_by_every_change(connection: apsw.Connection) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    migrate(connection, last=36)
    insert(connection, "vaults")
    insert(connection, "sessions", session_id="ses_1")
    insert(connection, "imports")
    before, _ = stored(connection)
    insert(connection, "turns", turn_id="t1", session_id="ses_1", options="{}", error="ü", stop_details="{}")
    insert(connection, "turns", turn_id="t2", session_id="ses_1", options="{}", error=None, stop_details=None)
    insert(connection, "staged_records", number=1, record="{...}")
    insert(connection, "usage", session_id="ses_1", model="m")
    migrate(connection, first=37, last=37)
    for change, added in (
        ("SELECT 1", 2 + 2 + 5),
        ("UPDATE turns SET error = 'why', status = 'FAILED' WHERE turn_id = 't2'", 3),
        ("UPDATE turns SET error = error, model = 'm'", 0),
        ("DELETE FROM turns WHERE turn_id = 't1'", -4),
        ("DELETE FROM staged_records", -5),
        ("INSERT INTO usage SELECT 'acme', '', 'ses_é', 'm', 0, 0, 0, 0, 0, 0, 0, 1", 100 + 6 + 1),
        ("INSERT INTO subject_usage SELECT 'acme', 'user', 'bob', '', 'm', 0, 0, 0, 0, 0, 0, 0, 1", 100 + 3 + 1),
        ("INSERT INTO subject_usage SELECT 'acme', 'user', 'eve', '', 'm', 0, 0, 0, 0, 0, 0, 0, 0", 0),
        ("DELETE FROM usage", -107),
        ("DELETE FROM subject_usage", -104),
        ("DELETE FROM sessions", -3),
    ):
        connection.execute(change).fetchall()
        counted, _ = stored(connection)
        assert (change, counted - before) == (change, added)
        before = counted
