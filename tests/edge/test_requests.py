"""Requests that are refused before they reach a servicer, and the details of every refusal."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import generation_pb2
from metamorph_client.chat.v1.message_pb2 import ContentBlock, TextBlock
from metamorph_client.chat.v1.session_pb2 import Session
from metamorphd import server

from tests.support.caller import Caller, send_request, text_block
from tests.support.refusal import refused
from tests.support.serving import Serving, serving

CREATE = "/metamorph.chat.v1.ChatService/CreateSession"
SEND = "/metamorph.chat.v1.ChatService/SendMessage"


def raw(caller: Caller, path: str, body: bytes) -> Any:
    """Starts a unary call with raw bytes as its request."""
    kind: Any = caller.channel.unary_stream if path == SEND else caller.channel.unary_unary
    return kind(path, request_serializer=None, response_deserializer=None)(body, metadata=caller.metadata)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CREATE, b"\xff\xff\xff"),
        (SEND, b"\xff\xff\xff"),
        (CREATE, b"\x0a\x7f cut short"),
        (CREATE, b"\x12\x04\xff\xfe\xfd\xfc"),
        (SEND, b"\x0a\x04\xff\xfe\xfd\xfc"),
        (SEND, b"\x0b" * 100_000),
    ],
    ids=["garbage", "garbage, streaming", "cut short", "UTF-8", "UTF-8, streaming", "nesting, streaming"],
)
async def test_a_malformed_request_is_refused_on_unary_and_streaming_calls(
    alice: Caller, path: str, body: bytes
) -> None:
    refusal = await refused(raw(alice, path, body))
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "REQUEST_MALFORMED")


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (pb.CreateSessionRequest(request_id="no uuid"), ["request_id"]),
        (pb.CreateSessionRequest(session=Session(title="x" * 201)), ["session.title"]),
        (pb.CreateSessionRequest(session=Session(model="a b")), ["session.model"]),
        (pb.CreateSessionRequest(session=Session(metadata={"a b": "c"})), ["session.metadata"]),
        (
            pb.CreateSessionRequest(session=Session(metadata={f"k{n}": "" for n in range(33)}, title="x" * 201)),
            ["session.title", "session.metadata"],
        ),
    ],
)
async def test_a_broken_rule_names_its_field(
    alice: Caller, request_: pb.CreateSessionRequest, fields: list[str]
) -> None:
    refusal = await refused(alice.chat.CreateSession(request_, metadata=alice.metadata))
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "REQUEST_INVALID")
    assert refusal.fields == fields


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        ([], ["content"]),
        ([ContentBlock()], ["content[0].block"]),
        ([ContentBlock(text=TextBlock())], ["content[0].text.text"]),
        ([text_block("a"), text_block(" \n\t")], ["content[1].text.text"]),
        ([text_block("a")] * 65, ["content"]),
    ],
    ids=["no content", "no block", "empty text", "white space", "65 blocks"],
)
async def test_empty_or_excessive_content_is_refused_and_not_stored(
    alice: Caller, content: list[ContentBlock], fields: list[str]
) -> None:
    session = await alice.create_session()
    request = pb.SendMessageRequest(session_id=session.session_id, content=content)
    refusal = await refused(alice.chat.SendMessage(request, metadata=alice.metadata))
    assert (refusal.code.name, refusal.reason, refusal.fields) == ("INVALID_ARGUMENT", "REQUEST_INVALID", fields)
    assert await alice.messages(session.session_id) == []


async def test_oversize_content_is_refused_with_the_limit_and_not_stored(tmp_path: Path) -> None:
    async with serving(tmp_path, max_content_bytes=1000) as running:
        alice = running.caller()
        session = await alice.create_session()
        # Each character takes two bytes.
        stream = alice.chat.SendMessage(send_request(session.session_id, "é" * 500 + "x"), metadata=alice.metadata)
        refusal = await refused(stream)
        assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "CONTENT_TOO_LARGE")
        assert refusal.info.metadata == {"limit_bytes": "1000"}
        assert await alice.messages(session.session_id) == []
        await alice.send(session.session_id, "é" * 500)


async def test_metadata_beyond_8_kib_is_refused_by_the_transport(running: Serving) -> None:
    caller = running.caller(None, ("x-filler", "x" * 10_000))
    refusal = await refused(caller.chat.CreateSession(pb.CreateSessionRequest(), metadata=caller.metadata))
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("call", ["ListSessions", "ListMessages"])
async def test_a_negative_page_size_is_refused(alice: Caller, call: str) -> None:
    request = (
        pb.ListSessionsRequest(page_size=-1)
        if call == "ListSessions"
        else pb.ListMessagesRequest(session_id="ses_1", page_size=-1)
    )
    refusal = await refused(getattr(alice.chat, call)(request, metadata=alice.metadata))
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["page_size"])


async def test_an_unknown_method_is_unimplemented(alice: Caller) -> None:
    refusal = await refused(raw(alice, "/metamorph.chat.v1.ChatService/Nothing", b""))
    assert refusal.code is grpc.StatusCode.UNIMPLEMENTED


async def test_the_call_id_of_a_caller_is_in_metadata_and_in_refusals(running: Serving) -> None:
    caller = running.caller(None, ("x-request-id", "my-call.1"))
    call = caller.chat.CreateSession(pb.CreateSessionRequest(), metadata=caller.metadata)
    for metadata in (await call.initial_metadata(), await call.trailing_metadata()):
        assert dict(metadata)["x-request-id"] == "my-call.1"
    refusal = await refused(caller.chat.GetSession(pb.GetSessionRequest(session_id="none"), metadata=caller.metadata))
    assert refusal.request.request_id == "my-call.1"


async def test_a_stream_sends_its_call_id_before_its_first_event(alice: Caller) -> None:
    session = await alice.create_session()
    events = alice.start(session.session_id)
    early = dict(await events.call.initial_metadata())["x-request-id"]
    await events.rest()
    assert dict(await events.call.trailing_metadata())["x-request-id"] == early


async def test_a_stream_that_is_refused_sends_no_metadata_but_that_of_its_end(alice: Caller) -> None:
    for call in (
        alice.chat.StreamTurn(pb.StreamTurnRequest(turn_id="turn_none"), metadata=alice.metadata),
        alice.chat.StreamTurn(pb.StreamTurnRequest(turn_id=""), metadata=alice.metadata),
        alice.chat.StreamTurn(pb.StreamTurnRequest(turn_id="turn_none")),
        alice.chat.SendMessage(send_request("ses_none", "Hello"), metadata=alice.metadata),
    ):
        assert dict(await call.initial_metadata()) == {}
        assert (await refused(call)).request.request_id


async def test_a_stream_of_a_turn_is_accepted_before_its_next_event(alice: Caller) -> None:
    session = await alice.create_session()
    (*_, last) = await alice.start(session.session_id).rest()
    request = pb.StreamTurnRequest(turn_id=last.turn_id, after_sequence=last.sequence)
    call = alice.chat.StreamTurn(request, metadata=alice.metadata)
    assert dict(await call.initial_metadata())["x-request-id"]
    assert [response async for response in call] == []


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "a/b"])
async def test_an_invalid_call_id_is_replaced(running: Serving, sent: str) -> None:
    caller = running.caller(None, ("x-request-id", sent))
    made = []
    for _ in range(2):
        call = caller.chat.CreateSession(pb.CreateSessionRequest(), metadata=caller.metadata)
        made.append(str(dict(await call.trailing_metadata())["x-request-id"]))
    assert all(re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]+", call_id) for call_id in made)
    assert made[0] != made[1]


async def test_a_request_id_may_be_in_upper_case(alice: Caller) -> None:
    request_id = str(uuid.uuid4())
    made = [
        await alice.chat.CreateSession(pb.CreateSessionRequest(request_id=spelled), metadata=alice.metadata)
        for spelled in (request_id, request_id.upper())
    ]
    assert made[0].session.session_id == made[1].session.session_id


async def test_a_refusal_quotes_little_of_the_request(alice: Caller) -> None:
    session = await alice.create_session()
    request = pb.UpdateSessionRequest(session=session, update_mask=FieldMask(paths=["ü" * 100_000]))
    refusal = await refused(alice.chat.UpdateSession(request, metadata=alice.metadata))
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "UPDATE_MASK_INVALID")


async def test_tools_count_as_content(alice: Caller) -> None:
    session = (await alice.create_session()).session_id
    tools = [generation_pb2.Tool(name=f"t{number}", input_schema="{" + " " * 90_000 + "}") for number in range(12)]
    refusal = await refused(alice.send(session, tools=tools))
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "CONTENT_TOO_LARGE")


@pytest.mark.parametrize("path", [CREATE, SEND])
async def test_an_unauthorized_call_is_refused_before_its_request_is_read(running: Serving, path: str) -> None:
    """Otherwise an unauthorized caller could make the server wait for a request or buffer 32 MiB."""
    release = asyncio.Event()

    async def nothing() -> AsyncIterator[bytes]:
        await release.wait()
        yield b""

    stranger = running.caller("no.token.at-all")
    async with asyncio.timeout(20):
        stub: Any = stranger.channel.stream_stream(path)
        call = stub(nothing(), metadata=stranger.metadata)
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
    release.set()


@pytest.mark.parametrize("path", [CREATE, SEND])
async def test_a_call_that_never_sends_its_request_is_refused_soon(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PATIENCE_SECONDS", 0.2)
    release = asyncio.Event()

    async def nothing() -> AsyncIterator[bytes]:
        await release.wait()
        yield b""

    async with serving(tmp_path) as running, asyncio.timeout(20):
        alice = running.caller()
        stub: Any = alice.channel.stream_stream(path)
        call = stub(nothing(), metadata=alice.metadata)
        assert await call.code() is grpc.StatusCode.ABORTED
        release.set()


@pytest.mark.parametrize("path", [CREATE, SEND])
async def test_a_call_without_a_request_is_malformed(alice: Caller, path: str) -> None:
    call: Any = alice.channel.stream_stream(path)(iter(()), metadata=alice.metadata)
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
