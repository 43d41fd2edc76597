"""The bytes that a vault stores are counted whatever stores and deletes them."""

from dataclasses import replace
from typing import Any

import pytest
from metamorphd.errors import StorageQuotaExceeded
from metamorphd.models.attachment import Upload
from metamorphd.models.content import ImageBlock, TextBlock
from metamorphd.models.generation import Tool
from metamorphd.models.session import SessionChanges
from metamorphd.models.turn import StopDetails, StopReason, TurnError, TurnStatus
from metamorphd.store.attachments import CHUNK_BYTES
from metamorphd.store.database import Database, Transaction
from metamorphd.store.messages import delete_message
from metamorphd.store.sessions import delete_session, update_session
from metamorphd.store.storage import get_storage
from metamorphd.store.uploads import create_attachment

from tests.support.rows import ACME, CLOCK, KEY, TERMS, append, erase_next, finish, new_message, new_session, new_turn

IMAGES = [Upload.of("image/png", bytes([number]) * (CHUNK_BYTES + 1)) for number in range(2)]
# Of each table by itself.
STORED = """
SELECT
    (SELECT COALESCE(SUM(octet_length(content)), 0) FROM messages WHERE vault_id = :vault_id)
    + (SELECT COALESCE(SUM(size), 0) FROM attachments WHERE vault_id = :vault_id)
    + (SELECT COALESCE(SUM(octet_length(options)), 0) FROM turns WHERE vault_id = :vault_id AND options <> '{}')
    + (SELECT COALESCE(SUM(octet_length(error)), 0) + COALESCE(SUM(octet_length(stop_details)), 0)
       FROM turns WHERE vault_id = :vault_id)
    + (SELECT COALESCE(SUM(octet_length(title) + octet_length(system_prompt) + octet_length(metadata)), 0)
       FROM sessions WHERE vault_id = :vault_id) AS stored_bytes
"""


async def recount(tx: Transaction) -> int:
    row = await tx.one(STORED)
    return -1 if row is None else int(row.stored_bytes)


async def counted(database: Database) -> int:
    """Returns the bytes stored, which are those that a count from the rows gives."""
    stored = (await database.read(get_storage, ACME, default_limit=0)).stored_bytes
    assert stored == await database.read(recount, ACME)
    return stored


async def upload(database: Database, image: Upload) -> Any:
    await database.write(create_attachment, ACME, upload=image, hash_key=KEY, now=CLOCK.now())
    return ImageBlock(image.attachment_id, image.media_type, len(image.data), image.sha256)


async def send(database: Database, session_id: str, *content: Any) -> str:
    """Stores a message with its reply, and returns its ID."""
    turn = await new_turn(database, session_id, message=new_message(session_id, content=content))
    await append(database, turn, "Antwort ", "mit Umlauten: äöü")
    await finish(database, turn)
    return turn.user_message_id


async def test_tools_that_are_kept_from_turn_to_turn_are_counted_with_each(database: Database) -> None:
    session = await new_session(database)
    tools: tuple[Tool, ...] | None = (Tool("a", "x" * 1000, "{}"),)
    for _ in range(3):
        before = await counted(database)
        turn = await new_turn(database, session.session_id, tools=tools)
        tools = None
        await finish(database, turn)
        assert await counted(database) > before + 1000
    full = await counted(database) + 500
    with pytest.raises(StorageQuotaExceeded):
        await new_turn(database, session.session_id, terms=replace(TERMS, storage_limit=full))
    await database.write(delete_session, ACME, session_id=session.session_id, etag="", now=CLOCK.now())
    while await erase_next(database):
        pass
    assert await counted(database) == 0


async def test_why_turns_ended_is_counted_until_they_are_erased(database: Database) -> None:
    session = await new_session(database)
    for end in (
        {"status": TurnStatus.FAILED, "error": TurnError("INTERNAL", "x" * 1000)},
        {"stop_reason": StopReason.REFUSAL, "stop_details": StopDetails("", "ü" * 500)},
    ):
        before = await counted(database)
        await finish(database, await new_turn(database, session.session_id), **end)
        assert await counted(database) > before + 1000
    await database.write(delete_session, ACME, session_id=session.session_id, etag="", now=CLOCK.now())
    while await erase_next(database):
        pass
    assert await counted(database) == 0


async def test_what_is_stored_and_erased_is_counted_step_by_step(database: Database) -> None:
    await new_session(database, title="Größe", metadata={"a": "ß"})
    alone = await counted(database)
    assert alone == len("Größe".encode()) + len('{"a":"ß"}'.encode())
    session = await new_session(database, system_prompt="x" * 1000)
    blocks = [await upload(database, image) for image in IMAGES]
    messages = [await send(database, session.session_id, TextBlock("Grüße"), block) for block in blocks]
    await database.write(
        update_session, ACME, session_id=session.session_id, changes=SessionChanges(title="y"), etag="", now=1
    )
    full = await counted(database)
    assert full > sum(len(image.data) for image in IMAGES)
    await database.write(delete_message, ACME, message_id=messages[0], now=CLOCK.now())
    # It takes up space until it is erased.
    assert await counted(database) == full
    await database.write(delete_session, ACME, session_id=session.session_id, etag="", now=CLOCK.now())
    before = full
    # One image is uploaded again while it is being erased, and stays.
    assert await erase_next(database)
    await upload(database, IMAGES[0])
    while await erase_next(database):
        assert await counted(database) <= before + len(IMAGES[0].data)
    assert await counted(database) == alone + len(IMAGES[0].data)
