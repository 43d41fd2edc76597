"""Logs in which a text is not UTF-8 any more, which SQLite stores as it is."""

from pathlib import Path

import pytest
from metamorphd.models.audit import AuditFault, AuditFaultKind
from metamorphd.store.database import Transaction

from tests.support.forged import forgeable
from tests.support.rows import ACME

GARBLE = "UPDATE changes SET {} = CAST(x'ff' AS TEXT) WHERE vault_id = :vault_id AND revision IN (9, 21)"


@pytest.mark.parametrize("column", ["actor", "call_id", "resource", "resource_id", "verb", "detail", "key_id"])
async def test_an_entry_that_cannot_be_read_is_found_and_the_others_are_verified(tmp_path: Path, column: str) -> None:
    async with forgeable(tmp_path) as logs:

        async def garble(tx: Transaction) -> None:
            await tx.run(GARBLE.format(column))

        await logs.database.write(garble, ACME)
        assert (await logs.verified("acme")).faults == [
            AuditFault("acme", revision, AuditFaultKind.CHANGED) for revision in (9, 21)
        ]
