"""Costs and usage in a whole server whose replies come from a Messages API."""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import message_pb2, turn_pb2
from metamorph_client.vault.v1 import usage_pb2
from metamorph_client.vault.v1 import vault_service_pb2 as vault_pb
from metamorphd.catalog import FRAME_TOKENS
from metamorphd.clock import Clock, day_of
from metamorphd.models.usage import Usage

from tests.support.caller import Caller, calling
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Behaviour, Raw, Refusal, Reply, Silence, sse, thinking
from tests.support.processes import serving_process
from tests.support.refusal import refused
from tests.support.serving import Serving, asking, replies_from, serving
from tests.support.tools import WEATHER
from tests.support.usage import (
    CATALOG,
    LABELS,
    MODEL,
    OF_LABEL,
    OF_USER,
    OF_VAULT,
    SetClock,
    allow,
    allow_subjects,
    budgets,
    priced,
    usage,
)

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


# Of this many bytes. Tokens have at least one.
SAID = "Well, 😀"
REPORTED = {"input_tokens": 11, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 3}
SHOWN = "Hm"
HIDDEN = {"type": "thinking", "thinking": "", "signature": ""}


def cut(output_tokens: int, model: str = MODEL) -> message_pb2.Usage:
    """Returns the usage of a reply of the fake that was cut, with the most that it can have."""
    return priced(Usage(11, output_tokens, 5, 3, estimated=True), model)


def begun(*events: dict[str, Any]) -> Raw:
    """Returns a reply that begins with `SHOWN` and these events, and does not end."""
    start = {"type": "message_start", "message": {"id": "msg_1", "usage": {**REPORTED, "output_tokens": 1}}}
    return Raw(sse(start, started(9, {"type": "text", "text": SHOWN}), *events), ending="stall")


def started(index: int, block: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


async def cancelled(caller: Caller, turn_id: str) -> turn_pb2.Turn:
    turn = (await caller.chat.CancelTurn(pb.CancelTurnRequest(turn_id=turn_id), metadata=caller.metadata)).turn
    assert turn.status == turn_pb2.TURN_STATUS_CANCELLED
    return turn


async def test_a_failed_turn_costs_the_most_that_it_can_have_used(alice: Caller, api: FakeMessagesApi) -> None:
    api.default = Reply((SAID, "b"), ending="drop")
    finished = (await alice.send((await alice.create_session()).session_id))[-1].turn_finished
    assert finished.status == turn_pb2.TURN_STATUS_FAILED
    assert finished.usage == finished.message.usage == await recorded(alice) == cut(11)


BILLING = {"type": "error", "error": {"type": "billing_error"}}


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (Refusal(402, "billing_error"), "UPSTREAM_SPEND_LIMIT"),
        (Raw(sse(BILLING)), "UPSTREAM_SPEND_LIMIT"),
        (Raw(sse({"type": "ping"}), later=(sse(BILLING),)), "UPSTREAM_SPEND_LIMIT"),
        (Raw(sse({"type": "ping"})), "UPSTREAM_INTERRUPTED"),
        (Raw(b"<p>Sign in</p>"), "UPSTREAM_NOT_A_STREAM"),
    ],
    ids=["refused", "in the stream", "after a ping", "nothing but a ping", "a page"],
)
async def test_a_turn_that_fails_before_its_reply_costs_nothing(
    alice: Caller, api: FakeMessagesApi, failure: Behaviour, reason: str
) -> None:
    api.default = failure
    finished = (await alice.send((await alice.create_session()).session_id))[-1].turn_finished
    assert finished.error.reason == reason
    assert finished.usage == await recorded(alice) == message_pb2.Usage()


async def test_a_cancelled_turn_costs_the_most_that_it_can_have_used(alice: Caller, api: FakeMessagesApi) -> None:
    api.default = Reply((SAID, "b"), hold=asyncio.Event())
    session = await alice.create_session()
    call = alice.start(session.session_id)
    turn_id = (await call.next()).turn_id
    assert (await call.next()).text_delta.text == SAID
    turn = await cancelled(alice, turn_id)
    assert turn.usage == (await alice.messages(session.session_id))[1].usage == await recorded(alice) == cut(10)
    (row,) = (await usage(alice, SESSION, session_id=session.session_id)).rows
    assert row.usage == cut(10)


@pytest.mark.parametrize(
    ("reply", "most"),
    [
        (begun(started(0, HIDDEN)), 500),
        (
            begun(
                *(started(0, HIDDEN), {"type": "content_block_stop", "index": 0}),
                started(1, {"type": "text", "text": "a"}),
            ),
            500,
        ),
        (begun(started(0, {"type": "redacted_thinking", "data": "r" * 90})), 92),
        (begun(started(0, {"type": "text", "text": "a" * 999})), 500),
        (begun(started(0, {"type": "tool_use", "id": "t", "name": "look", "input": {}})), 62),
    ],
    ids=["hidden thinking", "thinking without a signature", "redacted thinking", "a long text", "a tool call"],
)
async def test_a_cancelled_turn_costs_its_thinking_and_its_tool_calls(
    alice: Caller, api: FakeMessagesApi, reply: Raw, most: int
) -> None:
    api.default = reply
    call = alice.start((await alice.create_session()).session_id, max_output_tokens=500)
    turn_id = (await call.next()).turn_id
    # The text arrived with the rest.
    assert (await call.next()).text_delta.text == SHOWN
    assert (await cancelled(alice, turn_id)).usage == cut(most)


async def test_a_turn_that_is_cancelled_before_it_is_answered_costs_its_prompt(
    alice: Caller, api: FakeMessagesApi
) -> None:
    api.default = Silence()
    call = alice.start((await alice.create_session(system_prompt="x" * 1000)).session_id, "y" * 1000)
    turn_id = (await call.next()).turn_id
    await api.until_answering()
    spent = (await cancelled(alice, turn_id)).usage
    assert 2000 + FRAME_TOKENS < spent.input_tokens < 2500 + FRAME_TOKENS
    dearest = CATALOG.most_cost(MODEL, input_tokens=spent.input_tokens, output_tokens=0)
    assert (spent.output_tokens, spent.cost_usd_nanos, spent.estimated) == (0, dearest, True)
    assert spent == await recorded(alice)


async def test_no_usage_is_shown_while_the_input_is_not_reported(alice: Caller, api: FakeMessagesApi) -> None:
    api.default = Raw(sse({"type": "message_start"}, started(0, {"type": "text", "text": SAID})), ending="stall")
    call = alice.start((await alice.create_session()).session_id)
    turn_id = (await call.next()).turn_id
    assert (await call.next()).text_delta.text == SAID
    await cancelled(alice, turn_id)
    # Nothing in between.
    assert (await call.next()).turn_finished.usage.estimated


async def test_a_call_that_is_repeated_is_counted_once(tmp_path: Path, api: FakeMessagesApi) -> None:
    refusal = Refusal(529, "overloaded_error", (("retry-after-ms", "1"),))
    api.script.extend([refusal, refusal, Reply((SAID,), ending="drop")])
    async with asking(api, tmp_path / "retries", compaction_trigger_tokens=0, anthropic_max_retries=2) as running:
        alice = running.caller()
        finished = (await alice.send((await alice.create_session()).session_id))[-1].turn_finished
        assert (len(api.requests), finished.usage) == (3, cut(10))


async def test_a_complete_reply_without_usage_costs_the_most_that_it_can_have_used(
    alice: Caller, api: FakeMessagesApi
) -> None:
    text = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": SAID}}
    stop = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    api.default = Raw(sse({"type": "message_start"}, text, {"type": "content_block_stop", "index": 0}, stop))
    finished = (await alice.send((await alice.create_session()).session_id))[-1].turn_finished
    assert finished.status == turn_pb2.TURN_STATUS_COMPLETED
    assert finished.usage.input_tokens > FRAME_TOKENS
    assert (finished.usage.output_tokens, finished.usage.estimated) == (10, True)
    assert finished.usage == await recorded(alice)
    # One turn of two makes the sum an estimate.
    api.default = Reply(("a",))
    await alice.send((await alice.create_session()).session_id)
    assert (await usage(alice)).total.usage.estimated
    assert [row.usage.estimated for row in (await usage(alice, SESSION)).rows] == [True, False]


async def test_a_turn_of_a_deleted_session_costs_the_most_that_it_can_have_used(
    alice: Caller, api: FakeMessagesApi
) -> None:
    await allow(alice, tokens_per_day=10**6)
    api.default = Reply((SAID, "b"), hold=asyncio.Event())
    session = await alice.create_session()
    call = alice.start(session.session_id)
    assert [(await call.next()).sequence for _ in range(2)] == [1, 2]
    delete = pb.DeleteSessionRequest(session_id=session.session_id)
    await alice.chat.DeleteSession(delete, metadata=alice.metadata)
    assert await recorded(alice) == cut(10)
    assert [row.session_id for row in (await usage(alice, SESSION)).rows] == [session.session_id]
    status = (await budgets(alice))["tokens_per_day"]
    assert (status.used, status.reserved) == (29, 0)


async def test_a_turn_interrupted_by_a_shutdown_costs_the_most_that_it_can_have_used(
    api: FakeMessagesApi, tmp_path: Path
) -> None:
    api.default = Reply((SAID, "b"), hold=asyncio.Event())
    async with asking(api, tmp_path, compaction_trigger_tokens=0) as running:
        alice = running.caller()
        call = alice.start((await alice.create_session()).session_id)
        assert [(await call.next()).sequence for _ in range(2)] == [1, 2]
    async with asking(api, tmp_path, compaction_trigger_tokens=0) as running:
        assert await recorded(running.caller()) == cut(10)


MILLION = usage_pb2.Budget(tokens_per_day=10**6)


@pytest.mark.parametrize(
    ("reply", "events", "output"),
    [
        (Reply((SAID, "b"), hold=asyncio.Event()), 3, 10),
        (Reply((thinking("Hm", "signed"), SAID), hold=asyncio.Event()), 3, 700),
        (Raw(sse({"type": "message_start"}, started(0, HIDDEN)), ending="stall"), 1, 700),
    ],
    ids=["text", "thinking", "nothing yet"],
)
async def test_after_kill_9_what_was_stored_is_counted_and_no_reservation_is_left(
    tmp_path: Path, reply: Reply | Raw, events: int, output: int
) -> None:
    async with FakeMessagesApi(reply) as api:
        upstream = {"ANTHROPIC_API_KEY": "sk-test", "ANTHROPIC_BASE_URL": api.base_url}
        with serving_process(tmp_path, **upstream) as server:
            async with calling(server.target) as alice:
                await allow(alice, tokens_per_day=10**6)
                await allow_subjects(alice, default_user=MILLION, labels={"team=web": MILLION})
                session = await alice.create_session(labels=LABELS)
                call = alice.start(session.session_id, max_output_tokens=700)
                assert [(await call.next()).sequence for _ in range(events)] == [*range(1, events + 1)]
                (reserved,) = {status.reserved for status in (await budgets(alice, label="team=web")).values()}
                server.process.kill()
                assert (await refused(call.call)).code is grpc.StatusCode.UNAVAILABLE
        async with asking(api, tmp_path, compaction_trigger_tokens=0) as running:
            alice = running.caller()
            spent = await recorded(alice)
            if events > 1:
                assert spent == cut(output)
            else:
                # Its prompt was not reported either: it costs what it has reserved.
                assert (spent.input_tokens + 700, spent.output_tokens, spent.estimated) == (reserved, output, True)
            used = spent.input_tokens + spent.output_tokens + spent.cache_read_tokens + spent.cache_write_tokens
            found = await budgets(alice, label="team=web")
            assert found.keys() == {f"{of}tokens_per_day" for of in (OF_VAULT, OF_USER, OF_LABEL)}
            assert {(status.used, status.reserved) for status in found.values()} == {(used, 0)}


async def test_after_kill_9_a_tool_call_that_was_not_complete_counts_the_most_that_it_can_have(tmp_path: Path) -> None:
    written = {"type": "input_json_delta", "partial_json": '{"a": "' + "x" * 600}
    call = [started(0, {"type": "tool_use", "id": "t", "name": "weather", "input": {}})]
    call += [{"type": "content_block_delta", "index": 0, "delta": written}]
    async with FakeMessagesApi(begun(*call)) as api:
        upstream = {"ANTHROPIC_API_KEY": "sk-test", "ANTHROPIC_BASE_URL": api.base_url}
        with serving_process(tmp_path, **upstream) as server:
            async with calling(server.target) as alice:
                turn = alice.start((await alice.create_session()).session_id, max_output_tokens=700, tools=[WEATHER])
                assert [(await turn.next()).sequence for _ in range(2)] == [1, 2]
                server.process.kill()
        async with asking(api, tmp_path) as running:
            assert (await recorded(running.caller())).output_tokens == 700


async def test_a_turn_left_with_a_model_that_the_catalog_lacks_is_ended(tmp_path: Path) -> None:
    catalog = {"model": "other", "display_name": "Other", "context_tokens": 1000, "max_output_tokens": 100}
    dollars = {"input": 1, "output": 1, "cache_read": 1, "cache_write": 1}
    prices = [{"above_input_tokens": 0, "usd_per_million_tokens": dollars}]
    (tmp_path / "catalog.json").write_text(json.dumps({"models": [catalog | {"prices": prices}]}))
    async with FakeMessagesApi(Reply((SAID, "b"), hold=asyncio.Event())) as api:
        upstream = {"ANTHROPIC_API_KEY": "sk-test", "ANTHROPIC_BASE_URL": api.base_url}
        with serving_process(tmp_path, **upstream) as server:
            async with calling(server.target) as alice:
                call = alice.start((await alice.create_session()).session_id)
                assert [(await call.next()).sequence for _ in range(3)] == [1, 2, 3]
                server.process.kill()
        lacking = {"model_catalog": tmp_path / "catalog.json", "default_model": "other"}
        async with asking(api, tmp_path, **lacking) as running:
            spent = await recorded(running.caller())
            assert (spent.input_tokens, spent.output_tokens, spent.cost_usd_nanos, spent.estimated) == (11, 10, 0, True)


async def test_offline_replies_cost_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path / "offline") as running:
        alice = running.caller()
        finished = (await alice.send((await alice.create_session()).session_id))[-1].turn_finished
        assert finished.usage.output_tokens > 10
        assert (finished.usage.cost_usd_nanos, finished.usage.estimated) == (0, False)
        call = alice.start((await alice.create_session()).session_id)
        while not (event := await call.next()).HasField("text_delta"):
            pass
        spent = (await cancelled(alice, event.turn_id)).usage
        assert 0 < spent.output_tokens < finished.usage.output_tokens
        assert (spent.cost_usd_nanos, spent.estimated) == (0, False)
