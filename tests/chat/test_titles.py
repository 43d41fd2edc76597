"""Generated session titles."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1.message_pb2 import Usage
from metamorph_client.chat.v1.session_pb2 import Session
from metamorph_client.vault.v1.usage_pb2 import USAGE_GROUPING_MODEL, UsageRow
from metamorph_client.vault.v1.vault_service_pb2 import GetUsageRequest
from metamorphd.chat import titles
from metamorphd.errors import StoreBusy
from metamorphd.store.session_titles import set_title
from structlog.testing import CapturingLogger

from tests.support.caller import Caller
from tests.support.fakes.messages_api import FakeMessagesApi, Received
from tests.support.fakes.replies import Behaviour, Refusal, Reply, thinking
from tests.support.leaving import delete
from tests.support.operating import operator_of, suspend
from tests.support.serving import Serving, asking
from tests.support.tools import CALL, WEATHER, result
from tests.support.turns import get_session, titled

TITLE_MODEL = "claude-haiku-5-5"
TITLE = Reply((" “ Two birds ”\n",), usage={"input_tokens": 100})


@pytest.fixture
def overrides() -> dict[str, Any]:
    return {"session_title_model": TITLE_MODEL}


async def test_a_session_without_a_title_gets_one_at_the_cost_of_its_vault(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    api.script.extend([Reply(("Owls and herons.",)), TITLE])
    await alice.send(session.session_id, "Name two birds")
    assert await titled(alice, session.session_id) == "Two birds"
    body = api.requests[1].body
    assert (body["model"], body["max_tokens"], len(body["messages"])) == ("claude-haiku-5-5", 2048, 1)
    # The least that the model accepts.
    assert body["thinking"] == {"type": "disabled"}
    assert "Name two birds" in body["messages"][0]["content"][0]["text"]
    usage = (await alice.vault.GetUsage(GetUsageRequest(group_by=[USAGE_GROUPING_MODEL]), metadata=alice.metadata)).rows
    costs = {row.model: (row.usage.input_tokens, row.turns) for row in usage}
    assert costs == {"claude-sonnet-5-5": (11, 1), "claude-haiku-5-5": (100, 0)}
    await alice.send(session.session_id, "And another?")
    await asyncio.sleep(0.3)
    assert len(api.requests) == 3


async def test_a_title_that_the_store_is_too_busy_for_is_stored_and_counted_later(
    alice: Caller, api: FakeMessagesApi, running: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await alice.create_session()
    api.script.extend([Reply(("Owls and herons.",)), TITLE])
    database, refusals = running.server._database, list[Any]()
    write = database.write

    async def write_later(called: Any, *arguments: Any, **named: Any) -> Any:
        if called is set_title and len(refusals) < 2:
            refusals.append(called)
            raise StoreBusy(retry_delay=1.0)
        return await write(called, *arguments, **named)

    monkeypatch.setattr(database, "write", write_later)
    await alice.send(session.session_id, "Name two birds")
    assert await titled(alice, session.session_id) == "Two birds"
    assert used(TITLE_MODEL, await by_model(alice)).input_tokens == 100
    assert len(refusals) == 2


async def test_a_title_set_by_a_user_is_kept(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    hold = asyncio.Event()
    api.script.extend([Reply(("Owls.",)), Reply(("Two ", "birds"), hold=hold)])
    await alice.send(session.session_id)
    mine = Session(session_id=session.session_id, title="Mine")
    request = pb.UpdateSessionRequest(session=mine, update_mask=FieldMask(paths=["title"]))
    await alice.chat.UpdateSession(request, metadata=alice.metadata)
    hold.set()
    await api.until_idle()
    await asyncio.sleep(0.3)
    assert await titled(alice, session.session_id) == "Mine"


async def test_a_failed_title_does_not_affect_the_session(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    api.script.extend([Reply(("Owls.",)), Refusal(529, "overloaded_error"), Reply(("Herons.",)), TITLE])
    await alice.send(session.session_id)
    await asyncio.sleep(0.3)
    assert (await get_session(alice, session.session_id)).title == ""
    await alice.send(session.session_id)
    assert await titled(alice, session.session_id) == "Two birds"


async def test_an_incomplete_title_is_discarded(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    api.script.extend([Reply(("Owls.",)), Reply(("How to",), ending="drop"), Reply(("Herons.",)), TITLE])
    await alice.send(session.session_id)
    await asyncio.sleep(0.3)
    assert (await get_session(alice, session.session_id)).title == ""
    await alice.send(session.session_id)
    assert await titled(alice, session.session_id) == "Two birds"


def used(model: str, rows: Sequence[UsageRow]) -> Usage:
    return next(row.usage for row in rows if row.model == model)


async def by_model(caller: Caller) -> Sequence[UsageRow]:
    request = GetUsageRequest(group_by=[USAGE_GROUPING_MODEL])
    return (await caller.vault.GetUsage(request, metadata=caller.metadata)).rows


THOUGHT = thinking("What are they about?", "signed")
FAILURES: list[tuple[Behaviour, str]] = [
    (Reply((THOUGHT,), stop_reason="max_tokens"), "MAX_TOKENS"),
    (Reply(("Two birds, and",), stop_reason="max_tokens"), "MAX_TOKENS"),
    (Reply(("I cannot",), stop_reason="refusal"), "REFUSAL"),
    (Reply(("Two birds",), stop_reason="something_new"), "OTHER"),
    (Reply((THOUGHT,)), "NO_TEXT"),
    (Reply((" “”\n",)), "NO_TEXT"),
    (Reply((" “ ' ”\n",)), "NO_TEXT"),
    (Reply(("Two",), ending="drop"), "UPSTREAM_INTERRUPTED"),
    # More than a title can have. It is not read on, though it has not ended.
    (Reply(("Two birds " * 500,) * 20, ending="stall"), "MAX_TOKENS"),
    (Reply((thinking("What are they about? " * 5000),), ending="stall"), "MAX_TOKENS"),
]


@pytest.mark.parametrize(("reply", "reason"), FAILURES)
async def test_a_reply_that_is_no_title_is_paid_twice_at_most_and_logged(
    alice: Caller, api: FakeMessagesApi, monkeypatch: pytest.MonkeyPatch, reply: Behaviour, reason: str
) -> None:
    log = CapturingLogger()
    monkeypatch.setattr(titles, "logger", log)
    session = await alice.create_session()

    def answer(received: Received) -> Behaviour:
        return reply if received.body["model"] == TITLE_MODEL else Reply(("Owls.",))

    api.default = answer
    for turns, calls in ((1, 1), (2, 2), (3, 2)):
        await alice.send(session.session_id)
        for _ in range(500):
            if len(log.calls) == calls and len(api.requests) == turns + calls:
                break
            await asyncio.sleep(0.01)
    await alice.send(session.session_id)
    asked = [received for received in api.requests if received.body["model"] == TITLE_MODEL]
    assert (len(asked), (await get_session(alice, session.session_id)).title) == (2, "")
    assert [(call.method_name, call.kwargs["reason"]) for call in log.calls] == [("warning", reason)] * 2
    # Each was paid for.
    assert used(TITLE_MODEL, await by_model(alice)).input_tokens == 22


async def test_turns_that_end_while_a_title_is_asked_for_ask_for_none(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    hold = asyncio.Event()
    refusal = Reply(("I cannot",), stop_reason="refusal", hold=hold, hold_after=0)

    def answer(received: Received) -> Behaviour:
        return refusal if received.body["model"] == TITLE_MODEL else Reply(("Owls.",))

    def asked() -> int:
        return sum(received.body["model"] == TITLE_MODEL for received in api.requests)

    api.default = answer
    for _ in range(4):
        await alice.send(session.session_id)
        for _ in range(500):
            if asked():
                break
            await asyncio.sleep(0.01)
    hold.set()
    await api.until_idle()
    assert asked() == 1
    # The next one does, as nothing has come of it.
    for _ in range(500):
        if len(await by_model(alice)) > 1:
            break
        await asyncio.sleep(0.01)
    api.default = None
    api.script.extend([Reply(("Herons.",)), TITLE])
    await alice.send(session.session_id)
    assert await titled(alice, session.session_id) == "Two birds"


async def test_a_title_that_is_cut_off_counts_the_most_that_it_can_have_used(
    alice: Caller, api: FakeMessagesApi
) -> None:
    session = await alice.create_session()
    api.script.extend([Reply(("Owls.",)), Reply(("How to",), ending="drop")])
    await alice.send(session.session_id)
    for _ in range(500):
        rows = await by_model(alice)
        if len(rows) > 1:
            break
        await asyncio.sleep(0.01)
    spent = used(TITLE_MODEL, rows)
    assert (spent.input_tokens, spent.output_tokens, spent.estimated) == (11, 6, True)


async def test_refusals_of_the_provider_are_free_and_do_not_count_as_attempts(
    alice: Caller, api: FakeMessagesApi
) -> None:
    session = await alice.create_session()
    for _ in range(3):
        api.script.extend([Reply(("Owls.",)), Refusal(529, "overloaded_error")])
        await alice.send(session.session_id)
        for _ in range(500):
            if not api.script:
                break
            await asyncio.sleep(0.01)
    api.script.extend([Reply(("Owls.",)), TITLE])
    await alice.send(session.session_id)
    assert await titled(alice, session.session_id) == "Two birds"


async def test_a_title_may_follow_any_thinking(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    api.script.extend([Reply(("Owls.",)), Reply((THOUGHT, "Two birds"))])
    await alice.send(session.session_id)
    assert await titled(alice, session.session_id) == "Two birds"


async def test_a_reply_without_text_asks_for_no_title(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    api.script.append(Reply((CALL,), stop_reason="tool_use"))
    await alice.send(session.session_id, tools=[WEATHER])
    api.script.extend([Reply(("Sunny.",)), TITLE])
    await alice.send(session.session_id, content=[result()])
    assert await titled(alice, session.session_id) == "Two birds"
    assert [request.body["model"] for request in api.requests].count(TITLE_MODEL) == 1


async def test_a_title_does_not_delay_a_drain(tmp_path: Path, api: FakeMessagesApi) -> None:
    async with asking(api, tmp_path / "drained", session_title_model="claude-haiku-5-5") as running:
        api.script.extend([Reply(("Owls.",)), Reply(("Why",), ending="stall")])
        alice = running.caller()
        await alice.send((await alice.create_session()).session_id)
        await api.until_answering()
        async with asyncio.timeout(4):
            await running.server.stop(grace_seconds=0.1)
        await api.until_idle()


async def test_titles_of_a_vault_that_is_suspended_or_deleted_are_left(
    running: Serving, alice: Caller, mallory: Caller, api: FakeMessagesApi
) -> None:
    for caller, leave in ((alice, lambda: suspend(operator_of(running))), (mallory, lambda: delete(mallory, "evil"))):
        api.script.extend([Reply(("Owls.",)), Reply(("Why",), ending="stall")])
        await caller.send((await caller.create_session()).session_id)
        await api.until_answering()
        async with asyncio.timeout(4):
            await leave()
            await api.until_idle()


async def test_titles_are_not_generated_by_default(tmp_path: Path, api: FakeMessagesApi) -> None:
    async with asking(api, tmp_path / "plain") as running:
        alice = running.caller()
        session = await alice.create_session()
        await alice.send(session.session_id)
        await asyncio.sleep(0.3)
        assert (len(api.requests), (await get_session(alice, session.session_id)).title) == (1, "")
