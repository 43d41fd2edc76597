"""The hand-written part of the Python client: replies survive connection failures."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from metamorph_client import MetamorphClient, MetamorphError
from metamorph_client.chat.v1 import turn_pb2
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest

from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.proxy import CuttingProxy
from tests.support.serving import Serving, asking, replies_from, serving
from tests.support.tokens import mint
from tests.support.turns import WORDS, deltas


@pytest.fixture
def overrides(api: FakeMessagesApi) -> dict[str, Any]:
    return replies_from(api)


@pytest.fixture
async def proxy(running: Serving) -> AsyncIterator[CuttingProxy]:
    async with CuttingProxy(running.server.grpc_port) as started:
        yield started


async def test_events_of_a_reply_arrive_in_order_and_once(running: Serving, api: FakeMessagesApi) -> None:
    session = await running.caller().create_session()
    async with MetamorphClient(running.target, token=mint()) as client:
        events = [event async for event in client.send(session.session_id, "Hello")]
        again = [event async for event in client.follow(events[0].turn_id, 1)]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert deltas(events) == "You said: Hello"
    assert again == events[1:]


async def test_cut_connections_lose_and_repeat_no_events(
    running: Serving, proxy: CuttingProxy, api: FakeMessagesApi
) -> None:
    api.default = Reply(WORDS, delay=0.004)
    session = await running.caller().create_session()
    retries: list[MetamorphError] = []
    events = []
    async with MetamorphClient(proxy.target, token=mint(), on_retry=retries.append) as client:
        async for event in client.send(session.session_id, "Hello"):
            events.append(event)
            if len(events) in (3, 40, 80, 120):
                proxy.cut()
    assert len(retries) >= 4
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert deltas(events) == "".join(WORDS)
    assert len(api.requests) == 1


async def test_a_send_whose_response_was_lost_takes_effect_once(
    running: Serving, proxy: CuttingProxy, api: FakeMessagesApi
) -> None:
    alice = running.caller()
    session = await alice.create_session()
    proxy.down = True
    async with MetamorphClient(proxy.target, token=mint()) as client:
        sending = asyncio.create_task(anext(client.send(session.session_id, "Hello")))
        await asyncio.sleep(0.3)
        proxy.down = False
        assert (await sending).sequence == 1
    await asyncio.sleep(0.2)
    assert len(await alice.messages(session.session_id)) == 2


async def test_a_reply_survives_a_server_restart(tmp_path: Path) -> None:
    async with FakeMessagesApi(Reply(WORDS, hold=asyncio.Event(), hold_after=50)) as api:
        async with asking(api, tmp_path) as first:
            session = await first.caller().create_session()
            port = first.server.grpc_port
            client = MetamorphClient(first.target, token=mint())
            replying = client.send(session.session_id, "Hello")
            events = [await anext(replying) for _ in range(3)]
        async with serving(tmp_path, grpc_port=port), client:
            events += [event async for event in replying]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert deltas(events) == "".join(WORDS[:50])
    assert events[-1].turn_finished.status == turn_pb2.TURN_STATUS_INTERRUPTED


async def test_an_expired_token_is_replaced_by_a_new_one(running: Serving) -> None:
    session = await running.caller().create_session()
    tokens = iter([mint(exp=int(time.time()) - 100), mint()])
    async with MetamorphClient(running.target, token=lambda: next(tokens)) as client:
        events = [event async for event in client.send(session.session_id, "Hello")]
    assert deltas(events) == "You said: Hello"


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


async def test_the_retry_delay_from_the_server_is_respected(tmp_path: Path) -> None:
    async with serving(tmp_path, rate_limit_requests=2, rate_limit_window_seconds=6) as running:
        session = await running.caller().create_session()
        retries: list[MetamorphError] = []
        async with MetamorphClient(running.target, token=mint(), on_retry=retries.append) as client:
            for _ in range(2):
                events = [event async for event in client.send(session.session_id, "Hello")]
                assert events[-1].HasField("turn_finished")
    assert [error.reason for error in retries] == ["RATE_LIMITED"]
    assert retries[0].retry_delay


async def test_the_client_gives_up_on_an_unreachable_server(unused_tcp_port: int) -> None:
    async with MetamorphClient(f"127.0.0.1:{unused_tcp_port}", give_up_after=0.5) as client:
        with pytest.raises(MetamorphError) as refusal:
            await anext(client.send("ses_1", "Hello"))
    assert refusal.value.code is grpc.StatusCode.UNAVAILABLE


async def test_the_client_sends_its_vault_in_dev_mode(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, emblem_dev_mode=True) as running,
        MetamorphClient(running.target, vault="mine") as client,
    ):
        response = await client.vault.WhoAmI(WhoAmIRequest())
    assert response.vault_id == "mine"
