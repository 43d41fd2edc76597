"""Attachments of exports, which are in a file as a whole or not at all."""

from typing import Any

import pytest
from metamorph_client.chat.v1 import message_pb2
from metamorph_client.chat.v1.chat_service_pb2 import DeleteSessionRequest
from metamorphd.store.database import Transaction
from metamorphd.store.exports import read_records
from metamorphd.transfers import pages

from tests.support.caller import Caller
from tests.support.exports import comparable, export, exported, import_, of_kind, records
from tests.support.rows import scope_of
from tests.support.serving import Serving

CHUNKS = 4


async def sent(caller: Caller, text: bytes, *, size: int = CHUNKS << 20) -> tuple[str, str]:
    """Sends a document in a session of its own, and returns the IDs of both, the session's first."""
    attachment = await caller.upload((text * size)[:size], "text/plain")
    block = message_pb2.DocumentBlock(attachment_id=attachment.attachment_id, media_type="text/plain")
    session = await caller.create_session()
    await caller.send(session.session_id, content=[message_pb2.ContentBlock(document=block)])
    return session.session_id, attachment.attachment_id


def attachments(data: bytes) -> dict[str, int]:
    """Returns how many chunks the attachments of an export have."""
    chunks = [record["attachment_id"] for record in of_kind(data, "attachment_chunk")]
    return {record["attachment_id"]: chunks.count(record["attachment_id"]) for record in of_kind(data, "attachment")}


def when_missing(
    running: Serving, patch: pytest.MonkeyPatch, attachment_id: str, missing: int, change: Any
) -> list[int]:
    """Has something change once so many chunks of an attachment are not read yet. Returns what counts the changes."""
    database, changes = running.server._database, list[int]()
    read = database.read

    async def read_after(operation: Any, scope: Any, **arguments: Any) -> Any:
        if operation is read_records and not changes:
            position = arguments["position"]
            if position.after == (attachment_id,) and position.missing == missing:
                changes.append(missing)
                await change()
        return await read(operation, scope, **arguments)

    patch.setattr(database, "read", read_after)
    return changes


@pytest.mark.parametrize("missing", [CHUNKS - 1, 1])
async def test_one_that_is_erased_while_it_is_read_is_left_out_of_the_file(
    alice: Caller, running: Serving, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    sessions = {attachment: session for session, attachment in [await sent(alice, text) for text in (b"a", b"b", b"c")]}
    kept, deleted, after = sorted(sessions)

    async def erase() -> None:
        request = DeleteSessionRequest(session_id=sessions[deleted])
        await alice.chat.DeleteSession(request, metadata=alice.metadata)
        await running.erased()

    changes = when_missing(running, monkeypatch, deleted, missing, erase)
    responses = [response async for response in export(alice)]
    data = b"".join(response.data for response in responses)
    assert (changes, attachments(data)) == ([missing], {kept: CHUNKS, after: CHUNKS})
    assert records(data)[-1]["counts"]["attachment_chunk"] == 2 * CHUNKS
    # Who read while it was written has the bytes of the file.
    assert await exported(alice, export_id=responses[0].export.export_id) == data
    bob = running.caller(vault="other")
    await import_(bob, data)
    assert comparable(await exported(bob)) == comparable(data)


async def test_one_that_is_deleted_and_sent_again_while_it_is_read_is_whole(
    alice: Caller, running: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, attachment = await sent(alice, b"a")

    async def send_again() -> None:
        request = DeleteSessionRequest(session_id=session)
        await alice.chat.DeleteSession(request, metadata=alice.metadata)
        await running.erased()
        await sent(alice, b"a")

    changes = when_missing(running, monkeypatch, attachment, 2, send_again)
    data = await exported(alice)
    assert (changes, attachments(data)) == ([2], {attachment: CHUNKS})
    await import_(running.caller(vault="other"), data)


@pytest.mark.parametrize("page_bytes", [300, 3 << 20, 100 << 20])
async def test_one_of_which_a_part_is_missing_is_left_out_whatever_a_page_has(
    alice: Caller, running: Serving, monkeypatch: pytest.MonkeyPatch, page_bytes: int
) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES", page_bytes)
    small, large = (await sent(alice, b"s", size=100))[1], (await sent(alice, b"l"))[1]
    # By ID, the first of them follows the large one.
    missing = {b"k": (1, 2, 3), b"i": (0,), b"g": (2,)}

    async def damage(tx: Transaction, *, attachment_id: str, number: int) -> None:
        statement = (
            "DELETE FROM attachment_chunks WHERE vault_id = :vault_id AND attachment_id = :id AND number = :number"
        )
        await tx.run(statement, id=attachment_id, number=number)

    for text, numbers in missing.items():
        _, damaged = await sent(alice, text)
        assert damaged > large
        for number in numbers:
            await running.server._database.write(damage, scope_of("acme"), attachment_id=damaged, number=number)
    data = await exported(alice)
    assert attachments(data) == {small: 1, large: CHUNKS}
    await import_(running.caller(vault="other"), data)
