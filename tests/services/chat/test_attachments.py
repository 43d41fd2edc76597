"""Attachments in messages, and in requests to the Messages API."""

import base64
import hashlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

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
from metamorphd.chat import prompt_builder

from tests.services.chat.attachments import (
    PDF,
    PNG,
    TEXT,
    delete_message,
    delete_session,
    document,
    download,
    image,
    image_of,
    rows,
    send,
    upload,
)
from tests.support.caller import Caller, text_block, text_of, upload_requests
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.refusal import refused
from tests.support.serving import Serving, asking, serving
from tests.support.tools import ASKS, WEATHER


@pytest.fixture
async def asked(api: FakeMessagesApi, tmp_path: Path) -> AsyncIterator[Serving]:
    """Yields a server whose replies come from `api`."""
    async with asking(api, tmp_path) as started:
        yield started


@pytest.fixture
def caller(asked: Serving) -> Caller:
    """Returns a caller of a server whose replies come from `api`."""
    return asked.caller()


async def test_only_the_model_receives_the_bytes_of_attachments(caller: Caller, api: FakeMessagesApi) -> None:
    session = await caller.create_session()
    uploaded = await caller.upload(PDF, "application/pdf")
    sent = await send(
        caller,
        session.session_id,
        text_block("Look"),
        image(),
        ContentBlock(document=DocumentBlock(attachment_id=uploaded.attachment_id, media_type="application/pdf")),
        document(TEXT, "text/plain"),
    )
    assert sent == (await caller.messages(session.session_id))[0]
    shown, pdf, text = sent.content[1].image, sent.content[2].document, sent.content[3].document
    for block, data in ((shown, PNG), (pdf, PDF), (text, TEXT)):
        assert not block.HasField("data")
        assert (block.size_bytes, block.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert (await caller.download(block.attachment_id))[1] == [data]
    assert (shown.media_type, pdf.attachment_id) == ("image/png", uploaded.attachment_id)
    (received,) = api.requests
    assert received.body["messages"][0]["content"] == [
        {"type": "text", "text": "Look"},
        {"type": "image", "source": in_base64("image/png", PNG)},
        {"type": "document", "source": in_base64("application/pdf", PDF)},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": TEXT.decode()}},
    ]


def in_base64(media_type: str, data: bytes) -> dict[str, str]:
    return {"type": "base64", "media_type": media_type, "data": base64.b64encode(data).decode()}


async def test_an_attachment_of_several_pieces_reaches_the_model_complete(caller: Caller, api: FakeMessagesApi) -> None:
    session = await caller.create_session()
    data = PNG + bytes(range(256)) * 4096 * 4
    await send(caller, session.session_id, image(data))
    source = api.requests[0].body["messages"][0]["content"][0]["source"]
    assert base64.b64decode(source["data"]) == data


async def test_a_tool_result_may_contain_images_and_documents(caller: Caller, api: FakeMessagesApi) -> None:
    session = await caller.create_session()
    api.script.append(ASKS)
    await caller.send(session.session_id, tools=[WEATHER])
    uploaded = await caller.upload(PDF, "application/pdf")
    parts = [
        ToolResultPart(text=TextBlock(text="Here")),
        ToolResultPart(image=ImageBlock(data=PNG, media_type="image/png")),
        ToolResultPart(document=DocumentBlock(attachment_id=uploaded.attachment_id, media_type="application/pdf")),
    ]
    result = ContentBlock(tool_result=ToolResultBlock(tool_use_id="toolu_1", content=parts))
    sent = await send(caller, session.session_id, result)
    shown = sent.content[0].tool_result.content
    assert (shown[1].image.size_bytes, shown[1].image.HasField("data")) == (len(PNG), False)
    assert shown[2].document.sha256 == uploaded.sha256
    assert api.requests[-1].body["messages"][-1]["content"][0]["content"] == [
        {"type": "text", "text": "Here"},
        {"type": "image", "source": in_base64("image/png", PNG)},
        {"type": "document", "source": in_base64("application/pdf", PDF)},
    ]
    # An attachment in a tool result is deleted with its message like any other.
    await delete_message(caller, sent.message_id)
    for attachment_id in (shown[1].image.attachment_id, uploaded.attachment_id):
        assert (await refused(download(caller, attachment_id))).reason == "ATTACHMENT_NOT_FOUND"


async def test_attachments_are_sent_to_the_model_in_every_turn_of_their_branch(
    caller: Caller, api: FakeMessagesApi
) -> None:
    session = await caller.create_session()
    sent = await send(caller, session.session_id, image())
    await caller.send(session.session_id, "And now?")
    request = pb.RegenerateReplyRequest(user_message_id=sent.message_id)
    async for _ in caller.chat.RegenerateReply(request, metadata=caller.metadata):
        pass
    blocks = [received.body["messages"][0]["content"][0] for received in api.requests]
    assert blocks == [{"type": "image", "source": in_base64("image/png", PNG)}] * 3


async def test_counting_tokens_sends_the_whole_prompt_and_stores_nothing(
    caller: Caller, api: FakeMessagesApi, tmp_path: Path
) -> None:
    session = await caller.create_session()
    await send(caller, session.session_id, image())
    uploaded = await caller.upload(PDF, "application/pdf")
    named = ContentBlock(document=DocumentBlock(attachment_id=uploaded.attachment_id, media_type="application/pdf"))
    message = pb.SendMessageRequest(session_id=session.session_id, content=[named, document(TEXT, "text/plain")])
    await caller.chat.CountTokens(pb.CountTokensRequest(message=message), metadata=caller.metadata)
    assert rows(tmp_path) == (2, 2, 1)
    await send(caller, session.session_id, *message.content)
    counting, asking_ = (received.body["messages"] for received in api.requests[-2:])
    assert counting == asking_
    assert [block["type"] for block in counting[-1]["content"]] == ["document", "document"]
    assert counting[0]["content"][0]["source"] == in_base64("image/png", PNG)


async def test_a_repeated_send_stores_its_attachment_and_its_message_once(alice: Caller, tmp_path: Path) -> None:
    session, request_id = await alice.create_session(), str(uuid.uuid4())
    first = await alice.send(session.session_id, content=[image()], request_id=request_id, max_output_tokens=1)
    again = await alice.send(session.session_id, content=[image()], request_id=request_id, max_output_tokens=1)
    assert again == first
    assert len(await alice.messages(session.session_id)) == 2
    assert rows(tmp_path) == (1, 1, 1)
    other = alice.send(session.session_id, content=[image(PNG + b"x")], request_id=request_id)
    assert (await refused(other)).reason == "REQUEST_ID_REUSED"
    assert rows(tmp_path) == (1, 1, 1)


async def test_a_message_with_an_unknown_attachment_is_not_stored(alice: Caller, tmp_path: Path) -> None:
    session = await alice.create_session()
    refusal = await refused(alice.send(session.session_id, content=[image(), image_of("att_none")]))
    assert (refusal.code.name, refusal.reason) == ("NOT_FOUND", "ATTACHMENT_NOT_FOUND")
    assert refusal.info.metadata == {"attachment_id": "att_none"}
    uploaded = await alice.upload(PDF, "application/pdf")
    refusal = await refused(alice.send(session.session_id, content=[image_of(uploaded.attachment_id)]))
    assert (refusal.reason, refusal.info.metadata) == ("ATTACHMENT_TYPE_MISMATCH", {"media_type": "image/png"})
    assert await alice.messages(session.session_id) == []
    assert rows(tmp_path) == (1, 1, 0)


async def test_an_attachment_is_deleted_with_the_last_message_that_uses_it(
    asked: Serving, caller: Caller, api: FakeMessagesApi, tmp_path: Path
) -> None:
    session, other = await caller.create_session(), await caller.create_session()
    first = await send(caller, session.session_id, text_block("a"), image())
    elsewhere = await send(caller, other.session_id, image())
    attachment_id = first.content[1].image.attachment_id
    await delete_message(caller, first.message_id)
    await delete_message(caller, first.message_id)
    assert (await caller.download(attachment_id))[1] == [PNG]
    await caller.send(session.session_id, "b")
    blocks = [block for message in api.requests[-1].body["messages"] for block in message["content"]]
    assert {block["type"] for block in blocks} == {"text"}
    await delete_session(caller, other.session_id)
    assert elsewhere.content[0].image.attachment_id == attachment_id
    assert (await refused(download(caller, attachment_id))).reason == "ATTACHMENT_NOT_FOUND"
    await asked.erased()
    assert rows(tmp_path) == (0, 0, 0)


async def test_an_attachment_uploaded_again_outlives_its_message(alice: Caller) -> None:
    session = await alice.create_session()
    first = await send(alice, session.session_id, image())
    again = (await upload(alice, *upload_requests(PNG))).attachment
    await delete_message(alice, first.message_id)
    sent = await send(alice, session.session_id, image_of(again.attachment_id))
    assert sent.content[0].image.attachment_id == again.attachment_id
    await delete_message(alice, sent.message_id)
    assert (await refused(download(alice, again.attachment_id))).reason == "ATTACHMENT_NOT_FOUND"


async def test_only_the_newest_attachments_within_the_provider_limit_are_sent_to_the_model(
    caller: Caller, api: FakeMessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_builder, "PROMPT_BYTES", 2000)
    session = await caller.create_session()
    old, new = PNG + b"old" * 300, PNG + b"new" * 300
    await send(caller, session.session_id, image(old))
    await send(caller, session.session_id, image(new), text_block("and"))
    await send(caller, session.session_id, image(PNG + b"x" * 500))
    first, second, third = (
        message["content"] for message in api.requests[-1].body["messages"] if message["role"] == "user"
    )
    assert first == [{"type": "text", "text": prompt_builder.LEFT_OUT.text}]
    assert second[0]["source"] == in_base64("image/png", new)
    assert third[0]["type"] == "image"


async def test_the_offline_model_names_the_attachments_it_received(alice: Caller) -> None:
    session = await alice.create_session()
    events = await alice.send(session.session_id, content=[image(), image(), document(TEXT, "text/plain")])
    assert "Attached to it: 2 images and 1 document." in text_of(events[-1].turn_finished.message)


async def test_only_text_counts_as_content(tmp_path: Path) -> None:
    async with serving(tmp_path, max_content_bytes=100) as running:
        alice = running.caller()
        session = await alice.create_session()
        large = image(PNG + bytes(1000))
        await alice.send(session.session_id, content=[text_block("x" * 100), large], max_output_tokens=1)
        part = ToolResultPart(text=TextBlock(text="x"))
        result = ContentBlock(tool_result=ToolResultBlock(tool_use_id="t", content=[part]))
        for content in ([text_block("x" * 100), text_block("x")], [result, text_block("x" * 100)]):
            assert (await refused(alice.send(session.session_id, content=content))).reason == "CONTENT_TOO_LARGE"
