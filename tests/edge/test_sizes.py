"""Requests that are too large, in bytes or in fields, are refused before they are parsed."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import generation_pb2
from metamorph_client.chat.v1.message_pb2 import ContentBlock
from metamorph_client.chat.v1.session_pb2 import Session
from metamorphd.edge.wire import MOST_FIELDS, SPARE_FIELDS, count_fields, shape_of
from metamorphd.errors import RequestMalformed, TooManyFields

from tests.support.caller import Caller, send_request, text_block
from tests.support.refusal import refused
from tests.support.serving import Serving
from tests.support.wire import FIXED32, FIXED64, GROUP, LENGTH_DELIMITED, VARINT, field, varint

CHAT = "/metamorph.chat.v1.ChatService/"
SEND = shape_of(pb.SendMessageRequest.DESCRIPTOR)
UPDATE = shape_of(pb.UpdateSessionRequest.DESCRIPTOR)
EMPTY_BLOCK = field(3, LENGTH_DELIMITED, b"")


class Counted(bytes):
    """Bytes that count how often one of them is read."""

    reads = 0

    def __getitem__(self, at: Any) -> Any:
        self.reads += 1
        return super().__getitem__(at)


def call(caller: Caller, method: str, body: bytes, compression: grpc.Compression | None = None) -> Any:
    kinds = {"SendMessage": caller.channel.unary_stream, "UploadAttachment": caller.channel.stream_unary}
    kind: Any = kinds.get(method, caller.channel.unary_unary)
    request: Any = chunks(body) if method == "UploadAttachment" else body
    return kind(CHAT + method)(request, metadata=caller.metadata, compression=compression)


async def chunks(*bodies: bytes) -> AsyncIterator[bytes]:
    for body in bodies:
        yield body


@pytest.mark.parametrize(
    ("method", "limit"), [("GetSession", 16 << 10), ("CreateSession", 1 << 20), ("UploadAttachment", 2 << 20)]
)
async def test_a_request_beyond_its_methods_limit_is_refused_unparsed(alice: Caller, method: str, limit: int) -> None:
    refusal = await refused(call(alice, method, bytes(limit + 1)))
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "REQUEST_TOO_LARGE")
    assert refusal.info.metadata == {"limit_bytes": str(limit)}
    assert (await refused(call(alice, method, b"\xff" * limit))).reason == "REQUEST_MALFORMED"


async def test_far_too_many_items_are_refused_by_name(alice: Caller) -> None:
    session = await alice.create_session()
    tools = [generation_pb2.Tool(name=f"t{number}", input_schema="{}") for number in range(20_000)]
    sent = {
        "SendMessageRequest": [
            pb.SendMessageRequest(session_id=session.session_id, content=[text_block("a")] * 50_000),
            pb.SendMessageRequest(session_id=session.session_id, content=[ContentBlock()] * 1_000_000),
        ],
        "StopSequenceList": [send_request(session.session_id, stop_sequences=[""] * 1_000_000)],
        "ToolList": [send_request(session.session_id, tools=tools)],
    }
    for message, requests in sent.items():
        for request in requests:
            refusal = await refused(alice.chat.SendMessage(request, metadata=alice.metadata))
            assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "TOO_MANY_FIELDS")
            assert refusal.info.metadata["message"] == message
    update = pb.UpdateSessionRequest(session=session, update_mask=FieldMask(paths=["a"] * 100_000))
    refusal = await refused(alice.chat.UpdateSession(update, metadata=alice.metadata))
    assert (refusal.reason, refusal.info.metadata["message"]) == ("TOO_MANY_FIELDS", "FieldMask")


async def test_a_list_that_is_a_little_too_long_is_refused_by_its_rule(alice: Caller) -> None:
    request = send_request("s", tools=[generation_pb2.Tool(name="t" * 90, input_schema="{}")] * 129)
    refusal = await refused(alice.chat.SendMessage(request, metadata=alice.metadata))
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["options.tools.values"])


@pytest.mark.parametrize(
    "raw",
    [
        EMPTY_BLOCK * (16 << 20),
        field(1000, VARINT, b"\1") * 100_000,
        field(1000, FIXED32, bytes(4)) * 100_000,
        field(1000, FIXED64, bytes(8)) * 100_000,
        field(1, LENGTH_DELIMITED, b"s") * 100_000,
        field(5, LENGTH_DELIMITED, field(5, LENGTH_DELIMITED, field(1, LENGTH_DELIMITED, b"") * 100_000)),
        # Within the limit of each message, but not in all.
        field(3, LENGTH_DELIMITED, field(5, LENGTH_DELIMITED, field(2, LENGTH_DELIMITED, EMPTY_BLOCK * 9) * 70)) * 70,
    ],
    ids=["32 MiB of empty blocks", "unknown", "unknown, fixed", "unknown, long", "repeated single", "nested", "total"],
)
def test_counting_stops_at_the_limit(raw: bytes) -> None:
    counted = Counted(raw)
    with pytest.raises(TooManyFields):
        count_fields(counted, SEND)
    assert counted.reads <= 12 * MOST_FIELDS


def test_counting_goes_into_submessages_and_over_bytes() -> None:
    request = pb.UpdateSessionRequest(
        session=Session(session_id="s", metadata={"a": "b"}), update_mask=FieldMask(paths=["a"] * 5)
    )
    assert count_fields(request.SerializeToString(), UPDATE) == 2 + 2 + 2 + 5
    assert count_fields(field(1, LENGTH_DELIMITED, bytes(20 << 20)), SEND) == 1


def test_packed_lists_are_limited_too() -> None:
    usage = shape_of(pb.DESCRIPTOR.pool.FindMessageTypeByName("metamorph.vault.v1.GetUsageRequest"))
    with pytest.raises(TooManyFields):
        count_fields(field(5, LENGTH_DELIMITED, b"\1" * 10_000), usage)


@pytest.mark.parametrize(
    "raw",
    [
        field(1, GROUP, b""),
        b"\x0f",
        b"\x0a",
        b"\x0a\x05abc",
        b"\x08" + b"\xff" * 11,
        b"\x08\xff",
        field(3, LENGTH_DELIMITED, b"\x0a\x7f"),
        varint(1 << 3 | LENGTH_DELIMITED) + b"\xff" * 10,
    ],
    ids=["group", "unknown type", "no length", "cut", "endless", "cut number", "beyond its message", "huge length"],
)
def test_what_does_not_parse_is_malformed(raw: bytes) -> None:
    with pytest.raises(RequestMalformed):
        count_fields(raw, SEND)


def test_the_shape_of_a_message_has_room_for_newer_fields() -> None:
    mask = UPDATE.messages[2]
    paths = field(1, LENGTH_DELIMITED, b"a")
    assert count_fields(paths * (64 + SPARE_FIELDS), mask) == 64 + SPARE_FIELDS


@pytest.mark.parametrize("method", ["SendMessage", "GetSession"])
@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_requests_are_refused(running: Serving, method: str, compression: grpc.Compression) -> None:
    body = EMPTY_BLOCK * 1_000_000
    refusal = await refused(call(running.caller(), method, body, compression))
    assert refusal.code is grpc.StatusCode.UNIMPLEMENTED
