"""The operation that writes an export, and what ends it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from metamorph_client.admin.v1.admin_service_pb2 import CancelAnyOperationRequest
from metamorph_client.chat.v1 import message_pb2
from metamorph_client.vault.v1 import vault_service_pb2 as pb
from metamorph_client.vault.v1.change_pb2 import CHANGE_VERB_CANCELLED, CHANGE_VERB_COMPLETED, CHANGE_VERB_STARTED
from metamorph_client.vault.v1.operation_pb2 import OPERATION_KIND_EXPORT_VAULT, OPERATION_KIND_IMPORT_VAULT, Operation
from metamorphd import housekeeping
from metamorphd.errors import StoreBusy
from metamorphd.store.exports import read_records
from metamorphd.store.operations import MOST_RUNNING, end_operation
from metamorphd.transfers import planning

from tests.support.caller import Caller
from tests.support.exports import export, exported, import_, records
from tests.support.leaving import delete, erased, operation
from tests.support.operating import operator_of, resume, suspend
from tests.support.refusal import refused
from tests.support.rows import row_counts
from tests.support.serving import Serving, serving

SECONDS = 30


@asynccontextmanager
async def held(running: Serving, patch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Exports that begin meanwhile are not written further than their header."""
    database, hold = running.server._database, asyncio.Event()
    read = database.read

    async def read_later(called: Any, scope: Any, **arguments: Any) -> Any:
        if called is read_records:
            await hold.wait()
        return await read(called, scope, **arguments)

    with patch.context() as patched:
        patched.setattr(database, "read", read_later)
        yield
    hold.set()


async def begun(caller: Caller) -> tuple[Any, Any]:
    """Returns a call that exports, and the export."""
    call = aiter(export(caller))
    return call, (await anext(call)).export


async def done(caller: Caller, operation_id: str) -> Operation:
    """Returns an operation of the caller's vault, once it has ended."""
    async with asyncio.timeout(SECONDS):
        while not (found := await operation(caller, operation_id)).done:  # noqa: ASYNC110, nobody is notified
            await asyncio.sleep(0.02)
    return found


async def cancel(caller: Caller, operation_id: str) -> None:
    request = pb.CancelOperationRequest(operation_id=operation_id)
    await caller.vault.CancelOperation(request, metadata=caller.metadata)


def parts(directory: Path) -> list[Path]:
    return list((directory / "metamorph.db-exports").rglob("*.part"))


async def test_an_export_is_an_operation_that_ends_with_the_file(alice: Caller) -> None:
    large = await alice.upload(b"a line of text\n" * 50_000, "text/plain")
    block = message_pb2.DocumentBlock(attachment_id=large.attachment_id, media_type="text/plain")
    await alice.send((await alice.create_session()).session_id, content=[message_pb2.ContentBlock(document=block)])
    call, found = await begun(alice)
    data = b"".join([response.data async for response in call])
    ended = await done(alice, found.operation_id)
    assert (ended.kind, ended.target, ended.creator) == (OPERATION_KIND_EXPORT_VAULT, found.export_id, "alice")
    progress = ended.progress
    assert found.expected_bytes > len(data)
    assert (progress.done_count, progress.total_count, progress.unit) == (len(data), len(data), "bytes")
    assert dict(ended.result.counts) == records(data)[-1]["counts"]
    again = (await anext(aiter(export(alice, export_id=found.export_id)))).export
    assert (again.operation_id, again.size_bytes) == (found.operation_id, len(data))
    await cancel(alice, found.operation_id)
    assert (await operation(alice, found.operation_id)).HasField("result")


async def test_a_cancelled_export_ends_for_those_who_read_it_and_leaves_nothing(
    alice: Caller, running: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with held(running, monkeypatch):
        call, found = await begun(alice)
        await anext(call)
        going_on = await operation(alice, found.operation_id)
        assert (going_on.done, going_on.progress.done_count > 0) == (False, True)
        await cancel(alice, found.operation_id)
        refusal = await refused(call)
        assert (refusal.code.name, refusal.reason) == ("ABORTED", "OPERATION_CANCELLED")
        assert (await done(alice, found.operation_id)).error.reason == "OPERATION_CANCELLED"
    assert (await refused(export(alice, export_id=found.export_id))).reason == "EXPORT_NOT_FOUND"
    assert parts(tmp_path) == []


async def ends_in_log(caller: Caller, operation_id: str) -> list[tuple[str, bool, Any]]:
    """Returns who is named for the ends of an operation, and the verbs."""
    request = pb.ListAuditEventsRequest(resource_id=operation_id)
    events = (await caller.vault.ListAuditEvents(request, metadata=caller.metadata)).audit_events
    return [(event.actor, event.operator, event.verb) for event in events if event.verb != CHANGE_VERB_STARTED]


async def test_the_log_names_who_cancelled_an_export(
    alice: Caller, running: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, operator = running.caller(user="bob"), operator_of(running)
    async with held(running, monkeypatch):
        _, by_user = await begun(alice)
        await cancel(bob, by_user.operation_id)
        # The second has nothing to cancel.
        await cancel(alice, by_user.operation_id)
        await done(alice, by_user.operation_id)
        _, by_operator = await begun(alice)
        request = CancelAnyOperationRequest(vault_id="acme", operation_id=by_operator.operation_id)
        await operator.admin.CancelAnyOperation(request, metadata=operator.metadata)
        await done(alice, by_operator.operation_id)
        _, replaced = await begun(alice)
        _, complete = await begun(bob)
        await done(alice, replaced.operation_id)
    await done(alice, complete.operation_id)
    _, later = await begun(alice)
    await done(alice, later.operation_id)
    assert await ends_in_log(alice, by_user.operation_id) == [("bob", False, CHANGE_VERB_CANCELLED)]
    assert await ends_in_log(alice, by_operator.operation_id) == [("", True, CHANGE_VERB_CANCELLED)]
    assert await ends_in_log(alice, replaced.operation_id) == [("bob", False, CHANGE_VERB_CANCELLED)]
    assert await ends_in_log(alice, complete.operation_id) == [("bob", False, CHANGE_VERB_COMPLETED)]


async def test_another_export_cancels_the_one_that_is_written(
    alice: Caller, running: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with held(running, monkeypatch):
        call, first = await begun(alice)
        _, second = await begun(alice)
        assert (await done(alice, first.operation_id)).error.reason == "OPERATION_CANCELLED"
        assert (await refused(call)).reason == "OPERATION_CANCELLED"
    assert (await done(alice, second.operation_id)).HasField("result")


@asynccontextmanager
async def busy_at_the_end(running: Serving, patch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """The store takes no end of an operation meanwhile."""
    database = running.server._database
    write = database.write

    async def refuse_ends(called: Any, *arguments: Any, **named: Any) -> Any:
        if called is end_operation:
            raise StoreBusy(retry_delay=1.0)
        return await write(called, *arguments, **named)

    with patch.context() as patched:
        patched.setattr(database, "write", refuse_ends)
        yield


async def test_exports_that_end_while_the_store_is_busy_end_once_it_is_not(
    alice: Caller, running: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with busy_at_the_end(running, monkeypatch):
        for _ in range(MOST_RUNNING):
            data = await exported(alice)
        export_id = records(data)[0]["export_id"]
        assert (await refused(export(alice))).reason == "TOO_MANY_OPERATIONS"
        # The refused one has taken nothing away.
        assert await exported(alice, export_id=export_id) == data
        listed = await alice.vault.ListOperations(pb.ListOperationsRequest(), metadata=alice.metadata)
        assert not any(found.done for found in listed.operations)
    for found in listed.operations:
        assert (await done(alice, found.operation_id)).HasField("result")
    await exported(alice)


async def test_an_end_that_the_store_has_not_taken_is_stored_when_the_server_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No round of the housekeeping takes part.
    monkeypatch.setattr(housekeeping, "CHORE_ROUND_SECONDS", 3600)
    async with serving(tmp_path) as running:
        alice = running.caller()
        async with busy_at_the_end(running, monkeypatch):
            call, found = await begun(alice)
            async for _ in call:
                pass
        assert not (await operation(alice, found.operation_id)).done
    async with serving(tmp_path) as running:
        assert (await operation(running.caller(), found.operation_id)).HasField("result")


async def test_an_export_whose_file_cannot_be_made_has_failed(alice: Caller, running: Serving, tmp_path: Path) -> None:
    directory = tmp_path / "metamorph.db-exports"
    directory.write_bytes(b"")
    assert (await refused(export(alice))).reason == "STORAGE_FULL"
    (ended,) = (await alice.vault.ListOperations(pb.ListOperationsRequest(), metadata=alice.metadata)).operations
    assert ended.error.reason == "STORAGE_FULL"
    directory.unlink()
    await exported(alice)


async def test_an_export_that_its_server_has_not_written_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as running:
        await exported(running.caller(vault="kept"))
        async with held(running, monkeypatch):
            _, found = await begun(running.caller())
            await running.server.stop(grace_seconds=0)
    async with serving(tmp_path) as running:
        alice = running.caller()
        assert (await operation(alice, found.operation_id)).error.reason == "OPERATION_INTERRUPTED"
        assert (await refused(export(alice, export_id=found.export_id))).reason == "EXPORT_NOT_FOUND"


async def test_a_suspension_ends_what_is_written_and_keeps_what_is_complete(
    alice: Caller, running: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mallory, operator = running.caller(vault="evil"), operator_of(running)
    _, complete = await begun(alice)
    await done(alice, complete.operation_id)
    await suspend(operator)
    await resume(operator)
    whole = await exported(alice, export_id=complete.export_id)
    async with held(running, monkeypatch):
        call, found = await begun(alice)
        _, others = await begun(mallory)
        await suspend(operator)
        assert (await refused(call)).reason == "VAULT_SUSPENDED"
        ended = await done(alice, found.operation_id)
        assert (ended.error.reason, "unpaid" in ended.error.message) == ("VAULT_SUSPENDED", True)
        assert not (await operation(mallory, others.operation_id)).done
    await resume(operator)
    assert (await refused(export(alice, export_id=found.export_id))).reason == "EXPORT_NOT_FOUND"
    assert len(await exported(alice)) >= len(whole) - 100
    assert (await done(mallory, others.operation_id)).HasField("result")
    assert parts(tmp_path) == []


async def test_a_deletion_ends_what_is_written(
    alice: Caller, running: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with held(running, monkeypatch):
        call, _ = await begun(alice)
        deleted = await delete(alice)
        assert (await refused(call)).reason == "VAULT_DELETED"
    await erased(alice, deleted.operation.operation_id)
    assert parts(tmp_path) == []


async def test_a_suspension_ends_an_import_which_leaves_nothing(
    alice: Caller, running: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mallory, operator = running.caller(vault="evil"), operator_of(running)
    for _ in range(5):
        await mallory.create_session()
    file = await exported(mallory)
    database, stored = running.server._database, list[int]()
    write = database.write

    async def write_suspended(called: Any, *arguments: Any, **named: Any) -> Any:
        if called.__name__.startswith("stage_"):
            stored.append(row_counts(tmp_path, "sessions")[0])
            if len(stored) == 3:
                await suspend(operator)
        return await write(called, *arguments, **named)

    monkeypatch.setattr(planning, "STEP_RECORDS", 1)
    monkeypatch.setattr(database, "write", write_suspended)
    assert (await refused(import_(alice, file))).reason == "VAULT_SUSPENDED"
    assert stored[0] < stored[2]
    (ended,) = (await alice.vault.ListOperations(pb.ListOperationsRequest(), metadata=alice.metadata)).operations
    ended = await done(alice, ended.operation_id)
    assert (ended.kind, ended.error.reason) == (OPERATION_KIND_IMPORT_VAULT, "VAULT_SUSPENDED")
    assert row_counts(tmp_path, "imports", "staged_records") == (0, 0)
    await resume(operator)
    assert await alice.sessions() == []
