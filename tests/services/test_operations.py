"""Operations, through a whole server: the vault's own, and those of the server."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from metamorph_client.admin.v1 import admin_service_pb2 as admin
from metamorph_client.vault.v1 import vault_service_pb2 as pb
from metamorph_client.vault.v1.operation_pb2 import Operation, OperationKind
from metamorphd.clock import Clock
from metamorphd.models.operation import OperationKind as Kind
from metamorphd.operations import Operations
from metamorphd.store.database import Database

from tests.support.caller import Caller
from tests.support.engines import ENGINES
from tests.support.refusal import comparable, refused
from tests.support.rows import ACME
from tests.support.secrets import put
from tests.support.serving import Serving, serving


async def got(caller: Caller, operation_id: str) -> Operation:
    request = pb.GetOperationRequest(operation_id=operation_id)
    return (await caller.vault.GetOperation(request, metadata=caller.metadata)).operation


async def got_by(operator: Caller, operation_id: str, vault_id: str = "") -> Operation:
    request = admin.GetAnyOperationRequest(operation_id=operation_id, vault_id=vault_id)
    return (await operator.admin.GetAnyOperation(request, metadata=operator.metadata)).operation


async def listed_by(operator: Caller, **query: Any) -> list[Operation]:
    request = admin.ListAllOperationsRequest(**query)
    return list((await operator.admin.ListAllOperations(request, metadata=operator.metadata)).operations)


async def ended(operator: Caller, operation_id: str) -> Operation:
    async with asyncio.timeout(30):
        while not (found := await got_by(operator, operation_id)).done:  # noqa: ASYNC110, it is another server's
            await asyncio.sleep(0.02)
    return found


@pytest.fixture
async def stored(tmp_path: Path) -> AsyncIterator[tuple[Serving, str]]:
    """Yields a server, and an operation of the vault `acme` that goes on in its store."""
    database: Database = ENGINES[0].database(tmp_path)
    async with serving(tmp_path, database=database) as running:
        operations = Operations(database=database, clock=Clock())
        begun = await operations.begin(ACME, operations.new(ACME, Kind.ROTATE_DATA_KEYS, unit="things", total=7))
        yield running, begun.operation.operation_id


async def test_a_vault_sees_its_operations_and_no_others(stored: tuple[Serving, str]) -> None:
    running, operation_id = stored
    alice, mallory = running.caller(), running.caller(vault="evil")
    found = await got(alice, operation_id)
    assert (found.vault_id, found.creator, found.done, found.progress.total_count) == ("acme", "alice", False, 7)
    (listed,) = (await alice.vault.ListOperations(pb.ListOperationsRequest(), metadata=alice.metadata)).operations
    assert listed == found
    assert not (await mallory.vault.ListOperations(pb.ListOperationsRequest(), metadata=mallory.metadata)).operations
    unknown = operation_id[:-4] + "0000"
    methods: list[tuple[Any, Any]] = [
        (mallory.vault.GetOperation, pb.GetOperationRequest),
        (mallory.vault.CancelOperation, pb.CancelOperationRequest),
    ]
    for method, kind in methods:
        answers = [
            comparable(await refused(method(kind(operation_id=each), metadata=mallory.metadata)), each)
            for each in (operation_id, unknown)
        ]
        assert answers[0] == answers[1]
        assert str(answers[0][0]) == "StatusCode.NOT_FOUND"


async def test_an_operator_sees_all_or_those_of_a_vault_or_of_the_server(stored: tuple[Serving, str]) -> None:
    running, operation_id = stored
    operator = running.caller(operator=True)
    backup = (await operator.admin.CreateBackup(admin.CreateBackupRequest(), metadata=operator.metadata)).backup
    everything = [found.operation_id for found in await listed_by(operator)]
    assert everything == [backup.operation_id, operation_id]
    assert [found.operation_id for found in await listed_by(operator, vault_id="acme")] == [operation_id]
    assert [found.operation_id for found in await listed_by(operator, vault_id="")] == [backup.operation_id]
    assert (await got_by(operator, operation_id, "acme")).operation_id == operation_id
    refusal = await refused(got_by(operator, operation_id))
    assert refusal.reason == "OPERATION_NOT_FOUND"
    await ended(operator, backup.operation_id)


async def test_pages_continue_with_the_same_filter(stored: tuple[Serving, str]) -> None:
    running, _ = stored
    operator = running.caller(operator=True)
    await operator.admin.CreateBackup(admin.CreateBackupRequest(), metadata=operator.metadata)
    first = await operator.admin.ListAllOperations(
        admin.ListAllOperationsRequest(page_size=1), metadata=operator.metadata
    )
    rest = admin.ListAllOperationsRequest(page_size=1, page_token=first.next_page_token)
    second = await operator.admin.ListAllOperations(rest, metadata=operator.metadata)
    assert (second.operations[0].vault_id, second.next_page_token) == ("acme", "")
    other = admin.ListAllOperationsRequest(vault_id="acme", page_token=first.next_page_token)
    refusal = await refused(operator.admin.ListAllOperations(other, metadata=operator.metadata))
    assert refusal.reason == "PAGE_TOKEN_INVALID"


async def test_a_backup_is_an_operation_that_ends_with_it(running: Serving) -> None:
    operator = running.caller(operator=True, user="olga")
    backup = (await operator.admin.CreateBackup(admin.CreateBackupRequest(), metadata=operator.metadata)).backup
    made = await ended(operator, backup.operation_id)
    assert (made.kind, made.target, made.creator) == (OperationKind.OPERATION_KIND_CREATE_BACKUP, backup.name, "olga")
    assert (made.WhichOneof("outcome"), made.progress.done_count, made.progress.unit) == ("result", 100, "percent")
    again = admin.VerifyBackupRequest(name=backup.name)
    verifying = (await operator.admin.VerifyBackup(again, metadata=operator.metadata)).backup
    verified = await ended(operator, verifying.operation_id)
    assert (verified.kind, verified.target) == (OperationKind.OPERATION_KIND_VERIFY_BACKUP, backup.name)
    known = admin.GetBackupRequest(name=backup.name)
    async with asyncio.timeout(10):
        while (await operator.admin.GetBackup(known, metadata=operator.metadata)).backup.operation_id:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_cancelled_backup_leaves_none(running: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(ENGINES[0].database_class, "copy", endless)
    operator = running.caller(operator=True)
    backup = (await operator.admin.CreateBackup(admin.CreateBackupRequest(), metadata=operator.metadata)).backup
    request = admin.CancelAnyOperationRequest(operation_id=backup.operation_id)
    await operator.admin.CancelAnyOperation(request, metadata=operator.metadata)
    cancelled = await ended(operator, backup.operation_id)
    assert cancelled.error.reason == "OPERATION_CANCELLED"
    listed = admin.ListBackupsRequest()
    assert not (await operator.admin.ListBackups(listed, metadata=operator.metadata)).backups
    await operator.admin.CreateBackup(admin.CreateBackupRequest(), metadata=operator.metadata)


async def test_a_rotation_is_an_operation_that_goes_on_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = "o" * 32, "n" * 32
    async with serving(tmp_path, token_encryption_key=old) as before:
        await put(before.caller())
    keys = {"token_encryption_key": new, "token_encryption_key_previous": old}
    # Time to ask before the rounds of the housekeeping have rewrapped it.
    with monkeypatch.context() as patched:
        patched.setattr("metamorphd.secrets.rotation.list_data_keys_to_rewrap", _none)
        async with serving(tmp_path, **keys) as first:
            operator = first.caller(operator=True)
            request = admin.RotateDataKeysRequest()
            rotation = (await operator.admin.RotateDataKeys(request, metadata=operator.metadata)).rotation
            assert rotation.left_count == 1
            again = (await operator.admin.RotateDataKeys(request, metadata=operator.metadata)).rotation
            assert again.operation_id == rotation.operation_id != ""
    async with serving(tmp_path, **keys) as second:
        operator = second.caller(operator=True)
        done = await ended(operator, rotation.operation_id)
        assert (done.kind, done.target) == (OperationKind.OPERATION_KIND_ROTATE_DATA_KEYS, rotation.key_id)
        assert dict(done.result.counts) == {"data_keys": 1, "unavailable": 0}


async def _none(*_: object, **__: object) -> list[object]:
    return []
