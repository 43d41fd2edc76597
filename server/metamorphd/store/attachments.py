"""Images and documents that are stored, and the messages that hold them."""

from collections.abc import Collection, Iterable, Mapping

import orjson

from metamorphd.errors import AttachmentNotFound, AttachmentTypeMismatch
from metamorphd.models.attachment import Attachment
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.models.content import AttachmentBlock, Content, Part, attachment_blocks, described, map_attachments
from metamorphd.store.changes import append_change
from metamorphd.store.database import Row, SystemTransaction, Transaction, point_read

CHUNK_BYTES = 1_048_576

COLUMNS = "attachment_id, media_type, size, sha256, create_time, longest_side, pages"

GET_SENDABLE = """
SELECT size, (
    SELECT COUNT(*) FROM attachment_chunks
    WHERE attachment_chunks.vault_id = :vault_id AND attachment_chunks.attachment_id = attachments.attachment_id
) AS chunks
FROM attachments WHERE vault_id = :vault_id AND attachment_id = :attachment_id AND rejected = 0
"""
REJECT = "UPDATE attachments SET rejected = 1 WHERE vault_id = :vault_id AND attachment_id = :attachment_id"
COUNT_REJECTED = """
SELECT COUNT(*) AS rejected FROM attachments
WHERE vault_id = :vault_id AND attachment_id = :attachment_id AND rejected = 1
"""
READ_CHUNK = """
SELECT data FROM attachment_chunks
WHERE vault_id = :vault_id AND attachment_id = :attachment_id AND number = :number
"""
FIND_ATTACHMENTS = f"""
SELECT {COLUMNS} FROM attachments
WHERE vault_id = :vault_id AND attachment_id IN (SELECT value FROM json_each(:attachment_ids))
"""
# Not one that only deleted sessions hold.
_VISIBLE = """
attachments.vault_id = :vault_id AND attachments.attachment_id = :attachment_id AND (
    upload_time IS NOT NULL OR EXISTS (
        SELECT 1 FROM attachment_uses AS used CROSS JOIN sessions
        WHERE used.vault_id = :vault_id AND used.attachment_id = :attachment_id
            AND sessions.vault_id = :vault_id AND sessions.session_id = used.session_id
            AND sessions.delete_time IS NULL))
"""
GET_ATTACHMENT = f"SELECT {COLUMNS} FROM attachments WHERE {_VISIBLE}"
GET_CHUNK = f"""
SELECT data FROM attachments CROSS JOIN attachment_chunks AS chunk
WHERE {_VISIBLE}
    AND chunk.vault_id = :vault_id AND chunk.attachment_id = :attachment_id AND number = :number
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
# Of a message's attachments those that no other one holds. One that was uploaded again, and not sent since, is about
# to be.
QUEUE_OF_MESSAGE = """
INSERT INTO erasures (vault_id, due_time, resource, id, delete_time)
SELECT :vault_id, CAST(:now AS INTEGER), 'attachment', attachment_id, CAST(:now AS INTEGER) FROM attachments
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
ON CONFLICT (vault_id, due_time, resource, id) DO NOTHING
RETURNING id
"""
RELEASE_MESSAGE = """
DELETE FROM attachment_uses
WHERE vault_id = :vault_id AND session_id = :session_id AND message_id = :message_id
"""
# Nothing holds it and nobody has uploaded it again.
GET_ERASABLE = """
SELECT attachment_id, (
    SELECT MAX(number) FROM attachment_chunks
    WHERE attachment_chunks.vault_id = :vault_id AND attachment_chunks.attachment_id = attachments.attachment_id
) AS last_number
FROM attachments
WHERE vault_id = :vault_id AND attachment_id = :attachment_id AND upload_time IS NULL AND NOT EXISTS (
    SELECT 1 FROM attachment_uses AS used
    WHERE used.vault_id = :vault_id AND used.attachment_id = attachments.attachment_id
)
"""
DELETE_CHUNK = """
DELETE FROM attachment_chunks
WHERE vault_id = :vault_id AND attachment_id = :attachment_id AND number = :number
"""
DELETE_ATTACHMENT = "DELETE FROM attachments WHERE vault_id = :vault_id AND attachment_id = :attachment_id"
# Those that were uploaded and not sent, the longest ago first.
QUEUE_UNUSED = """
INSERT INTO erasures (vault_id, due_time, resource, id, delete_time)
SELECT vault_id, CAST(:now AS INTEGER), 'attachment', attachment_id, CAST(:now AS INTEGER) FROM (
    SELECT vault_id, attachment_id FROM attachments WHERE upload_time < :before ORDER BY upload_time LIMIT :limit
) AS unused
WHERE NOT EXISTS (
    SELECT 1 FROM attachment_uses AS used
    WHERE used.vault_id = unused.vault_id AND used.attachment_id = unused.attachment_id
)
ON CONFLICT (vault_id, due_time, resource, id) DO NOTHING
"""
END_UPLOADS = """
UPDATE attachments SET upload_time = NULL
WHERE (vault_id, attachment_id) IN (
    SELECT vault_id, attachment_id FROM attachments WHERE upload_time < :before ORDER BY upload_time LIMIT :limit
)
"""


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
        longest_side=row.longest_side,
        pages=row.pages,
    )


async def find_attachments(tx: Transaction, *, attachment_ids: Collection[str]) -> Mapping[str, Attachment]:
    """Returns those attachments that are there, hidden ones included, by ID."""
    rows = await tx.all(FIND_ATTACHMENTS, attachment_ids=orjson.dumps(list(attachment_ids)).decode())
    return {row.attachment_id: _attachment(row) for row in rows}


async def get_chunk(tx: Transaction, *, attachment_id: str, number: int) -> bytes:
    """Reads one chunk. Raises AttachmentNotFound, also when the attachment has gone since it was read."""
    return _chunk(await tx.one(GET_CHUNK, attachment_id=attachment_id, number=number), attachment_id)


async def sendable_attachments(tx: Transaction, *, attachment_ids: Iterable[str]) -> dict[str, int]:
    """Returns the sizes of those attachments that are there as a whole, hidden ones included, and that the provider
    has not rejected, by id.
    """
    sizes = {}
    for attachment_id in attachment_ids:
        stored = await tx.one(GET_SENDABLE, attachment_id=attachment_id)
        if stored is not None and stored.chunks == chunk_count(stored.size):
            sizes[attachment_id] = stored.size
    return sizes


async def reject_attachment(tx: Transaction, *, attachment_id: str) -> None:
    """Records that the provider has rejected an attachment, which is not sent again until it is uploaded again."""
    await tx.run(REJECT, attachment_id=attachment_id)


async def rejected_attachments(tx: Transaction, *, attachment_ids: Iterable[str]) -> set[str]:
    """Returns the ids of those attachments that the provider has rejected."""
    rejected = set()
    for attachment_id in attachment_ids:
        counted = await tx.one(COUNT_REJECTED, attachment_id=attachment_id)
        if counted is not None and counted.rejected:
            rejected.add(attachment_id)
    return rejected


async def read_chunk(tx: Transaction, *, attachment_id: str, number: int) -> bytes:
    """Reads one chunk of an attachment that a message holds, or held. Raises AttachmentNotFound if it was erased."""
    return _chunk(await tx.one(READ_CHUNK, attachment_id=attachment_id, number=number), attachment_id)


def _chunk(row: Row | None, attachment_id: str) -> bytes:
    if row is None:
        raise AttachmentNotFound(attachment_id=attachment_id)
    chunk: bytes = row.data
    return chunk


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

    def completed(block: AttachmentBlock) -> Part:
        if block.sha256:
            return block
        found = stored[block.attachment_id]
        return described(
            block, size=found.size, sha256=found.sha256, longest_side=found.longest_side, pages=found.pages
        )

    return map_attachments(content, completed)


async def use_attachments(tx: Transaction, *, session_id: str, message_id: str, content: Content) -> None:
    """Records that a message holds the attachments of its content, which are there."""
    for attachment_id in sorted({block.attachment_id for block in attachment_blocks(content)}):
        await tx.run(CREATE_USE, attachment_id=attachment_id, message_id=message_id, session_id=session_id)
        await tx.run(MARK_USED, attachment_id=attachment_id)


async def release_message(tx: Transaction, *, session_id: str, message_id: str, now: int) -> None:
    """Records that a message holds its attachments no more. Those that no other one holds are hidden, and erased."""
    message = {"session_id": session_id, "message_id": message_id}
    for hidden in await tx.all(QUEUE_OF_MESSAGE, now=now, **message):
        await append_attachment_change(tx, attachment_id=hidden.id, verb=ChangeVerb.DELETED, now=now)
    await tx.run(RELEASE_MESSAGE, **message)


async def append_attachment_change(tx: Transaction, *, attachment_id: str, verb: ChangeVerb, now: int) -> None:
    """Appends a change of an attachment to the vault's log."""
    await append_change(tx, resource=ChangedResource.ATTACHMENT, resource_id=attachment_id, verb=verb, now=now)


async def erase_chunk(tx: Transaction, *, attachment_id: str) -> bool:
    """Erases the last chunk of a hidden attachment. Returns whether others are left.

    Does nothing to one that a message holds, or that was uploaded again.
    """
    row = await tx.one(GET_ERASABLE, attachment_id=attachment_id)
    if row is None:
        return False
    if row.last_number is not None:
        await tx.run(DELETE_CHUNK, attachment_id=attachment_id, number=row.last_number)
    if row.last_number:
        return True
    await tx.run(DELETE_ATTACHMENT, attachment_id=attachment_id)
    return False


async def prune_attachments(tx: SystemTransaction, *, before: int, limit: int, now: int) -> int:
    """Hides attachments that no message holds and that were last uploaded before. Returns how many it looked at."""
    await tx.run(QUEUE_UNUSED, before=before, limit=limit, now=now)
    return await tx.run(END_UPLOADS, before=before, limit=limit)
