"""Turns during a drain, a crash and a store failure."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import turn_pb2
from metamorphd.chat import live_turn
from metamorphd.housekeeping import Housekeeping
from metamorphd.models.caller import Scope
from metamorphd.server import NAMES, Server
from metamorphd.settings import loading
from metamorphd.store.database import Database
from metamorphd.store.turns.events import append_events

from tests.support.caller import Events, calling, text_of
from tests.support.engines import Engine
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.processes import serving_process
from tests.support.refusal import refused
from tests.support.serving import Serving, asking, serving
from tests.support.tokens import SECRET
from tests.support.turns import WORDS, deltas, followed, get_session, get_turn, stream

LATE_SEQUENCE = 5


async def test_a_drain_finishes_turns_refuses_new_ones_and_ends_streams(tmp_path: Path) -> None:
    async with FakeMessagesApi() as api, asking(api, tmp_path) as running:
        hold = asyncio.Event()
        api.default = Reply(("a", "b"), hold=hold)
        alice = running.caller()
        session, other = await alice.create_session(), await alice.create_session()
        call = alice.start(session.session_id)
        await call.next()
        stopping = asyncio.create_task(running.server.stop(grace_seconds=10))
        await asyncio.sleep(0.05)
        refusal = await refused(alice.send(other.session_id))
        assert (refusal.code.name, refusal.reason) == ("UNAVAILABLE", "SERVER_DRAINING")
        assert refusal.retry
        hold.set()
        events = await call.rest()
        assert events[-1].turn_finished.status == turn_pb2.TURN_STATUS_COMPLETED
        await stopping


async def test_a_turn_that_exceeds_the_grace_period_is_interrupted_and_keeps_its_text(tmp_path: Path) -> None:
    async with FakeMessagesApi() as api:
        api.default = Reply(("partial ", "rest"), hold=asyncio.Event())
        async with asking(api, tmp_path) as running:
            alice = running.caller()
            session = await alice.create_session()
            call = alice.start(session.session_id)
            events = [await call.next(), await call.next()]
            await running.server.stop(grace_seconds=0.1)
            events += await call.rest()
            finished = events[-1].turn_finished
            assert finished.status == turn_pb2.TURN_STATUS_INTERRUPTED
            assert (finished.error.reason, text_of(finished.message)) == ("TURN_INTERRUPTED", "partial ")
            await api.until_idle()
        async with serving(tmp_path) as again:
            alice = again.caller()
            assert await followed(alice, events[0].turn_id) == events
            assert [text_of(message) for message in await alice.messages(session.session_id)] == ["Hello", "partial "]


async def test_after_kill_9_every_delivered_event_is_stored_and_the_turn_has_ended(tmp_path: Path) -> None:
    async with FakeMessagesApi(Reply(WORDS, delay=0.005)) as api:
        upstream = {"ANTHROPIC_API_KEY": "sk-test", "ANTHROPIC_BASE_URL": api.base_url}
        with serving_process(tmp_path, **upstream) as server:
            async with calling(server.target) as alice:
                session = await alice.create_session()
                call = alice.start(session.session_id)
                seen = [await call.next() for _ in range(20)]
                server.process.kill()
                assert (await refused(call.rest())).code is grpc.StatusCode.UNAVAILABLE
    with serving_process(tmp_path) as server:
        async with calling(server.target) as alice:
            replayed = await followed(alice, seen[0].turn_id)
            assert replayed[: len(seen)] == seen
            finished = replayed[-1].turn_finished
            assert finished.status == turn_pb2.TURN_STATUS_INTERRUPTED
            assert text_of(finished.message) == deltas(replayed)
            assert finished.message.partial
            assert await followed(alice, seen[0].turn_id, seen[-1].sequence) == replayed[len(seen) :]
            turn = await get_turn(alice, seen[0].turn_id)
            assert (turn.status, turn.error.reason) == (finished.status, "TURN_INTERRUPTED")
            assert list((await get_session(alice, session.session_id)).running_turn_ids) == []
            assert (await alice.send(session.session_id))[-1].turn_finished.status == turn_pb2.TURN_STATUS_COMPLETED


async def test_sigterm_drains_the_server_and_exits_with_0(tmp_path: Path) -> None:
    with serving_process(tmp_path) as server:
        async with calling(server.target) as alice:
            session = await alice.create_session()
            call = alice.start(session.session_id)
            await call.next()
            server.process.send_signal(signal.SIGTERM)
            events = await call.rest()
            assert events[-1].turn_finished.status == turn_pb2.TURN_STATUS_COMPLETED
        assert await asyncio.to_thread(server.process.wait, 10) == 0


async def test_a_replay_ahead_of_the_published_events_continues(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    answering = asyncio.Event()

    late = engine.database(tmp_path)
    write = late.write

    async def answer_late(operation: Any, scope: Scope, /, *args: Any, **kwargs: Any) -> Any:
        """Commits a few events and returns later."""
        written = await write(operation, scope, *args, **kwargs)
        if operation is append_events and kwargs["events"][-1].sequence >= LATE_SEQUENCE and not committed.done():
            committed.set_result(kwargs["events"][-1].sequence)
            await answering.wait()
        return written

    monkeypatch.setattr(late, "write", answer_late)
    monkeypatch.setattr(live_turn, "TAIL_EVENTS", 1)
    async with FakeMessagesApi(Reply(WORDS[:20], delay=0.01)) as api, asking(api, tmp_path, database=late) as running:
        alice = running.caller()
        call = alice.start((await alice.create_session()).session_id)
        events = [await call.next()]
        last = await committed
        replay = Events(stream(alice, events[0].turn_id))
        replayed = [await replay.next() for _ in range(last)]
        resumed = asyncio.create_task(followed(alice, events[0].turn_id, last))
        await asyncio.sleep(0.2)
        answering.set()
        events += await call.rest()
        assert replayed + await replay.rest() == events
        assert await resumed == events[last:]


async def test_a_start_refuses_requests_until_the_store_is_open(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = asyncio.Event()
    enter = engine.database_class.__aenter__

    async def open_late(self: Database) -> Database:
        await opening.wait()
        return await enter(self)

    monkeypatch.setattr(engine.database_class, "__aenter__", open_late)
    loaded = loading.load(emblem_jwt_secret=SECRET, listen_address="127.0.0.1", port=0, grpc_port=0)
    server = Server(loaded, database=engine.database(tmp_path))
    starting = asyncio.create_task(server.start())
    await asyncio.sleep(0.3)
    running = Serving(server)
    alice = running.caller()
    refusal = await refused(alice.chat.GetSession(pb.GetSessionRequest(session_id="s"), metadata=alice.metadata))
    assert (refusal.code.name, refusal.reason) == ("UNAVAILABLE", "STORE_NOT_READY")
    for service in ("", *NAMES):
        health = await alice.health.Check(HealthCheckRequest(service=service))
        assert health.status == HealthCheckResponse.NOT_SERVING
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{server.http_port}/health")
    assert (answer.status_code, answer.json()["check"]) == (503, "starting")
    opening.set()
    await starting
    assert (await alice.health.Check(HealthCheckRequest())).status == HealthCheckResponse.SERVING
    assert (await alice.create_session()).session_id
    await running.hang_up()
    await server.stop(grace_seconds=0)


async def test_no_turn_begins_while_a_server_that_stops_still_ends_its_housekeeping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, ended = asyncio.Event(), asyncio.Event()
    leave = Housekeeping.__aexit__

    async def leave_late(self: Housekeeping, *exc: object) -> None:
        ending.set()
        await ended.wait()
        await leave(self, *exc)

    monkeypatch.setattr(Housekeeping, "__aexit__", leave_late)
    async with serving(tmp_path) as running:
        alice = running.caller()
        session = await alice.create_session()
        stopping = asyncio.create_task(running.server.stop(grace_seconds=1))
        await ending.wait()
        refusal = await refused(alice.start(session.session_id).next())
        assert (refusal.code.name, refusal.reason) == ("UNAVAILABLE", "SERVER_DRAINING")
        ended.set()
        await stopping
