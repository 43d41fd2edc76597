"""Sessions."""

from collections.abc import Mapping

import orjson

from metamorphd.errors import EtagMismatch, SessionNotFound
from metamorphd.models.changes import changed
from metamorphd.models.page import Page
from metamorphd.models.session import Session, SessionChanges
from metamorphd.store.attachments import release_session
from metamorphd.store.database import Row, SqlValue, Transaction, point_read
from metamorphd.store.idempotency import IdempotencyKey, claim_request
from metamorphd.store.paging import page_of
from metamorphd.store.vaults import create_vault

COLUMNS = """
    session_id, title, model, system_prompt, metadata, archived, creator, message_count, current_leaf_message_id,
    (SELECT string_agg(turn_id, ',') FROM turns
     WHERE turns.vault_id = :vault_id AND turns.session_id = sessions.session_id AND turns.status = 'RUNNING'
    ) AS running_turn_ids,
    create_time, update_time, last_message_time, revision
"""

# From the vault's row, so that a missing vault shows as a missing session and costs no statement otherwise.
CREATE_SESSION = (
    """
INSERT INTO sessions (vault_id, session_id, title, model, system_prompt, metadata, archived, creator, message_count,
    create_time, update_time, last_activity_time, revision)
SELECT vault_id, :session_id, :title, :model, :system_prompt, :metadata, :archived, :creator, 0, :now, :now, :now, 1
FROM vaults WHERE vault_id = :vault_id
RETURNING """
    + COLUMNS
    + """
"""
)
GET_SESSION = "SELECT " + COLUMNS + " FROM sessions WHERE vault_id = :vault_id AND session_id = :session_id"
# A page ends before its first session beyond :max_size bytes. `candidate_count` shows whether more would follow.
LIST_SESSIONS = (
    """
WITH candidates AS (
    SELECT session_id AS id, last_activity_time AS activity,
        octet_length(system_prompt) + octet_length(metadata) + octet_length(title) + 512 AS size
    FROM sessions
    WHERE vault_id = :vault_id
        AND (last_activity_time, session_id) < (:after_time, :after_id)
        AND (:archived IS NULL OR archived = :archived)
        AND (:creator IS NULL OR creator = :creator)
        AND (:pair1 IS NULL OR replace(metadata, :pair1, '') <> metadata)
        AND (:pair2 IS NULL OR replace(metadata, :pair2, '') <> metadata)
        AND (:pair3 IS NULL OR replace(metadata, :pair3, '') <> metadata)
        AND (:pair4 IS NULL OR replace(metadata, :pair4, '') <> metadata)
    ORDER BY last_activity_time DESC, session_id DESC
    LIMIT :page_size + 1
), page AS (
    SELECT id, SUM(size) OVER (ORDER BY activity DESC, id DESC) - size AS before, COUNT(*) OVER () AS candidate_count
    FROM candidates
)
SELECT """
    + COLUMNS
    + """, last_activity_time, candidate_count
FROM page JOIN sessions ON vault_id = :vault_id AND session_id = id
WHERE before < :max_size
ORDER BY last_activity_time DESC, session_id DESC
"""
)
UPDATE_SESSION = """
UPDATE sessions
SET title = :title, model = :model, system_prompt = :system_prompt, metadata = :metadata, archived = :archived,
    revision = revision + 1, update_time = :now
WHERE vault_id = :vault_id AND session_id = :session_id
"""
DELETE_EVENTS = """
DELETE FROM events
WHERE vault_id = :vault_id AND turn_id IN
    (SELECT turn_id FROM turns WHERE vault_id = :vault_id AND session_id = :session_id)
"""
DELETE_SESSION = "DELETE FROM sessions WHERE vault_id = :vault_id AND session_id = :session_id"

# Above every time, so that the first page begins at the newest session.
END_OF_TIME = 2**62


def _metadata(metadata: Mapping[str, str]) -> str:
    return orjson.dumps(dict(metadata), option=orjson.OPT_SORT_KEYS).decode()


def _pair(key: str, value: str) -> str:
    """The pair as `_metadata` writes it. A value's own quotes are escaped there, so this text occurs as a pair only."""
    return _metadata({key: value})[1:-1]


def _session(row: Row) -> Session:
    return Session(
        session_id=row.session_id,
        title=row.title,
        model=row.model,
        system_prompt=row.system_prompt,
        metadata=orjson.loads(row.metadata),
        archived=bool(row.archived),
        creator=row.creator,
        message_count=row.message_count,
        current_leaf_message_id=row.current_leaf_message_id,
        running_turn_ids=tuple(sorted(running.split(","))) if (running := row.running_turn_ids) else (),
        create_time=row.create_time,
        update_time=row.update_time,
        last_message_time=row.last_message_time,
        revision=row.revision,
    )


async def create_session(
    tx: Transaction,
    *,
    session_id: str,
    title: str,
    model: str,
    system_prompt: str,
    metadata: Mapping[str, str],
    archived: bool,
    request: IdempotencyKey | None,
    hash_key: bytes,
    now: int,
) -> Session:
    """Creates a session, or returns the one that `request` created. Raises SessionNotFound if that one is deleted."""
    if request is not None:
        await create_vault(tx, hash_key=hash_key, now=now)
        made = await claim_request(tx, request=request, resource_id=session_id, now=now)
        if made != session_id:
            return await get_session(tx, session_id=made)
    values: dict[str, SqlValue] = {
        "session_id": session_id,
        "title": title,
        "model": model,
        "system_prompt": system_prompt,
        "metadata": _metadata(metadata),
        "archived": archived,
        "creator": tx.scope.actor.user_id,
        "now": now,
    }
    row = await tx.one(CREATE_SESSION, **values)
    if row is None:
        await create_vault(tx, hash_key=hash_key, now=now)
        row = await tx.one(CREATE_SESSION, **values)
    if row is None:
        raise RuntimeError("a vault that was just made is missing")
    return _session(row)


@point_read
async def get_session(tx: Transaction, *, session_id: str) -> Session:
    """Reads one session. Raises SessionNotFound."""
    row = await tx.one(GET_SESSION, session_id=session_id)
    if row is None:
        raise SessionNotFound(session_id=session_id)
    return _session(row)


async def list_sessions(
    tx: Transaction,
    *,
    after: tuple[int | str, ...] | None,
    page_size: int,
    max_size: int,
    archived: bool | None,
    creator: str | None,
    metadata: Mapping[str, str],
) -> Page[Session]:
    """Newest activity first; `after` is (microseconds, session id). At most 4 metadata pairs, all of which must match.

    A page holds at most `page_size` sessions, and of more than one at most `max_size` bytes plus the last one.
    """
    after_time, after_id = after or (END_OF_TIME, "")
    pairs: dict[str, SqlValue] = {f"pair{number}": None for number in range(1, 5)}
    pairs |= {f"pair{number}": _pair(*pair) for number, pair in enumerate(metadata.items(), 1)}
    rows = await tx.all(
        LIST_SESSIONS,
        after_time=after_time,
        after_id=after_id,
        archived=archived,
        creator=creator,
        page_size=page_size,
        max_size=max_size,
        **pairs,
    )
    return page_of(rows, page_size, item=_session, after=lambda row: (row.last_activity_time, row.session_id))


async def update_session(tx: Transaction, *, session_id: str, changes: SessionChanges, etag: str, now: int) -> Session:
    """Changes fields of a session. Raises SessionNotFound, EtagMismatch.

    `etag` is the revision that must still be in force; empty is unconditional.
    """
    session = await get_session(tx, session_id=session_id)
    if etag and etag != str(session.revision):
        raise EtagMismatch
    new = changed(session, changes)
    await tx.run(
        UPDATE_SESSION,
        session_id=session_id,
        title=new.title,
        model=new.model,
        system_prompt=new.system_prompt,
        metadata=_metadata(new.metadata),
        archived=new.archived,
        now=now,
    )
    return await get_session(tx, session_id=session_id)


async def delete_session(tx: Transaction, *, session_id: str, etag: str) -> None:
    """Removes a session with its messages, their attachments, turns and events. Raises as `update_session` does."""
    session = await get_session(tx, session_id=session_id)
    if etag and etag != str(session.revision):
        raise EtagMismatch
    await release_session(tx, session_id=session_id)
    await tx.search.delete_session(session_id=session_id)
    await tx.run(DELETE_EVENTS, session_id=session_id)
    await tx.run(DELETE_SESSION, session_id=session_id)
