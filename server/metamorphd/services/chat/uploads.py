"""Bytes that callers send, on their way to be attachments."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from weakref import WeakValueDictionary

from metamorph.chat.v1 import chat_service_pb2 as pb

from metamorphd.errors import AttachmentTooLarge, AttachmentTypeMismatch, FieldViolation, RequestInvalid, SenderTooSlow
from metamorphd.models.attachment import Upload
from metamorphd.services.chat.media_signatures import is_media

# Each is held in memory until it is stored. A further one of the same vault waits, and so does its sender.
UPLOADS_OF_A_VAULT = 4
# Each costs the server as much as a small call, which would be counted. Of the largest attachment they are 512 bytes.
MOST_PIECES = 65_536
# Waiting for room included: a byte a minute would keep it for weeks.
LONGEST_SECONDS = 600.0


class Uploads:
    """Takes uploads in. `limit` is the largest attachment, in bytes."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._rooms: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def received(
        self, vault_id: str, requests: AsyncIterator[pb.UploadAttachmentRequest]
    ) -> AsyncGenerator[Upload]:
        """A whole upload, while it is being stored. Raises RequestInvalid, SenderTooSlow, and as `checked` does."""
        room = self._rooms.setdefault(vault_id, asyncio.Semaphore(UPLOADS_OF_A_VAULT))
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(LONGEST_SECONDS):
                    await stack.enter_async_context(room)
                    upload = await self._upload(requests)
            except TimeoutError:
                raise SenderTooSlow from None
            yield upload

    async def _upload(self, requests: AsyncIterator[pb.UploadAttachmentRequest]) -> Upload:
        first = await anext(requests, None)
        if first is None or not first.HasField("header"):
            raise _invalid("header", "must come first")
        return await self.checked(first.header.media_type, await self._rest(requests))

    async def checked(self, media_type: str, data: bytes) -> Upload:
        """Bytes that may be stored. Raises AttachmentTooLarge, AttachmentTypeMismatch."""
        if len(data) > self._limit:
            raise AttachmentTooLarge(limit_bytes=self._limit)
        # Twenty megabytes take longer than others should wait.
        return await asyncio.to_thread(_checked, media_type, data)

    async def _rest(self, requests: AsyncIterator[pb.UploadAttachmentRequest]) -> bytes:
        chunks = []
        left = self._limit
        count = 0
        async for request in requests:
            if request.HasField("header"):
                raise _invalid("header", "must come once")
            count += 1
            if count > MOST_PIECES:
                raise _invalid("chunk", f"comes in more than {MOST_PIECES} pieces")
            left -= len(request.chunk)
            if left < 0:
                raise AttachmentTooLarge(limit_bytes=self._limit)
            # A chunk of nothing would cost memory, and never pass the limit.
            if request.chunk:
                chunks.append(request.chunk)
        if not chunks:
            raise _invalid("chunk", "must come at least once, and hold something")
        return b"".join(chunks)


def _checked(media_type: str, data: bytes) -> Upload:
    if not is_media(media_type, data):
        raise AttachmentTypeMismatch(media_type=media_type)
    return Upload.of(media_type, data)


def _invalid(field: str, description: str) -> RequestInvalid:
    return RequestInvalid(violations=[FieldViolation(field, description)])
