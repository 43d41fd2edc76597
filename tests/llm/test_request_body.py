"""Bodies of requests to the provider."""

import base64
import json
from collections.abc import AsyncIterator, Sequence

import pytest
from metamorphd.errors import AttachmentNotFound
from metamorphd.llm.interface import AttachmentData
from metamorphd.llm.request_body import STEP_BYTES, AttachmentSlots, RequestBody, serialized


def attachment(pieces: Sequence[bytes]) -> AttachmentData:
    async def read() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return AttachmentData(sum(map(len, pieces)), read)


async def sent(body: RequestBody) -> bytes:
    return b"".join([piece async for piece in body])


@pytest.mark.parametrize("sizes", [(0,), (1,), (2, 2), (3,), (1, 1, 1), (STEP_BYTES + 1, 5), (2 * STEP_BYTES, 1, 4)])
async def test_a_body_is_the_same_in_whatever_pieces_its_attachments_are_read(sizes: tuple[int, ...]) -> None:
    data = bytes(range(256)) * 1000
    text = 'é"\n\U0001f600' * 20_000
    pieces = [data[size:][:size] for size in sizes]
    encoded = text.encode()
    # In the midst of a character.
    cut = [encoded[: 7 * sizes[0] + 1], encoded[7 * sizes[0] + 1 :]]
    slots = AttachmentSlots()
    message = serialized({"image": slots.base64("att_1"), "text": slots.text("att_2")})
    body = RequestBody({"model": "m"}, [message] * 2, slots, {"att_1": attachment(pieces), "att_2": attachment(cut)})
    # A retry sends it again.
    first, second = await sent(body), await sent(body)
    assert first == second
    assert await body.size() == len(first)
    expected = {"image": base64.b64encode(b"".join(pieces)).decode(), "text": text}
    assert json.loads(first) == {"model": "m", "messages": [expected] * 2}


async def test_a_body_whose_attachment_is_gone_fails_again_at_once() -> None:
    reads: list[None] = []

    async def read() -> AsyncIterator[bytes]:
        reads.append(None)
        yield b"first"
        raise AttachmentNotFound(attachment_id="att_1")

    slots = AttachmentSlots()
    body = RequestBody(
        {"model": "m"}, [serialized({"a": slots.base64("att_1")})], slots, {"att_1": AttachmentData(10, read)}
    )
    for _ in range(2):
        with pytest.raises(AttachmentNotFound):
            await sent(body)
    assert (len(reads), type(body.failure)) == (1, AttachmentNotFound)


async def test_a_body_that_was_cleared_holds_nothing() -> None:
    slots = AttachmentSlots()
    body = RequestBody({"model": "m"}, [serialized({"a": slots.text("att_1")})], slots, {"att_1": attachment([b"a"])})
    body.clear()
    assert await sent(body) == b""
