"""What an OTLP receiver gets of calls, turns, the store and the model."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from metamorph_client.chat.v1.chat_service_pb2 import CountTokensRequest, GetSessionRequest
from metamorphd.telemetry import spans

from tests.support.caller import Caller, send_request, upload_requests
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.otlp_receiver import OtlpReceiver, Seen, traced
from tests.support.fakes.replies import Count, Refusal, Reply
from tests.support.media import FILES
from tests.support.refusal import refused
from tests.support.serving import Serving, asking, serving
from tests.support.tools import ASKS, WEATHER, result
from tests.support.turns import cancel, titled

CHAT = "metamorph.chat.v1.ChatService"
MODEL = "claude-sonnet-5-5"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def tracing(api: FakeMessagesApi, receiver: OtlpReceiver, directory: Path, **overrides: Any) -> Any:
    return asking(api, directory, **traced(receiver, **overrides))


def called(method: str, **attributes: Any) -> dict[str, Any]:
    """Returns the attributes of an answered call."""
    return {
        "rpc.system.name": "grpc",
        "rpc.method": f"{CHAT}/{method}",
        "rpc.response.status_code": "OK",
        "metamorph.vault.id": "acme",
    } | attributes


async def get_session(caller: Caller, session_id: str, *headers: tuple[str, str]) -> None:
    request = GetSessionRequest(session_id=session_id)
    await caller.chat.GetSession(request, metadata=(*caller.metadata, *headers))


async def test_a_call_is_a_span_and_its_operation_of_the_store_another(receiver: OtlpReceiver, tmp_path: Path) -> None:
    async with serving(tmp_path, **traced(receiver)) as running:
        alice = running.caller()
        session = await alice.create_session()
        await get_session(alice, session.session_id)
    call = receiver.one(f"{CHAT}/GetSession")
    assert (call.kind, call.parent, call.failed) == ("SERVER", "", False)
    assert call.attributes == called("GetSession")
    (operation,) = receiver.under(call).values()
    assert (operation.name, operation.kind, operation.trace_id) == ("get_session", "CLIENT", call.trace_id)
    assert operation.attributes == {"db.system.name": "sqlite", "db.operation.name": "get_session"}
    assert call.begin <= operation.begin <= operation.end <= call.end
    assert set(receiver.under(receiver.one(f"{CHAT}/CreateSession"))) == {"create_session"}


async def test_the_resource_says_which_server_it_is(
    receiver: OtlpReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=chat")
    async with serving(tmp_path, **traced(receiver, otel_service_name="chats", node_env="test")) as running:
        await running.caller().create_session()
    (*_, resource) = receiver.resources
    assert all(each == resource for each in receiver.resources)
    assert resource["service.name"] == "chats"
    assert resource["service.namespace"] == "chat"
    assert resource["service.version"]
    assert resource["service.instance.id"]
    assert resource["deployment.environment.name"] == "test"


async def test_a_turn_is_a_span_with_its_call_to_the_model(
    api: FakeMessagesApi, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    usage = {"input_tokens": 11, "cache_read_input_tokens": 500, "cache_creation_input_tokens": 30}
    api.default = Reply(("One", "two", "three"), usage=usage, delay=0.05)
    async with tracing(api, receiver, tmp_path) as running:
        alice = running.caller()
        session = await alice.create_session()
        events = await alice.send(session.session_id)
    call = receiver.one(f"{CHAT}/SendMessage")
    turn, model = receiver.one("invoke_agent"), receiver.one(f"chat {MODEL}")
    assert call.attributes == called("SendMessage")
    assert (turn.parent, model.parent) == (call.span_id, turn.span_id)
    assert (turn.kind, model.kind) == ("INTERNAL", "CLIENT")
    assert {call.trace_id} == {turn.trace_id, model.trace_id}
    tokens = {
        "gen_ai.usage.input_tokens": 541,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 500,
        "gen_ai.usage.cache_write.input_tokens": 30,
    }
    assert turn.attributes == tokens | {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.conversation.id": session.session_id,
        "gen_ai.request.model": MODEL,
        "metamorph.turn.id": events[0].turn_id,
        "metamorph.turn.status": "COMPLETED",
    }
    seconds = model.attributes.pop("gen_ai.response.time_to_first_chunk")
    assert 0 < seconds < (model.end - model.begin) / 1e9
    assert model.attributes == tokens | {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.conversation.id": session.session_id,
        "gen_ai.request.model": MODEL,
        "gen_ai.request.max_tokens": 32_000,
        "gen_ai.request.stream": True,
        "gen_ai.response.id": "msg_1",
        "gen_ai.response.model": MODEL,
        "gen_ai.response.finish_reasons": ["end_turn"],
    }
    assert "create_turn" in receiver.under(call)
    assert {"get_prompt", "append_events", "finish_turn"} <= set(receiver.under(turn))


async def test_a_tool_call_and_its_result_are_two_turns_of_one_conversation(
    api: FakeMessagesApi, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    async with tracing(api, receiver, tmp_path) as running:
        alice = running.caller()
        session = await alice.create_session()
        api.script.extend([ASKS, Reply(("Sunny",))])
        await alice.send(session.session_id, tools=[WEATHER])
        await alice.send(session.session_id, content=[result()])
    first, second = receiver.named(f"chat {MODEL}")
    assert first.trace_id != second.trace_id
    assert first.attributes["gen_ai.response.finish_reasons"] == ["tool_use"]
    assert {span.attributes["gen_ai.conversation.id"] for span in (first, second)} == {session.session_id}


async def test_a_call_to_the_model_has_one_span_with_all_its_retries(
    api: FakeMessagesApi, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    api.script.append(Refusal(529, "overloaded_error"))
    async with tracing(api, receiver, tmp_path, anthropic_max_retries=1) as running:
        alice = running.caller()
        await alice.send((await alice.create_session()).session_id)
    assert len(api.requests) == 2
    model = receiver.one(f"chat {MODEL}")
    assert not model.failed
    # The SDK waits half a second or so before it tries again.
    assert model.attributes["gen_ai.response.time_to_first_chunk"] > 0.3


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (Refusal(529, "overloaded_error"), "UPSTREAM_OVERLOADED"),
        (Reply(("a", "b"), ending="drop"), "UPSTREAM_INTERRUPTED"),
    ],
)
async def test_a_failed_call_to_the_model_and_its_turn_have_the_type_of_the_error(
    api: FakeMessagesApi, receiver: OtlpReceiver, tmp_path: Path, behaviour: Any, reason: str
) -> None:
    api.default = behaviour
    async with tracing(api, receiver, tmp_path) as running:
        alice = running.caller()
        await alice.send((await alice.create_session()).session_id)
    turn, model = receiver.one("invoke_agent"), receiver.one(f"chat {MODEL}")
    assert (turn.failed, model.failed) == (True, True)
    assert turn.attributes["error.type"] == model.attributes["error.type"] == reason
    assert turn.attributes["metamorph.turn.status"] == "FAILED"
    assert model.attributes["gen_ai.response.finish_reasons"] == ["error"]
    assert ("gen_ai.response.id" in model.attributes) is isinstance(behaviour, Reply)
    # The call has told its caller about it.
    assert receiver.one(f"{CHAT}/SendMessage").attributes == called("SendMessage")


async def test_a_turn_that_is_cancelled_is_no_error(
    api: FakeMessagesApi, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    api.default = Reply(("a", "b"), hold=asyncio.Event())
    async with tracing(api, receiver, tmp_path) as running:
        alice = running.caller()
        call = alice.start((await alice.create_session()).session_id)
        turn_id = (await call.next()).turn_id
        await call.next()
        await cancel(alice, turn_id)
        await call.rest()
    turn, model = receiver.one("invoke_agent"), receiver.one(f"chat {MODEL}")
    assert (turn.failed, model.failed) == (False, False)
    assert turn.attributes["metamorph.turn.status"] == "CANCELLED"
    assert model.attributes["gen_ai.response.finish_reasons"] == ["error"]
    assert not {"error.type"} & (turn.attributes.keys() | model.attributes.keys())
    # Of a reply that was cut off, nobody knows them.
    assert "gen_ai.usage.output_tokens" not in turn.attributes


async def test_a_turn_outlives_the_call_that_began_it(
    api: FakeMessagesApi, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    hold = asyncio.Event()
    api.default = Reply(("a", "b"), hold=hold)
    async with tracing(api, receiver, tmp_path) as running:
        alice = running.caller()
        call = alice.start((await alice.create_session()).session_id)
        await call.next()
        await call.next()
        call.call.cancel()
        (gone,) = await receiver.until(f"{CHAT}/SendMessage")
        assert receiver.named("invoke_agent") == []
        hold.set()
        (turn,) = await receiver.until("invoke_agent")
    assert (turn.parent, turn.trace_id) == (gone.span_id, gone.trace_id)
    assert gone.end < turn.end
    assert gone.attributes == called("SendMessage", **{"rpc.response.status_code": "CANCELLED"})
    assert not gone.failed
    assert turn.attributes["metamorph.turn.status"] == "COMPLETED"


async def test_a_title_is_a_call_to_the_model_of_its_own(
    api: FakeMessagesApi, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    async with tracing(api, receiver, tmp_path, session_title_model="claude-haiku-5-5") as running:
        alice = running.caller()
        session = await alice.create_session()
        await alice.send(session.session_id)
        await titled(alice, session.session_id)
    call, title = receiver.one(f"{CHAT}/SendMessage"), receiver.one("chat claude-haiku-5-5")
    assert (title.parent, title.attributes["gen_ai.conversation.id"]) == (call.span_id, session.session_id)


async def test_counting_tokens_is_an_operation_of_its_own(
    api: FakeMessagesApi, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    async with tracing(api, receiver, tmp_path) as running:
        alice = running.caller()
        session = await alice.create_session()
        api.script.extend([Count(7), Refusal(401, "authentication_error")])
        request = CountTokensRequest(message=send_request(session.session_id))
        await alice.chat.CountTokens(request, metadata=alice.metadata)
        await refused(alice.chat.CountTokens(request, metadata=alice.metadata))
    good, bad = receiver.named(f"count_tokens {MODEL}")
    assert good.attributes["gen_ai.operation.name"] == "count_tokens"
    assert (good.failed, bad.failed, bad.attributes["error.type"]) == (False, True, "UPSTREAM_UNAUTHENTICATED")


async def test_what_a_caller_does_wrong_is_no_error_of_the_server(receiver: OtlpReceiver, tmp_path: Path) -> None:
    async with serving(tmp_path, **traced(receiver)) as running:
        alice = running.caller()
        await refused(alice.chat.GetSession(GetSessionRequest(session_id="none"), metadata=alice.metadata))
        stranger = running.caller("not-a-token")
        await refused(stranger.chat.GetSession(GetSessionRequest(session_id="none"), metadata=stranger.metadata))
    missing, strange = receiver.named(f"{CHAT}/GetSession")
    reason = {"rpc.response.status_code": "NOT_FOUND", "metamorph.error.reason": "SESSION_NOT_FOUND"}
    assert missing.attributes == called("GetSession", **reason)
    (operation,) = receiver.under(missing).values()
    assert strange.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": f"{CHAT}/GetSession",
        "rpc.response.status_code": "UNAUTHENTICATED",
        "metamorph.error.reason": "TOKEN_INVALID",
    }
    assert (missing.failed, strange.failed, operation.failed) == (False, False, False)


async def test_what_the_server_does_wrong_is_an_error(receiver: OtlpReceiver, tmp_path: Path) -> None:
    async with serving(tmp_path, **traced(receiver)) as running:
        alice = running.caller()
        await running.server._database.__aexit__()
        await refused(alice.chat.GetSession(GetSessionRequest(session_id="none"), metadata=alice.metadata))
        await running.server._database.__aenter__()
    call = receiver.one(f"{CHAT}/GetSession")
    (operation,) = receiver.under(call).values()
    assert (call.failed, call.attributes["error.type"]) == (True, "UNAVAILABLE")
    assert (operation.failed, operation.attributes["error.type"]) == (True, "STORE_NOT_READY")


async def test_streams_of_requests_are_calls_too_and_their_spans_are_limited(
    receiver: OtlpReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "MOST_CHILDREN", 2)
    image = FILES["image/png"] + bytes(3 << 20)
    async with serving(tmp_path, **traced(receiver)) as running:
        alice = running.caller()
        requests = iter(upload_requests(image, piece=1 << 20))
        await alice.chat.UploadAttachment(requests, metadata=alice.metadata)
    call = receiver.one(f"{CHAT}/UploadAttachment")
    assert len([span for span in receiver.spans if span.parent == call.span_id]) == 2
    assert call.attributes.pop("metamorph.omitted_spans") > 0
    assert call.attributes == called("UploadAttachment")


def header(flags: str = "01") -> tuple[str, str]:
    return "traceparent", f"00-{TRACE}-{SPAN}-{flags}"


async def recorded(receiver: OtlpReceiver, directory: Path, *headers: tuple[str, str], share: float = 0) -> list[Seen]:
    """Returns the spans of a call with these headers."""
    async with serving(directory, **traced(receiver, otel_traces_sampler_arg=share)) as running:
        alice = running.caller()
        await refused(alice.chat.GetSession(GetSessionRequest(session_id="none"), metadata=(*alice.metadata, *headers)))
    return receiver.named(f"{CHAT}/GetSession")


async def test_a_call_is_a_part_of_its_callers_trace(receiver: OtlpReceiver, tmp_path: Path) -> None:
    (call,) = await recorded(receiver, tmp_path, header(), ("tracestate", "a=1"), ("tracestate", "b=2"))
    assert (call.trace_id, call.parent, call.state) == (TRACE, SPAN, "a=1,b=2")
    (operation,) = receiver.under(call).values()
    assert (operation.trace_id, operation.state) == (TRACE, "a=1,b=2")


async def test_a_caller_that_does_not_record_is_not_recorded(receiver: OtlpReceiver, tmp_path: Path) -> None:
    assert await recorded(receiver, tmp_path, header("00"), share=1) == []


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", f"00-{'0' * 32}-{SPAN}-01")],
        [("traceparent", f"00-{TRACE}-{SPAN}-01-x")],
        [("traceparent", f"ff-{TRACE}-{SPAN}-01")],
        [("traceparent", "'; DROP TABLE spans")],
    ],
)
async def test_headers_that_are_not_valid_count_for_nothing(
    receiver: OtlpReceiver, tmp_path: Path, headers: list[tuple[str, str]]
) -> None:
    (call,) = await recorded(receiver, tmp_path, *headers, share=1)
    assert (call.parent, call.trace_id != TRACE) == ("", True)


async def test_what_cannot_be_a_state_is_left_out(receiver: OtlpReceiver, tmp_path: Path) -> None:
    (call,) = await recorded(receiver, tmp_path, header(), ("tracestate", "a=" + "x" * 511))
    assert (call.parent, call.state) == (SPAN, "")


async def test_most_calls_are_not_recorded(receiver: OtlpReceiver, tmp_path: Path) -> None:
    assert await recorded(receiver, tmp_path, share=0) == []


async def test_callers_cannot_have_more_recorded_than_the_limit(receiver: OtlpReceiver, tmp_path: Path) -> None:
    async with serving(tmp_path, **traced(receiver, otel_traces_sampler_arg=0)) as running:
        alice = running.caller()
        session = await alice.create_session()
        began = asyncio.get_running_loop().time()
        for _ in range(100):
            await get_session(alice, session.session_id, header())
        seconds = asyncio.get_running_loop().time() - began
    assert 10 <= len(receiver.named(f"{CHAT}/GetSession")) <= 11 + 10 * seconds


async def test_a_server_without_a_receiver_has_no_part_of_it(running: Serving, alice: Caller) -> None:
    await refused(alice.chat.GetSession(GetSessionRequest(session_id="none"), metadata=(*alice.metadata, header())))
