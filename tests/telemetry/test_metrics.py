"""Metrics that an OTLP receiver gets, which are those that Prometheus reads."""

import asyncio
from pathlib import Path

from metamorph_client.chat.v1.chat_service_pb2 import CountTokensRequest, GetSessionRequest

from tests.support.caller import send_request
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.otlp_receiver import OtlpReceiver, traced
from tests.support.fakes.replies import Refusal, Reply
from tests.support.refusal import refused
from tests.support.scraping import Scrape, scrape
from tests.support.serving import asking
from tests.support.turns import cancel

CHAT = "metamorph.chat.v1.ChatService"
MODEL = "claude-sonnet-5-5"
CALLS = "rpc.server.call.duration"
INFERENCE = "gen_ai.client.inference.duration"
FIRST = "gen_ai.client.inference.time_to_first_chunk"


async def measured(api: FakeMessagesApi, receiver: OtlpReceiver, directory: Path) -> Scrape:
    """Makes calls of many kinds, and returns what Prometheus reads of them."""
    async with asking(api, directory, **traced(receiver, otel_traces_sampler_arg=0)) as running:
        alice = running.caller()
        session_id = (await alice.create_session()).session_id
        api.script.extend(
            [Reply(("a",)), Reply(("b",)), Refusal(529, "overloaded_error"), Reply(("a", "b"), hold=asyncio.Event())]
        )
        for _ in range(3):
            await alice.send(session_id)
        held = alice.start(session_id)
        turn_id = (await held.next()).turn_id
        await held.next()
        await cancel(alice, turn_id)
        await held.rest()
        request = CountTokensRequest(message=send_request(session_id))
        await alice.chat.CountTokens(request, metadata=alice.metadata)
        for wrong in ("none", ""):
            await refused(alice.chat.GetSession(GetSessionRequest(session_id=wrong), metadata=alice.metadata))
        return await scrape(running)


async def test_they_are_the_same_numbers(api: FakeMessagesApi, receiver: OtlpReceiver, tmp_path: Path) -> None:
    page = await measured(api, receiver, tmp_path)
    assert set(receiver.points) == {CALLS, INFERENCE, FIRST}
    calls = {
        (f"/{point.attributes['rpc.method']}", point.attributes["rpc.response.status_code"]): point.count
        for point in receiver.points[CALLS]
    }
    assert calls == page.by("metamorph_calls_total", "method", "code")
    assert sum(point.count for point in receiver.points[CALLS]) == page.sum("metamorph_call_duration_seconds_count")
    assert sum(point.sum for point in receiver.points[CALLS]) == page.sum("metamorph_call_duration_seconds_sum")
    assert receiver.spans == []


async def test_calls_have_the_attributes_of_the_conventions(
    api: FakeMessagesApi, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    await measured(api, receiver, tmp_path)
    get = [point for point in receiver.points[CALLS] if point.attributes["rpc.method"] == f"{CHAT}/GetSession"]
    assert sorted((point.attributes["rpc.response.status_code"], point.count) for point in get) == [
        ("INVALID_ARGUMENT", 1),
        ("NOT_FOUND", 1),
    ]
    assert all(
        point.attributes.keys() == {"rpc.system.name", "rpc.method", "rpc.response.status_code"} for point in get
    )
    given = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "anthropic", "gen_ai.request.model": MODEL}
    (first,) = receiver.points[FIRST]
    assert (first.attributes, first.count) == (given, 3)
    inference = {point.attributes.get("error.type", ""): point.count for point in receiver.points[INFERENCE]}
    assert inference == {"": 3, "UPSTREAM_OVERLOADED": 1}
    assert all(given.items() <= point.attributes.items() for point in receiver.points[INFERENCE])


async def test_a_receiver_of_traces_alone_gets_no_metrics(
    api: FakeMessagesApi, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    async with asking(api, tmp_path, **traced(receiver, otel_metrics_exporter="none")) as running:
        await running.caller().create_session()
    assert set(receiver.signals) == {"traces"}
