"""The verification of logs, through a whole server."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from metamorph_client.admin.v1 import admin_service_pb2 as admin
from metamorph_client.admin.v1.audit_pb2 import (
    AUDIT_FAULT_KIND_CHANGED,
    AUDIT_FAULT_KIND_REPLACED,
    AUDIT_FAULT_KIND_TRUNCATED,
    AuditHead,
)
from metamorph_client.vault.v1 import vault_service_pb2 as pb
from metamorphd.models import audit
from metamorphd.store.database import Transaction
from structlog.testing import capture_logs

from tests.support.caller import Caller
from tests.support.engines import Engine
from tests.support.leaving import delete, erased, release
from tests.support.refusal import refused
from tests.support.rows import scope_of
from tests.support.serving import Serving, serving

KEYS = {"audit_key": "a" * 32, "token_encryption_key": "k" * 32}


@pytest.fixture
def overrides() -> dict[str, Any]:
    return KEYS


def verify(caller: Caller, **fields: Any) -> Any:
    return caller.admin.VerifyAuditLog(admin.VerifyAuditLogRequest(**fields), metadata=caller.metadata)


async def verified(caller: Caller, **fields: Any) -> list[admin.VerifyAuditLogResponse]:
    return [part async for part in verify(caller, **fields)]


async def test_all_logs_and_the_servers_own_are_verified(running: Serving, alice: Caller, mallory: Caller) -> None:
    for caller in (alice, mallory, alice):
        await caller.create_session()
    operator = running.caller(operator=True)
    await operator.admin.RotateDataKeys(admin.RotateDataKeysRequest(), metadata=operator.metadata)
    (part,) = await verified(operator)
    assert (part.entry_count, part.unprotected_count, list(part.faults), part.resume_token) == (6, 0, [], "")
    assert [(head.vault_id, head.revision) for head in part.heads] == [("", 1), ("acme", 3), ("evil", 2)]
    listed = await alice.vault.ListAuditEvents(pb.ListAuditEventsRequest(page_size=1), metadata=alice.metadata)
    assert part.heads[1].mac == listed.audit_events[0].mac


async def test_what_was_altered_is_found_and_so_is_what_an_anchor_knows(engine: Engine, tmp_path: Path) -> None:
    async def altered(tx: Transaction) -> None:
        await tx.run("UPDATE changes SET actor = 'mallory' WHERE vault_id = :vault_id AND revision = 2")

    async def cut(tx: Transaction) -> None:
        await tx.run("DELETE FROM changes WHERE vault_id = :vault_id AND revision > 3")

    async with serving(tmp_path, **KEYS) as running:
        alice, operator = running.caller(), running.caller(operator=True)
        for _ in range(4):
            await alice.create_session()
        (part,) = await verified(operator)
        anchors = list(part.heads)
    async with engine.database(tmp_path) as database:
        await database.write(cut, scope_of("acme"))
    async with serving(tmp_path, **KEYS) as running:
        operator = running.caller(operator=True)
        (part,) = await verified(operator)
        assert list(part.faults) == []
        (part,) = await verified(operator, anchors=anchors)
        assert [(fault.vault_id, fault.revision, fault.kind) for fault in part.faults] == [
            ("acme", 5, AUDIT_FAULT_KIND_TRUNCATED)
        ]
        (part,) = await verified(operator, anchors=[AuditHead(vault_id="acme", revision=3, mac=b"m" * 32)])
        assert [fault.kind for fault in part.faults] == [AUDIT_FAULT_KIND_REPLACED]
    async with engine.database(tmp_path) as database:
        await database.write(altered, scope_of("acme"))
    async with serving(tmp_path, **KEYS) as running:
        (part,) = await verified(running.caller(operator=True))
        assert [(fault.vault_id, fault.revision, fault.kind) for fault in part.faults] == [
            ("acme", 2, AUDIT_FAULT_KIND_CHANGED)
        ]


async def test_a_deleted_and_released_vault_leaves_a_log_without_faults(running: Serving, alice: Caller) -> None:
    operator = running.caller(operator=True, vault="operations")
    for _ in range(3):
        await alice.create_session()
    (before,) = await verified(operator)
    answer = await delete(alice)
    await erased(alice, answer.operation.operation_id)
    (part,) = await verified(operator)
    # Of six entries, the deletion.
    assert (list(part.faults), part.entry_count, part.heads[0].revision) == ([], 1, 6)
    await release(operator)
    await alice.create_session()
    (part,) = await verified(operator, anchors=list(part.heads))
    assert list(part.faults) == []
    (part,) = await verified(operator, anchors=list(before.heads))
    assert [fault.kind for fault in part.faults] == []
    watched = aiter(alice.vault.WatchVault(pb.WatchVaultRequest(after_revision=6), metadata=alice.metadata))
    assert [change.revision for change in (await anext(watched)).changes] == [7, 8, 9]


async def test_a_verification_goes_on_after_any_response(
    running: Serving, alice: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "REPORT_ENTRIES", 3)
    for _ in range(7):
        await alice.create_session()
    operator = running.caller(operator=True)
    parts = await verified(operator)
    assert [part.entry_count for part in parts] == [3, 3, 2]
    rest = await verified(operator, resume_token=parts[0].resume_token)
    assert [part.SerializeToString() for part in rest] == [part.SerializeToString() for part in parts[1:]]
    assert (await refused(verify(operator, resume_token="none"))).reason == "PAGE_TOKEN_INVALID"


async def test_heads_are_written_to_the_log_stream_when_there_is_something_new(tmp_path: Path) -> None:
    async with serving(tmp_path, **KEYS) as running:
        await running.caller().create_session()
        (part,) = await verified(running.caller(operator=True))
    with capture_logs() as lines:
        async with serving(tmp_path, log_level="info", **KEYS), asyncio.timeout(10):
            while not any(line["event"] == "audit heads" for line in lines):  # noqa: ASYNC110, a log has no event
                await asyncio.sleep(0.05)
    assert [line["heads"] for line in lines if line["event"] == "audit heads"] == [
        [[head.vault_id, head.revision, head.mac.hex()] for head in part.heads]
    ]
