"""The bytes of attachments are taken out of requests before they are parsed."""

import random

import pytest
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1.message_pb2 import (
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ToolResultBlock,
    ToolResultPart,
)
from metamorphd.edge.carried import places_of, take_carried
from metamorphd.edge.methods import SERVICES, methods_of
from metamorphd.errors import RequestMalformed

from tests.support.wire import LENGTH_DELIMITED, VARINT, field

SEND = places_of(pb.SendMessageRequest.DESCRIPTOR)
COUNT = places_of(pb.CountTokensRequest.DESCRIPTOR)


def part(dice: random.Random) -> ToolResultPart:
    data = dice.randbytes(dice.choice([0, 1, 127, 128, 70_000]))
    return dice.choice(
        [
            ToolResultPart(text=TextBlock(text="text" * dice.randrange(100))),
            ToolResultPart(image=ImageBlock(media_type="image/png", data=data)),
            ToolResultPart(image=ImageBlock(media_type="image/png", attachment_id="att_1")),
            ToolResultPart(document=DocumentBlock(media_type="text/plain", data=data)),
        ]
    )


def block(dice: random.Random) -> ContentBlock:
    if dice.random() < 0.3:
        return ContentBlock(tool_result=ToolResultBlock(content=[part(dice) for _ in range(dice.randrange(4))]))
    one = part(dice)
    return ContentBlock(**{str(one.WhichOneof("part")): getattr(one, str(one.WhichOneof("part")))})


def attachments(request: pb.SendMessageRequest) -> list[ImageBlock | DocumentBlock]:
    parts = [each for one in request.content for each in (one.tool_result.content or [one])]
    held = [part.image if part.HasField("image") else part.document for part in parts if not part.HasField("text")]
    return [each for each in held if each.HasField("data")]


def put_back(raw: bytes, carried: list[memoryview]) -> pb.SendMessageRequest:
    request = pb.SendMessageRequest.FromString(raw)
    for each in attachments(request):
        each.data = bytes(carried[int.from_bytes(each.data)])
    return request


def test_a_request_is_whole_when_its_attachments_are_put_back() -> None:
    for seed in range(300):
        dice = random.Random(seed)  # noqa: S311, not for secrets
        request = pb.SendMessageRequest(
            session_id="ses_1", content=[block(dice) for _ in range(dice.randrange(6))], parent_message_id="msg_1"
        )
        raw, carried = take_carried(request.SerializeToString(), SEND)
        assert len(raw) < 10_000
        assert put_back(raw, list(carried)) == request
        counted = pb.CountTokensRequest(message=request)
        raw, carried = take_carried(counted.SerializeToString(), COUNT)
        assert put_back(pb.CountTokensRequest.FromString(raw).message.SerializeToString(), list(carried)) == request


@pytest.mark.parametrize(
    "image",
    [
        field(1, LENGTH_DELIMITED, b"first") + field(1, LENGTH_DELIMITED, b"last"),
        field(1, LENGTH_DELIMITED, b"data") + field(2, LENGTH_DELIMITED, b"att_1"),
        field(2, LENGTH_DELIMITED, b"att_1") + field(1, LENGTH_DELIMITED, b"data"),
        field(1, VARINT, b"\1") + field(1, LENGTH_DELIMITED, b"data"),
        field(999, LENGTH_DELIMITED, b"of a newer contract"),
    ],
    ids=["twice", "then an ID", "after an ID", "of another type", "unknown"],
)
def test_what_is_sent_twice_is_what_the_parser_makes_of_it(image: bytes) -> None:
    content = field(2, LENGTH_DELIMITED, image)
    raw = field(3, LENGTH_DELIMITED, content + content) + field(3, LENGTH_DELIMITED, content)
    taken, carried = take_carried(raw, SEND)
    assert put_back(taken, list(carried)) == pb.SendMessageRequest.FromString(raw)


@pytest.mark.parametrize(
    "raw",
    [b"\x1a", b"\x1a\x05ab", field(3, LENGTH_DELIMITED, b"\x12\x7f\x0a"), b"\x1b", b"\x1a" + b"\xff" * 11],
    ids=["no length", "cut", "beyond its message", "group", "endless length"],
)
def test_what_does_not_parse_is_malformed(raw: bytes) -> None:
    with pytest.raises(RequestMalformed):
        take_carried(raw, SEND)


def test_only_the_requests_of_sends_hold_attachments() -> None:
    holding = {method.name for method in methods_of(SERVICES).values() if method.attachments}
    assert holding == {"SendMessage", "CountTokens"}
