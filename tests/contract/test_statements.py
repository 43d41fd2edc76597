"""Tenant isolation is structural: no statement of a tenant operation can touch rows of another vault."""

import re
from keyword import iskeyword

import pytest
from metamorphd.store.database import is_growing, is_point_read
from sqlglot import exp

from tests.support.engines import ENGINES, Engine
from tests.support.statements import STORE, Statement, columns, is_vault, parsed, placeholders, statements, unbound

# Every operation that crosses vaults is listed here, with the reason.
SYSTEM_OPERATIONS = {
    "count_data_keys_to_rewrap",  # the operator sees how far a rotation is, which is one for all vaults
    "find_erasure",  # what was deleted is erased in all vaults
    "find_vault_to_index",  # what is left to be indexed is indexed in all vaults
    "list_log_heads",  # the operator has the logs of all vaults verified, and their heads are anchored
    "list_oldest_changes",  # the logs of all vaults are compacted
    "find_vault_to_erase",  # deleted vaults are erased, all of them
    "list_erased_vaults",  # the ledger is of all vaults that were deleted
    "enter_entries",  # a start reads what the ledger's files have of all vaults
    "queue_entries",  # a file of the ledger that is lost is written again, with all vaults
    "list_unfiled",  # the ledger's files get what they lack of all vaults
    "end_filing",  # the ledger's files get what they lack of all vaults
    "get_ledger_position",  # the ledger's files are of all vaults
    "put_ledger_position",  # the ledger's files are of all vaults
    "list_imports",  # a start ends the imports of all vaults that the server before it has left
    "get_backlog",  # the operator sees what is left to be erased in all vaults
    "list_orphaned_turns",  # the start-up sweep ends the turns whose owner is gone, in all vaults
    "renew_leases",  # a server renews the leases of all of its turns at once
    "list_data_keys_to_rewrap",  # a rotation rewraps the data keys of all vaults
    "list_wrapping_keys",  # the operator sees whether a key is missing, of those that wrap the data keys of all vaults
    "list_chain_keys",  # the operator sees whether a key is missing, of those that authenticate the logs of vaults
    "list_expired_memories",  # expired memories are erased in all vaults
    "list_expired_secrets",  # expired secrets are erased in all vaults
    "list_all_operations",  # the operator lists operations of all vaults
    "list_running_operations",  # the start ends operations that an earlier server began, in all vaults
    "list_retaining_vaults",  # sessions that nobody uses are deleted in all vaults that want it
    "list_vaults",  # the operator lists them
    "list_revocations",  # the operator lists revocations of all vaults
    "prune_attachments",  # unused attachments are hidden in all vaults
    "prune_events",  # expired events are deleted in all vaults
    "prune_operations",  # operations that ended long ago are forgotten, in all vaults
    "prune_requests",  # expired requests are deleted in all vaults
    "rewrap_data_keys",  # a rotation rewraps the data keys of all vaults
    "load_vault_states",  # callers of vaults that are not active are refused before the store is asked
    "load_revocations",  # revocations are checked before the vault of a call is known
}
# A caller's writes that are not refused when the volume is almost full, with the reason. All others are.
NOT_GROWING = {
    "add_pending_words": "indexes what is stored",
    "begin_export": "a line in the log; what it writes to the volume asks for space itself",
    "admit_call": "changes what a turn reserves",
    "cancel_turn": "ends a turn",
    "compact_changes": "deletes",
    "delete_entries": "deletes",
    "complete_import": "decides about what is stored already",
    "create_vault": "a read of a vault that has not been used yet",
    "delete_memory": "deletes",
    "delete_message": "deletes",
    "delete_secret": "deletes",
    "delete_session": "deletes",
    "destroy_secret_version": "deletes",
    "begin_operation": "of which a vault keeps a hundred; a backup of a full volume must be possible",
    "delete_vault": "deletes",
    "discard_import": "deletes",
    "end_import_step": "reveals what is stored, or deletes",
    "end_operation": "ends what has begun",
    "erase_vault_step": "deletes",
    "release_vault": "belongs to deleting",
    "replay_deletion": "belongs to deleting",
    "erase_step": "deletes",
    "expire_memory": "deletes",
    "expire_secret": "deletes",
    "expire_sessions": "deletes",
    "index_earlier_messages": "indexes what is stored",
    "postpone_erasure": "belongs to deleting",
    "read_secret": "a read, which is in the log",
    "record_event": "a refusal, recorded at a limited rate, what the operator does, or who reads an export",
    "refold_messages": "indexes what is stored",
    "operation": "the events and the end of a running turn, which chat/event_log.py repeats until they are stored",
    "revoke_token": "must always be possible, and is the operator's",
    "revoke_user": "must always be possible, and is the operator's",
    "set_title": "belongs to a turn, and has at most 200 characters",
    "use_memories": "changes a time",
    "update_vault_limits": "must always be possible, and is the operator's",
}
GROWING = {
    "add_lists",
    "add_pending_words",
    "change_memory_files",
    "begin_import",
    "create_attachment",
    "create_memory",
    "stage_upload",
    "create_regeneration",
    "create_session",
    "create_turn",
    "index_earlier_messages",
    "put_secret",
    "refold_messages",
    "reserve_numbers",
    "stage_attachment",
    "stage_chunk",
    "stage_step",
    "update_memory",
    "update_session",
    "update_vault",
}
# Every table that is not of a vault is listed here, with the reason.
TABLES_OF_NO_VAULT = {
    "ledger_files",  # how far files were read that are of all vaults
    "identity",  # distinguishes the database from others, and has nothing of a caller's
}
WRITES = re.compile(r"atabase\.write\(\s*(?:(?:revised|living)\()?(\w+)")
POINT_READS = {
    "get_entry_mac",
    "get_log_beginning",
    "get_oldest_revision",
    "get_attachment",
    "get_memory",
    "get_message",
    "get_operation",
    "get_recall_tokens",
    "get_revision",
    "get_session",
    "get_turn",
    "get_vault_status",
}
PAIRS = [
    pytest.param(engine, statement, id=f"{engine.name}-{statement.operation}-{statement.name}")
    for engine in ENGINES
    for statement in statements(engine.name)
]
TENANT_PAIRS = [pair for pair in PAIRS if isinstance(pair.values[1], Statement) and pair.values[1].tenant]
each_engine = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
each_statement = pytest.mark.parametrize(("engine", "statement"), PAIRS)
each_tenant_statement = pytest.mark.parametrize(("engine", "statement"), TENANT_PAIRS)


def faults(engine: Engine, tree: exp.Expr) -> list[str]:
    return unbound(tree, engine.tables().keys())


@each_engine
def test_the_store_has_statements(engine: Engine) -> None:
    assert len({statement.sql for statement in statements(engine.name) if statement.tenant}) > 20


@each_engine
def test_every_tables_primary_key_begins_with_the_vault(engine: Engine) -> None:
    other = {table for table, columns in engine.tables().items() if ("vault_id", 1) not in columns}
    assert other == TABLES_OF_NO_VAULT


@each_engine
def test_all_engines_have_the_same_tables_and_columns(engine: Engine) -> None:
    def shared(engine: Engine) -> dict[str, list[tuple[str, int]]]:
        return {table: sorted(found) for table, found in engine.tables().items()}

    assert shared(engine) == shared(ENGINES[0])


@each_tenant_statement
def test_every_tenant_statement_is_bound_to_the_vault(engine: Engine, statement: Statement) -> None:
    assert faults(engine, parsed(statement.sql, engine.name)) == []


@each_engine
def test_only_allowed_operations_cross_vaults(engine: Engine) -> None:
    assert {found.operation for found in statements(engine.name) if not found.tenant} == SYSTEM_OPERATIONS


def vault_conditions(tree: exp.Expr) -> list[exp.Placeholder]:
    """Returns the uses of `:vault_id` in a statement."""
    return [value for value in tree.find_all(exp.Placeholder) if is_vault(value)]


def mutants(sql: str, dialect: str) -> list[exp.Expr]:
    """Returns copies of the statement, each with one use of `:vault_id` made meaningless."""
    made = []
    for number in range(len(vault_conditions(parsed(sql, dialect)))):
        tree = parsed(sql, dialect)
        vault_conditions(tree)[number].replace(exp.Placeholder(this="other_vault"))
        made.append(tree)
    return made


@each_tenant_statement
def test_a_statement_that_lacks_one_vault_condition_is_refused(engine: Engine, statement: Statement) -> None:
    made = mutants(statement.sql, engine.name)
    assert made
    assert all(faults(engine, mutant) for mutant in made)


@each_engine
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
def test_an_unbound_statement_is_refused(engine: Engine, sql: str) -> None:
    assert faults(engine, parsed(sql, engine.name))


@each_statement
def test_every_statement_compiles_and_takes_named_parameters(engine: Engine, statement: Statement) -> None:
    assert "?" not in statement.sql
    engine.compile(statement.sql)


@each_statement
def test_every_result_column_has_a_distinct_name(engine: Engine, statement: Statement) -> None:
    names = columns(parsed(statement.sql, engine.name))
    assert [name for name in names if not name.isidentifier() or iskeyword(name) or name.startswith("_")] == []
    assert len(set(names)) == len(names)


@each_engine
def test_the_list_of_point_reads_is_complete_and_each_is_one_statement(engine: Engine) -> None:
    marked = [found for found in statements(engine.name) if found.function and is_point_read(found.function)]
    assert sorted(found.operation for found in marked) == sorted(POINT_READS)
    for found in marked:
        assert "vault_id" in placeholders(parsed(found.sql, engine.name))


def test_every_write_is_refused_on_a_full_volume_or_has_a_reason_not_to_be() -> None:
    written = {name for path in STORE.parent.rglob("*.py") for name in WRITES.findall(path.read_text())}
    operations = {found.operation: found.function for found in statements(ENGINES[0].name) if found.tenant}
    assert written <= GROWING | NOT_GROWING.keys()
    assert {name for name, function in operations.items() if function and is_growing(function)} <= GROWING
    for name in written & operations.keys():
        function = operations[name]
        assert function is None or is_growing(function) == (name in GROWING)


def test_only_the_store_contains_sql() -> None:
    package = STORE.parent
    words = ("SELECT ", "INSERT INTO ", "DELETE FROM ", "UPDATE ", "PRAGMA ")
    speaking = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if STORE not in path.parents and any(word in path.read_text() for word in words)
    ]
    assert speaking == []
