"""The rate limit, alone and in the server."""

from pathlib import Path

import pytest
from metamorph.chat.v1.chat_service_pb2 import GetTurnRequest
from metamorph.vault.v1.vault_service_pb2 import WhoAmIRequest
from metamorphd.interceptors import rate_limit
from metamorphd.interceptors.rate_limit import RateLimit

from tests.serving import Caller, refused, send_request, serving


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_of_the_whole_allowance_passes_and_no_more() -> None:
    limit = RateLimit(requests=100, window_seconds=900, now=Time())
    assert [limit.take("a") for _ in range(100)] == [0.0] * 100
    assert limit.take("a") == pytest.approx(9.0)
    assert limit.take("b") == 0.0


def test_the_allowance_comes_back_at_its_rate() -> None:
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


def test_no_window_ever_lets_twice_the_allowance_through() -> None:
    time = Time()
    limit = RateLimit(requests=10, window_seconds=10, now=time)
    passed = []
    for _ in range(1000):
        time.now += 0.1
        if not limit.take("a"):
            passed.append(time.now)
    busiest = max(sum(start <= moment < start + 10 for moment in passed) for start in passed)
    assert busiest <= 20


def test_zero_requests_is_no_limit() -> None:
    limit = RateLimit(requests=0, window_seconds=1)
    assert not any(limit.take("a") for _ in range(1000))


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "KEYS", 100)
    limit = RateLimit(requests=1, window_seconds=10, now=Time())
    for key in range(1000):
        assert limit.take(key) == 0.0
    assert len(limit._arrivals) <= 100
    assert limit.take(999) > 0


async def ask(caller: Caller) -> None:
    await caller.vault.WhoAmI(WhoAmIRequest(), metadata=caller.metadata)


async def test_beyond_the_allowance_a_caller_is_told_when_to_come_back(tmp_path: Path) -> None:
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
