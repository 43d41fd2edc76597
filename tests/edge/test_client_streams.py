"""Client-streaming calls: guards run once, each request is validated, and the call ends when it must."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from metamorph_client.admin.v1.admin_service_pb2 import RevokeTokensRequest
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorphd import server
from metamorphd.auth.claims import LEEWAY_SECONDS

from tests.support.caller import Caller, upload_requests
from tests.support.media import FILES
from tests.support.refusal import refused
from tests.support.rows import row_counts
from tests.support.serving import Serving, serving

UPLOAD = "/metamorph.chat.v1.ChatService/UploadAttachment"
TEXT = upload_requests(b"Hello, attachment", "text/plain")
HEADER, CHUNK = TEXT


def stored(directory: Path) -> int:
    """Returns the number of stored attachments."""
    (count,) = row_counts(directory, "attachments")
    return count


def raw(caller: Caller, bodies: Sequence[bytes]) -> Any:
    """Starts a call with raw bytes as its requests. The caller never half-closes the stream."""

    async def send() -> AsyncIterator[bytes]:
        for body in bodies:
            yield body
        await asyncio.Event().wait()

    call: Any = caller.channel.stream_unary(UPLOAD, request_serializer=None, response_deserializer=None)
    return call(send(), metadata=caller.metadata)


@pytest.mark.parametrize(
    ("bodies", "reason"),
    [
        ([b"\xff\xff\xff"], "REQUEST_MALFORMED"),
        ([HEADER.SerializeToString(), CHUNK.SerializeToString(), b"\x0a\x7f cut short"], "REQUEST_MALFORMED"),
        ([b""], "REQUEST_INVALID"),
        ([HEADER.SerializeToString(), CHUNK.SerializeToString(), b""], "REQUEST_INVALID"),
    ],
    ids=["malformed first", "malformed in the middle", "invalid first", "invalid in the middle"],
)
async def test_an_invalid_request_ends_the_call(
    alice: Caller, tmp_path: Path, bodies: list[bytes], reason: str
) -> None:
    refusal = await refused(raw(alice, bodies))
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", reason)
    assert refusal.request.request_id
    assert stored(tmp_path) == 0


async def test_a_broken_rule_names_its_field(alice: Caller) -> None:
    header = pb.UploadAttachmentRequest(header=pb.UploadHeader(media_type="image/tiff"))
    refusal = await refused(alice.chat.UploadAttachment(iter([header]), metadata=alice.metadata))
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["header.media_type"])


async def test_the_caller_is_authorized_before_any_request_is_read(running: Serving) -> None:
    for caller, reason in (
        (running.caller(""), "TOKEN_MISSING"),
        (running.caller(permissions=["read"]), "PERMISSION_MISSING"),
    ):
        assert (await refused(raw(caller, []))).reason == reason


async def test_a_stream_counts_as_one_call(tmp_path: Path) -> None:
    async with serving(tmp_path, rate_limit_requests=2, rate_limit_window_seconds=100) as running:
        alice = running.caller()
        for _ in range(2):
            await alice.upload(b"a" * 3000, "text/plain")
        assert (await refused(raw(alice, []))).reason == "RATE_LIMITED"


async def test_a_stream_without_requests_is_ended_after_a_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PATIENCE_SECONDS", 1.0)
    async with serving(tmp_path) as running:
        alice = running.caller()
        began = time.monotonic()
        refusal = await refused(raw(alice, [request.SerializeToString() for request in TEXT]))
        assert (refusal.code.name, refusal.reason) == ("ABORTED", "SENDER_TOO_SLOW")
        assert 1 <= time.monotonic() - began < 10
        assert stored(tmp_path) == 0
        await alice.upload(b"is not held up", "text/plain")


async def test_a_stream_ends_when_its_token_expires(running: Serving, tmp_path: Path) -> None:
    expire_time = int(time.time() - LEEWAY_SECONDS) + 2
    refusal = await refused(raw(running.caller(exp=expire_time), [HEADER.SerializeToString()]))
    assert (refusal.code.name, refusal.reason) == ("UNAUTHENTICATED", "TOKEN_EXPIRED")
    assert stored(tmp_path) == 0


async def test_a_stream_ends_when_its_token_is_revoked(running: Serving, tmp_path: Path) -> None:
    call = raw(running.caller(jti="t1"), [request.SerializeToString() for request in TEXT])
    refusing = asyncio.create_task(refused(call))
    await asyncio.sleep(0.1)
    operator = running.caller(operator=True)
    request = RevokeTokensRequest(vault_id="acme", token_id="t1")
    await operator.admin.RevokeTokens(request, metadata=operator.metadata)
    refusal = await refusing
    assert (refusal.code.name, refusal.reason) == ("UNAUTHENTICATED", "TOKEN_REVOKED")
    assert stored(tmp_path) == 0


@pytest.mark.parametrize("how", ["cancelled", "deadline", "disconnected"])
async def test_an_abandoned_upload_is_not_stored(running: Serving, tmp_path: Path, how: str) -> None:
    """Also if the caller disconnects during validation, when grpc reports the end of the stream first."""
    pieces = upload_requests(FILES["application/pdf"] + bytes(2_000_000), "application/pdf", piece=500_000)
    for number in range(60):
        caller = running.caller()
        timeout = 0.005 + number * 0.0005 if how == "deadline" else None
        call: Any = caller.chat.UploadAttachment(metadata=caller.metadata, timeout=timeout)
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError, asyncio.InvalidStateError):
            for piece in pieces:
                await call.write(piece)
            if how == "disconnected":
                await caller.channel.close()
            elif how == "cancelled":
                call.cancel()
            await call
    await asyncio.sleep(0.2)
    assert stored(tmp_path) == 0


async def test_the_call_id_is_in_initial_and_trailing_metadata(running: Serving) -> None:
    alice = running.caller(None, ("x-request-id", "my-call.1"))
    call = alice.chat.UploadAttachment(iter(TEXT), metadata=alice.metadata)
    for metadata in (await call.initial_metadata(), await call.trailing_metadata()):
        assert dict(metadata)["x-request-id"] == "my-call.1"
    assert (await call).attachment.media_type == "text/plain"
