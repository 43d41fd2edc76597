"""The indexes that SQLite reads rows from."""

import apsw
import pytest
from metamorphd.store import attachments, data_keys, messages, retention, secrets, session_lists
from metamorphd.store.database import is_point_read
from metamorphd.store.memories import change, create, read, search

from tests.store.sqlite.engine import SqliteEngine, migrated, plan
from tests.support.statements import Statement, statements

ALL = statements(SqliteEngine.name)
POINT_READS = [statement for statement in ALL if statement.function and is_point_read(statement.function)]


@pytest.mark.parametrize("statement", POINT_READS, ids=lambda statement: statement.operation)
def test_a_point_read_finds_its_row_by_the_full_primary_key(statement: Statement) -> None:
    steps = plan(statement.sql)
    assert not [step for step in steps if step.startswith("SCAN")]
    by_key = [step for step in steps if "sqlite_autoindex" in step or "PRIMARY KEY" in step]
    assert by_key
    assert "(vault_id=?" in by_key[0]


@pytest.mark.parametrize(
    "sql", [session_lists.LIST_SESSIONS, messages.LIST_OLDEST_FIRST, messages.LIST_NEWEST_FIRST, messages.LIST_BRANCH]
)
def test_a_page_is_read_from_an_index(sql: str) -> None:
    steps = plan(sql)
    touched = [step for step in steps if any(f" {table}" in step for table in SqliteEngine().tables())]
    assert touched
    assert not [step for step in touched if step.startswith("SCAN")]
    assert any("sessions_by_activity" in step or "messages" in step for step in touched)


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        (attachments.END_UPLOADS, "attachments_unused (upload_time<?)"),
        (attachments.QUEUE_UNUSED, "attachments_unused (upload_time<?)"),
        (attachments.QUEUE_OF_MESSAGE, "attachment_uses_by_session (vault_id=? AND session_id=? AND message_id=?)"),
    ],
)
def test_attachments_to_delete_are_found_by_an_index(sql: str, index: str) -> None:
    steps = plan(sql)
    assert not [step for step in steps if step.startswith("SCAN") and step.split()[1] in SqliteEngine().tables()]
    assert any(index in step for step in steps)


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        (secrets.GET_SECRET, "PRIMARY KEY (vault_id=? AND name=?)"),
        (secrets.GET_SEALED, "sqlite_autoindex_secret_versions_1 (vault_id=? AND name=? AND version=?)"),
        (secrets.GET_SEALED, "PRIMARY KEY (vault_id=? AND data_key_id=?)"),
        (secrets.LIST_SECRETS, "PRIMARY KEY (vault_id=? AND name>?)"),
        (secrets.LIST_VERSIONS, "sqlite_autoindex_secret_versions_1 (vault_id=? AND name=? AND version<?)"),
        (secrets.LIST_EXPIRED, "secrets_expiring (expire_time<?)"),
        (data_keys.GET_DATA_KEY, "PRIMARY KEY (vault_id=?)"),
        (data_keys.LIST_WRAPPED_BELOW, "data_keys_by_wrapping_key"),
        (data_keys.LIST_WRAPPED_ABOVE, "data_keys_by_wrapping_key"),
        (data_keys.COUNT_WRAPPED, "data_keys_by_wrapping_key"),
    ],
)
def test_secrets_and_data_keys_are_found_by_an_index_in_its_order(sql: str, index: str) -> None:
    steps = plan(sql)
    assert not [step for step in steps if step.startswith("SCAN") and step.split()[1] in SqliteEngine().tables()]
    assert any(index in step for step in steps)
    assert not [step for step in steps if "TEMP B-TREE" in step]


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        (create.FIND_CONTENT, "memories_by_content (vault_id=? AND content_key=?)"),
        (read.VISIT_NEWEST_FIRST, "memories_by_state (vault_id=? AND state=? AND number<?)"),
        (
            read.VISIT_LEAST_RECENTLY_USED_FIRST,
            "memories_by_use (vault_id=? AND state=? AND (last_use_time,number)>(?,?))",
        ),
        (search.LIST_RANKED, "memories_by_state (vault_id=? AND state=? AND number=?)"),
        (change.LIST_EXPIRED, "memories_expiring (expire_time<?)"),
    ],
)
def test_memories_are_found_by_an_index_in_its_order(sql: str, index: str) -> None:
    steps = plan(sql)
    assert not [step for step in steps if step.startswith("SCAN") and step.split()[1] in SqliteEngine().tables()]
    assert any(index in step for step in steps)
    assert not [step for step in steps if "TEMP B-TREE" in step]


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        (retention.LIST_RETAINING, "vaults_retaining (vault_id>?)"),
        (retention.LIST_UNUSED, "sessions_by_activity (vault_id=? AND last_activity_time>? AND last_activity_time<?)"),
    ],
)
def test_unused_sessions_are_found_by_an_index_in_its_order(sql: str, index: str) -> None:
    steps = plan(sql)
    assert any(index in step for step in steps)
    assert not [step for step in steps if "TEMP B-TREE" in step]


def test_a_migrated_database_refuses_a_row_without_a_vault() -> None:
    connection = migrated()
    with pytest.raises(apsw.ConstraintError):
        connection.execute("INSERT INTO requests VALUES (NULL, 'r', 'i', x'', 'x', 0)")
    connection.close()
