"""Large requests, and the attachments of prompts, take up a limited amount of memory, and not for long."""

import asyncio
import contextlib
import gc
import tracemalloc
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1.message_pb2 import ContentBlock, DocumentBlock
from metamorphd.auth.revoked_tokens import RevokedTokens
from metamorphd.clock import Clock
from metamorphd.edge import arrivals
from metamorphd.edge.streams import Streams
from metamorphd.errors import RateLimited
from metamorphd.vault_states import VaultStates

from tests.support.caller import Caller, text_block, upload_requests
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.http2 import Connection, block, headers, message
from tests.support.media import FILES
from tests.support.refusal import refused
from tests.support.serving import Serving, asking, serving
from tests.support.tokens import mint
from tests.support.wire import LENGTH_DELIMITED, field

CHAT = "/metamorph.chat.v1.ChatService/"
SEND = CHAT + "SendMessage"
LEAST = 32 << 20
DOCUMENT_BYTES = 12 << 20


def document(size: int) -> bytes:
    return FILES["application/pdf"] + bytes(size)


def document_request(session_id: str, size: int) -> bytes:
    request = pb.SendMessageRequest(
        session_id=session_id,
        content=[
            ContentBlock(document=DocumentBlock(data=document(size), media_type="application/pdf")),
            text_block("Look"),
        ],
    )
    return request.SerializeToString()


def raw(caller: Caller, body: bytes) -> Any:
    kind: Any = caller.channel.unary_stream
    return kind(SEND, request_serializer=None, response_deserializer=pb.SendMessageResponse.FromString)(
        body, metadata=caller.metadata
    )


def streams_without_store() -> Streams:
    database: Any = None
    states = VaultStates(database=database)
    return Streams(revoked_tokens=RevokedTokens(), vault_states=states, clock=Clock(), patience_seconds=60)


@pytest.fixture
async def tight(tmp_path: Path, api: FakeMessagesApi) -> AsyncIterator[Serving]:
    async with asking(api, tmp_path, max_bytes_in_flight=LEAST, max_vault_bytes_in_flight=LEAST) as running:
        yield running


async def test_a_turn_that_runs_holds_no_bytes_of_its_images(tight: Serving, api: FakeMessagesApi) -> None:
    alice = tight.caller()
    release = asyncio.Event()
    api.default = Reply(("Nice", "!"), hold=release)
    session = await alice.create_session()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        body = document_request(session.session_id, DOCUMENT_BYTES)
        call = raw(alice, body)
        async for response in call:
            if response.event.HasField("text_delta"):
                break
        source = api.requests[0].body["messages"][0]["content"][0]["source"]
        gc.collect()
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The client and the provider are in this process too.
    theirs = len(body) + len(source["data"])
    assert theirs > 2 * DOCUMENT_BYTES
    assert now - before - theirs < DOCUMENT_BYTES // 4
    # The provider reads the body and parses it: four copies, a third larger.
    assert peak - before < 14 * DOCUMENT_BYTES
    release.set()
    *_, response = [response async for response in call]
    assert response.event.HasField("turn_finished")


async def test_uploads_beyond_a_vaults_share_are_refused_until_others_end(tight: Serving) -> None:
    alice, bob = tight.caller(), tight.caller(vault_id="bob")
    chunks = upload_requests(document(18 << 20), "application/pdf", piece=1 << 20)
    go_on = asyncio.Event()

    async def slow(begin: int) -> AsyncIterator[pb.UploadAttachmentRequest]:
        for chunk in chunks[:begin]:
            yield chunk
        await go_on.wait()
        for chunk in chunks[begin:]:
            yield chunk

    first = alice.chat.UploadAttachment(slow(19), metadata=alice.metadata)
    await asyncio.sleep(1)
    for caller in (alice, bob):
        refusal = await refused(caller.chat.UploadAttachment(slow(15), metadata=caller.metadata))
        assert (refusal.code.name, refusal.reason) == ("RESOURCE_EXHAUSTED", "BYTES_IN_FLIGHT_EXCEEDED")
        assert refusal.info.metadata == {"limit_bytes": str(LEAST)}
        assert refusal.retry is not None
    go_on.set()
    await first
    await alice.chat.UploadAttachment(iter(chunks), metadata=alice.metadata)


async def test_requests_that_take_long_to_arrive_count_as_the_largest(
    tight: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each connection could make the server hold almost 32 MiB for every stream."""
    monkeypatch.setattr(arrivals, "SOON_SECONDS", 0.02)
    alice = tight.caller()
    session = await alice.create_session()
    started = b"a" * 50
    async with Connection(tight.target) as connection, asyncio.timeout(20):
        request = block(headers(SEND, mint()))
        slow = [connection.begin(request, message(started, size=LEAST - 100)) for _ in range(2)]
        await connection.until(lambda: bool(connection.ended))
        assert len(connection.ended & set(slow)) == 1
        # A small request arrives at once, and needs nothing.
        await alice.send(session.session_id, "Hello")


async def test_large_requests_of_a_vault_have_a_rate(running: Serving) -> None:
    """gRPC joins their pieces on the event loop, while all others wait."""
    alice = running.caller()
    session = await alice.create_session()
    # Neither accepts so much, but gRPC reads it.
    create, get = CHAT + "CreateSession", CHAT + "GetSession"
    for path in (create, get):
        call: Any = alice.channel.unary_unary(path)
        assert (await refused(call(bytes(DOCUMENT_BYTES), metadata=alice.metadata))).reason == "REQUEST_TOO_LARGE"
    async with Connection(running.target) as connection, asyncio.timeout(20):

        def begin(path: str, **claims: Any) -> int:
            return connection.begin(block(headers(path, mint(**claims))), message(b"a" * 50, size=DOCUMENT_BYTES))

        large = [begin(create), begin(get)]
        await connection.until(lambda: connection.ended >= {*large})
        # Neither another vault's nor those of methods that were sent small ones.
        others = {begin(create, vault_id="bob"), begin(get, vault_id="bob"), begin(CHAT + "DeleteSession")}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.09):
                await connection.until(lambda: bool(connection.ended & others))
    # Small ones arrive at once.
    await alice.chat.GetSession(pb.GetSessionRequest(session_id=session.session_id), metadata=alice.metadata)
    assert (await alice.send(session.session_id, "Hello"))[-1].HasField("turn_finished")
    await alice.create_session()


async def test_what_was_read_for_a_refused_request_is_not_kept_for_a_garbage_collection() -> None:
    class Megabytes:
        pass

    class Unfinished:
        async def read(self) -> None:
            read = Megabytes()
            self.kept = weakref.ref(read)
            await asyncio.Event().wait()

    def refuse() -> None:
        raise RateLimited(retry_delay=1)

    exchange: Any = Unfinished()
    streams = streams_without_store()
    gc.disable()
    try:
        with contextlib.suppress(RateLimited):
            await asyncio.create_task(streams.read(exchange, late=refuse))
        # The task's last step has ended.
        await asyncio.sleep(0)
        assert exchange.kept() is None
    finally:
        gc.enable()


async def test_a_large_request_is_parsed_and_refused_like_a_small_one(running: Serving) -> None:
    alice = running.caller()
    refusal = await refused(raw(alice, pb.SendMessageRequest(content=[text_block(" " * 100_000)]).SerializeToString()))
    assert (refusal.reason, set(refusal.fields)) == ("REQUEST_INVALID", {"session_id"})
    refusal = await refused(raw(alice, field(1, LENGTH_DELIMITED, b"\xff" * 100_000)))
    assert refusal.reason == "REQUEST_MALFORMED"


async def test_images_that_do_not_fit_together_are_sent_one_after_the_other(
    tight: Serving, api: FakeMessagesApi
) -> None:
    alice = tight.caller()
    api.default = Reply(("Nice",))
    uploaded = [await alice.upload(document(18 << 20) + bytes([each]), "application/pdf") for each in range(3)]
    sessions = [await alice.create_session() for _ in uploaded]

    async def look(session_id: str, attachment_id: str) -> Any:
        block_ = ContentBlock(document=DocumentBlock(attachment_id=attachment_id, media_type="application/pdf"))
        request = pb.SendMessageRequest(session_id=session_id, content=[block_, text_block("Look")])
        return [each.event async for each in alice.chat.SendMessage(request, metadata=alice.metadata)][-1]

    ends = await asyncio.gather(
        *(look(session.session_id, each.attachment_id) for session, each in zip(sessions, uploaded, strict=True))
    )
    assert [end.turn_finished.error.reason for end in ends] == ["", "", ""]


async def test_serving_still_works_at_the_least_limits(tmp_path: Path) -> None:
    async with serving(tmp_path, max_bytes_in_flight=LEAST) as running:
        alice = running.caller()
        session = await alice.create_session()
        assert (await alice.send(session.session_id, "Hello"))[-1].HasField("turn_finished")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (field(3, LENGTH_DELIMITED, bytes(LEAST - 100)), "TOO_MANY_FIELDS"),
        (field(1, LENGTH_DELIMITED, b"\xff" * DOCUMENT_BYTES), "REQUEST_MALFORMED"),
        (document_request("", DOCUMENT_BYTES), "REQUEST_INVALID"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_refused_request_is_not_kept_for_a_garbage_collection(
    running: Serving, body: bytes, reason: str
) -> None:
    alice = running.caller()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        assert (await refused(raw(alice, body))).reason == reason
        await asyncio.sleep(0.1)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert peak - before > DOCUMENT_BYTES
    assert after - before < DOCUMENT_BYTES // 4


async def test_late_reads_are_counted_by_one_timer() -> None:
    """With one each, a thousand keep the event loop busy, and none is ever decided."""

    class Never:
        async def read(self) -> None:
            await asyncio.Event().wait()

    def refuse() -> None:
        raise RateLimited(retry_delay=1)

    exchange: Any = Never()
    streams = streams_without_store()
    async with asyncio.timeout(1.5):
        reads = (streams.read(exchange, late=refuse) for _ in range(1_000))
        ended = await asyncio.gather(*reads, return_exceptions=True)
    assert {type(error) for error in ended} == {RateLimited}
