"""Attachments in the store: once per vault, in pieces, for as long as a message uses them."""

import pytest
from metamorphd.errors import AttachmentNotFound, AttachmentTypeMismatch
from metamorphd.models.attachment import Attachment, Upload
from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.content import Content, DocumentBlock, ImageBlock, TextBlock, ToolResultBlock
from metamorphd.store.attachments import (
    CHUNK_BYTES,
    chunk_count,
    describe_attachments,
    get_attachment,
    get_chunk,
    prune_attachments,
    read_chunk,
    release_message,
    sendable_attachments,
    use_attachments,
)
from metamorphd.store.codec import decode_content, encode_content
from metamorphd.store.database import Database, Transaction
from metamorphd.store.erasures import find_erasure
from metamorphd.store.uploads import create_attachment, stage_upload

from tests.support.rows import ACME, EVIL, KEY, erase, erase_next

NOW = 100

COUNT_ATTACHMENTS = "SELECT COUNT(*) AS count FROM attachments WHERE vault_id = :vault_id"
COUNT_CHUNKS = "SELECT COUNT(*) AS count FROM attachment_chunks WHERE vault_id = :vault_id"
COUNT_USES = "SELECT COUNT(*) AS count FROM attachment_uses WHERE vault_id = :vault_id"


async def count(tx: Transaction) -> tuple[int, ...]:
    rows = [await tx.one(sql) for sql in (COUNT_ATTACHMENTS, COUNT_CHUNKS, COUNT_USES)]
    return tuple(row.count for row in rows if row is not None)


async def rows(database: Database, scope: Scope = ACME) -> tuple[int, ...]:
    """Returns how many attachments, chunks and uses a vault has."""
    return await database.read(count, scope)


async def store(
    database: Database, data: bytes | memoryview, media_type: str = "image/png", *, scope: Scope = ACME, now: int = 1
) -> Attachment:
    return await database.write(create_attachment, scope, upload=Upload.of(media_type, data), hash_key=KEY, now=now)


async def use(database: Database, session_id: str, message_id: str, *attachments: Attachment) -> None:
    content = tuple(ImageBlock(attachment.attachment_id, "image/png", 0, "") for attachment in attachments)
    await database.write(use_attachments, ACME, session_id=session_id, message_id=message_id, content=content)


async def prune(database: Database, before: int, limit: int = 10) -> int:
    return await database.write_system(prune_attachments, server_scope(), before=before, limit=limit, now=NOW)


async def is_hidden(database: Database, attachment: Attachment) -> None:
    with pytest.raises(AttachmentNotFound):
        await database.read(get_attachment, ACME, attachment_id=attachment.attachment_id)


async def is_there(database: Database, attachment: Attachment) -> bool:
    sizes = {attachment.attachment_id: attachment.size}
    return await database.read(sendable_attachments, ACME, attachment_ids=sizes) == sizes


async def bytes_of(database: Database, attachment: Attachment) -> bytes:
    return b"".join(
        [
            await database.read(read_chunk, ACME, attachment_id=attachment.attachment_id, number=number)
            for number in range(chunk_count(attachment.size))
        ]
    )


@pytest.mark.parametrize("size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
async def test_bytes_are_read_as_they_were_stored(database: Database, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    stored = await store(database, data)
    assert (stored.size, stored.media_type, stored.create_time) == (size, "image/png", 1)
    assert await database.read(get_attachment, ACME, attachment_id=stored.attachment_id) == stored
    chunks = [
        await database.read(get_chunk, ACME, attachment_id=stored.attachment_id, number=number)
        for number in range(chunk_count(size))
    ]
    assert b"".join(chunks) == data
    assert max(map(len, chunks)) <= CHUNK_BYTES
    assert await bytes_of(database, stored) == data
    ids = [stored.attachment_id, "att_none"]
    assert await database.read(sendable_attachments, ACME, attachment_ids=ids) == {stored.attachment_id: size}


async def test_the_same_bytes_are_stored_once_per_vault_and_media_type(database: Database) -> None:
    first = await store(database, b"bytes")
    assert await store(database, b"bytes", now=2) == first
    assert await rows(database) == (1, 1, 0)
    other = await store(database, b"bytes", "image/gif")
    assert (other.attachment_id != first.attachment_id, other.sha256 == first.sha256) == (True, True)
    assert await store(database, b"bytes", scope=EVIL, now=3) == Attachment(
        first.attachment_id, "image/png", 5, first.sha256, create_time=3
    )
    assert (await rows(database), await rows(database, EVIL)) == ((2, 2, 0), (1, 1, 0))


async def test_an_attachment_of_another_vault_is_not_found(database: Database) -> None:
    stored = await store(database, b"bytes")
    with pytest.raises(AttachmentNotFound):
        await database.read(get_attachment, EVIL, attachment_id=stored.attachment_id)
    with pytest.raises(AttachmentNotFound):
        await database.read(get_chunk, EVIL, attachment_id=stored.attachment_id, number=0)
    content = (ImageBlock(stored.attachment_id, "image/png", 0, ""),)
    with pytest.raises(AttachmentNotFound):
        await database.read(describe_attachments, EVIL, content=content)
    with pytest.raises(AttachmentNotFound):
        await database.read(read_chunk, EVIL, attachment_id=stored.attachment_id, number=0)
    assert await database.read(sendable_attachments, EVIL, attachment_ids=[stored.attachment_id]) == {}


async def test_blocks_in_tool_results_are_described(database: Database) -> None:
    image, text = await store(database, b"image"), await store(database, b"text", "text/plain")
    shown = ImageBlock(image.attachment_id, "image/png", 0, "")
    document = DocumentBlock(text.attachment_id, "text/plain", 0, "")
    content: Content = (ToolResultBlock("t", (TextBlock("a"), document), False), shown, TextBlock("b"))
    assert await database.read(describe_attachments, ACME, content=content) == (
        ToolResultBlock("t", (TextBlock("a"), DocumentBlock(text.attachment_id, "text/plain", 4, text.sha256)), False),
        ImageBlock(image.attachment_id, "image/png", 5, image.sha256),
        TextBlock("b"),
    )


@pytest.mark.parametrize("size", [1, 2 * CHUNK_BYTES])
async def test_blocks_are_described_with_the_pages_of_their_document(database: Database, size: int) -> None:
    upload = Upload.of("application/pdf", b"x" * size, pages=7)
    # The first chunk of one with several is stored by itself.
    await database.write(stage_upload, ACME, upload=upload, hash_key=KEY, now=1)
    stored = await database.write(create_attachment, ACME, upload=upload, hash_key=KEY, now=1)
    block = DocumentBlock(stored.attachment_id, "application/pdf", 0, "")
    described = DocumentBlock(stored.attachment_id, "application/pdf", size, stored.sha256, pages=7)
    assert await database.read(describe_attachments, ACME, content=(block,)) == (described,)
    assert decode_content(encode_content((described,))) == (described,)


async def test_what_is_known_of_an_attachment_is_that_of_its_last_upload(database: Database) -> None:
    # As by a server that did not know it yet.
    stored = await store(database, b"bytes")
    await database.write(
        create_attachment, ACME, upload=Upload.of("image/png", b"bytes", longest_side=8, pages=7), hash_key=KEY, now=2
    )
    again = await database.read(get_attachment, ACME, attachment_id=stored.attachment_id)
    assert (stored.longest_side, stored.pages, again.longest_side, again.pages) == (0, 0, 8, 7)


async def test_a_block_must_match_its_upload(database: Database) -> None:
    stored = await store(database, b"bytes")
    for block in (
        ImageBlock(stored.attachment_id, "image/gif", 0, ""),
        DocumentBlock(stored.attachment_id, "text/plain", 0, ""),
    ):
        with pytest.raises(AttachmentTypeMismatch):
            await database.read(describe_attachments, ACME, content=(block,))
        with pytest.raises(AttachmentTypeMismatch):
            await database.read(describe_attachments, ACME, content=(ToolResultBlock("t", (block,), False),))


async def test_an_attachment_is_deleted_with_the_last_message_that_uses_it(database: Database) -> None:
    once, twice = await store(database, b"once"), await store(database, b"twice")
    await use(database, "ses_1", "msg_1", once, twice, twice)
    await use(database, "ses_1", "msg_2", twice)
    assert await rows(database) == (2, 2, 3)
    await database.write(release_message, ACME, session_id="ses_1", message_id="msg_1", now=NOW)
    await is_hidden(database, once)
    await erase(database)
    assert await rows(database) == (1, 1, 1)
    assert await is_there(database, twice)
    await database.write(release_message, ACME, session_id="ses_1", message_id="msg_1", now=NOW)
    await database.write(release_message, ACME, session_id="ses_1", message_id="msg_2", now=NOW)
    await erase(database)
    assert await rows(database) == (0, 0, 0)


async def test_an_attachment_is_erased_a_chunk_a_step(database: Database) -> None:
    stored = await store(database, b"x" * (2 * CHUNK_BYTES + 1))
    await use(database, "ses_1", "msg_1", stored)
    await database.write(release_message, ACME, session_id="ses_1", message_id="msg_1", now=NOW)
    left = []
    while await erase_next(database):
        left.append(await rows(database))
    assert left == [(1, 2, 0), (1, 1, 0), (0, 0, 0)]


@pytest.mark.parametrize("steps", range(4))
async def test_an_attachment_that_is_being_erased_can_be_uploaded_again(database: Database, steps: int) -> None:
    data = b"0" * CHUNK_BYTES + b"1" * CHUNK_BYTES + b"2"
    stored = await store(database, data)
    await use(database, "ses_1", "msg_1", stored)
    await database.write(release_message, ACME, session_id="ses_1", message_id="msg_1", now=NOW)
    for _ in range(steps):
        await erase_next(database)
    await is_hidden(database, stored)
    again = await store(database, data)
    await erase(database)
    assert again.attachment_id == stored.attachment_id
    assert await bytes_of(database, stored) == data


async def test_unused_attachments_are_pruned_by_the_time_of_their_last_upload(database: Database) -> None:
    old, again, used, new = [await store(database, data) for data in (b"old", b"again", b"used", b"new")]
    await use(database, "ses_1", "msg_1", used)
    await store(database, b"again", now=10)
    await store(database, b"used", now=2)
    await store(database, b"new", now=11)
    assert await prune(database, before=10) == 2
    await erase(database)
    assert [await is_there(database, one) for one in (old, again, used, new)] == [False, True, True, True]
    assert await prune(database, before=12) == 2
    await erase(database)
    assert await rows(database) == (1, 1, 1)


async def test_pruning_deletes_a_few_at_a_time_oldest_first_in_every_vault(database: Database) -> None:
    for number in range(3):
        await store(database, b"%d" % number, now=number)
        await store(database, b"%d" % number, scope=EVIL, now=number)
    assert [await prune(database, before=100, limit=4) for _ in range(3)] == [4, 2, 0]
    await erase(database)
    assert (await rows(database), await rows(database, EVIL)) == ((0, 0, 0), (0, 0, 0))


async def stage(database: Database, upload: Upload) -> int:
    """Stages an upload to its end, and returns the number of steps."""
    steps = 1
    while await database.write(stage_upload, ACME, upload=upload, hash_key=KEY, now=NOW):
        steps += 1
    return steps


async def test_an_upload_is_stored_in_steps_and_hidden_until_the_last(database: Database) -> None:
    upload = Upload.of("image/png", b"0" * CHUNK_BYTES + b"1" * CHUNK_BYTES + b"2")
    assert await stage(database, upload) == 2
    assert await rows(database) == (1, 2, 0)
    with pytest.raises(AttachmentNotFound):
        await database.read(get_attachment, ACME, attachment_id=upload.attachment_id)
    # Interrupted and begun again, it continues.
    assert await stage(database, upload) == 1
    stored = await store(database, upload.data, now=NOW)
    await erase(database)
    assert await bytes_of(database, stored) == upload.data


async def test_an_upload_that_is_abandoned_is_erased_after_an_hour(database: Database) -> None:
    upload = Upload.of("image/png", bytes(2 * CHUNK_BYTES))
    await stage(database, upload)
    for hours, found in ((0, False), (2, True)):
        now = NOW + hours * 3_600_000_000
        erasure = await database.read_system(find_erasure, server_scope(), after="", now=now)
        assert (erasure is not None) == found
    await erase(database)
    assert await rows(database) == (0, 0, 0)
