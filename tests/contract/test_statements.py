"""Tenant isolation is structural: no statement of a tenant operation can touch rows of another vault."""

from keyword import iskeyword

import apsw
import pytest
from metamorphd.store import attachments, messages, sessions, vaults
from metamorphd.store.database import is_point_read
from metamorphd.store.turns import read as turns
from sqlglot import exp

from tests.contract.statements import STORE, Statement, is_vault, migrated, parsed, statements, tables, unbound

ALL = statements()
TENANT = [statement for statement in ALL if statement.tenant]
# Every operation that crosses vaults is listed here, with the reason.
SYSTEM_OPERATIONS = {
    "list_running_turns",  # the start-up sweep ends the turns that a crash left running, in all vaults
    "list_revocations",  # the operator lists revocations of all vaults
    "prune_attachments",  # unused attachments are deleted in all vaults
    "prune_events",  # expired events are deleted in all vaults
    "load_revocations",  # revocations are checked before the vault of a call is known
}


def name(statement: Statement) -> str:
    return f"{statement.operation}-{statement.name}"


def test_the_store_has_statements() -> None:
    assert len({statement.sql for statement in TENANT}) > 20


def test_every_tables_primary_key_begins_with_the_vault() -> None:
    assert [table for table, columns in tables().items() if ("vault_id", 1) not in columns] == ["message_search"]
    assert tables()["message_search"][0] == ("vault_id", 0)


@pytest.mark.parametrize("statement", TENANT, ids=name)
def test_every_tenant_statement_is_bound_to_the_vault(statement: Statement) -> None:
    assert unbound(parsed(statement.sql)) == []


def test_only_allowed_operations_cross_vaults() -> None:
    assert {statement.operation for statement in ALL if not statement.tenant} == SYSTEM_OPERATIONS


def vault_conditions(tree: exp.Expr) -> list[exp.Placeholder]:
    """Returns the uses of `:vault_id` in a statement, except those in a MATCH, which are only for speed."""
    named = [value for value in tree.find_all(exp.Placeholder) if is_vault(value)]
    return [value for value in named if not isinstance(value.parent, exp.DPipe)]


def mutants(statement: Statement) -> list[exp.Expr]:
    """Returns copies of the statement, each with one use of `:vault_id` made meaningless."""
    made = []
    for number in range(len(vault_conditions(parsed(statement.sql)))):
        tree = parsed(statement.sql)
        mention = vault_conditions(tree)[number]
        mention.replace(exp.Placeholder(this="other_vault"))
        made.append(tree)
    return made


@pytest.mark.parametrize("statement", TENANT, ids=name)
def test_a_statement_that_lacks_one_vault_condition_is_refused(statement: Statement) -> None:
    made = mutants(statement)
    assert made
    assert all(unbound(mutant) for mutant in made)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM sessions",
        "SELECT * FROM sessions WHERE vault_id = :vault_id OR 1 = 1",
        "SELECT * FROM sessions WHERE NOT vault_id = :vault_id",
        "SELECT * FROM sessions WHERE vault_id = :other",
        "SELECT * FROM sessions WHERE vault_id <> :vault_id",
        "SELECT * FROM sessions WHERE session_id = :vault_id",
        "SELECT * FROM sessions AS a JOIN turns AS b ON b.session_id = a.session_id WHERE a.vault_id = :vault_id",
        "SELECT * FROM sessions, turns WHERE sessions.vault_id = :vault_id",
        "SELECT (SELECT COUNT(*) FROM turns) FROM sessions WHERE vault_id = :vault_id",
        "SELECT * FROM sessions WHERE vault_id = :vault_id UNION ALL SELECT * FROM sessions",
        "WITH t AS (SELECT * FROM turns) SELECT * FROM t",
        "UPDATE sessions SET title = '' WHERE session_id = :session_id",
        "DELETE FROM sessions",
        "DELETE FROM events WHERE vault_id = :vault_id AND turn_id IN (SELECT turn_id FROM turns)",
        "INSERT INTO sessions (vault_id, session_id) VALUES (:other, :session_id)",
        "INSERT INTO sessions (session_id) VALUES (:vault_id)",
        "INSERT INTO sessions (vault_id) SELECT vault_id FROM turns",
    ],
)
def test_an_unbound_statement_is_refused(sql: str) -> None:
    assert unbound(parsed(sql))


@pytest.mark.parametrize("statement", ALL, ids=name)
def test_every_statement_compiles_and_takes_named_parameters(statement: Statement) -> None:
    connection = migrated()
    named = {value.name for value in parsed(statement.sql).find_all(exp.Placeholder)}
    assert "?" not in statement.sql
    connection.execute("EXPLAIN " + statement.sql, dict.fromkeys(named))
    connection.close()


def columns(tree: exp.Expr) -> list[str]:
    """Returns the column names of a statement's result."""
    if isinstance(tree, exp.Query):
        return list(tree.named_selects)
    returning = tree.args.get("returning")
    return [column.alias_or_name for column in returning.expressions] if returning else []


@pytest.mark.parametrize("statement", ALL, ids=name)
def test_every_result_column_has_a_distinct_name(statement: Statement) -> None:
    names = columns(parsed(statement.sql))
    assert [name for name in names if not name.isidentifier() or iskeyword(name) or name.startswith("_")] == []
    assert len(set(names)) == len(names)


def plan(sql: str) -> list[str]:
    connection = migrated()
    named = {value.name for value in parsed(sql).find_all(exp.Placeholder)}
    rows = connection.execute("EXPLAIN QUERY PLAN " + sql, dict.fromkeys(named)).fetchall()
    connection.close()
    return [str(row[3]) for row in rows]


POINT_READS = [
    (operation, sql)
    for operation, sql in (
        (attachments.get_attachment, attachments.GET_ATTACHMENT),
        (sessions.get_session, sessions.GET_SESSION),
        (messages.get_message, messages.GET_MESSAGE),
        (turns.get_turn, turns.GET_TURN),
        (vaults.get_vault, vaults.GET_VAULT),
        (vaults.get_vault_limits, vaults.GET_VAULT_LIMITS),
    )
]


def test_the_list_of_point_reads_is_complete() -> None:
    marked = {
        value.__name__
        for module in (attachments, sessions, messages, turns, vaults)
        for value in vars(module).values()
        if callable(value) and is_point_read(value)
    }
    assert marked == {operation.__name__ for operation, _ in POINT_READS}


@pytest.mark.parametrize(("operation", "sql"), POINT_READS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_point_read_finds_its_row_by_the_full_primary_key(operation: object, sql: str) -> None:
    steps = plan(sql)
    assert not [step for step in steps if step.startswith("SCAN")]
    by_key = [step for step in steps if "sqlite_autoindex" in step or "PRIMARY KEY" in step]
    assert by_key
    assert "(vault_id=?" in by_key[0]


@pytest.mark.parametrize(
    "sql", [sessions.LIST_SESSIONS, messages.LIST_OLDEST_FIRST, messages.LIST_NEWEST_FIRST, messages.LIST_BRANCH]
)
def test_a_page_is_read_from_an_index(sql: str) -> None:
    steps = plan(sql)
    touched = [step for step in steps if any(f" {table}" in step for table in tables())]
    assert touched
    assert not [step for step in touched if step.startswith("SCAN")]
    assert any("sessions_by_activity" in step or "messages" in step for step in touched)


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        (attachments.PRUNE_ATTACHMENTS, "attachments_unused (upload_time<?)"),
        (attachments.DELETE_OF_MESSAGE, "attachment_uses_by_session (vault_id=? AND session_id=? AND message_id=?)"),
        (attachments.DELETE_OF_SESSION, "attachment_uses_by_session (vault_id=? AND session_id=?)"),
    ],
)
def test_attachments_to_delete_are_found_by_an_index(sql: str, index: str) -> None:
    steps = plan(sql)
    assert not [step for step in steps if step.startswith("SCAN")]
    assert any(index in step for step in steps)


def test_only_the_store_contains_sql() -> None:
    package = STORE.parent
    words = ("SELECT ", "INSERT INTO ", "DELETE FROM ", "UPDATE ", "PRAGMA ")
    speaking = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if STORE not in path.parents and any(word in path.read_text() for word in words)
    ]
    assert speaking == []


def test_a_migrated_database_refuses_a_row_without_a_vault() -> None:
    connection = migrated()
    with pytest.raises(apsw.ConstraintError):
        connection.execute("INSERT INTO requests VALUES (NULL, 'r', 'i', x'', 'x', 0)")
    connection.close()
