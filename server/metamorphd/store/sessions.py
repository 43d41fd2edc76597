"""Sessions."""

from collections.abc import Mapping

import orjson

from metamorphd.errors import EtagMismatch, SessionNotFound
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.models.changes import changed
from metamorphd.models.session import Session, SessionChanges
from metamorphd.store.changes import append_change
from metamorphd.store.database import Row, SqlValue, Transaction, grows, point_read
from metamorphd.store.erasures import Resource, queue_erasure
from metamorphd.store.idempotency import IdempotencyKey, claim_request
from metamorphd.store.labels import decode_labels, encode_labels, labels_size
from metamorphd.store.storage import require_storage
from metamorphd.store.vaults import create_vault

COLUMNS = """
    session_id, title, model, system_prompt, metadata, labels, archived, creator, message_count,
    current_leaf_message_id,
    (SELECT string_agg(turn_id, ',') FROM turns
     WHERE turns.vault_id = :vault_id AND turns.session_id = sessions.session_id AND turns.status = 'RUNNING'
    ) AS running_turn_ids,
    create_time, update_time, last_message_time, revision, recall_tokens, memory_tool
"""

# From the vault's row, so that a missing vault shows as a missing session and costs no statement otherwise.
CREATE_SESSION = (
    """
INSERT INTO sessions (vault_id, session_id, title, model, system_prompt, metadata, labels, archived, creator,
    message_count, create_time, update_time, last_activity_time, revision, recall_tokens,
    memory_tool)
SELECT vault_id, :session_id, :title, :model, :system_prompt, :metadata, :labels, :archived, :creator, 0, :now, :now,
    :now, 1, :recall_tokens, :memory_tool
FROM vaults WHERE vault_id = :vault_id
RETURNING """
    + COLUMNS
    + """
"""
)
GET_SESSION = (
    "SELECT "
    + COLUMNS
    + " FROM sessions WHERE vault_id = :vault_id AND session_id = :session_id AND delete_time IS NULL"
)
GET_RECALL_TOKENS = """
SELECT recall_tokens FROM sessions WHERE vault_id = :vault_id AND session_id = :session_id AND delete_time IS NULL
"""
UPDATE_SESSION = """
UPDATE sessions
SET title = :title, model = :model, system_prompt = :system_prompt, metadata = :metadata, labels = :labels,
    archived = :archived, recall_tokens = :recall_tokens, memory_tool = :memory_tool,
    revision = revision + 1, update_time = :now
WHERE vault_id = :vault_id AND session_id = :session_id
"""
# Without a value by which a list finds it.
HIDE_SESSION = """
UPDATE sessions SET delete_time = :now, last_activity_time = -1, creator = '', archived = -1
WHERE vault_id = :vault_id AND session_id = :session_id
"""
END_TURNS = """
UPDATE turns SET status = 'CANCELLED', finish_time = :now
WHERE vault_id = :vault_id AND session_id = :session_id AND status = 'RUNNING'
"""
CREATE_PAIR = """
INSERT INTO session_metadata (vault_id, key, value, session_id) VALUES (:vault_id, :key, :value, :session_id)
"""
DELETE_PAIRS = "DELETE FROM session_metadata WHERE vault_id = :vault_id AND session_id = :session_id"


def encode_metadata(metadata: Mapping[str, str]) -> str:
    """Returns metadata as it is stored: a JSON object with sorted keys."""
    return orjson.dumps(dict(metadata), option=orjson.OPT_SORT_KEYS).decode()


def session_of(row: Row) -> Session:
    """Returns the session that a row of `COLUMNS` holds."""
    return Session(
        session_id=row.session_id,
        title=row.title,
        model=row.model,
        system_prompt=row.system_prompt,
        metadata=orjson.loads(row.metadata),
        labels=decode_labels(row.labels),
        archived=bool(row.archived),
        creator=row.creator,
        message_count=row.message_count,
        current_leaf_message_id=row.current_leaf_message_id,
        running_turn_ids=tuple(sorted(running.split(","))) if (running := row.running_turn_ids) else (),
        create_time=row.create_time,
        update_time=row.update_time,
        last_message_time=row.last_message_time,
        revision=row.revision,
        recall_tokens=row.recall_tokens,
        memory_tool=bool(row.memory_tool),
    )


@grows
async def create_session(
    tx: Transaction,
    *,
    session_id: str,
    title: str,
    model: str,
    system_prompt: str,
    metadata: Mapping[str, str],
    labels: Mapping[str, str],
    archived: bool,
    request: IdempotencyKey | None,
    hash_key: bytes,
    now: int,
    recall_tokens: int = 0,
    memory_tool: bool = False,
    storage_limit: int = 0,
) -> Session:
    """Creates a session, or returns the one that `request` created. Raises SessionNotFound if that one is deleted."""
    if request is not None:
        await create_vault(tx, hash_key=hash_key, now=now)
        made = await claim_request(tx, request=request, resource_id=session_id, now=now)
        if made != session_id:
            return await get_session(tx, session_id=made)
    added = _stored_bytes(title, system_prompt, metadata, labels)
    await require_storage(tx, added_bytes=added, default_limit=storage_limit)
    values: dict[str, SqlValue] = {
        "session_id": session_id,
        "title": title,
        "model": model,
        "system_prompt": system_prompt,
        "metadata": encode_metadata(metadata),
        "labels": encode_labels(labels),
        "archived": archived,
        "recall_tokens": recall_tokens,
        "memory_tool": memory_tool,
        "creator": tx.scope.actor.user_id,
        "now": now,
    }
    row = await tx.one(CREATE_SESSION, **values)
    if row is None:
        await create_vault(tx, hash_key=hash_key, now=now)
        row = await tx.one(CREATE_SESSION, **values)
    if row is None:
        raise RuntimeError("a vault that was just made is missing")
    await _create_pairs(tx, session_id=session_id, metadata=metadata)
    await append_session_change(tx, session_id=session_id, verb=ChangeVerb.CREATED, now=now)
    return session_of(row)


async def append_session_change(tx: Transaction, *, session_id: str, verb: ChangeVerb, now: int) -> None:
    """Appends a change of a session to the vault's log."""
    await append_change(tx, resource=ChangedResource.SESSION, resource_id=session_id, verb=verb, now=now)


def _stored_bytes(title: str, system_prompt: str, metadata: Mapping[str, str], labels: Mapping[str, str]) -> int:
    """Returns what the schema counts for a session."""
    texts = (title, system_prompt, encode_metadata(metadata))
    return sum(len(text.encode()) for text in texts) + labels_size(labels)


async def _create_pairs(tx: Transaction, *, session_id: str, metadata: Mapping[str, str]) -> None:
    for key, value in metadata.items():
        await tx.run(CREATE_PAIR, session_id=session_id, key=key, value=value)


@point_read
async def get_recall_tokens(tx: Transaction, *, session_id: str) -> int:
    """Returns how many tokens of memories are put to a session's messages, 0 if there is no such session."""
    row = await tx.one(GET_RECALL_TOKENS, session_id=session_id)
    return 0 if row is None else int(row.recall_tokens)


@point_read
async def get_session(tx: Transaction, *, session_id: str) -> Session:
    """Reads one session. Raises SessionNotFound."""
    row = await tx.one(GET_SESSION, session_id=session_id)
    if row is None:
        raise SessionNotFound(session_id=session_id)
    return session_of(row)


@grows
async def update_session(
    tx: Transaction, *, session_id: str, changes: SessionChanges, etag: str, now: int, storage_limit: int = 0
) -> Session:
    """Changes fields of a session. Raises SessionNotFound, EtagMismatch.

    `etag` is the revision that must still be in force; empty is unconditional.
    """
    session = await get_session(tx, session_id=session_id)
    if etag and etag != str(session.revision):
        raise EtagMismatch
    new = changed(session, changes)
    added = _stored_bytes(new.title, new.system_prompt, new.metadata, new.labels)
    added -= _stored_bytes(session.title, session.system_prompt, session.metadata, session.labels)
    if added > 0:
        await require_storage(tx, added_bytes=added, default_limit=storage_limit)
    await tx.run(
        UPDATE_SESSION,
        session_id=session_id,
        title=new.title,
        model=new.model,
        system_prompt=new.system_prompt,
        metadata=encode_metadata(new.metadata),
        labels=encode_labels(new.labels),
        archived=new.archived,
        recall_tokens=new.recall_tokens,
        memory_tool=new.memory_tool,
        now=now,
    )
    if new.metadata != session.metadata:
        await tx.run(DELETE_PAIRS, session_id=session_id)
        await _create_pairs(tx, session_id=session_id, metadata=new.metadata)
    await append_session_change(tx, session_id=session_id, verb=ChangeVerb.UPDATED, now=now)
    return await get_session(tx, session_id=session_id)


async def delete_session(tx: Transaction, *, session_id: str, etag: str, now: int) -> None:
    """Hides a session with everything in it, which is erased later, and ends its turns.

    Raises SessionNotFound, EtagMismatch.
    """
    session = await get_session(tx, session_id=session_id)
    if etag and etag != str(session.revision):
        raise EtagMismatch
    await tx.run(HIDE_SESSION, session_id=session_id, now=now)
    await tx.run(DELETE_PAIRS, session_id=session_id)
    await tx.run(END_TURNS, session_id=session_id, now=now)
    await queue_erasure(tx, resource=Resource.SESSION, resource_id=session_id, now=now)
    await append_session_change(tx, session_id=session_id, verb=ChangeVerb.DELETED, now=now)
