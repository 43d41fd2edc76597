"""The rate limit, by itself and in the server."""

import asyncio
import time
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from metamorph_client.chat.v1.chat_service_pb2 import GetTurnRequest
from metamorph_client.chat.v1.turn_pb2 import TURN_STATUS_COMPLETED
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest
from metamorphd.edge import rate_limit
from metamorphd.edge.call import Call
from metamorphd.edge.methods import SERVICES, methods_of
from metamorphd.edge.rate_limit import RateLimit

from tests.support.caller import Caller, send_request
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.refusal import refused
from tests.support.serving import asking, serving
from tests.support.tokens import mint


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_may_use_the_whole_allowance_but_not_exceed_it() -> None:
    limit = RateLimit(requests=100, window_seconds=900, now=Time())
    assert [limit.take("a") for _ in range(100)] == [0.0] * 100
    assert limit.take("a") == pytest.approx(9.0)
    assert limit.take("b") == 0.0


def test_the_allowance_refills_at_its_rate() -> None:
    time = Time()
    limit = RateLimit(requests=10, window_seconds=10, now=time)
    while not limit.take("a"):
        pass
    wait = limit.take("a")
    time.now += wait / 2
    assert limit.take("a") == pytest.approx(wait / 2)
    time.now += wait / 2
    assert limit.take("a") == 0.0
    time.now += 1000
    assert sum(limit.take("a") == 0.0 for _ in range(20)) == 10


def test_no_window_allows_twice_the_allowance() -> None:
    time = Time()
    limit = RateLimit(requests=10, window_seconds=10, now=time)
    passed = []
    for _ in range(1000):
        time.now += 0.1
        if not limit.take("a"):
            passed.append(time.now)
    busiest = max(sum(start <= moment < start + 10 for moment in passed) for start in passed)
    assert busiest <= 20


def test_zero_requests_means_no_limit() -> None:
    limit = RateLimit(requests=0, window_seconds=1)
    assert not any(limit.take("a") for _ in range(1000))


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "KEYS", 100)
    limit = RateLimit(requests=1, window_seconds=10, now=Time())
    for key in range(1000):
        assert limit.take(key) == 0.0
    assert len(limit._arrivals) <= 100
    assert limit.take(999) > 0
    charged = RateLimit(requests=1, window_seconds=10, now=Time())
    for key in range(1000):
        charged.charge(key, 1)
        # What is charged is not forgotten before the table is full.
        assert key >= 90 or all(charged.charged(earlier) for earlier in range(key + 1))
    assert len(charged._arrivals) <= 100
    assert charged.charged(999)


async def ask(caller: Caller) -> None:
    await caller.vault.WhoAmI(WhoAmIRequest(), metadata=caller.metadata)


async def test_a_call_beyond_the_allowance_is_refused_with_a_retry_delay(tmp_path: Path) -> None:
    async with serving(tmp_path, rate_limit_requests=5, rate_limit_window_seconds=100) as running:
        caller = running.caller()
        for _ in range(5):
            await ask(caller)
        refusal = await refused(ask(caller))
        assert (refusal.code.name, refusal.reason) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED")
        assert refusal.retry == pytest.approx(20, abs=2)
        await ask(running.caller(user="bob"))
        await ask(running.caller(vault="evil"))


async def test_a_refused_send_is_not_stored_and_resuming_has_its_own_allowance(tmp_path: Path) -> None:
    async with serving(tmp_path, rate_limit_requests=2, rate_limit_window_seconds=100) as running:
        caller = running.caller()
        session = await caller.create_session()
        started = (await caller.send(session.session_id))[0]
        stream = caller.chat.SendMessage(send_request(session.session_id), metadata=caller.metadata)
        assert (await refused(stream)).reason == "RATE_LIMITED"
        for _ in range(10):
            await caller.chat.GetTurn(GetTurnRequest(turn_id=started.turn_id), metadata=caller.metadata)
        assert len(await running.caller(user="bob").messages(session.session_id)) == 2


async def test_only_refused_tokens_are_limited_by_address(tmp_path: Path) -> None:
    async with serving(tmp_path, auth_failure_requests=3, rate_limit_window_seconds=30) as running:
        for caller in (running.caller("bad"), running.caller(""), running.caller(mint(secret="b" * 32))):
            assert (await refused(ask(caller))).code.name == "UNAUTHENTICATED"
        refusal = await refused(ask(running.caller("bad")))
        assert (refusal.code.name, refusal.reason) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED")
        assert refusal.retry == pytest.approx(10, abs=1)
        await ask(running.caller())
        # An expired token that this server once accepted does not suggest a hostile caller.
        assert (await refused(ask(running.caller(exp=int(time.time()) - 60)))).reason == "TOKEN_EXPIRED"


async def test_a_refused_token_is_limited_however_soon_the_next_one_is_admitted(tmp_path: Path) -> None:
    async with serving(tmp_path, auth_failure_requests=50, rate_limit_window_seconds=25) as running:
        caller = running.caller("bad")
        refusals = [await refused(ask(caller)) for _ in range(75)]
    limited = [refusal for refusal in refusals if refusal.reason == "RATE_LIMITED"]
    assert limited
    assert all(refusal.retry is not None and refusal.retry <= 1 for refusal in limited)


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("ipv4:10.1.2.3:4711", "10.1.2.3"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:4711", "2001:db8:1:2::/64"),
        ("ipv6:%5B::ffff:10.1.2.3%5D:4711", "10.1.2.3"),
        ("ipv6:%5Bfe80::1%25eth0%5D:4711", "fe80::/64"),
        ("unix:", ""),
    ],
)
def test_addresses_are_grouped_by_the_network_of_one_host(peer: str, network: str) -> None:
    method = next(iter(methods_of(SERVICES).values()))
    connection: Any = SimpleNamespace(metadata=tuple, peer=lambda: peer)
    assert Call(method, connection).network == network


async def test_a_turn_beyond_the_limit_of_a_vault_is_refused(tmp_path: Path) -> None:
    hold = asyncio.Event()
    async with (
        FakeMessagesApi(Reply(("a", "b"), hold=hold)) as api,
        asking(api, tmp_path, max_running_turns=2) as running,
    ):
        alice, bob, mallory = running.caller(), running.caller(user="bob"), running.caller(vault="evil")
        streams = []
        for caller in (alice, bob):
            session = await caller.create_session()
            streams.append(caller.start(session.session_id, request_id=str(uuid.uuid4())))
            await streams[-1].next()
        third = await alice.create_session()
        refusal = await refused(alice.chat.SendMessage(send_request(third.session_id), metadata=alice.metadata))
        assert (refusal.code.name, refusal.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_TURNS")
        assert (refusal.info.metadata, refusal.retry) == ({"limit": "2"}, 1.0)
        assert await alice.messages(third.session_id) == []
        other = mallory.start((await mallory.create_session()).session_id)
        await other.next()
        hold.set()
        for stream in (*streams, other):
            await stream.rest()
        assert (await alice.send(third.session_id))[-1].turn_finished.status == TURN_STATUS_COMPLETED


async def test_a_repeated_send_joins_its_turn_even_at_the_limit(tmp_path: Path) -> None:
    hold = asyncio.Event()
    async with (
        FakeMessagesApi(Reply(("a", "b"), hold=hold)) as api,
        asking(api, tmp_path, max_running_turns=1) as running,
    ):
        alice = running.caller()
        session, request_id = await alice.create_session(), str(uuid.uuid4())
        first = alice.start(session.session_id, request_id=request_id)
        started = await first.next()
        again = alice.start(session.session_id, request_id=request_id)
        assert await again.next() == started
        hold.set()
        assert (await again.rest())[-1] == (await first.rest())[-1]
