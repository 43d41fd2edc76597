"""Attachments: uploaded, sent, downloaded, deleted, and seen by the Messages API."""

import asyncio
import base64
import hashlib
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import apsw
import grpc
import pytest
from metamorph.chat.v1 import chat_service_pb2 as pb
from metamorph.chat.v1 import chat_service_pb2_grpc
from metamorph.chat.v1.message_pb2 import (
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    Message,
    TextBlock,
    ToolResultBlock,
    ToolResultPart,
)
from metamorphd.chat import prompt_builder
from metamorphd.services.chat import uploads
from metamorphd.services.chat.uploads import UPLOADS_OF_A_VAULT

from tests.support.caller import Caller, text_block, text_of, upload_requests
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.media import FILES
from tests.support.refusal import Refusal, refused
from tests.support.serving import Serving, asking, serving
from tests.support.tools import ASKS, WEATHER

PNG, PDF, TEXT = FILES["image/png"], FILES["application/pdf"], FILES["text/plain"]
MIB = 1024 * 1024


@pytest.fixture
async def asked(api: FakeMessagesApi, tmp_path: Path) -> AsyncIterator[Caller]:
    """A caller of a server whose replies come from `api`."""
    async with asking(api, tmp_path) as started:
        yield started.caller()


def rows(directory: Path) -> tuple[Any, ...]:
    """How many attachments, pieces and uses the store holds."""
    connection = apsw.Connection(str(directory / "metamorph.db"), flags=apsw.SQLITE_OPEN_READONLY)
    count = "SELECT (SELECT COUNT(*) FROM attachments), (SELECT COUNT(*) FROM attachment_chunks), COUNT(*)"
    ((attachments, pieces, uses),) = connection.execute(count + " FROM attachment_uses").fetchall()
    connection.close()
    return attachments, pieces, uses


def image(data: bytes = PNG, media_type: str = "image/png") -> ContentBlock:
    return ContentBlock(image=ImageBlock(data=data, media_type=media_type))


def image_of(attachment_id: str, media_type: str = "image/png") -> ContentBlock:
    return ContentBlock(image=ImageBlock(attachment_id=attachment_id, media_type=media_type))


def document(data: bytes, media_type: str) -> ContentBlock:
    return ContentBlock(document=DocumentBlock(data=data, media_type=media_type))


def upload(caller: Caller, *requests: pb.UploadAttachmentRequest) -> Any:
    return caller.chat.UploadAttachment(iter(requests), metadata=caller.metadata)


def download(caller: Caller, attachment_id: str) -> Any:
    request = pb.DownloadAttachmentRequest(attachment_id=attachment_id)
    return caller.chat.DownloadAttachment(request, metadata=caller.metadata)


async def send(caller: Caller, session_id: str, *content: ContentBlock) -> Message:
    """Sends content; the user's message as it was stored."""
    started = (await caller.send(session_id, content=content, max_output_tokens=10))[0].turn_started
    request = pb.GetMessageRequest(message_id=started.user_message_id)
    message: Message = (await caller.chat.GetMessage(request, metadata=caller.metadata)).message
    return message


async def delete_message(caller: Caller, message_id: str) -> None:
    await caller.chat.DeleteMessage(pb.DeleteMessageRequest(message_id=message_id), metadata=caller.metadata)


async def delete_session(caller: Caller, session_id: str) -> None:
    await caller.chat.DeleteSession(pb.DeleteSessionRequest(session_id=session_id), metadata=caller.metadata)


@pytest.mark.parametrize("data", [PNG, PNG + bytes(range(256)) * 9000], ids=["in one piece", "in several pieces"])
async def test_an_attachment_is_downloaded_as_it_was_uploaded(alice: Caller, data: bytes) -> None:
    uploaded = await alice.upload(data)
    assert (uploaded.media_type, uploaded.size_bytes) == ("image/png", len(data))
    assert uploaded.sha256 == hashlib.sha256(data).hexdigest()
    assert uploaded.HasField("create_time")
    told, pieces = await alice.download(uploaded.attachment_id)
    assert told == uploaded
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= MIB for piece in pieces)


async def test_the_same_bytes_are_one_attachment_of_each_vault(alice: Caller, mallory: Caller, tmp_path: Path) -> None:
    first = await alice.upload(PNG)
    assert await alice.upload(PNG) == first
    session = await alice.create_session()
    sent = await send(alice, session.session_id, image())
    assert sent.content[0].image.attachment_id == first.attachment_id
    assert rows(tmp_path) == (1, 1, 1)
    refusals = [await refused(download(mallory, name)) for name in (first.attachment_id, "att_unknown")]
    assert {(refusal.code.name, refusal.reason) for refusal in refusals} == {("NOT_FOUND", "ATTACHMENT_NOT_FOUND")}
    theirs = await mallory.upload(PNG)
    assert theirs.create_time != first.create_time
    assert rows(tmp_path) == (2, 2, 1)
    await delete_session(alice, session.session_id)
    assert (await refused(download(alice, first.attachment_id))).reason == "ATTACHMENT_NOT_FOUND"
    assert (await mallory.download(theirs.attachment_id))[1] == [PNG]


HEADER, CHUNK = upload_requests(PNG)
NOTHING = pb.UploadAttachmentRequest(chunk=b"")


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([], "header"),
        ([CHUNK], "header"),
        ([CHUNK, HEADER], "header"),
        ([HEADER, HEADER, CHUNK], "header"),
        ([HEADER, CHUNK, HEADER], "header"),
        ([HEADER], "chunk"),
        ([HEADER, NOTHING, NOTHING], "chunk"),
    ],
    ids=["nothing", "no header", "header last", "header twice", "header again", "no bytes", "empty pieces"],
)
async def test_an_upload_is_a_header_and_then_bytes(
    alice: Caller, tmp_path: Path, requests: list[pb.UploadAttachmentRequest], field: str
) -> None:
    refusal = await refused(upload(alice, *requests))
    assert (refusal.code.name, refusal.reason, refusal.fields) == ("INVALID_ARGUMENT", "REQUEST_INVALID", [field])
    assert rows(tmp_path) == (0, 0, 0)


async def test_an_upload_in_too_many_pieces_is_refused(
    alice: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MOST_CHUNKS", 4)
    await upload(alice, HEADER, CHUNK, *[NOTHING] * 3)
    refusal = await refused(upload(alice, HEADER, CHUNK, *[NOTHING] * 4))
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["chunk"])
    assert rows(tmp_path) == (1, 1, 0)


async def test_empty_pieces_among_others_say_nothing(alice: Caller) -> None:
    uploaded = (await upload(alice, HEADER, NOTHING, CHUNK, NOTHING)).attachment
    assert (await alice.download(uploaded.attachment_id))[1] == [PNG]


async def test_bytes_that_are_not_what_they_are_said_to_be_are_refused(alice: Caller, tmp_path: Path) -> None:
    session = await alice.create_session()
    for call in (
        alice.upload(PDF, "image/png"),
        alice.send(session.session_id, content=[image(PDF)]),
        alice.send(session.session_id, content=[image(), document(PNG, "application/pdf")]),
    ):
        refusal = await refused(call)
        assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "ATTACHMENT_TYPE_MISMATCH")
    assert refusal.info.metadata == {"media_type": "application/pdf"}
    assert rows(tmp_path) == (0, 0, 0)
    assert await alice.messages(session.session_id) == []


async def test_what_is_too_large_is_refused_with_the_limit(tmp_path: Path) -> None:
    async with serving(tmp_path, max_attachment_bytes=1000) as running:
        alice = running.caller()
        session = await alice.create_session()
        await alice.upload(b"a" * 1000, "text/plain")
        for call in (
            alice.upload(b"a" * 1001, "text/plain"),
            alice.send(session.session_id, content=[document(b"a" * 1001, "text/plain")]),
        ):
            refusal = await refused(call)
            assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "ATTACHMENT_TOO_LARGE")
            assert refusal.info.metadata == {"limit_bytes": "1000"}
        assert rows(tmp_path) == (1, 1, 0)


async def test_an_upload_that_does_not_end_is_ended(tmp_path: Path) -> None:
    async with serving(tmp_path, max_attachment_bytes=MIB) as running:
        metadata, sent = running.caller().metadata, 0

        def endless() -> Iterator[pb.UploadAttachmentRequest]:
            nonlocal sent
            yield HEADER
            while True:
                sent += 100_000
                yield pb.UploadAttachmentRequest(chunk=bytes(100_000))

        def send_on() -> None:
            """With the synchronous client: grpc.aio's loses the status when a write fails first."""
            with grpc.insecure_channel(running.target) as channel:
                chat_service_pb2_grpc.ChatServiceStub(channel).UploadAttachment(endless(), metadata=metadata)

        with pytest.raises(grpc.RpcError) as raised:
            await asyncio.to_thread(send_on)
        error: Any = raised.value
        refusal = Refusal(error)
        assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "ATTACHMENT_TOO_LARGE")
        assert sent < 32 * MIB
        assert rows(tmp_path) == (0, 0, 0)


async def test_more_uploads_of_a_vault_than_are_taken_at_a_time_wait(running: Serving) -> None:
    alice, mallory = running.caller(), running.caller(vault="evil")
    held: list[Any] = [alice.chat.UploadAttachment(metadata=alice.metadata) for _ in range(UPLOADS_OF_A_VAULT)]
    for call in held:
        await call.write(HEADER)
    await asyncio.sleep(0.1)
    waiting = asyncio.create_task(alice.upload(PNG))
    await mallory.upload(PNG)
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await held[0].write(CHUNK)
    await held[0].done_writing()
    await held[0]
    await waiting
    for call in held[1:]:
        call.cancel()
    for _ in range(UPLOADS_OF_A_VAULT + 1):
        await alice.upload(PNG)


async def test_a_download_ends_when_its_attachment_is_deleted(alice: Caller) -> None:
    session = await alice.create_session()
    sent = await send(alice, session.session_id, image(PNG + bytes(8 * MIB)))
    pieces = aiter(download(alice, sent.content[0].image.attachment_id))
    await anext(pieces)
    await delete_session(alice, session.session_id)

    async def rest() -> None:
        async for _ in pieces:
            pass

    assert (await refused(rest())).reason == "ATTACHMENT_NOT_FOUND"


async def test_what_is_sent_is_told_without_its_bytes_and_asked_with_them(asked: Caller, api: FakeMessagesApi) -> None:
    session = await asked.create_session()
    uploaded = await asked.upload(PDF, "application/pdf")
    sent = await send(
        asked,
        session.session_id,
        text_block("Look"),
        image(),
        ContentBlock(document=DocumentBlock(attachment_id=uploaded.attachment_id, media_type="application/pdf")),
        document(TEXT, "text/plain"),
    )
    assert sent == (await asked.messages(session.session_id))[0]
    shown, pdf, text = sent.content[1].image, sent.content[2].document, sent.content[3].document
    for block, data in ((shown, PNG), (pdf, PDF), (text, TEXT)):
        assert not block.HasField("data")
        assert (block.size_bytes, block.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert (await asked.download(block.attachment_id))[1] == [data]
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


async def test_an_attachment_of_several_pieces_goes_to_the_model_whole(asked: Caller, api: FakeMessagesApi) -> None:
    session = await asked.create_session()
    data = PNG + bytes(range(256)) * 4096 * 4
    await send(asked, session.session_id, image(data))
    source = api.requests[0].body["messages"][0]["content"][0]["source"]
    assert base64.b64decode(source["data"]) == data


async def test_a_tools_result_may_hold_images_and_documents(asked: Caller, api: FakeMessagesApi) -> None:
    session = await asked.create_session()
    api.script.append(ASKS)
    await asked.send(session.session_id, tools=[WEATHER])
    uploaded = await asked.upload(PDF, "application/pdf")
    parts = [
        ToolResultPart(text=TextBlock(text="Here")),
        ToolResultPart(image=ImageBlock(data=PNG, media_type="image/png")),
        ToolResultPart(document=DocumentBlock(attachment_id=uploaded.attachment_id, media_type="application/pdf")),
    ]
    result = ContentBlock(tool_result=ToolResultBlock(tool_use_id="toolu_1", content=parts))
    sent = await send(asked, session.session_id, result)
    shown = sent.content[0].tool_result.content
    assert (shown[1].image.size_bytes, shown[1].image.HasField("data")) == (len(PNG), False)
    assert shown[2].document.sha256 == uploaded.sha256
    assert api.requests[-1].body["messages"][-1]["content"][0]["content"] == [
        {"type": "text", "text": "Here"},
        {"type": "image", "source": in_base64("image/png", PNG)},
        {"type": "document", "source": in_base64("application/pdf", PDF)},
    ]
    # It is held like any other.
    await delete_message(asked, sent.message_id)
    for attachment_id in (shown[1].image.attachment_id, uploaded.attachment_id):
        assert (await refused(download(asked, attachment_id))).reason == "ATTACHMENT_NOT_FOUND"


async def test_attachments_are_asked_with_again_in_every_turn_of_their_branch(
    asked: Caller, api: FakeMessagesApi
) -> None:
    session = await asked.create_session()
    sent = await send(asked, session.session_id, image())
    await asked.send(session.session_id, "And now?")
    request = pb.RegenerateReplyRequest(user_message_id=sent.message_id)
    async for _ in asked.chat.RegenerateReply(request, metadata=asked.metadata):
        pass
    told = [received.body["messages"][0]["content"][0] for received in api.requests]
    assert told == [{"type": "image", "source": in_base64("image/png", PNG)}] * 3


async def test_counting_tokens_tells_the_model_all_and_stores_nothing(
    asked: Caller, api: FakeMessagesApi, tmp_path: Path
) -> None:
    session = await asked.create_session()
    await send(asked, session.session_id, image())
    uploaded = await asked.upload(PDF, "application/pdf")
    named = ContentBlock(document=DocumentBlock(attachment_id=uploaded.attachment_id, media_type="application/pdf"))
    message = pb.SendMessageRequest(session_id=session.session_id, content=[named, document(TEXT, "text/plain")])
    await asked.chat.CountTokens(pb.CountTokensRequest(message=message), metadata=asked.metadata)
    assert rows(tmp_path) == (2, 2, 1)
    await send(asked, session.session_id, *message.content)
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


async def test_a_message_with_an_attachment_that_is_not_there_is_not_stored(alice: Caller, tmp_path: Path) -> None:
    session = await alice.create_session()
    refusal = await refused(alice.send(session.session_id, content=[image(), image_of("att_none")]))
    assert (refusal.code.name, refusal.reason) == ("NOT_FOUND", "ATTACHMENT_NOT_FOUND")
    assert refusal.info.metadata == {"attachment_id": "att_none"}
    uploaded = await alice.upload(PDF, "application/pdf")
    refusal = await refused(alice.send(session.session_id, content=[image_of(uploaded.attachment_id)]))
    assert (refusal.reason, refusal.info.metadata) == ("ATTACHMENT_TYPE_MISMATCH", {"media_type": "image/png"})
    assert await alice.messages(session.session_id) == []
    assert rows(tmp_path) == (1, 1, 0)


async def test_an_attachment_goes_with_the_last_message_that_holds_it(
    asked: Caller, api: FakeMessagesApi, tmp_path: Path
) -> None:
    session, other = await asked.create_session(), await asked.create_session()
    first = await send(asked, session.session_id, text_block("a"), image())
    elsewhere = await send(asked, other.session_id, image())
    attachment_id = first.content[1].image.attachment_id
    await delete_message(asked, first.message_id)
    await delete_message(asked, first.message_id)
    assert (await asked.download(attachment_id))[1] == [PNG]
    await asked.send(session.session_id, "b")
    blocks = [block for message in api.requests[-1].body["messages"] for block in message["content"]]
    assert {block["type"] for block in blocks} == {"text"}
    await delete_session(asked, other.session_id)
    assert elsewhere.content[0].image.attachment_id == attachment_id
    assert (await refused(download(asked, attachment_id))).reason == "ATTACHMENT_NOT_FOUND"
    assert rows(tmp_path) == (0, 0, 0)


async def test_what_was_uploaded_again_outlives_the_message_that_held_it(alice: Caller) -> None:
    session = await alice.create_session()
    first = await send(alice, session.session_id, image())
    again = (await upload(alice, *upload_requests(PNG))).attachment
    await delete_message(alice, first.message_id)
    sent = await send(alice, session.session_id, image_of(again.attachment_id))
    assert sent.content[0].image.attachment_id == again.attachment_id
    await delete_message(alice, sent.message_id)
    assert (await refused(download(alice, again.attachment_id))).reason == "ATTACHMENT_NOT_FOUND"


async def test_the_newest_attachments_are_asked_with_as_far_as_the_provider_takes_them(
    asked: Caller, api: FakeMessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_builder, "PROMPT_BYTES", 2000)
    session = await asked.create_session()
    old, new = PNG + b"old" * 300, PNG + b"new" * 300
    await send(asked, session.session_id, image(old))
    await send(asked, session.session_id, image(new), text_block("and"))
    await send(asked, session.session_id, image(PNG + b"x" * 500))
    first, second, third = (
        message["content"] for message in api.requests[-1].body["messages"] if message["role"] == "user"
    )
    assert first == [{"type": "text", "text": prompt_builder.LEFT_OUT.text}]
    assert second[0]["source"] == in_base64("image/png", new)
    assert third[0]["type"] == "image"


async def test_the_offline_model_says_what_came(alice: Caller) -> None:
    session = await alice.create_session()
    events = await alice.send(session.session_id, content=[image(), image(), document(TEXT, "text/plain")])
    assert "With it came 2 images and 1 document." in text_of(events[-1].turn_finished.message)


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
