"""What the engine does before a turn begins."""

import functools
from typing import Any

import pytest
from metamorph_client.chat.v1.message_pb2 import ContentBlock, ImageBlock
from metamorphd.chat import engine
from metamorphd.store.attachments import CHUNK_BYTES, chunk_count
from metamorphd.store.database import Transaction
from metamorphd.store.uploads import stage_upload

from tests.support.caller import Caller
from tests.support.media import FILES


async def test_an_attachment_in_a_message_is_written_in_several_transactions(
    alice: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    @functools.wraps(stage_upload)
    async def counted(tx: Transaction, **values: Any) -> bool:
        written.append(len(values["upload"].data))
        return await stage_upload(tx, **values)

    monkeypatch.setattr(engine, "stage_upload", counted)
    session = await alice.create_session()
    data = FILES["image/png"] + bytes(4 * CHUNK_BYTES)
    image = ContentBlock(image=ImageBlock(data=data, media_type="image/png"))
    await alice.send(session.session_id, content=[image])
    # The message is stored with the last chunk.
    assert written == [len(data)] * (chunk_count(len(data)) - 1)
    await alice.send(session.session_id, "Look")
    assert len(written) == chunk_count(len(data)) - 1
