"""What is Python's own; the rest of what clients do is in the suite of all of them."""

import asyncio

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client import MetamorphClient, MetamorphError, SyncMetamorphClient
from metamorph_client.chat.v1.chat_service_pb2 import ListMessagesRequest
from metamorph_client.vault.v1.usage_pb2 import USAGE_GROUPING_DAY, USAGE_GROUPING_MODEL, UsageRow
from metamorph_client.vault.v1.vault_service_pb2 import GetUsageRequest, UpdateVaultRequest

from tests.support.serving import Serving
from tests.support.tokens import mint


@pytest.mark.parametrize(
    ("token", "session_id", "code", "reason"),
    [
        (mint(), "ses_none", "NOT_FOUND", "SESSION_NOT_FOUND"),
        (mint(permissions=["read"]), "ses_none", "PERMISSION_DENIED", "PERMISSION_MISSING"),
        ("no-token", "ses_none", "UNAUTHENTICATED", "TOKEN_INVALID"),
        (mint(), "", "INVALID_ARGUMENT", "REQUEST_INVALID"),
    ],
)
async def test_a_refusal_is_raised_immediately_with_its_reason(
    running: Serving, token: str, session_id: str, code: str, reason: str
) -> None:
    async with MetamorphClient(running.target, token=token) as client:
        with pytest.raises(MetamorphError) as refusal:
            await anext(client.send(session_id, "Hello"))
    assert (refusal.value.code.name, refusal.value.reason) == (code, reason)
    assert refusal.value.message in str(refusal.value)


async def test_a_client_belongs_to_the_event_loop_it_was_made_in() -> None:
    with pytest.raises(RuntimeError, match="SyncMetamorphClient needs none"):
        await asyncio.to_thread(MetamorphClient)
    async with MetamorphClient() as client:
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, client.create_session())


async def test_several_tasks_wait_for_the_end_of_one_reply(running: Serving) -> None:
    async with MetamorphClient(running.target, token=mint()) as client:
        reply = await client.start((await client.create_session()).session_id, "Hello")
        first, second = await asyncio.gather(reply.final(), reply.final())
    assert first == second


async def test_a_session_has_every_field_that_can_be_chosen(running: Serving) -> None:
    async with MetamorphClient(running.target, token=mint()) as client:
        session = await client.create_session(recall_tokens=100, memory_tool=True)
    assert (session.recall_tokens, session.memory_tool) == (100, True)


async def test_a_reply_has_the_revision_to_read_it_at(running: Serving) -> None:
    async with MetamorphClient(running.target, token=mint()) as client:
        session_id = (await client.create_session()).session_id
        reply = await client.start(session_id, "Hello")
        begun = reply.revision
        last = [event.sequence async for event in reply][-1]
        assert 0 < begun < reply.revision
        request = ListMessagesRequest(session_id=session_id, at_least_revision=reply.revision)
        assert len((await client.chat.ListMessages(request)).messages) == 2
        ended = await client.follow(reply.turn_id, last)
        assert ended.revision == 0
        await ended.final()
        assert ended.revision >= reply.revision

    def followed() -> int:
        with SyncMetamorphClient(running.target, token=mint()) as client:
            again = client.follow(reply.turn_id)
            again.final()
            return again.revision

    assert await asyncio.to_thread(followed) >= reply.revision


async def test_the_pages_of_a_response_with_other_lists_are_of_the_first(running: Serving) -> None:
    async with MetamorphClient(running.target, token=mint()) as client:
        update = UpdateVaultRequest(update_mask=FieldMask(paths=["budget"]))
        update.vault.budget.tokens_per_day = 100_000
        await client.vault.UpdateVault(update)
        reply = await client.start((await client.create_session()).session_id, "Hello")
        await reply.final()
        request = GetUsageRequest(group_by=[USAGE_GROUPING_DAY, USAGE_GROUPING_MODEL])
        assert (await client.vault.GetUsage(request)).budgets
        rows = [row async for row in client.pages(client.vault.GetUsage, request)]
    assert [type(row) for row in rows] == [UsageRow]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_server_on_the_same_machine_is_not_asked_through_a_proxy(
    running: Serving, host: str, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_tcp_port}")
    async with MetamorphClient(f"{host}:{running.server.grpc_port}", token=mint(), give_up_after=0) as client:
        assert (await client.create_session()).session_id
