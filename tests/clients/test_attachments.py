"""Attachments of the Python client: downloads are compared with what was stored, and sources may fail."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from metamorph_client import MetamorphClient, MetamorphError
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1.attachment_pb2 import Attachment

from tests.support.serving import Serving
from tests.support.tokens import mint

DATA = b"a document"


@asynccontextmanager
async def downloads(data: bytes) -> AsyncIterator[str]:
    """Serves an attachment whose description is that of DATA, and whose bytes are others."""

    async def download(request: pb.DownloadAttachmentRequest, context: Any) -> AsyncIterator[Any]:
        yield pb.DownloadAttachmentResponse(
            attachment=Attachment(size_bytes=len(DATA), sha256=hashlib.sha256(DATA).hexdigest())
        )
        yield pb.DownloadAttachmentResponse(chunk=data)

    handler = grpc.unary_stream_rpc_method_handler(
        download, pb.DownloadAttachmentRequest.FromString, pb.DownloadAttachmentResponse.SerializeToString
    )
    server = grpc.aio.server()
    service = grpc.method_handlers_generic_handler("metamorph.chat.v1.ChatService", {"DownloadAttachment": handler})
    server.add_generic_rpc_handlers((service,))
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield target
    await server.stop(grace=None)


@pytest.mark.parametrize("data", [DATA[:-1], DATA.upper(), DATA * 2])
async def test_bytes_that_are_not_those_stored_are_an_error(data: bytes) -> None:
    async with downloads(data) as target, MetamorphClient(target) as client:
        with pytest.raises(MetamorphError) as damaged:
            async for _ in client.download("att_1"):
                pass
    assert damaged.value.code is grpc.StatusCode.DATA_LOSS
    assert not damaged.value.resumable


async def test_an_upload_of_a_stream_is_not_repeated(unused_tcp_port: int) -> None:
    retries: list[MetamorphError] = []
    async with MetamorphClient(f"127.0.0.1:{unused_tcp_port}", give_up_after=0.5, on_retry=retries.append) as client:
        with pytest.raises(MetamorphError, match="UNAVAILABLE"):
            await client.upload(iter([DATA]), media_type="text/plain")
        assert not retries
        with pytest.raises(MetamorphError, match="UNAVAILABLE"):
            await client.upload(DATA, media_type="text/plain")
        assert retries


async def bytes_that_fail() -> AsyncIterator[bytes]:
    yield DATA
    raise OSError("the disk died")


def bytes_that_fail_without_asyncio() -> Iterator[bytes]:
    yield DATA
    raise OSError("the disk died")


@pytest.mark.parametrize("source", [bytes_that_fail, bytes_that_fail_without_asyncio])
async def test_an_upload_whose_source_fails_fails_likewise(running: Serving, source: Callable[[], Any]) -> None:
    async with MetamorphClient(running.target, token=mint()) as client:
        with pytest.raises(OSError, match="the disk died"):
            await client.upload(source(), media_type="text/plain")
        with pytest.raises(ExceptionGroup) as failed:
            async with asyncio.TaskGroup() as group:
                group.create_task(client.upload(source(), media_type="text/plain"))
        assert isinstance(failed.value.exceptions[0], OSError)


@pytest.mark.parametrize("source", [bytearray(DATA), memoryview(DATA), [bytearray(DATA[:3]), memoryview(DATA[3:])]])
async def test_an_upload_takes_every_kind_of_bytes(running: Serving, source: Any) -> None:
    async with MetamorphClient(running.target, token=mint()) as client:
        attachment = await client.upload(source, media_type="text/plain")
    assert attachment.sha256 == hashlib.sha256(DATA).hexdigest()


async def test_a_file_that_is_not_there_is_an_error_of_its_own(running: Serving) -> None:
    async with MetamorphClient(running.target, token=mint()) as client:
        with pytest.raises(FileNotFoundError):
            await client.upload("no-such-file", media_type="text/plain")


async def test_an_upload_of_anything_but_bytes_says_so(running: Serving) -> None:
    async with MetamorphClient(running.target, token=mint()) as client:
        with pytest.raises(TypeError, match="made of bytes, not of str"):
            await client.upload(["text"], media_type="text/plain")  # type: ignore[list-item]


async def test_an_upload_that_is_cancelled_is_no_failure_of_its_source(running: Serving) -> None:
    asked = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        asked.set()
        await asyncio.Event().wait()
        yield DATA

    async with MetamorphClient(running.target, token=mint()) as client:
        uploading = asyncio.create_task(client.upload(endless(), media_type="text/plain"))
        await asked.wait()
        uploading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await uploading
