"""Uploading and downloading attachments."""

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import chat_service_pb2_grpc
from metamorphd.services.chat import uploads
from metamorphd.services.chat.uploads import UPLOADS_OF_A_VAULT

from tests.services.chat.attachments import MIB, PDF, PNG, delete_session, document, download, image, rows, send, upload
from tests.support.caller import Caller, upload_requests
from tests.support.refusal import Refusal, refused
from tests.support.serving import Serving, serving


@pytest.mark.parametrize("data", [PNG, PNG + bytes(range(256)) * 9000], ids=["in one piece", "in several pieces"])
async def test_an_attachment_is_downloaded_as_it_was_uploaded(alice: Caller, data: bytes) -> None:
    uploaded = await alice.upload(data)
    assert (uploaded.media_type, uploaded.size_bytes) == ("image/png", len(data))
    assert uploaded.sha256 == hashlib.sha256(data).hexdigest()
    assert uploaded.HasField("create_time")
    downloaded, pieces = await alice.download(uploaded.attachment_id)
    assert downloaded == uploaded
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= MIB for piece in pieces)


async def test_the_same_bytes_are_stored_once_in_each_vault(alice: Caller, mallory: Caller, tmp_path: Path) -> None:
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


async def test_empty_pieces_are_ignored(alice: Caller) -> None:
    uploaded = (await upload(alice, HEADER, NOTHING, CHUNK, NOTHING)).attachment
    assert (await alice.download(uploaded.attachment_id))[1] == [PNG]


async def test_bytes_that_do_not_match_their_media_type_are_refused(alice: Caller, tmp_path: Path) -> None:
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


async def test_an_attachment_that_is_too_large_is_refused_with_the_limit(tmp_path: Path) -> None:
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


async def test_an_endless_upload_is_ended(tmp_path: Path) -> None:
    async with serving(tmp_path, max_attachment_bytes=MIB) as running:
        metadata, sent = running.caller().metadata, 0

        def endless() -> Iterator[pb.UploadAttachmentRequest]:
            nonlocal sent
            yield HEADER
            while True:
                sent += 100_000
                yield pb.UploadAttachmentRequest(chunk=bytes(100_000))

        def send_on() -> None:
            """Uses the synchronous client, because grpc.aio loses the status if a write fails first."""
            with grpc.insecure_channel(running.target) as channel:
                chat_service_pb2_grpc.ChatServiceStub(channel).UploadAttachment(endless(), metadata=metadata)

        with pytest.raises(grpc.RpcError) as raised:
            await asyncio.to_thread(send_on)
        error: Any = raised.value
        refusal = Refusal(error)
        assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "ATTACHMENT_TOO_LARGE")
        assert sent < 32 * MIB
        assert rows(tmp_path) == (0, 0, 0)


async def test_uploads_beyond_the_concurrency_limit_of_a_vault_wait(running: Serving) -> None:
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
    sent = await send(alice, session.session_id, document(PDF + bytes(8 * MIB), "application/pdf"))
    pieces = aiter(download(alice, sent.content[0].document.attachment_id))
    await anext(pieces)
    await delete_session(alice, session.session_id)

    async def rest() -> None:
        async for _ in pieces:
            pass

    assert (await refused(rest())).reason == "ATTACHMENT_NOT_FOUND"
