"""Images and documents: their bytes, and the messages that hold them."""

from collections.abc import Iterable
from dataclasses import replace

from metamorphd.errors import AttachmentNotFound, AttachmentTypeMismatch
from metamorphd.models.attachment import Attachment, Upload
from metamorphd.models.content import AttachmentBlock, Content, Part, attachment_blocks, map_attachments
from metamorphd.store.database import Row, SystemTransaction, Transaction, grows, point_read
from metamorphd.store.vaults import create_vault

CHUNK_BYTES = 1_048_576

COLUMNS = "attachment_id, media_type, size, sha256, create_time"

CREATE_ATTACHMENT = """
INSERT INTO attachments (vault_id, attachment_id, media_type, size, sha256, create_time, upload_time)
VALUES (:vault_id, :attachment_id, :media_type, :size, :sha256, :now, :now)
ON CONFLICT (vault_id, attachment_id) DO NOTHING
"""
CREATE_CHUNK = """
INSERT INTO attachment_chunks (vault_id, attachment_id, number, data)
VALUES (:vault_id, :attachment_id, :number, :data)
"""
UPLOAD_AGAIN = """
UPDATE attachments SET upload_time = :now
WHERE vault_id = :vault_id AND attachment_id = :attachment_id
"""
GET_ATTACHMENT = "SELECT " + COLUMNS + " FROM attachments WHERE vault_id = :vault_id AND attachment_id = :attachment_id"
GET_CHUNK = """
SELECT data FROM attachment_chunks
WHERE vault_id = :vault_id AND attachment_id = :attachment_id AND number = :number
"""
LIST_CHUNKS = """
SELECT data FROM attachment_chunks
WHERE vault_id = :vault_id AND attachment_id = :attachment_id
ORDER BY number
"""
CREATE_USE = """
INSERT INTO attachment_uses (vault_id, attachment_id, message_id, session_id)
VALUES (:vault_id, :attachment_id, :message_id, :session_id)
ON CONFLICT (vault_id, attachment_id, message_id) DO NOTHING
"""
MARK_USED = """
UPDATE attachments SET upload_time = NULL
WHERE vault_id = :vault_id AND attachment_id = :attachment_id AND upload_time IS NOT NULL
"""
# With an attachment go its chunks and its uses. One that was uploaded again, and not sent since, is about to be.
DELETE_OF_MESSAGE = """
DELETE FROM attachments
WHERE vault_id = :vault_id AND upload_time IS NULL
    AND attachment_id IN (
        SELECT attachment_id FROM attachment_uses
        WHERE vault_id = :vault_id AND session_id = :session_id AND message_id = :message_id
    )
    AND NOT EXISTS (
        SELECT 1 FROM attachment_uses AS other
        WHERE other.vault_id = :vault_id AND other.attachment_id = attachments.attachment_id
            AND other.message_id <> :message_id
    )
"""
RELEASE_MESSAGE = """
DELETE FROM attachment_uses
WHERE vault_id = :vault_id AND session_id = :session_id AND message_id = :message_id
"""
DELETE_OF_SESSION = """
DELETE FROM attachments
WHERE vault_id = :vault_id AND upload_time IS NULL
    AND attachment_id IN (
        SELECT attachment_id FROM attachment_uses WHERE vault_id = :vault_id AND session_id = :session_id
    )
    AND NOT EXISTS (
        SELECT 1 FROM attachment_uses AS other
        WHERE other.vault_id = :vault_id AND other.attachment_id = attachments.attachment_id
            AND other.session_id <> :session_id
    )
"""
RELEASE_SESSION = "DELETE FROM attachment_uses WHERE vault_id = :vault_id AND session_id = :session_id"
# Uploaded again and not sent: the messages that held it before still do.
KEEP_USED = """
UPDATE attachments SET upload_time = NULL
WHERE upload_time < :before AND EXISTS (
    SELECT 1 FROM attachment_uses AS used
    WHERE used.vault_id = attachments.vault_id AND used.attachment_id = attachments.attachment_id
)
"""
PRUNE_ATTACHMENTS = """
DELETE FROM attachments
WHERE (vault_id, attachment_id) IN (
    SELECT vault_id, attachment_id FROM attachments WHERE upload_time < :before ORDER BY upload_time LIMIT :limit
)
"""


@grows
async def create_attachment(tx: Transaction, *, upload: Upload, hash_key: bytes, now: int) -> Attachment:
    """Stores an attachment, or answers the one that is there. Makes the vault if need be."""
    await create_vault(tx, hash_key=hash_key, now=now)
    await store_upload(tx, upload=upload, now=now)
    return await get_attachment(tx, attachment_id=upload.attachment_id)


async def store_upload(tx: Transaction, *, upload: Upload, now: int) -> None:
    """As `create_attachment`, in a vault that is there."""
    created = await tx.run(
        CREATE_ATTACHMENT,
        attachment_id=upload.attachment_id,
        media_type=upload.media_type,
        size=len(upload.data),
        sha256=upload.sha256,
        now=now,
    )
    if not created:
        await tx.run(UPLOAD_AGAIN, attachment_id=upload.attachment_id, now=now)
        return
    for number in range(chunk_count(len(upload.data))):
        data = upload.data[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
        await tx.run(CREATE_CHUNK, attachment_id=upload.attachment_id, number=number, data=data)


def chunk_count(size: int) -> int:
    """How many chunks hold `size` bytes; they count from 0, and all but the last are `CHUNK_BYTES` long."""
    return -(-size // CHUNK_BYTES)


@point_read
async def get_attachment(tx: Transaction, *, attachment_id: str) -> Attachment:
    """Reads what an attachment is. Raises AttachmentNotFound."""
    row = await tx.one(GET_ATTACHMENT, attachment_id=attachment_id)
    if row is None:
        raise AttachmentNotFound(attachment_id=attachment_id)
    return _attachment(row)


def _attachment(row: Row) -> Attachment:
    return Attachment(
        attachment_id=row.attachment_id,
        media_type=row.media_type,
        size=row.size,
        sha256=row.sha256,
        create_time=row.create_time,
    )


async def get_chunk(tx: Transaction, *, attachment_id: str, number: int) -> bytes:
    """Reads one chunk. Raises AttachmentNotFound, also when the attachment has gone since it was read."""
    row = await tx.one(GET_CHUNK, attachment_id=attachment_id, number=number)
    if row is None:
        raise AttachmentNotFound(attachment_id=attachment_id)
    chunk: bytes = row.data
    return chunk


async def load_attachments(tx: Transaction, *, attachment_ids: Iterable[str]) -> dict[str, bytes]:
    """The bytes of attachments, by their ids; those that are not there are left out."""
    loaded = {}
    for attachment_id in attachment_ids:
        rows = await tx.all(LIST_CHUNKS, attachment_id=attachment_id)
        if rows:
            loaded[attachment_id] = b"".join(row.data for row in rows)
    return loaded


async def describe_attachments(tx: Transaction, *, content: Content) -> Content:
    """Content whose blocks name attachments, with their sizes and digests; what has a digest already stays.

    Raises AttachmentNotFound, and AttachmentTypeMismatch where a block says another type than was uploaded.
    """
    stored: dict[str, Attachment] = {}
    for block in attachment_blocks(content):
        if not block.sha256:
            attachment = stored[block.attachment_id] = await get_attachment(tx, attachment_id=block.attachment_id)
            if attachment.media_type != block.media_type:
                raise AttachmentTypeMismatch(media_type=block.media_type)

    def described(block: AttachmentBlock) -> Part:
        if block.sha256:
            return block
        attachment = stored[block.attachment_id]
        return replace(block, size=attachment.size, sha256=attachment.sha256)

    return map_attachments(content, described)


async def use_attachments(tx: Transaction, *, session_id: str, message_id: str, content: Content) -> None:
    """Records that a message holds the attachments of its content, which are there."""
    for attachment_id in sorted({block.attachment_id for block in attachment_blocks(content)}):
        await tx.run(CREATE_USE, attachment_id=attachment_id, message_id=message_id, session_id=session_id)
        await tx.run(MARK_USED, attachment_id=attachment_id)


async def release_message(tx: Transaction, *, session_id: str, message_id: str) -> None:
    """A message holds its attachments no more. Those that no other one holds are deleted."""
    await tx.run(DELETE_OF_MESSAGE, session_id=session_id, message_id=message_id)
    await tx.run(RELEASE_MESSAGE, session_id=session_id, message_id=message_id)


async def release_session(tx: Transaction, *, session_id: str) -> None:
    """The messages of a session hold their attachments no more. Those that no other one holds are deleted."""
    await tx.run(DELETE_OF_SESSION, session_id=session_id)
    await tx.run(RELEASE_SESSION, session_id=session_id)


async def prune_attachments(tx: SystemTransaction, *, before: int, limit: int) -> int:
    """Deletes attachments that no message holds and that were last uploaded before; how many, at most `limit`."""
    await tx.run(KEEP_USED, before=before)
    return await tx.run(PRUNE_ATTACHMENTS, before=before, limit=limit)
