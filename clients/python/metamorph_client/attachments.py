"""Images and documents, to the server and back."""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from metamorph_client.calls import resumed
from metamorph_client.chat.v1.attachment_pb2 import Attachment
from metamorph_client.chat.v1.chat_service_pb2 import DownloadAttachmentRequest, UploadAttachmentRequest, UploadHeader
from metamorph_client.errors import MetamorphError
from metamorph_client.iterating import every
from metamorph_client.resuming import Patience

if TYPE_CHECKING:
    from metamorph_client.chat.v1.chat_service_pb2_grpc import ChatServiceAsyncStub

Bytes = bytes | bytearray | memoryview
Source = Bytes | str | PathLike[str] | Iterable[Bytes] | AsyncIterable[Bytes]
CHUNK_BYTES = 256 * 1024


async def uploaded(chat: "ChatServiceAsyncStub", patience: Patience, source: Source, media_type: str) -> Attachment:
    """Returns the attachment of bytes, of a path, or of a stream of bytes.

    Raises MetamorphError, what the stream raises, and TypeError if it has anything but bytes.
    """
    if not isinstance(source, str | PathLike | Bytes):
        # A stream cannot be read twice.
        return (await chat.UploadAttachment(_requests(source, media_type))).attachment
    while True:
        try:
            return (await resumed(chat.UploadAttachment(_requests(source, media_type)))).attachment
        except MetamorphError as error:
            await patience.wait(error)


async def downloaded(chat: "ChatServiceAsyncStub", patience: Patience, attachment_id: str) -> AsyncGenerator[bytes]:
    """Yields the bytes of an attachment. Raises MetamorphError, also if size and SHA-256 are not the attachment's."""
    digest, size = hashlib.sha256(), 0
    while True:
        call = resumed(chat.DownloadAttachment(DownloadAttachmentRequest(attachment_id=attachment_id)))
        attachment, position = Attachment(), 0
        try:
            async for response in call:
                if response.HasField("attachment"):
                    attachment = response.attachment
                    continue
                # What an earlier call has brought already.
                chunk = response.chunk[max(0, size - position) :]
                position += len(response.chunk)
                if chunk:
                    digest.update(chunk)
                    size += len(chunk)
                    patience.progress()
                    yield chunk
        except MetamorphError as error:
            await patience.wait(error)
            continue
        finally:
            call.cancel()
        if (size, digest.hexdigest()) != (attachment.size_bytes, attachment.sha256):
            message = f"{size} bytes of attachment {attachment_id} arrived, which are not those that were stored"
            raise MetamorphError(grpc.StatusCode.DATA_LOSS, "", message)
        return


async def _requests(source: Source, media_type: str) -> AsyncIterator[UploadAttachmentRequest]:
    yield UploadAttachmentRequest(header=UploadHeader(media_type=media_type))
    async for piece in every(_pieces(source)):
        if not isinstance(piece, Bytes):
            raise TypeError(f"an attachment is made of bytes, not of {type(piece).__name__}")
        for start in range(0, len(piece), CHUNK_BYTES):
            yield UploadAttachmentRequest(chunk=bytes(piece[start : start + CHUNK_BYTES]))


def _pieces(source: Source) -> Iterable[Bytes] | AsyncIterable[Bytes]:
    if isinstance(source, str | PathLike):
        return _read(Path(source))
    return [source] if isinstance(source, Bytes) else source


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece
