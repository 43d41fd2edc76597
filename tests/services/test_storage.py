"""The storage quota of a vault."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.admin.v1 import admin_service_pb2 as admin_pb
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1.session_pb2 import Session
from metamorph_client.vault.v1 import vault_service_pb2 as vault_pb
from metamorph_client.vault.v1.usage_pb2 import Budget, StorageStatus

from tests.support.caller import Caller
from tests.support.media import FILES
from tests.support.refusal import refused
from tests.support.serving import Serving

LIMIT = 100_000
# The JSON of a content block around its text.
BLOCK = len(json.dumps([{"type": "text", "text": ""}], separators=(",", ":")))


@pytest.fixture
def overrides() -> dict[str, Any]:
    return {"vault_storage_bytes": LIMIT}


async def storage(caller: Caller) -> StorageStatus:
    return (await caller.vault.GetUsage(vault_pb.GetUsageRequest(), metadata=caller.metadata)).storage


async def allow(running: Serving, paths: list[str], **limits: Any) -> admin_pb.VaultLimits:
    operator = running.caller(operator=True, vault="ops")
    request = admin_pb.UpdateVaultLimitsRequest(
        limits=admin_pb.VaultLimits(vault_id="acme", **limits), update_mask=FieldMask(paths=paths)
    )
    return (await operator.admin.UpdateVaultLimits(request, metadata=operator.metadata)).limits


async def test_growth_beyond_the_quota_is_refused_before_anything_is_stored(running: Serving, alice: Caller) -> None:
    session = await alice.create_session(title="t" * 100)
    await alice.upload(FILES["image/png"] + b"x" * (LIMIT - 1000))
    before = await storage(alice)
    assert before.limit_bytes == LIMIT
    prompt = Session(session_id=session.session_id, system_prompt="x" * 1000)
    for call in (
        alice.create_session(system_prompt="x" * 1000),
        alice.start(session.session_id, "x" * 1000).rest(),
        alice.upload(FILES["image/png"] + b"y" * 1000),
        alice.chat.UpdateSession(
            pb.UpdateSessionRequest(session=prompt, update_mask=FieldMask(paths=["system_prompt"])),
            metadata=alice.metadata,
        ),
    ):
        refusal = await refused(call)
        assert (refusal.code.name, refusal.reason) == ("RESOURCE_EXHAUSTED", "STORAGE_QUOTA_EXCEEDED")
        assert refusal.info.metadata == {"limit_bytes": str(LIMIT), "stored_bytes": str(before.stored_bytes)}
        assert [violation.subject for violation in refusal.quotas.violations] == ["storage_bytes"]
    assert await storage(alice) == before
    # A smaller one still fits, and another vault has a quota of its own.
    await alice.chat.UpdateSession(
        pb.UpdateSessionRequest(session=session, update_mask=FieldMask(paths=["metadata"])), metadata=alice.metadata
    )
    await running.caller(vault_id="other").create_session(system_prompt="x" * 1000)


async def test_calls_at_once_do_not_exceed_the_quota_together(running: Serving, alice: Caller) -> None:
    calls = [alice.create_session(system_prompt="x" * 10_000) for _ in range(30)]
    made = [made for made in await asyncio.gather(*calls, return_exceptions=True) if isinstance(made, Session)]
    assert len(made) == 9
    assert (await storage(alice)).stored_bytes <= LIMIT


async def test_a_reply_is_stored_beyond_the_quota_and_the_next_send_is_not(running: Serving, alice: Caller) -> None:
    session = await alice.create_session()
    used = (await storage(alice)).stored_bytes
    await allow(running, ["storage_bytes"], storage_bytes=used + BLOCK + 5)
    await alice.send(session.session_id, "Hello")
    assert len(await alice.messages(session.session_id)) == 2
    status = await storage(alice)
    assert status.stored_bytes > status.limit_bytes
    refusal = await refused(alice.start(session.session_id, "x").rest())
    assert refusal.reason == "STORAGE_QUOTA_EXCEEDED"


async def test_the_operator_sets_the_quota_and_the_budget_apart(running: Serving, alice: Caller) -> None:
    await allow(running, ["budget"], budget=Budget(tokens_per_day=5))
    limits = await allow(running, ["storage_bytes"], storage_bytes=0)
    assert (limits.storage_bytes, limits.budget.tokens_per_day) == (0, 5)
    assert (await refused(alice.create_session(title="x"))).reason == "STORAGE_QUOTA_EXCEEDED"
    limits = await allow(running, ["budget"])
    assert (limits.storage_bytes, limits.budget) == (0, Budget())
    assert not (await allow(running, ["storage_bytes"])).HasField("storage_bytes")
    await alice.create_session(title="x")


async def test_deleting_makes_room(running: Serving, alice: Caller, tmp_path: Path) -> None:
    session = await alice.create_session(system_prompt="x" * 60_000)
    assert (await refused(alice.create_session(system_prompt="x" * 60_000))).reason == "STORAGE_QUOTA_EXCEEDED"
    request = pb.DeleteSessionRequest(session_id=session.session_id)
    await alice.chat.DeleteSession(request, metadata=alice.metadata)
    async with asyncio.timeout(30):
        while (await storage(alice)).stored_bytes:  # noqa: ASYNC110, housekeeping sets no event
            await asyncio.sleep(0.05)
    await alice.create_session(system_prompt="x" * 60_000)
