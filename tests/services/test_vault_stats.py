"""ListVaults and GetVaultStats, through a whole server."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.admin.v1 import admin_service_pb2 as pb
from metamorph_client.admin.v1.vault_pb2 import (
    VAULT_STATE_ACTIVE,
    VAULT_STATE_SUSPENDED,
    Spending,
    VaultState,
    VaultSummary,
)
from metamorph_client.vault.v1 import usage_pb2
from metamorph_client.vault.v1 import vault_service_pb2 as vault
from metamorph_client.vault.v1.memory_pb2 import MEMORY_TYPE_SEMANTIC, Memory

from tests.support.caller import Caller
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.operating import operator_of, suspend
from tests.support.refusal import refused
from tests.support.secrets import put
from tests.support.serving import Serving, asking, serving

KEY = "k" * 32


async def stats(operator: Caller, vault_id: str = "acme") -> pb.VaultStats:
    request = pb.GetVaultStatsRequest(vault_id=vault_id)
    return (await operator.admin.GetVaultStats(request, metadata=operator.metadata)).stats


async def page(operator: Caller, **query: Any) -> pb.ListVaultsResponse:
    request = pb.ListVaultsRequest(**query)
    response: pb.ListVaultsResponse = await operator.admin.ListVaults(request, metadata=operator.metadata)
    return response


async def test_stats_have_what_a_vault_stores_and_uses(tmp_path: Path, api: FakeMessagesApi) -> None:
    async with asking(api, tmp_path, token_encryption_key=KEY, vault_storage_bytes=10**6) as running:
        alice, operator = running.caller(), operator_of(running)
        session = await alice.create_session(title="Tea")
        *_, finished = await alice.send(session.session_id)
        await alice.upload(b"Tea", "text/plain")
        await put(alice)
        memory = Memory(type=MEMORY_TYPE_SEMANTIC, content="Tea is green")
        await alice.vault.CreateMemory(vault.CreateMemoryRequest(memory=memory), metadata=alice.metadata)
        limits = pb.VaultLimits(vault_id="acme", budget=usage_pb2.Budget(tokens_per_day=10**9))
        update = pb.UpdateVaultLimitsRequest(limits=limits, update_mask=FieldMask(paths=["budget"]))
        revision = (await operator.admin.UpdateVaultLimits(update, metadata=operator.metadata)).revision
        found = await stats(operator)
        used = finished.turn_finished.usage
        tokens = used.input_tokens + used.output_tokens + used.cache_read_tokens + used.cache_write_tokens
        usage = await alice.vault.GetUsage(vault.GetUsageRequest(), metadata=alice.metadata)
        assert (found.session_count, found.message_count, found.turn_count) == (1, 2, 1)
        assert (found.attachment_count, found.secret_count, found.memory_count) == (1, 1, 1)
        assert (found.running_turn_count, found.revision) == (0, revision)
        assert (found.storage.stored_bytes, found.storage.limit_bytes) == (usage.storage.stored_bytes, 10**6)
        assert found.summary.stored_bytes == found.storage.stored_bytes > 0
        assert (found.summary.today.tokens, found.summary.today.cost_usd_nanos) == (tokens, used.cost_usd_nanos)
        assert found.summary.this_month == found.summary.today
        assert [(each.budget, each.left) for each in found.budgets] == [("tokens_per_day", 10**9 - tokens)]
        assert found.limits.budget.tokens_per_day == 10**9
        assert found.summary.status.state == VAULT_STATE_ACTIVE
        assert found.summary.last_activity_time.ToMicroseconds() > session.create_time.ToMicroseconds()
        assert [each.status.vault_id for each in (await page(operator)).vaults] == ["acme"]
        assert (await page(operator)).vaults[0] == found.summary


async def test_of_a_vault_that_was_never_used_all_is_0(running: Serving) -> None:
    operator = operator_of(running)
    found = await stats(operator, "nobody")
    assert found.summary == VaultSummary(status=found.summary.status, today=Spending(), this_month=Spending())
    assert (found.session_count, found.revision, found.summary.status.state) == (0, 0, VAULT_STATE_ACTIVE)
    assert list((await page(operator)).vaults) == []


async def test_vaults_are_listed_by_id_in_pages_and_by_state(running: Serving) -> None:
    operator = operator_of(running)
    names = [f"v{number:02}" for number in range(7)]
    for name in reversed(names):
        await running.caller(vault=name).create_session()
    for name in ("v01", "v05", "unused"):
        await suspend(operator, name, reason=f"because of {name}")
    found: list[VaultSummary] = []
    token = ""
    while True:
        listed = await page(operator, page_size=3, page_token=token)
        found += listed.vaults
        token = listed.next_page_token
        if not token:
            break
    assert [each.status.vault_id for each in found] == ["unused", *names]
    only = (await page(operator, state=VAULT_STATE_SUSPENDED)).vaults
    assert [(each.status.vault_id, each.status.reason) for each in only] == [
        (name, f"because of {name}") for name in ("unused", "v01", "v05")
    ]
    first = await page(operator, page_size=1)
    other = pb.ListVaultsRequest(state=VAULT_STATE_SUSPENDED, page_token=first.next_page_token)
    assert (await refused(operator.admin.ListVaults(other, metadata=operator.metadata))).reason == "PAGE_TOKEN_INVALID"


@pytest.mark.parametrize("state", [VAULT_STATE_ACTIVE, 17])
async def test_vaults_are_not_listed_by_any_other_state(running: Serving, state: "VaultState.ValueType") -> None:
    refusal = await refused(page(operator_of(running), state=state))
    assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", ["state"])


async def test_the_counts_are_those_of_the_vault_after_a_restart(tmp_path: Path) -> None:
    for count in (1, 2):
        async with serving(tmp_path) as running:
            await running.caller().create_session()
            await running.caller(vault="other").create_session()
            assert (await stats(operator_of(running))).session_count == count
