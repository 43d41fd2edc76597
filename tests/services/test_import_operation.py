"""The operation of an import, which ends with it, whatever becomes of the server."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from metamorph_client.vault.v1 import vault_service_pb2 as pb
from metamorph_client.vault.v1.change_pb2 import CHANGE_VERB_COMPLETED
from metamorph_client.vault.v1.operation_pb2 import Operation
from metamorphd.errors import StoreBusy
from metamorphd.store import imports
from metamorphd.transfers import patience
from metamorphd.transfers.imports import Imports

from tests.support.caller import Caller
from tests.support.exports import comparable, exported, import_
from tests.support.refusal import refused
from tests.support.serving import Serving, serving


async def file_of(running: Serving) -> bytes:
    """Returns an export of a vault with sessions, turns and what they have used."""
    alice = running.caller()
    for number in range(5):
        session = await alice.create_session(title=f"Session {number}")
        await alice.send(session.session_id, "Hello")
    return await exported(alice)


def counted(data: bytes) -> Counter[str]:
    """Returns how many records of each kind an import of a file stores."""
    return Counter(record["kind"] for record in comparable(data))


async def imported(caller: Caller) -> Operation:
    """Returns the vault's one operation that is an import."""
    answer = await caller.vault.ListOperations(pb.ListOperationsRequest(), metadata=caller.metadata)
    (found,) = answer.operations
    return found


async def done(caller: Caller) -> Operation:
    async with asyncio.timeout(20):
        while not (found := await imported(caller)).done:  # noqa: ASYNC110, nobody is notified
            await asyncio.sleep(0.02)
    return found


def stop_at(running: Serving, patch: pytest.MonkeyPatch, step: Any, number: int, error: BaseException) -> None:
    """Has a step of imports fail from its `number`th run on."""
    database, steps = running.server._database, list[Any]()
    write = database.write

    async def write_some(called: Any, *arguments: Any, **named: Any) -> Any:
        if called is step:
            steps.append(called)
            if len(steps) >= number:
                raise error
        return await write(called, *arguments, **named)

    patch.setattr(database, "write", write_some)


async def nothing(*_: Any) -> None:
    """Stands for the work that would go on with an import in the same server."""


@pytest.mark.parametrize("steps", [1, 4, 1000])
async def test_a_decided_import_succeeds_with_all_that_it_has_stored_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    monkeypatch.setattr(Imports, "work", nothing)
    monkeypatch.setattr(imports, "STEP_RECORDS", 2)
    async with serving(tmp_path) as running:
        bob = running.caller(vault="other", user="bob")
        data = await file_of(running)
        with monkeypatch.context() as patch:
            stop_at(running, patch, imports.end_import_step, steps, asyncio.CancelledError())
            if steps < 1000:
                assert (await refused(import_(bob, data))).reason == "OPERATION_INTERRUPTED"
                left = await imported(bob)
                assert not left.done
                request = pb.CancelOperationRequest(operation_id=left.operation_id)
                refusal = await refused(bob.vault.CancelOperation(request, metadata=bob.metadata))
                assert refusal.reason == "OPERATION_NOT_CANCELLABLE"
            else:
                await import_(bob, data)
    monkeypatch.undo()
    async with serving(tmp_path) as running:
        bob = running.caller(vault="other", user="bob")
        found = await done(bob)
        assert (found.creator, found.HasField("result")) == ("bob", True)
        assert found.progress.done_count == found.progress.total_count > 0
        assert dict(found.result.counts) == counted(data)
        query = pb.ListAuditEventsRequest(resource_id=found.operation_id, verbs=[CHANGE_VERB_COMPLETED])
        events = (await bob.vault.ListAuditEvents(query, metadata=bob.metadata)).audit_events
        assert len(events) == 1


async def test_a_decided_import_that_the_store_stops_goes_on_in_the_same_server(
    running: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = running.caller(vault="other", user="bob")
    data = await file_of(running)
    monkeypatch.setattr(patience, "PAUSES_SECONDS", ())
    with monkeypatch.context() as patch:
        stop_at(running, patch, imports.end_import_step, 2, StoreBusy(retry_delay=1.0))
        assert (await refused(import_(bob, data))).reason == "STORE_BUSY"
        assert not (await imported(bob)).done
    assert dict((await done(bob)).result.counts) == counted(data)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(asyncio.CancelledError(), "OPERATION_INTERRUPTED"), (StoreBusy(retry_delay=1.0), "STORE_BUSY")],
)
async def test_an_import_that_could_not_be_decided_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, reason: str
) -> None:
    monkeypatch.setattr(patience, "PAUSES_SECONDS", ())
    async with serving(tmp_path) as running:
        bob = running.caller(vault="other", user="bob")
        data = await file_of(running)
        stop_at(running, monkeypatch, imports.complete_import, 1, error)
        assert (await refused(import_(bob, data))).reason == reason
    async with serving(tmp_path) as running:
        bob = running.caller(vault="other", user="bob")
        assert (await imported(bob)).error.reason == reason
        assert await bob.sessions() == []
