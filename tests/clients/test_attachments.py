"""Downloads of the Python client compare what has arrived with what was stored."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from metamorph_client import MetamorphClient, MetamorphError
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1.attachment_pb2 import Attachment

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
