"""Migrations of rows that an earlier server stored."""

from collections.abc import Iterator, Mapping
from typing import Any

import apsw
import pytest
from metamorphd.store import migrations
from metamorphd.store.sqlite import search


@pytest.fixture
def connection() -> Iterator[apsw.Connection]:
    opened = apsw.Connection(":memory:")
    search.register(opened)
    yield opened
    opened.close()


def migrate(connection: apsw.Connection, *, first: int = 1, last: int) -> None:
    for version, script in migrations.load("sqlite"):
        if first <= version <= last:
            connection.execute(script).fetchall()


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
