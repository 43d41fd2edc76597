"""ChatService: attachments."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from metamorph.chat.v1 import chat_service_pb2 as pb

from metamorphd.auth.callers import current_caller
from metamorphd.clock import Clock
from metamorphd.services.chat.uploads import Uploads
from metamorphd.services.convert.attachment import attachment_to_proto
from metamorphd.store.attachments import chunk_count, create_attachment, get_attachment, get_chunk
from metamorphd.store.database import Database

Context = grpc.aio.ServicerContext[Any, Any]


class ChatAttachments:
    """The methods of ChatService that are about attachments."""

    _database: Database
    _clock: Clock
    _uploads: Uploads

    async def UploadAttachment(
        self, requests: AsyncIterator[pb.UploadAttachmentRequest], context: Context
    ) -> pb.UploadAttachmentResponse:
        vault = current_caller.get().vault_id
        async with self._uploads.received(vault, requests) as upload:
            attachment = await self._database.write(
                create_attachment, vault, upload=upload, request_key=self._clock.new_key(), now=self._clock.now()
            )
        return pb.UploadAttachmentResponse(attachment=attachment_to_proto(attachment))

    async def DownloadAttachment(
        self, request: pb.DownloadAttachmentRequest, context: Context
    ) -> AsyncIterator[pb.DownloadAttachmentResponse]:
        vault = current_caller.get().vault_id
        attachment = await self._database.read(get_attachment, vault, attachment_id=request.attachment_id)
        yield pb.DownloadAttachmentResponse(attachment=attachment_to_proto(attachment))
        for number in range(chunk_count(attachment.size)):
            chunk = await self._database.read(get_chunk, vault, attachment_id=attachment.attachment_id, number=number)
            yield pb.DownloadAttachmentResponse(chunk=chunk)
