"""Suspending and resuming vaults, through a whole server."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import grpc
import pytest
from metamorph_client.admin.v1 import vault_pb2
from metamorph_client.chat.v1 import chat_service_pb2 as chat
from metamorph_client.chat.v1.turn_pb2 import TURN_STATUS_CANCELLED
from metamorph_client.vault.v1 import change_pb2
from metamorph_client.vault.v1 import vault_service_pb2 as vault
from metamorphd.chat.ending import STEP_SECONDS

from tests.support.caller import Caller, Events, text_of
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.operating import operator_of, resume, suspend
from tests.support.refusal import refused
from tests.support.scraping import scrape
from tests.support.serving import Serving, asking, serving
from tests.support.turns import get_turn, stream

SECONDS = 30


async def changes(caller: Caller) -> list[change_pb2.Change]:
    """Returns the vault's log so far."""
    revision = (await caller.vault.GetVault(vault.GetVaultRequest(), metadata=caller.metadata)).revision
    found: list[change_pb2.Change] = []
    request = vault.WatchVaultRequest(after_revision=0)
    async for response in caller.vault.WatchVault(request, metadata=caller.metadata):
        found += response.changes
        if response.revision >= revision:
            break
    return found


async def test_a_suspended_vault_is_refused_with_the_reason_until_it_is_resumed(
    running: Serving, alice: Caller, mallory: Caller
) -> None:
    session = await alice.create_session(title="kept")
    operator = operator_of(running)
    status = (await suspend(operator)).status
    assert (status.vault_id, status.state, status.reason, status.actor) == (
        "acme",
        vault_pb2.VAULT_STATE_SUSPENDED,
        "unpaid",
        "root",
    )
    refusal = await refused(alice.sessions())
    assert (refusal.code.name, refusal.reason) == ("FAILED_PRECONDITION", "VAULT_SUSPENDED")
    assert refusal.message.endswith(": unpaid")
    assert refusal.info.metadata == {
        "suspend_reason": "unpaid",
        "suspend_time": status.change_time.ToDatetime().strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    assert await mallory.sessions() == []
    resumed = (await resume(operator)).status
    assert (resumed.state, resumed.reason, resumed.actor) == (vault_pb2.VAULT_STATE_ACTIVE, "", "")
    assert [each.session_id for each in await alice.sessions()] == [session.session_id]


async def test_suspending_again_replaces_the_reason_and_nothing_else(running: Serving, alice: Caller) -> None:
    operator = operator_of(running)
    first = await suspend(operator)
    same = await suspend(running.caller(vault="ops", user="other", operator=True))
    assert same == first
    again = await suspend(operator, reason="abuse")
    assert (again.status.reason, again.status.change_time) == ("abuse", first.status.change_time)
    assert again.revision == first.revision + 1
    assert (await refused(alice.sessions())).info.metadata["suspend_reason"] == "abuse"
    resumed = await resume(operator)
    assert (await resume(operator)) == resumed
    assert resumed.revision == again.revision + 1
    # When it was done, in the log.
    log = [change for change in await changes(alice) if change.verb == change_pb2.CHANGE_VERB_SUSPENDED]
    assert log[0].change_time.ToMicroseconds() < log[1].change_time.ToMicroseconds()


async def test_suspensions_are_in_the_vaults_log(running: Serving, alice: Caller) -> None:
    await alice.create_session()
    operator = operator_of(running, vault="acme")
    suspended = await suspend(operator)
    resumed = await resume(operator)
    found = (await changes(alice))[2:]
    assert [(each.revision, change_pb2.ChangeVerb.Name(each.verb)) for each in found] == [
        (suspended.revision, "CHANGE_VERB_SUSPENDED"),
        (resumed.revision, "CHANGE_VERB_RESUMED"),
    ]
    assert {(each.resource_id, each.actor) for each in found} == {("acme", "")}
    assert all(each.call_id for each in found)


async def test_a_vault_is_suspended_before_its_first_use_and_after_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        await suspend(operator_of(running))
    async with serving(tmp_path) as running:
        assert (await refused(running.caller().create_session())).reason == "VAULT_SUSPENDED"
        await resume(operator_of(running))
        await running.caller().create_session()
    async with serving(tmp_path) as running:
        assert len(await running.caller().sessions()) == 1


async def test_running_turns_are_cancelled_and_their_partial_replies_kept(tmp_path: Path) -> None:
    hold = asyncio.Event()
    async with FakeMessagesApi(Reply(("first ", "second"), hold=hold)) as api, asking(api, tmp_path) as running:
        alice, operator = running.caller(), operator_of(running)
        events = [alice.start((await alice.create_session()).session_id) for _ in range(3)]
        started = [[await each.next(), await each.next()] for each in events]
        async with asyncio.timeout(SECONDS):
            assert (await suspend(operator)).running_turn_count == 0
        for each in events:
            assert (await refused(each.rest())).reason == "VAULT_SUSPENDED"
        await resume(operator)
        for first, _ in started:
            turn = await get_turn(alice, first.turn_id)
            assert turn.status == TURN_STATUS_CANCELLED
            request = chat.GetMessageRequest(message_id=turn.reply_message_id)
            reply = (await alice.chat.GetMessage(request, metadata=alice.metadata)).message
            assert (text_of(reply), reply.partial) == ("first ", True)


async def test_open_streams_end_and_those_of_others_go_on(tmp_path: Path) -> None:
    hold = asyncio.Event()
    async with FakeMessagesApi(Reply(("first ", "second"), hold=hold)) as api, asking(api, tmp_path) as running:
        alice, other = running.caller(), running.caller(vault="other")
        turns = {}
        for caller in (alice, other):
            turns[caller] = caller.start((await caller.create_session()).session_id)
        turn_id = (await turns[alice].next()).turn_id
        resumed = Events(stream(alice, turn_id))
        await resumed.next()
        watched = alice.vault.WatchVault(vault.WatchVaultRequest(after_revision=0), metadata=alice.metadata)
        await anext(aiter(watched))
        await suspend(operator_of(running))
        async with asyncio.timeout(SECONDS):
            for ended in (turns[alice].rest(), resumed.rest(), watched):
                assert (await refused(ended)).reason == "VAULT_SUSPENDED"
            hold.set()
            assert (await turns[other].rest())[-1].turn_finished.message.partial is False


async def test_many_turns_end_one_after_the_other(tmp_path: Path) -> None:
    async with (
        FakeMessagesApi(Reply(("first ", "second"), hold=asyncio.Event())) as api,
        asking(api, tmp_path) as running,
    ):
        alice = running.caller()
        turns = [alice.start((await alice.create_session()).session_id) for _ in range(12)]
        turn_ids = [(await each.next()).turn_id for each in turns]
        operator = operator_of(running)
        await suspend(operator)
        await resume(operator)
        ends = sorted([(await get_turn(alice, turn_id)).finish_time.ToMicroseconds() for turn_id in turn_ids])
        assert ends[-1] - ends[0] >= 5 * STEP_SECONDS * 1e6


async def test_streams_get_nothing_once_the_vault_is_suspended_though_they_end_one_after_the_other(
    running: Serving, alice: Caller
) -> None:
    request = vault.WatchVaultRequest()
    watched = [aiter(alice.vault.WatchVault(request, metadata=alice.metadata)) for _ in range(60)]
    for each in watched:
        assert not (await anext(each)).changes
    await suspend(operator_of(running))
    seen = []
    for each in watched:
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for response in each:
                seen.append(response)  # noqa: PERF401, those before the refusal too
    # Not even that it is suspended.
    assert seen == []


async def test_two_operators_at_once_suspend_it_once_and_both_wait_for_its_turns(tmp_path: Path) -> None:
    async with (
        FakeMessagesApi(Reply(("first ", "second"), hold=asyncio.Event())) as api,
        asking(api, tmp_path) as running,
    ):
        alice = running.caller()
        turns = [alice.start((await alice.create_session()).session_id) for _ in range(6)]
        turn_ids = [(await each.next()).turn_id for each in turns]
        operators = [running.caller(vault="ops", user=user, operator=True) for user in ("one", "two")]
        answers = await asyncio.gather(*map(suspend, operators))
        assert [answer.running_turn_count for answer in answers] == [0, 0]
        assert len({answer.status.change_time.ToMicroseconds() for answer in answers}) == 1
        await asyncio.gather(*map(resume, operators))
        assert {(await get_turn(alice, turn_id)).status for turn_id in turn_ids} == {TURN_STATUS_CANCELLED}
        verbs = [change.verb for change in await changes(alice)]
        assert verbs.count(change_pb2.CHANGE_VERB_SUSPENDED) == verbs.count(change_pb2.CHANGE_VERB_RESUMED) == 1


async def test_an_upload_that_goes_on_is_ended(running: Serving, alice: Caller) -> None:
    sending, suspended = asyncio.Event(), asyncio.Event()

    async def requests() -> Any:
        yield chat.UploadAttachmentRequest(header=chat.UploadHeader(media_type="text/plain"))
        sending.set()
        await suspended.wait()

    call = alice.chat.UploadAttachment(requests(), metadata=alice.metadata)
    uploading = asyncio.ensure_future(refused(call))
    await sending.wait()
    await asyncio.sleep(0.2)
    await suspend(operator_of(running))
    async with asyncio.timeout(SECONDS):
        assert (await uploading).reason == "VAULT_SUSPENDED"
    suspended.set()


@pytest.mark.parametrize("reason", ["", "x" * 501])
async def test_a_suspension_needs_a_reason_of_at_most_500_characters(running: Serving, reason: str) -> None:
    refusal = await refused(suspend(operator_of(running), reason=reason))
    assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", ["reason"])
    await suspend(operator_of(running), reason="ü" * 500)
    assert (await refused(running.caller().sessions())).info.metadata["suspend_reason"] == "ü" * 500


async def test_the_number_of_suspended_vaults_is_a_metric(running: Serving) -> None:
    operator = operator_of(running)
    for vault_id in ("a", "b", "c"):
        await suspend(operator, vault_id)
    await resume(operator, "b")
    assert (await scrape(running)).sum("metamorph_suspended_vaults") == 2
