"""Budgets in a whole server whose replies come from a Messages API."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.admin.v1 import admin_service_pb2 as admin_pb
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import turn_pb2
from metamorph_client.vault.v1 import vault_service_pb2 as vault_pb
from metamorph_client.vault.v1.usage_pb2 import Budget
from metamorphd.clock import beginning, day_of
from metamorphd.models.usage import Usage

from tests.support.caller import Caller, Events
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.refusal import Refusal as Refused
from tests.support.refusal import refused
from tests.support.serving import Serving, asking, replies_from
from tests.support.turns import cancel
from tests.support.usage import (
    CATALOG,
    LABELS,
    MODEL,
    OF_LABEL,
    OF_USER,
    OF_VAULT,
    SetClock,
    allow,
    budgets,
    limit,
    usage,
)


@pytest.fixture
def overrides(api: FakeMessagesApi) -> dict[str, Any]:
    return replies_from(api) | {"compaction_trigger_tokens": 0}


async def test_a_budget_is_set_by_the_vault_and_by_the_operator(running: Serving, alice: Caller) -> None:
    operator = running.caller(operator=True, vault="ops")
    set_by_operator = await limit(operator, "acme", tokens_per_day=0, cost_usd_nanos_per_month=5)
    assert set_by_operator.HasField("update_time")
    request = admin_pb.GetVaultLimitsRequest(vault_id="acme")
    read = await operator.admin.GetVaultLimits(request, metadata=operator.metadata)
    assert read.limits == set_by_operator
    await allow(alice, tokens_per_day=7, tokens_per_month=0)
    vault = (await alice.vault.GetVault(vault_pb.GetVaultRequest(), metadata=alice.metadata)).vault
    assert vault.budget == Budget(tokens_per_day=7, tokens_per_month=0)
    assert vault.operator_budget == Budget(tokens_per_day=0, cost_usd_nanos_per_month=5)
    assert {name: status.limit for name, status in (await budgets(alice)).items()} == {
        "tokens_per_day": 0,
        "tokens_per_month": 0,
        "cost_usd_nanos_per_month": 5,
    }
    await allow(alice)
    vault = (await alice.vault.GetVault(vault_pb.GetVaultRequest(), metadata=alice.metadata)).vault
    assert vault.budget == Budget()


async def test_an_invalid_budget_is_refused(running: Serving, alice: Caller) -> None:
    negative = vault_pb.UpdateVaultRequest(
        vault=vault_pb.Vault(budget=Budget(tokens_per_day=-1)), update_mask=FieldMask(paths=["budget"])
    )
    assert (await refused(alice.vault.UpdateVault(negative, metadata=alice.metadata))).fields == [
        "vault.budget.tokens_per_day"
    ]
    theirs = vault_pb.UpdateVaultRequest(vault=vault_pb.Vault(), update_mask=FieldMask(paths=["operator_budget"]))
    assert (await refused(alice.vault.UpdateVault(theirs, metadata=alice.metadata))).reason == "UPDATE_MASK_INVALID"
    operator = running.caller(operator=True)
    limits = admin_pb.VaultLimits(vault_id="acme")
    for mask, reason in (([], "UPDATE_MASK_INVALID"), (["vault_id"], "UPDATE_MASK_INVALID")):
        request = admin_pb.UpdateVaultLimitsRequest(limits=limits, update_mask=FieldMask(paths=mask))
        refusal = await refused(operator.admin.UpdateVaultLimits(request, metadata=operator.metadata))
        assert refusal.reason == reason


async def begun(call: Events) -> Refused | None:
    """Reads the first event of a turn. Returns the refusal if the turn was refused."""
    try:
        await call.next()
    except grpc.aio.AioRpcError as error:
        return Refused(error)
    return None


async def test_a_hundred_sends_at_95_percent_exceed_a_budget_by_at_most_one_reservation(
    running: Serving, alice: Caller, api: FakeMessagesApi
) -> None:
    api.default = Reply(("a",) * 10, usage={"input_tokens": 999_990})
    await alice.send((await alice.create_session()).session_id)
    used = (await usage(alice)).total.usage
    assert used.input_tokens + used.output_tokens == 1_000_000
    allowed = 1_052_631
    await allow(alice, tokens_per_day=allowed)
    # One connection may not open this many streams, so there are four.
    callers = [running.caller() for _ in range(4)]
    sessions = [(await alice.create_session()).session_id for _ in range(100)]

    async def round_of(reply: Reply) -> tuple[list[Events], list[Refused]]:
        api.default = reply
        calls = [callers[n % 4].start(one, max_output_tokens=1000) for n, one in enumerate(sessions)]
        answers = await asyncio.gather(*map(begun, calls))
        return (
            [call for call, answer in zip(calls, answers, strict=True) if answer is None],
            [answer for answer in answers if answer is not None],
        )

    held = asyncio.Event()
    admitted, refusals = await round_of(Reply(("a",) * 10, usage={"input_tokens": 2500}, hold=held))
    status = (await budgets(alice))["tokens_per_day"]
    reservation, left_over = divmod(status.reserved, len(admitted))
    assert left_over == 0
    assert 2510 < reservation < 4000
    assert len(admitted) + len(refusals) == 100
    assert allowed <= status.used + status.reserved < allowed + reservation
    assert status.left == 0
    held.set()
    for call in admitted:
        assert (await call.rest())[-1].turn_finished.status == turn_pb2.TURN_STATUS_COMPLETED
    for refusal in refusals:
        assert (refusal.code.name, refusal.reason) == ("RESOURCE_EXHAUSTED", "BUDGET_EXCEEDED")
        assert [violation.subject for violation in refusal.quotas.violations] == ["tokens_per_day"]
        tomorrow = status.reset_time.ToJsonString()
        assert tomorrow in refusal.quotas.violations[0].description
        assert refusal.info.metadata == {
            "subject": "vault",
            "budget": "tokens_per_day",
            "limit": str(allowed),
            "reset_time": tomorrow,
        }
        assert refusal.retry is not None
        assert 0 < refusal.retry <= 86_400
    # Unused reservations become available again, until the budget is spent.
    while admitted:
        admitted, _ = await round_of(Reply(("a",) * 10, usage={"input_tokens": 2500}))
        for call in admitted:
            await call.rest()
    status = (await budgets(alice))["tokens_per_day"]
    assert status.reserved == 0
    assert allowed <= status.used < allowed + reservation
    assert len(await alice.sessions(page_size=1000)) == 101


WORDS = 2400


@pytest.mark.parametrize("of", [OF_VAULT, OF_USER, OF_LABEL])
@pytest.mark.parametrize("stop", ["cancel", "delete", "drop"])
async def test_stopping_turns_does_not_evade_a_budget(alice: Caller, api: FakeMessagesApi, stop: str, of: str) -> None:
    words = ("word " * WORDS,)
    api.default = Reply(words, ending="drop") if stop == "drop" else Reply((*words, "end"), hold=asyncio.Event())
    await allow(alice, of, tokens_per_day=5000)
    session = await alice.create_session(labels=LABELS)
    call = alice.start(session.session_id)
    seen = [await call.next(), await call.next()]
    assert len(seen[1].text_delta.text) == len(words[0])

    async def used() -> int:
        return (await budgets(alice, label="team=web"))[f"{of}tokens_per_day"].used

    match stop:
        case "cancel":
            await cancel(alice, seen[0].turn_id)
        case "delete":
            delete = pb.DeleteSessionRequest(session_id=session.session_id)
            await alice.chat.DeleteSession(delete, metadata=alice.metadata)
            for _ in range(500):
                if await used():
                    break
                await asyncio.sleep(0.01)
        case "drop":
            await call.rest()
    assert await used() >= WORDS
    refusal = await refused(alice.start((await alice.create_session(labels=LABELS)).session_id).call)
    assert refusal.reason == "BUDGET_EXCEEDED"
    if stop != "delete":
        regenerate = pb.RegenerateReplyRequest(user_message_id=(await alice.messages(session.session_id))[0].message_id)
        refusal = await refused(alice.chat.RegenerateReply(regenerate, metadata=alice.metadata))
        assert refusal.reason == "BUDGET_EXCEEDED"


async def test_a_refused_send_stores_nothing_and_a_replay_is_not_refused(alice: Caller) -> None:
    session = await alice.create_session()
    request_id = "6d7c2c2a-9c1d-4a5f-8f61-0d8f1d9a2b11"
    first = await alice.send(session.session_id, request_id=request_id)
    await allow(alice, tokens_per_day=0)
    assert (await refused(alice.start(session.session_id).call)).reason == "BUDGET_EXCEEDED"
    message_id = (await alice.messages(session.session_id))[0].message_id
    regenerate = pb.RegenerateReplyRequest(user_message_id=message_id)
    refusal = await refused(alice.chat.RegenerateReply(regenerate, metadata=alice.metadata))
    assert refusal.reason == "BUDGET_EXCEEDED"
    assert len(await alice.messages(session.session_id)) == 2
    assert await alice.send(session.session_id, request_id=request_id) == first


async def test_budgets_reset_at_the_start_of_the_day_and_of_the_month(api: FakeMessagesApi, tmp_path: Path) -> None:
    clock = SetClock("2030-01-30T23:59:59")
    async with asking(api, tmp_path, compaction_trigger_tokens=0, clock=clock) as running:
        alice = running.caller(exp=clock.seconds + 90 * 86_400)
        cost = CATALOG.cost(MODEL, Usage(11, 3, 5, 3))
        await allow(alice, cost_usd_nanos_per_day=cost, cost_usd_nanos_per_month=2 * cost)

        async def send() -> str:
            session = await alice.create_session()
            try:
                await alice.send(session.session_id)
            except grpc.aio.AioRpcError:
                refusal = await refused(alice.start(session.session_id).call)
                return f"{refusal.info.metadata['budget']} {refusal.info.metadata['reset_time']} {refusal.retry}"
            return "sent"

        assert await send() == "sent"
        assert await send() == "cost_usd_nanos_per_day 2030-01-31T00:00:00Z 1.0"
        clock.set("2030-01-31T00:00")
        assert await send() == "sent"
        assert await send() == "cost_usd_nanos_per_day 2030-02-01T00:00:00Z 86400.0"
        clock.set("2030-02-01T00:00")
        assert await send() == "sent"
        clock.set("2030-02-02T00:00")
        assert await send() == "sent"
        assert await send() == "cost_usd_nanos_per_month 2030-03-01T00:00:00Z 2332800.0"
        clock.set("2030-03-01T00:00")
        assert await send() == "sent"
        reset = (await budgets(alice))["cost_usd_nanos_per_day"].reset_time
        assert reset.ToMicroseconds() == beginning(day_of(clock.now())) + 86_400_000_000
