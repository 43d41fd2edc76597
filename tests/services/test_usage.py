"""Costs and usage in a whole server whose replies come from a Messages API."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from metamorph.chat.v1 import chat_service_pb2 as pb
from metamorph.chat.v1 import message_pb2, turn_pb2
from metamorph.vault.v1 import usage_pb2
from metamorph.vault.v1 import vault_service_pb2 as vault_pb
from metamorphd.clock import Clock, day_of
from metamorphd.models.usage import Usage

from tests.support.caller import Caller, calling
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Refusal, Reply
from tests.support.processes import serving_process
from tests.support.refusal import refused
from tests.support.serving import Serving, asking, replies_from
from tests.support.usage import BEGUN, MODEL, SetClock, allow, budgets, priced, usage

DAY, MODEL_, SESSION = usage_pb2.USAGE_GROUPING_DAY, usage_pb2.USAGE_GROUPING_MODEL, usage_pb2.USAGE_GROUPING_SESSION


@pytest.fixture
def overrides(api: FakeMessagesApi) -> dict[str, Any]:
    return replies_from(api) | {"compaction_trigger_tokens": 0}


async def test_every_response_reports_the_same_cost(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session(model="claude-haiku-5-5")
    api.default = Reply(("a", "b"), usage={"input_tokens": 100_001, "cache_read_input_tokens": 7})
    finished = (await alice.send(session.session_id))[-1]
    expected = priced(Usage(100_001, 2, 7), "claude-haiku-5-5")
    turn = await alice.chat.GetTurn(pb.GetTurnRequest(turn_id=finished.turn_id), metadata=alice.metadata)
    assert finished.turn_finished.usage == finished.turn_finished.message.usage == turn.turn.usage == expected
    assert (await alice.messages(session.session_id))[-1].usage == expected
    assert (await usage(alice)).total.usage == expected
    assert expected.cost_usd_nanos == 100_001 * 500 + 2 * 2500 + 7 * 50


async def test_usage_is_grouped_by_day_model_and_session(running: Serving, alice: Caller, api: FakeMessagesApi) -> None:
    sessions = [(await alice.create_session()).session_id for _ in range(2)]
    for session_id, model in [(sessions[0], MODEL), (sessions[0], MODEL), (sessions[1], "claude-opus-5-5")]:
        await alice.send(session_id, model=model)
    answer = await usage(alice, DAY, MODEL_, SESSION)
    today = day_of(Clock().now()).isoformat()
    assert [(row.day, row.model, row.session_id, row.turns) for row in answer.rows] == [
        (today, "claude-opus-5-5", sessions[1], 1),
        (today, MODEL, sessions[0], 2),
    ]
    total = answer.total
    assert (total.day, total.model, total.session_id, total.turns) == ("", "", "", 3)
    assert total.usage.cost_usd_nanos == sum(row.usage.cost_usd_nanos for row in answer.rows) > 0
    assert [row.turns for row in (await usage(alice)).rows] == [3]
    assert [row.turns for row in (await usage(alice, SESSION, session_id=sessions[0])).rows] == [2]
    # The session of another vault has no usage, like one that does not exist.
    mallory = running.caller(vault="evil", user="mallory")
    theirs, unknown = [await usage(mallory, SESSION, session_id=one) for one in (sessions[0], "ses_unknown")]
    assert (
        theirs
        == unknown
        == vault_pb.GetUsageResponse(
            total=usage_pb2.UsageRow(usage=message_pb2.Usage()), storage=usage_pb2.StorageStatus()
        )
    )


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
async def test_an_invalid_query_is_refused(alice: Caller, query: dict[str, Any], field: str) -> None:
    call = alice.vault.GetUsage(vault_pb.GetUsageRequest(**query), metadata=alice.metadata)
    refusal = await refused(call)
    assert (refusal.code.name, refusal.reason, refusal.fields) == ("INVALID_ARGUMENT", "REQUEST_INVALID", [field])


async def test_the_default_days_are_the_current_month_so_far(api: FakeMessagesApi, tmp_path: Path) -> None:
    clock = SetClock("2030-01-31T12:00")
    async with asking(api, tmp_path, compaction_trigger_tokens=0, clock=clock) as running:
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


async def recorded(caller: Caller) -> message_pb2.Usage:
    """Returns the usage of the only turn, once it is recorded."""
    for _ in range(500):
        total = (await usage(caller)).total
        if total.turns:
            break
        await asyncio.sleep(0.01)
    assert total.turns == 1
    return total.usage


async def test_a_failed_turn_costs_its_reported_usage(alice: Caller, api: FakeMessagesApi) -> None:
    api.default = Reply(("a", "b"), ending="drop")
    finished = (await alice.send((await alice.create_session()).session_id))[-1].turn_finished
    assert finished.status == turn_pb2.TURN_STATUS_FAILED
    assert finished.usage == await recorded(alice) == priced(BEGUN)


async def test_a_turn_that_fails_before_its_reply_costs_nothing(alice: Caller, api: FakeMessagesApi) -> None:
    api.default = Refusal(402, "billing_error")
    finished = (await alice.send((await alice.create_session()).session_id))[-1].turn_finished
    assert finished.error.reason == "UPSTREAM_SPEND_LIMIT"
    assert finished.usage == await recorded(alice) == message_pb2.Usage()


async def test_a_cancelled_turn_costs_its_reported_usage(alice: Caller, api: FakeMessagesApi) -> None:
    api.default = Reply(("a", "b"), hold=asyncio.Event())
    call = alice.start((await alice.create_session()).session_id)
    turn_id = (await call.next()).turn_id
    assert (await call.next()).text_delta.text == "a"
    request = pb.CancelTurnRequest(turn_id=turn_id)
    turn = (await alice.chat.CancelTurn(request, metadata=alice.metadata)).turn
    assert turn.status == turn_pb2.TURN_STATUS_CANCELLED
    assert turn.usage == await recorded(alice) == priced(BEGUN)


async def test_a_turn_of_a_deleted_session_costs_its_reported_usage(alice: Caller, api: FakeMessagesApi) -> None:
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


async def test_a_turn_interrupted_by_a_shutdown_costs_its_reported_usage(api: FakeMessagesApi, tmp_path: Path) -> None:
    api.default = Reply(("a", "b"), hold=asyncio.Event())
    async with asking(api, tmp_path, compaction_trigger_tokens=0) as running:
        alice = running.caller()
        call = alice.start((await alice.create_session()).session_id)
        assert [(await call.next()).sequence for _ in range(2)] == [1, 2]
    async with asking(api, tmp_path, compaction_trigger_tokens=0) as running:
        assert await recorded(running.caller()) == priced(BEGUN)


async def test_after_kill_9_reported_usage_is_counted_and_no_reservation_is_left(tmp_path: Path) -> None:
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
        async with asking(api, tmp_path, compaction_trigger_tokens=0) as running:
            alice = running.caller()
            assert await recorded(alice) == priced(BEGUN)
            status = (await budgets(alice))["tokens_per_day"]
            assert (status.used, status.reserved) == (20, 0)
