"""ChatService: attachments."""

from collections.abc import AsyncIterator

from metamorph_client.chat.v1 import chat_service_pb2 as pb

from metamorphd.clock import Clock
from metamorphd.models.caller import Scope
from metamorphd.services.chat.uploads import Uploads
from metamorphd.services.convert.attachment import attachment_to_proto
from metamorphd.store.attachments import chunk_count, get_attachment, get_chunk
from metamorphd.store.changes import revised
from metamorphd.store.database import Database
from metamorphd.store.storage import require_storage
from metamorphd.store.uploads import create_attachment, stage_upload


class ChatAttachments:
    """The attachment methods of ChatService."""

    _database: Database
    _clock: Clock
    _uploads: Uploads
    _storage_limit: int

    async def UploadAttachment(
        self, requests: AsyncIterator[pb.UploadAttachmentRequest], scope: Scope
    ) -> pb.UploadAttachmentResponse:
        # Before megabytes are read. Storing them checks again.
        self._database.require_space()
        await self._database.read(require_storage, scope, added_bytes=1, default_limit=self._storage_limit)
        async with self._uploads.received(scope.vault_id, requests) as upload:
            now, hash_key, limit = self._clock.now(), self._clock.new_key(), self._storage_limit
            while await self._database.write(
                stage_upload, scope, upload=upload, hash_key=hash_key, storage_limit=limit, now=now
            ):
                pass
            attachment, revision = await self._database.write(
                revised(create_attachment), scope, upload=upload, hash_key=hash_key, storage_limit=limit, now=now
            )
        return pb.UploadAttachmentResponse(attachment=attachment_to_proto(attachment), revision=revision)

    async def DownloadAttachment(
        self, request: pb.DownloadAttachmentRequest, scope: Scope
    ) -> AsyncIterator[pb.DownloadAttachmentResponse]:
        attachment = await self._database.read(get_attachment, scope, attachment_id=request.attachment_id)
        yield pb.DownloadAttachmentResponse(attachment=attachment_to_proto(attachment))
        for number in range(chunk_count(attachment.size)):
            chunk = await self._database.read(get_chunk, scope, attachment_id=attachment.attachment_id, number=number)
            yield pb.DownloadAttachmentResponse(chunk=chunk)
