"""Models, usage and budgets, as callers of a whole server that asks a Messages API see them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph.admin.v1 import admin_service_pb2 as admin_pb
from metamorph.chat.v1 import chat_service_pb2 as pb
from metamorph.chat.v1 import generation_pb2, message_pb2, turn_pb2
from metamorph.vault.v1 import usage_pb2
from metamorph.vault.v1 import vault_service_pb2 as vault_pb
from metamorph.vault.v1.usage_pb2 import Budget
from metamorphd.catalog import load_catalog
from metamorphd.clock import Clock, beginning, day_of
from metamorphd.models.usage import Usage

from tests.support.caller import Caller, Events, calling, send_request
from tests.support.fakes.messages_api import Count, FakeMessagesApi, Refusal, Reply
from tests.support.processes import serving_process
from tests.support.refusal import Refusal as Refused
from tests.support.refusal import refused
from tests.support.serving import Serving, serving

MODEL = "claude-sonnet-5-5"
CATALOG = load_catalog(None)
DAY, MODEL_, SESSION = usage_pb2.USAGE_GROUPING_DAY, usage_pb2.USAGE_GROUPING_MODEL, usage_pb2.USAGE_GROUPING_SESSION
# What the fake reports of a reply that breaks off: it was told with the reply's beginning.
BEGUN = Usage(11, 1, 5, 3)


class SetClock(Clock):
    """Says the time that it was set to."""

    def __init__(self, time: str) -> None:
        super().__init__()
        self.set(time)

    def set(self, time: str) -> None:
        self.seconds = int(datetime.fromisoformat(f"{time}+00:00").timestamp())

    def now(self) -> int:
        return self.seconds * 1_000_000


def asking(api: FakeMessagesApi, directory: Path, **overrides: Any) -> Any:
    """A server whose replies come from `api`."""
    base = {
        "anthropic_api_key": "sk-test",
        "anthropic_base_url": api.base_url,
        "anthropic_max_retries": 0,
        "compaction_trigger_tokens": 0,
    }
    return serving(directory, **(base | overrides))


@pytest.fixture
async def running(api: FakeMessagesApi, tmp_path: Path) -> AsyncIterator[Serving]:
    async with asking(api, tmp_path) as started:
        yield started


def priced(usage: Usage, model: str = MODEL) -> message_pb2.Usage:
    return message_pb2.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cost_usd_nanos=CATALOG.cost(model, usage),
    )


async def usage(caller: Caller, *group_by: Any, **query: Any) -> vault_pb.GetUsageResponse:
    request = vault_pb.GetUsageRequest(group_by=group_by, **query)
    return await caller.vault.GetUsage(request, metadata=caller.metadata)


async def budgets(caller: Caller) -> dict[str, usage_pb2.BudgetStatus]:
    return {status.budget: status for status in (await usage(caller)).budgets}


async def allow(caller: Caller, **limits: int) -> None:
    """The vault's own budget, set by a user with the permission."""
    request = vault_pb.UpdateVaultRequest(
        vault=vault_pb.Vault(budget=Budget(**limits)), update_mask=FieldMask(paths=["budget"])
    )
    await caller.vault.UpdateVault(request, metadata=caller.metadata)


async def limit(operator: Caller, vault_id: str, **limits: int) -> admin_pb.VaultLimits:
    """The operator's."""
    request = admin_pb.UpdateVaultLimitsRequest(
        limits=admin_pb.VaultLimits(vault_id=vault_id, budget=Budget(**limits)), update_mask=FieldMask(paths=["budget"])
    )
    return (await operator.admin.UpdateVaultLimits(request, metadata=operator.metadata)).limits


async def test_the_models_are_listed_by_name_with_prices_and_what_becomes_of_them(alice: Caller) -> None:
    models = (await alice.chat.ListModels(pb.ListModelsRequest(), metadata=alice.metadata)).models
    assert [model.model for model in models] == [model.model for model in CATALOG.models]
    assert [model.model for model in models if model.is_default] == [MODEL]
    haiku, retiring = models[1], models[3]
    assert [(price.above_input_tokens, price.input_usd_nanos) for price in haiku.prices] == [(0, 100), (100_000, 500)]
    assert (haiku.context_tokens, haiku.max_output_tokens) == (1_000_000, 128_000)
    assert not haiku.HasField("retire_time")
    assert (retiring.retire_time.ToJsonString(), retiring.successor) == ("2026-11-30T00:00:00Z", MODEL)


async def test_a_model_that_is_not_listed_is_refused_wherever_it_is_named(alice: Caller) -> None:
    plain = await alice.create_session()
    named = await alice.create_session(model="claude-x")
    (await alice.send(plain.session_id))
    message_id = (await alice.messages(plain.session_id))[0].message_id
    request = vault_pb.UpdateVaultRequest(
        vault=vault_pb.Vault(default_model="claude-x"), update_mask=FieldMask(paths=["default_model"])
    )
    await alice.vault.UpdateVault(request, metadata=alice.metadata)
    regenerate = pb.RegenerateReplyRequest(
        user_message_id=message_id, options=generation_pb2.GenerationOptions(model="claude-x")
    )
    count = pb.CountTokensRequest(message=send_request(plain.session_id))
    for call in (
        alice.start(plain.session_id, model="claude-x").call,
        alice.start(named.session_id).call,
        alice.start(plain.session_id).call,
        alice.chat.RegenerateReply(regenerate, metadata=alice.metadata),
        alice.chat.CountTokens(count, metadata=alice.metadata),
    ):
        refusal = await refused(call)
        assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "MODEL_NOT_ACCEPTED")
        assert refusal.info.metadata == {"model": "claude-x"}
    assert len(await alice.messages(plain.session_id)) == 2
    assert await alice.messages(named.session_id) == []


# The SDK warns of a model that will go.
@pytest.mark.filterwarnings("ignore:The model 'claude-sonnet-4-5' is deprecated")
async def test_a_reply_is_at_most_as_long_as_its_model_writes(api: FakeMessagesApi, tmp_path: Path) -> None:
    async with asking(api, tmp_path, max_output_tokens=131_072) as running:
        alice = running.caller()
        for model in (MODEL, "claude-sonnet-4-5"):
            await alice.send((await alice.create_session(model=model)).session_id)
    assert [request.body["max_tokens"] for request in api.requests] == [128_000, 64_000]


async def test_a_cost_is_the_same_wherever_it_is_told(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session(model="claude-haiku-5-5")
    api.default = Reply(("a", "b"), usage={"input_tokens": 100_001, "cache_read_input_tokens": 7})
    finished = (await alice.send(session.session_id))[-1]
    expected = priced(Usage(100_001, 2, 7), "claude-haiku-5-5")
    turn = await alice.chat.GetTurn(pb.GetTurnRequest(turn_id=finished.turn_id), metadata=alice.metadata)
    assert finished.turn_finished.usage == finished.turn_finished.message.usage == turn.turn.usage == expected
    assert (await alice.messages(session.session_id))[-1].usage == expected
    assert (await usage(alice)).total.usage == expected
    assert expected.cost_usd_nanos == 100_001 * 500 + 2 * 2500 + 7 * 50


async def test_usage_is_told_by_day_model_and_session(running: Serving, alice: Caller, api: FakeMessagesApi) -> None:
    sessions = [(await alice.create_session()).session_id for _ in range(2)]
    for session_id, model in [(sessions[0], MODEL), (sessions[0], MODEL), (sessions[1], "claude-opus-5-5")]:
        await alice.send(session_id, model=model)
    told = await usage(alice, DAY, MODEL_, SESSION)
    today = day_of(Clock().now()).isoformat()
    assert [(row.day, row.model, row.session_id, row.turns) for row in told.rows] == [
        (today, "claude-opus-5-5", sessions[1], 1),
        (today, MODEL, sessions[0], 2),
    ]
    assert (told.total.day, told.total.model, told.total.session_id, told.total.turns) == ("", "", "", 3)
    assert told.total.usage.cost_usd_nanos == sum(row.usage.cost_usd_nanos for row in told.rows) > 0
    assert [row.turns for row in (await usage(alice)).rows] == [3]
    assert [row.turns for row in (await usage(alice, SESSION, session_id=sessions[0])).rows] == [2]
    # Another vault's session is one of which there is nothing, as of one that never was.
    mallory = running.caller(vault="evil", user="mallory")
    theirs, nobodys = [await usage(mallory, SESSION, session_id=one) for one in (sessions[0], "ses_unknown")]
    assert theirs == nobodys == vault_pb.GetUsageResponse(total=usage_pb2.UsageRow(usage=message_pb2.Usage()))


async def test_usage_is_paged(alice: Caller) -> None:
    for _ in range(5):
        await alice.send((await alice.create_session()).session_id)
    seen, token = [], ""
    while True:
        page = await usage(alice, SESSION, page_size=2, page_token=token)
        seen += [row.session_id for row in page.rows]
        assert page.total.turns == 5
        token = page.next_page_token
        if not token:
            break
        refusal = await refused(
            alice.vault.GetUsage(vault_pb.GetUsageRequest(page_token=token), metadata=alice.metadata)
        )
        assert refusal.reason == "PAGE_TOKEN_INVALID"
    assert len(seen) == 5
    assert seen == sorted(set(seen))


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"start_day": "2026-02-30"}, "start_day"),
        ({"end_day": "2026-00-10"}, "end_day"),
        ({"end_day": "0000-01-01"}, "end_day"),
        ({"start_day": "2026-2-3"}, "start_day"),
        ({"start_day": "9999-01-01"}, "start_day"),
        ({"start_day": "2026-02-02", "end_day": "2026-02-01"}, ""),
        ({"group_by": [DAY, DAY]}, "group_by"),
        ({"group_by": [0]}, "group_by[0]"),
        ({"group_by": [9]}, "group_by[0]"),
        ({"session_id": ""}, "session_id"),
        ({"model": "a b"}, "model"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(alice: Caller, query: dict[str, Any], field: str) -> None:
    call = alice.vault.GetUsage(vault_pb.GetUsageRequest(**query), metadata=alice.metadata)
    refusal = await refused(call)
    assert (refusal.code.name, refusal.reason, refusal.fields) == ("INVALID_ARGUMENT", "REQUEST_INVALID", [field])


async def test_days_are_of_the_month_so_far_unless_asked_otherwise(api: FakeMessagesApi, tmp_path: Path) -> None:
    clock = SetClock("2030-01-31T12:00")
    async with asking(api, tmp_path, clock=clock) as running:
        alice = running.caller(exp=clock.seconds + 90 * 86_400)
        for moment in ["2030-01-31T23:59:59", "2030-02-01T00:00", "2030-02-28T23:59:59", "2030-03-01T00:00"]:
            clock.set(moment)
            await alice.send((await alice.create_session()).session_id)

        async def days(**query: str) -> list[str]:
            return [row.day for row in (await usage(alice, DAY, **query)).rows]

        clock.set("2030-02-28T00:00")
        assert await days() == ["2030-02-01", "2030-02-28"]
        assert await days(start_day="2030-01-01") == ["2030-01-31", "2030-02-01", "2030-02-28"]
        assert await days(end_day="2030-01-31") == ["2030-01-31"]
        assert await days(start_day="2030-02-02", end_day="2030-03-01") == ["2030-02-28", "2030-03-01"]


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


async def test_a_budget_that_makes_no_sense_is_refused(running: Serving, alice: Caller) -> None:
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
    """Reads the first event of a turn; the refusal, if it is refused instead."""
    try:
        await call.next()
    except grpc.aio.AioRpcError as error:
        return Refused(error)
    return None


async def test_a_hundred_sends_at_95_percent_pass_a_budget_by_one_reservation_at_most(
    running: Serving, alice: Caller, api: FakeMessagesApi
) -> None:
    api.default = Reply(("a",) * 10, usage={"input_tokens": 999_990})
    await alice.send((await alice.create_session()).session_id)
    used = (await usage(alice)).total.usage
    assert used.input_tokens + used.output_tokens == 1_000_000
    allowed = 1_052_631
    await allow(alice, tokens_per_day=allowed)
    # Four connections: so many streams at once are more than one may have.
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
        assert refusal.info.metadata == {"budget": "tokens_per_day", "limit": str(allowed), "reset_time": tomorrow}
        assert refusal.retry is not None
        assert 0 < refusal.retry <= 86_400
    # What was reserved and not used is there again, until nothing is left.
    while admitted:
        admitted, _ = await round_of(Reply(("a",) * 10, usage={"input_tokens": 2500}))
        for call in admitted:
            await call.rest()
    status = (await budgets(alice))["tokens_per_day"]
    assert status.reserved == 0
    assert allowed <= status.used < allowed + reservation
    assert len(await alice.sessions(page_size=1000)) == 101


async def test_a_refused_send_stores_nothing_and_a_replay_is_none(alice: Caller) -> None:
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


async def test_budgets_begin_anew_with_the_day_and_the_month(api: FakeMessagesApi, tmp_path: Path) -> None:
    clock = SetClock("2030-01-30T23:59:59")
    async with asking(api, tmp_path, clock=clock) as running:
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


async def recorded(caller: Caller) -> message_pb2.Usage:
    """The usage of the one turn that there was, once it is counted."""
    for _ in range(500):
        total = (await usage(caller)).total
        if total.turns:
            break
        await asyncio.sleep(0.01)
    assert total.turns == 1
    return total.usage


async def test_a_turn_that_fails_has_cost_what_was_reported(alice: Caller, api: FakeMessagesApi) -> None:
    api.default = Reply(("a", "b"), ending="drop")
    finished = (await alice.send((await alice.create_session()).session_id))[-1].turn_finished
    assert finished.status == turn_pb2.TURN_STATUS_FAILED
    assert finished.usage == await recorded(alice) == priced(BEGUN)


async def test_a_turn_that_fails_before_it_is_answered_has_cost_nothing(alice: Caller, api: FakeMessagesApi) -> None:
    api.default = Refusal(402, "billing_error")
    finished = (await alice.send((await alice.create_session()).session_id))[-1].turn_finished
    assert finished.error.reason == "UPSTREAM_SPEND_LIMIT"
    assert finished.usage == await recorded(alice) == message_pb2.Usage()


async def test_a_turn_that_is_cancelled_has_cost_what_was_reported(alice: Caller, api: FakeMessagesApi) -> None:
    api.default = Reply(("a", "b"), hold=asyncio.Event())
    call = alice.start((await alice.create_session()).session_id)
    turn_id = (await call.next()).turn_id
    assert (await call.next()).text_delta.text == "a"
    request = pb.CancelTurnRequest(turn_id=turn_id)
    turn = (await alice.chat.CancelTurn(request, metadata=alice.metadata)).turn
    assert turn.status == turn_pb2.TURN_STATUS_CANCELLED
    assert turn.usage == await recorded(alice) == priced(BEGUN)


async def test_a_turn_whose_session_is_deleted_amid_it_has_cost_what_was_reported(
    alice: Caller, api: FakeMessagesApi
) -> None:
    await allow(alice, tokens_per_day=10**6)
    api.default = Reply(("a", "b"), hold=asyncio.Event())
    session = await alice.create_session()
    call = alice.start(session.session_id)
    assert [(await call.next()).sequence for _ in range(2)] == [1, 2]
    delete = pb.DeleteSessionRequest(session_id=session.session_id)
    await alice.chat.DeleteSession(delete, metadata=alice.metadata)
    assert await recorded(alice) == priced(BEGUN)
    assert [row.session_id for row in (await usage(alice, SESSION)).rows] == [session.session_id]
    status = (await budgets(alice))["tokens_per_day"]
    assert (status.used, status.reserved) == (20, 0)


async def test_a_turn_that_a_stop_interrupts_has_cost_what_was_reported(api: FakeMessagesApi, tmp_path: Path) -> None:
    api.default = Reply(("a", "b"), hold=asyncio.Event())
    async with asking(api, tmp_path) as running:
        alice = running.caller()
        call = alice.start((await alice.create_session()).session_id)
        assert [(await call.next()).sequence for _ in range(2)] == [1, 2]
    async with asking(api, tmp_path) as running:
        assert await recorded(running.caller()) == priced(BEGUN)


async def test_after_kill_9_no_reservation_is_left_and_what_was_reported_is_counted(tmp_path: Path) -> None:
    async with FakeMessagesApi(Reply(("a", "b"), hold=asyncio.Event())) as api:
        upstream = {"ANTHROPIC_API_KEY": "sk-test", "ANTHROPIC_BASE_URL": api.base_url}
        with serving_process(tmp_path, **upstream) as server:
            async with calling(server.target) as alice:
                await allow(alice, tokens_per_day=10**6)
                call = alice.start((await alice.create_session()).session_id)
                assert [(await call.next()).sequence for _ in range(3)] == [1, 2, 3]
                assert (await budgets(alice))["tokens_per_day"].reserved > 32_000
                server.process.kill()
                assert (await refused(call.call)).code is grpc.StatusCode.UNAVAILABLE
        async with asking(api, tmp_path) as running:
            alice = running.caller()
            assert await recorded(alice) == priced(BEGUN)
            status = (await budgets(alice))["tokens_per_day"]
            assert (status.used, status.reserved) == (20, 0)


async def test_tokens_are_counted_as_a_send_would_have_them_read_and_nothing_is_stored(
    alice: Caller, api: FakeMessagesApi
) -> None:
    session = await alice.create_session(system_prompt="Be brief.")
    await alice.send(session.session_id, "first")
    api.script.append(Count(1234))
    message = send_request(session.session_id, "second", max_output_tokens=5, stop_sequences=["END"])
    request = pb.CountTokensRequest(message=message)
    counted = await alice.chat.CountTokens(request, metadata=alice.metadata)
    assert counted.input_tokens == 1234
    assert len(await alice.messages(session.session_id)) == 2
    assert (await usage(alice)).total.turns == 1
    await alice.send(session.session_id, "second", max_output_tokens=5, stop_sequences=["END"])
    of_count, of_send = api.requests[-2:]
    apart = {"max_tokens", "stop_sequences", "stream"}
    assert of_count.body == {name: value for name, value in of_send.body.items() if name not in apart}
    assert [part["text"] for told in of_count.body["messages"] for part in told["content"]] == [
        "first",
        "You said: first",
        "second",
    ]


async def test_counting_fails_as_a_send_would_and_as_a_turn_would(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    message = send_request(session.session_id)

    def count() -> Any:
        return alice.chat.CountTokens(pb.CountTokensRequest(message=message), metadata=alice.metadata)

    for upstream, code, reason in (
        (Refusal(401, "authentication_error"), "UNAVAILABLE", "UPSTREAM_UNAUTHENTICATED"),
        (Refusal(402, "billing_error"), "RESOURCE_EXHAUSTED", "UPSTREAM_SPEND_LIMIT"),
        (Refusal(413, "request_too_large"), "INVALID_ARGUMENT", "UPSTREAM_REJECTED"),
    ):
        api.script.append(upstream)
        refusal = await refused(count())
        assert (refusal.code.name, refusal.reason) == (code, reason)
    message.parent_message_id = "msg_unknown"
    assert (await refused(count())).reason == "MESSAGE_NOT_FOUND"
    message.ClearField("parent_message_id")
    message.session_id = "ses_unknown"
    assert (await refused(count())).reason == "SESSION_NOT_FOUND"
    message.session_id = session.session_id
    held = asyncio.Event()
    api.script.append(Reply(("a", "b"), hold=held))
    call = alice.start(session.session_id)
    await call.next()
    assert (await refused(count())).reason == "BRANCH_BUSY"
    held.set()
    await call.rest()
    await allow(alice, tokens_per_day=0)
    # It costs nothing.
    assert (await count()).input_tokens > 0
