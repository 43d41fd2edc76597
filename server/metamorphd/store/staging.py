"""The rows of an import that is not complete: hidden, as deleted sessions are.

A session that is staged has a delete_time of STAGED, which no deletion has. Its row in `staged_records` has what it
will show.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from metamorphd.models.content import text_of
from metamorphd.models.imports import Line, Refused
from metamorphd.models.message import BranchMessage, Role
from metamorphd.store.codec import decode_content
from metamorphd.store.database import SqlValue, Transaction, grows
from metamorphd.store.links import CREATE_LINK, CREATE_ROOT_LINK
from metamorphd.store.search.postings import index_message
from metamorphd.store.storage import require_storage

STAGED = 0

STAGE_RECORD = """
INSERT INTO staged_records (vault_id, number, kind, record) VALUES (:vault_id, :number, :kind, :record)
"""
FIND_SESSION = """
SELECT delete_time FROM sessions WHERE vault_id = :vault_id AND session_id = :session_id
"""
STAGE_SESSION = """
INSERT INTO sessions (vault_id, session_id, title, model, system_prompt, metadata, labels, recall_tokens, memory_tool,
    archived, creator, message_count, create_time, update_time, last_activity_time, revision, delete_time)
VALUES (:vault_id, :session_id, :title, :model, :system_prompt, :metadata, :labels, :recall_tokens, :memory_tool,
    -1, '', 0, :create_time, :update_time, -1, 1, 0)
"""
COUNT_MESSAGE = """
UPDATE sessions SET message_count = message_count + 1, current_leaf_message_id = :message_id,
    last_message_time = :create_time
WHERE vault_id = :vault_id AND session_id = :session_id AND delete_time = 0
RETURNING message_count
"""
FIND_MESSAGE = "SELECT session_id FROM messages WHERE vault_id = :vault_id AND message_id = :message_id"
FIND_TURN = "SELECT session_id FROM turns WHERE vault_id = :vault_id AND turn_id = :turn_id"
STAGE_MESSAGE = """
INSERT INTO messages (vault_id, message_id, session_id, ordinal, parent_message_id, role, content, size, turn_id,
    creator, model, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd_nanos, estimated,
    create_time, delete_time, partial, refused, rejected)
VALUES (:vault_id, :message_id, :session_id, :ordinal, :parent_message_id, :role, :content, :size, :turn_id,
    :creator, :model, :input_tokens, :output_tokens, :cache_read_tokens, :cache_write_tokens, :cost_usd_nanos,
    :estimated, :create_time, :delete_time, :partial, :refused, :rejected)
"""
STAGE_TURN = """
INSERT INTO turns (vault_id, turn_id, session_id, user_message_id, reply_message_id, status, stop_reason, stop_details,
    error, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd_nanos, estimated, model,
    model_calls, last_sequence, options, labels, creator, create_time, finish_time, pruned)
VALUES (:vault_id, :turn_id, :session_id, :user_message_id, :reply_message_id, :status, :stop_reason, :stop_details,
    :error, :input_tokens, :output_tokens, :cache_read_tokens, :cache_write_tokens, :cost_usd_nanos, :estimated, :model,
    :model_calls, :last_sequence, :options, :labels, :creator, :create_time, :finish_time, 2)
"""
# One that the vault has already stays as it is.
STAGE_ATTACHMENT = """
INSERT INTO attachments (vault_id, attachment_id, media_type, size, sha256, create_time, upload_time, longest_side,
    pages, rejected)
VALUES (:vault_id, :attachment_id, :media_type, :size, :sha256, :create_time, NULL, :longest_side, :pages, :rejected)
ON CONFLICT (vault_id, attachment_id) DO NOTHING
"""
# As long as it is staged, so that it is not erased before its messages are there.
HOLD_ATTACHMENT = """
INSERT INTO attachment_uses (vault_id, attachment_id, message_id, session_id)
VALUES (:vault_id, :attachment_id, '', '')
ON CONFLICT (vault_id, attachment_id, message_id) DO NOTHING
"""
STAGE_CHUNK = """
INSERT INTO attachment_chunks (vault_id, attachment_id, number, data)
VALUES (:vault_id, :attachment_id, :number, :data)
ON CONFLICT (vault_id, attachment_id, number) DO NOTHING
"""
# Of those that are there: one that was deleted while the export was written is not.
USE_ATTACHMENTS = """
INSERT INTO attachment_uses (vault_id, attachment_id, message_id, session_id)
SELECT vault_id, attachment_id, :message_id, :session_id FROM attachments
WHERE vault_id = :vault_id AND attachment_id IN (SELECT value FROM json_each(:attachment_ids))
ON CONFLICT (vault_id, attachment_id, message_id) DO NOTHING
"""


@grows
async def stage_session(tx: Transaction, *, line: Line, storage_limit: int) -> bool:
    """Stages a session without messages, unless the vault has it. Returns whether it did.

    Raises Refused if it is being erased, and StorageQuotaExceeded.
    """
    record = line.record
    found = await tx.one(FIND_SESSION, session_id=record["session_id"])
    if found is not None:
        if found.delete_time == STAGED:
            raise Refused(line.number, "id_taken", "there is another session with this ID")
        if found.delete_time is not None:
            raise Refused(line.number, "being_erased", "the session was deleted, and is being erased; try again later")
        return False
    await require_storage(tx, added_bytes=line.size, default_limit=storage_limit)
    await tx.run(
        STAGE_SESSION,
        **_values(record, "session_id", "title", "model", "system_prompt", "create_time", "update_time"),
        **_values(record, "recall_tokens", "memory_tool"),
        metadata=_sorted(record["metadata"]),
        labels=_sorted(record["labels"]),
    )
    await _stage(tx, line)
    return True


@grows
async def stage_messages(tx: Transaction, *, session_id: str, lines: Sequence[Line], storage_limit: int) -> None:
    """Stages messages and turns of a staged session. Raises Refused, StorageQuotaExceeded."""
    await require_storage(tx, added_bytes=sum(line.size for line in lines), default_limit=storage_limit)
    for line in lines:
        if line.record["session_id"] != session_id:
            raise Refused(line.number, "order", f"the {line.kind} does not follow its session")
        await (_stage_message if line.kind == "message" else _stage_turn)(tx, line)


async def _stage_message(tx: Transaction, line: Line) -> None:
    record = line.record
    message_id, parent_id = record["message_id"], record["parent_message_id"]
    if await tx.one(FIND_MESSAGE, message_id=message_id) is not None:
        raise Refused(line.number, "id_taken", "the vault has another message with this ID")
    counted = await tx.one(COUNT_MESSAGE, **_values(record, "message_id", "session_id", "create_time"))
    if counted is None:
        raise Refused(line.number, "order", "the session is not staged")
    if parent_id is not None:
        await _require_message(tx, line, "parent_message_id")
    content = _json([] if record["delete_time"] is not None else record["content"])
    size = len(content.encode())
    tokens = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cost_usd_nanos", "estimated")
    await tx.run(
        STAGE_MESSAGE,
        **_values(record, "message_id", "session_id", "parent_message_id", "role", "turn_id", "creator", "model"),
        **_values(record, *tokens, "create_time", "delete_time", "partial", "refused", "rejected"),
        ordinal=counted.message_count,
        content=content,
        size=size,
    )
    decoded = decode_content(content)
    await _link(tx, record, BranchMessage(message_id, Role(record["role"]), decoded, is_root=parent_id is None), size)
    ids = [block["attachment_id"] for block in _blocks(record["content"]) if "attachment_id" in block]
    if ids and record["delete_time"] is None:
        await tx.run(USE_ATTACHMENTS, attachment_ids=_json(ids), **_values(record, "message_id", "session_id"))
    await index_message(tx, session_id=record["session_id"], message_id=message_id, text=text_of(decoded))


def _blocks(content: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [part for block in content for part in (block["content"] if block["type"] == "tool_result" else [block])]


async def _link(tx: Transaction, record: Mapping[str, Any], message: BranchMessage, size: int) -> None:
    deleted = record["delete_time"] is not None
    link: dict[str, SqlValue] = {
        "message_id": message.message_id,
        "size": size,
        "opens": message.opens_prompt and not deleted,
        "summarizes": message.summarizes and not (deleted or record["refused"] or record["rejected"]),
    }
    if message.is_root:
        await tx.run(CREATE_ROOT_LINK, session_id=record["session_id"], **link)
    else:
        await tx.run(CREATE_LINK, parent_message_id=record["parent_message_id"], **link)


async def _require_message(tx: Transaction, line: Line, field: str) -> None:
    found = await tx.one(FIND_MESSAGE, message_id=line.record[field])
    if found is None or found.session_id != line.record["session_id"]:
        raise Refused(line.number, "parent", f"{line.kind}.{field} is no message of the session before it")


async def _stage_turn(tx: Transaction, line: Line) -> None:
    record = line.record
    if await tx.one(FIND_TURN, turn_id=record["turn_id"]) is not None:
        raise Refused(line.number, "id_taken", "the vault has another turn with this ID")
    await _require_message(tx, line, "user_message_id")
    if record["reply_message_id"] is not None:
        await _require_message(tx, line, "reply_message_id")
    tokens = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cost_usd_nanos", "estimated")
    await tx.run(
        STAGE_TURN,
        **_values(record, "turn_id", "session_id", "user_message_id", "reply_message_id", "status", "stop_reason"),
        **_values(record, *tokens, "model", "model_calls", "last_sequence", "creator", "create_time", "finish_time"),
        stop_details=_json_or_null(record["stop_details"]),
        error=_json_or_null(record["error"]),
        options=_json(record["options"]),
        labels=_sorted(record["labels"]),
    )


@grows
async def stage_attachment(tx: Transaction, *, line: Line, storage_limit: int) -> bool:
    """Stages an attachment without its bytes, and keeps what the vault has of it. Returns whether the vault had none.

    Raises StorageQuotaExceeded.
    """
    record = line.record
    await require_storage(tx, added_bytes=record["size"], default_limit=storage_limit)
    stored = await tx.run(
        STAGE_ATTACHMENT,
        **_values(record, "attachment_id", "media_type", "size", "sha256", "create_time", "longest_side", "pages"),
        rejected=record["rejected"],
    )
    await tx.run(HOLD_ATTACHMENT, attachment_id=record["attachment_id"])
    await _stage(tx, line)
    return bool(stored)


@grows
async def stage_chunk(tx: Transaction, *, line: Line, data: bytes) -> bool:
    """Stages the bytes of a chunk, unless the vault has them. Returns whether it did."""
    return bool(await tx.run(STAGE_CHUNK, **_values(line.record, "attachment_id", "number"), data=data))


@grows
async def stage_records(tx: Transaction, *, lines: Sequence[Line], storage_limit: int) -> None:
    """Stages records that are stored once the import is complete. Raises StorageQuotaExceeded."""
    await require_storage(tx, added_bytes=sum(line.size for line in lines), default_limit=storage_limit)
    for line in lines:
        await _stage(tx, line)


async def _stage(tx: Transaction, line: Line) -> None:
    await tx.run(STAGE_RECORD, number=line.number, kind=line.kind, record=_json(line.record))


def _values(record: Mapping[str, Any], *names: str) -> dict[str, SqlValue]:
    return {name: record[name] for name in names}


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _sorted(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _json_or_null(value: object) -> str | None:
    return None if value is None else _json(value)
