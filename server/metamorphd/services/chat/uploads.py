"""Receives and checks the bytes of attachments."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from weakref import WeakValueDictionary

from metamorph_client.chat.v1 import chat_service_pb2 as pb

from metamorphd.errors import AttachmentTooLarge, AttachmentTypeMismatch, FieldViolation, RequestInvalid, SenderTooSlow
from metamorphd.models.attachment import Upload
from metamorphd.models.capabilities import MOST_PAGES
from metamorphd.models.media_signatures import is_blank, is_media
from metamorphd.services.chat import pdf
from metamorphd.services.chat.images import BrokenImage, size_of

# The provider's limits: https://platform.claude.com/docs/en/build-with-claude/vision. 10 MiB in base64.
IMAGE_BYTES = 10 * 1024 * 1024 // 4 * 3
LONGEST_SIDE = 8000
# Uploads are held in memory until they are stored. Further ones of the vault wait, and so do their senders.
UPLOADS_OF_A_VAULT = 4
# A chunk costs the server as much as a small call, but is not rate limited. The largest attachment fits in chunks of
# 512 bytes.
MOST_CHUNKS = 65_536
# Includes the wait for a slot. Without a limit, an upload of one byte a minute would occupy a slot for weeks.
LONGEST_SECONDS = 600.0


class Uploads:
    """Receives uploads. `limit` is the maximum size of an attachment, in bytes."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def received(
        self, vault_id: str, requests: AsyncIterator[pb.UploadAttachmentRequest]
    ) -> AsyncGenerator[Upload]:
        """Yields a complete upload, and holds its slot until the block ends.

        Raises RequestInvalid, SenderTooSlow, and the errors of `checked`.
        """
        slots = self._slots.setdefault(vault_id, asyncio.Semaphore(UPLOADS_OF_A_VAULT))
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(LONGEST_SECONDS):
                    await stack.enter_async_context(slots)
                    upload = await self._upload(requests)
            except TimeoutError:
                raise SenderTooSlow from None
            yield upload

    async def _upload(self, requests: AsyncIterator[pb.UploadAttachmentRequest]) -> Upload:
        first = await anext(requests, None)
        if first is None or not first.HasField("header"):
            raise _invalid("header", "must be sent first")
        return await self.checked(first.header.media_type, await self._rest(requests), field="chunk")

    async def checked(self, media_type: str, data: bytes | memoryview, *, field: str) -> Upload:
        """Returns the upload if it may be stored. `field` is where it came from.

        Raises AttachmentTooLarge, AttachmentTypeMismatch, RequestInvalid.
        """
        limit = min(self._limit, IMAGE_BYTES) if media_type.startswith("image/") else self._limit
        if len(data) > limit:
            raise AttachmentTooLarge(limit_bytes=limit)
        # Twenty megabytes would block the event loop for too long.
        return await asyncio.to_thread(_checked, media_type, data, field)

    async def _rest(self, requests: AsyncIterator[pb.UploadAttachmentRequest]) -> memoryview:
        # Not joined at the end, which would hold the event loop for as long as twenty megabytes take to copy.
        received = bytearray()
        count = 0
        async for request in requests:
            if request.HasField("header"):
                raise _invalid("header", "must be sent only once")
            count += 1
            if count > MOST_CHUNKS:
                raise _invalid("chunk", f"must be sent at most {MOST_CHUNKS} times")
            received += request.chunk
            if len(received) > self._limit:
                raise AttachmentTooLarge(limit_bytes=self._limit)
        if not received:
            raise _invalid("chunk", "must be sent at least once, and not be empty")
        return memoryview(received)


def _checked(media_type: str, data: bytes | memoryview, field: str) -> Upload:
    if not data or not is_media(media_type, data):
        raise AttachmentTypeMismatch(media_type=media_type)
    side = _longest_side(media_type, data, field) if media_type.startswith("image/") else 0
    if media_type == "text/plain" and is_blank(data):
        raise _invalid(field, "must not be only white space")
    pages = _pages(data, field) if media_type == "application/pdf" else 0
    return Upload.of(media_type, data, longest_side=side, pages=pages)


def _longest_side(media_type: str, data: bytes | memoryview, field: str) -> int:
    try:
        side = max(size_of(media_type, data))
    except BrokenImage:
        raise _invalid(field, "is not a whole image") from None
    if side > LONGEST_SIDE:
        raise _invalid(field, f"is {side} pixels wide or high; the most is {LONGEST_SIDE}")
    return side


def _pages(data: bytes | memoryview, field: str) -> int:
    # No encryption: https://platform.claude.com/docs/en/build-with-claude/pdf-support.
    if not pdf.is_whole(data):
        raise _invalid(field, "is not a whole PDF")
    if pdf.is_encrypted(data):
        raise _invalid(field, "is an encrypted PDF")
    if (pages := pdf.pages_of(data)) > MOST_PAGES:
        raise _invalid(field, f"has {pages} pages; the most is {MOST_PAGES}")
    return pages


def _invalid(field: str, description: str) -> RequestInvalid:
    return RequestInvalid(violations=[FieldViolation(field, description)])
