"""Uploads: the bytes of images and documents, stored in chunks."""

from collections.abc import Iterable

from metamorphd.models.attachment import Attachment, Upload
from metamorphd.models.change import ChangeVerb
from metamorphd.store.attachments import (
    CHUNK_BYTES,
    GET_ATTACHMENT,
    append_attachment_change,
    chunk_count,
    get_attachment,
)
from metamorphd.store.database import Transaction, grows
from metamorphd.store.erasures import Resource, end_queued, queue_erasure
from metamorphd.store.storage import require_storage
from metamorphd.store.vaults import create_vault

# After which the chunks of an upload that was never completed are erased.
STAGED_MICROSECONDS = 3_600_000_000

CREATE_ATTACHMENT = """
INSERT INTO attachments
    (vault_id, attachment_id, media_type, size, sha256, create_time, upload_time, longest_side, pages)
VALUES (:vault_id, :attachment_id, :media_type, :size, :sha256, :now, :now, :longest_side, :pages)
ON CONFLICT (vault_id, attachment_id) DO NOTHING
"""
CREATE_CHUNK = """
INSERT INTO attachment_chunks (vault_id, attachment_id, number, data)
VALUES (:vault_id, :attachment_id, :number, :data)
"""
COUNT_CHUNKS = """
SELECT COUNT(*) AS chunks FROM attachment_chunks WHERE vault_id = :vault_id AND attachment_id = :attachment_id
"""
# Hidden, as one that only deleted sessions hold.
STAGE_ATTACHMENT = """
INSERT INTO attachments
    (vault_id, attachment_id, media_type, size, sha256, create_time, upload_time, longest_side, pages)
VALUES (:vault_id, :attachment_id, :media_type, :size, :sha256, :now, NULL, :longest_side, :pages)
ON CONFLICT (vault_id, attachment_id) DO NOTHING
"""
COUNT_ATTACHMENT = """
SELECT COUNT(*) AS stored FROM attachments WHERE vault_id = :vault_id AND attachment_id = :attachment_id
"""
# The provider may take it by now, and more may be known of it.
UPLOAD_AGAIN = """
UPDATE attachments SET upload_time = :now, rejected = 0, longest_side = :longest_side, pages = :pages
WHERE vault_id = :vault_id AND attachment_id = :attachment_id
"""


@grows
async def create_attachment(
    tx: Transaction, *, upload: Upload, hash_key: bytes, now: int, storage_limit: int = 0
) -> Attachment:
    """Stores an attachment, or answers the one that is there. Makes the vault if need be."""
    added = await added_bytes(tx, uploads=[upload])
    await require_storage(tx, added_bytes=added, default_limit=storage_limit)
    await create_vault(tx, hash_key=hash_key, now=now)
    await store_upload(tx, upload=upload, now=now)
    return await get_attachment(tx, attachment_id=upload.attachment_id)


@grows
async def stage_upload(tx: Transaction, *, upload: Upload, hash_key: bytes, now: int, storage_limit: int = 0) -> bool:
    """Stores the next chunk of an upload but the last, hidden, and returns whether to go on.

    All at once, megabytes would take the writer for long. Makes the vault if need be. Chunks are erased an hour later,
    unless `store_upload` was called with the same `now`. Raises StorageQuotaExceeded.
    """
    stored = await tx.one(COUNT_CHUNKS, attachment_id=upload.attachment_id)
    number, count = 0 if stored is None else stored.chunks, chunk_count(len(upload.data))
    if number >= count - 1:
        return False
    added = await added_bytes(tx, uploads=[upload])
    await require_storage(tx, added_bytes=added, default_limit=storage_limit)
    await create_vault(tx, hash_key=hash_key, now=now)
    if added:
        await queue_erasure(
            tx, resource=Resource.ATTACHMENT, resource_id=upload.attachment_id, now=now + STAGED_MICROSECONDS
        )
        await tx.run(
            STAGE_ATTACHMENT,
            attachment_id=upload.attachment_id,
            media_type=upload.media_type,
            size=len(upload.data),
            sha256=upload.sha256,
            longest_side=upload.longest_side,
            pages=upload.pages,
            now=now,
        )
    await _store_chunk(tx, upload, number)
    return number + 1 < count - 1


async def added_bytes(tx: Transaction, *, uploads: Iterable[Upload]) -> int:
    """Returns the bytes of those uploads that the vault does not have yet, staged ones included."""
    added = 0
    for upload in uploads:
        row = await tx.one(COUNT_ATTACHMENT, attachment_id=upload.attachment_id)
        added += 0 if row is not None and row.stored else len(upload.data)
    return added


async def store_upload(tx: Transaction, *, upload: Upload, now: int) -> None:
    """As `create_attachment`, in a vault that is there. Stores what `stage_upload` has not."""
    await end_queued(
        tx, resource=Resource.ATTACHMENT, resource_id=upload.attachment_id, due_time=now + STAGED_MICROSECONDS
    )
    visible = await tx.one(GET_ATTACHMENT, attachment_id=upload.attachment_id)
    created = await tx.run(
        CREATE_ATTACHMENT,
        attachment_id=upload.attachment_id,
        media_type=upload.media_type,
        size=len(upload.data),
        sha256=upload.sha256,
        longest_side=upload.longest_side,
        pages=upload.pages,
        now=now,
    )
    stored = None
    if not created:
        await tx.run(
            UPLOAD_AGAIN,
            attachment_id=upload.attachment_id,
            longest_side=upload.longest_side,
            pages=upload.pages,
            now=now,
        )
        stored = await tx.one(COUNT_CHUNKS, attachment_id=upload.attachment_id)
    # Of an attachment that is being erased the first ones are there.
    for number in range(0 if stored is None else stored.chunks, chunk_count(len(upload.data))):
        await _store_chunk(tx, upload, number)
    verb = ChangeVerb.CREATED if visible is None else ChangeVerb.UPDATED
    await append_attachment_change(tx, attachment_id=upload.attachment_id, verb=verb, now=now)


async def _store_chunk(tx: Transaction, upload: Upload, number: int) -> None:
    data = upload.data[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
    await tx.run(CREATE_CHUNK, attachment_id=upload.attachment_id, number=number, data=data)
