"""Nothing of a deleted vault is forgotten: each table is erased, or stays for a reason."""

import re

from metamorphd.store import vault_erasure

from tests.support.engines import ENGINES

# The tables that keep rows of a deleted vault, with the reason.
KEPT = {
    "changes": "the log, of which the deletion and what followed it is left",
    "log_beginnings": "says, sealed, what the server has deleted of the log",
    "erased_vaults": "the ledger, by which a restore knows",
    "unfiled_entries": "entries of the ledger, until its files have them",
    "revocations": "the operator's: the tokens stay revoked, whoever has the ID next",
    "vault_limits": "the operator's, and of the ID",
    "vault_states": "says that it was deleted, until the ID is released",
}
# Rows of these are deleted with those that they belong to.
CASCADING = {"message_links": "messages"}


def erased() -> set[str]:
    """Returns the tables that the statements of the erasing delete from."""
    statements = [value for name, value in vars(vault_erasure).items() if name.startswith("ERASE_")]
    return {match[1] for sql in statements if (match := re.match(r"\s*DELETE FROM (\w+)", sql))}


def test_each_table_of_vaults_is_erased_or_has_a_reason_not_to_be() -> None:
    tables = {table for table, columns in ENGINES[0].tables().items() if ("vault_id", 1) in columns}
    assert set(CASCADING.values()) <= erased()
    assert tables == erased() | CASCADING.keys() | KEPT.keys()
    assert not erased() & KEPT.keys()
