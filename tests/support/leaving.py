"""Calls about vaults that leave, and what is left of them."""

import asyncio
from pathlib import Path
from typing import Any

from metamorph_client.admin.v1 import admin_service_pb2 as admin
from metamorph_client.vault.v1 import vault_service_pb2 as pb
from metamorph_client.vault.v1.operation_pb2 import Operation

from tests.support.caller import Caller
from tests.support.engines import ENGINES
from tests.support.media import png
from tests.support.rows import row_counts
from tests.support.secrets import put


async def fill(caller: Caller, *, sessions: int = 2) -> None:
    """Has a vault keep a little of everything."""
    await caller.upload(png())
    await asyncio.gather(*(_talk(caller, number) for number in range(sessions)))
    await put(caller, value=b"canary")


async def _talk(caller: Caller, number: int) -> None:
    session = await caller.create_session(title=f"Session {number}", metadata={"a": "b"}, labels={"team": "web"})
    await caller.send(session.session_id, f"Hello {number}", request_id=f"6fd9cdb0-0000-4000-8000-{number:012}")


def delete(caller: Caller, confirmation: str = "acme") -> Any:
    """Deletes the caller's vault, `acme` by default."""
    return caller.vault.DeleteVault(pb.DeleteVaultRequest(confirmation=confirmation), metadata=caller.metadata)


def release(operator: Caller, vault_id: str = "acme") -> Any:
    """Releases a vault."""
    return operator.admin.ReleaseVault(admin.ReleaseVaultRequest(vault_id=vault_id), metadata=operator.metadata)


async def operation(caller: Caller, operation_id: str) -> Operation:
    """Returns an operation of the caller's vault."""
    request = pb.GetOperationRequest(operation_id=operation_id)
    return (await caller.vault.GetOperation(request, metadata=caller.metadata)).operation


async def erased(caller: Caller, operation_id: str) -> Operation:
    """Returns the operation that erases the caller's vault, once it has."""
    async with asyncio.timeout(60):
        while not (found := await operation(caller, operation_id)).done:  # noqa: ASYNC110, nobody is notified
            await asyncio.sleep(0.02)
    return found


def tables_of(directory: Path, vault_id: str = "acme") -> dict[str, int]:
    """Returns how many rows of a vault there are, by table, without those that have none."""
    tables = [table for table, columns in ENGINES[0].tables().items() if ("vault_id", 1) in columns]
    counts = row_counts(directory, *(f"{table} WHERE vault_id = '{vault_id}'" for table in tables))
    return {table: count for table, count in zip(tables, counts, strict=True) if count}
