"""An export has every table of a vault and every column, or there is a reason why not."""

import pytest
from metamorphd.store.export_kinds import KINDS, Kind
from metamorphd.transfers.rules import RECORDS

from tests.support.engines import ENGINES, Engine

# What is not in an export, each with the reason.
TABLES = {
    "attachment_uses": "follows from the content of messages",
    "changes": "the log of this server, by its revisions",
    "daily_usage": "follows from the usage of sessions",
    "data_keys": "keys stay on their server",
    "erased_vaults": "of vaults that were deleted",
    "unfiled_entries": "of vaults that were deleted",
    "erasures": "what is deleted",
    "events": "the deltas of replies, which the messages have whole",
    "imports": "work of this server",
    "indexed_messages": "follows from the content of messages",
    "log_beginnings": "where the log of this server begins",
    "message_links": "follows from the parents of messages",
    "operations": "work of this server",
    "postings": "follows from the content of messages",
    "requests": "which requests were made of this server",
    "revocations": "the operator's",
    "staged_records": "of an import that has not ended",
    "session_metadata": "follows from the metadata of sessions",
    "vault_limits": "the operator's",
    "vault_states": "the operator's",
}
COLUMNS = {
    "attachments": {"upload_time": "of what is not sent yet, which is not exported"},
    "memories": {
        "content_key": "keys stay on their server",
        "number": "of the index",
        "revision": "the etag, which is of this server",
        "size": "follows from the content",
        "word_count": "of the index",
    },
    "messages": {
        "ordinal": "follows from their order",
        "size": "follows from the content",
    },
    "secret_versions": {
        "data_key_id": "keys stay on their server",
        "sealed_value": "sealed for the recipient, if there is one",
    },
    "secrets": {"secret_id": "of this secret on this server"},
    "subject_budgets": {"set_by": "the vault itself; the operator's are not exported"},
    "sessions": {
        "current_leaf_message_id": "the last message",
        "delete_time": "what is deleted is not exported",
        "last_activity_time": "follows from the messages",
        "last_message_time": "follows from the messages",
        "message_count": "follows from the messages",
        "revision": "the etag, which is of this server",
        "title_calls": "how often this server asked for a title",
    },
    "subject_usage": {"imported": "whether this server has imported it"},
    "turns": {
        "lease_expire_time": "of turns that run",
        "owner": "of turns that run",
        "pruned": "whether this server has the deltas",
        "reserved_cost_usd_nanos": "of turns that run",
        "reserved_tokens": "of turns that run",
    },
    "usage": {"imported": "whether this server has imported it"},
    "vaults": {
        "attachment_count": "follows from what is stored",
        "create_time": "of the vault on this server",
        "first_message_number": "of the index",
        "hash_key": "keys stay on their server",
        "last_memory_number": "of the index",
        "last_message_number": "of the index",
        "memory_count": "follows from the memories",
        "message_count": "follows from what is stored",
        "retention_days": "what is imported may be old: it is kept until its new vault decides",
        "revision": "the etag, which is of this server",
        "secret_count": "follows from what is stored",
        "session_count": "follows from what is stored",
        "stored_bytes": "follows from what is stored",
        "turn_count": "follows from what is stored",
        "unindexed_before": "of the index",
        "update_time": "of the vault on this server",
    },
}
EVERY = [each for kind in KINDS for each in (kind, *kind.children)]
each_engine = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)


@each_engine
def test_every_table_of_a_vault_is_exported_or_has_a_reason_not_to_be(engine: Engine) -> None:
    tenant = {table for table, columns in engine.tables().items() if ("vault_id", 1) in columns}
    assert {kind.table for kind in EVERY} | TABLES.keys() == tenant
    assert not {kind.table for kind in EVERY} & TABLES.keys()


@each_engine
@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.name)
def test_every_column_is_exported_or_has_a_reason_not_to_be(engine: Engine, kind: Kind) -> None:
    stored = {name for name, _ in engine.tables()[kind.table]} - {"vault_id"}
    exempt = COLUMNS.get(kind.table, {}).keys()
    # In a record, `kind` is the kind of record.
    exported = {name.replace("subject_kind", "kind") for name in kind.columns}
    assert exported | exempt == stored
    assert not exported & exempt


def test_every_kind_that_is_exported_has_rules_to_be_imported_by() -> None:
    envelope = {"header", "trailer"}
    assert {kind.name for kind in EVERY} == RECORDS.keys() - envelope
    for kind in EVERY:
        # Secrets are left out.
        if not kind.name.startswith("secret"):
            assert set(kind.columns) == RECORDS[kind.name].keys()
