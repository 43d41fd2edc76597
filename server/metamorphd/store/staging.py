"""The rows of an import that is not complete: hidden, as deleted sessions are.

A session that is staged has a delete_time of STAGED, which no deletion has. Its row in `staged_records` has what it
will show. Records come in steps, with a statement for all rows of a table: after each statement a thread may have to
wait for the GIL (decision 11).
"""

from collections.abc import Mapping, Sequence

import orjson

from metamorphd.models.imports import Line, Refused
from metamorphd.store.database import Transaction, grows
from metamorphd.store.search.postings import BLOCK_BITS
from metamorphd.store.staged_rows import Placed, Step, staged_record
from metamorphd.store.storage import require_storage

STAGED = 0

STAGE_RECORDS = """
INSERT INTO staged_records (vault_id, number, kind, record)
SELECT :vault_id, value ->> 'number', value ->> 'kind', value ->> 'record' FROM jsonb_each(:rows)
"""
FIND_SESSIONS = """
SELECT session_id, delete_time FROM sessions
WHERE vault_id = :vault_id AND session_id IN (SELECT value FROM json_each(:session_ids))
"""
LIST_TAKEN = """
SELECT 'session' AS kind, session_id AS id FROM sessions
WHERE vault_id = :vault_id AND session_id IN (SELECT value FROM json_each(:session_ids))
UNION ALL
SELECT 'message' AS kind, message_id AS id FROM messages
WHERE vault_id = :vault_id AND message_id IN (SELECT value FROM json_each(:message_ids))
UNION ALL
SELECT 'turn' AS kind, turn_id AS id FROM turns
WHERE vault_id = :vault_id AND turn_id IN (SELECT value FROM json_each(:turn_ids))
"""
STAGE_SESSIONS = """
INSERT INTO sessions (vault_id, session_id, title, model, system_prompt, metadata, labels, recall_tokens, memory_tool,
    archived, creator, message_count, create_time, update_time, last_activity_time, revision, delete_time)
SELECT :vault_id, value ->> 'session_id', value ->> 'title', value ->> 'model', value ->> 'system_prompt',
    value ->> 'metadata', value ->> 'labels', value ->> 'recall_tokens', value ->> 'memory_tool', -1, '', 0,
    value ->> 'create_time', value ->> 'update_time', -1, 1, 0
FROM jsonb_each(:rows)
"""
# Of an object by session: joined with an array, the planner would visit all sessions of the vault.
COUNT_MESSAGES = """
UPDATE sessions SET message_count = :leaves ->> ('$."' || session_id || '"[0]'),
    current_leaf_message_id = :leaves ->> ('$."' || session_id || '"[1]'),
    last_message_time = :leaves ->> ('$."' || session_id || '"[2]')
WHERE vault_id = :vault_id AND session_id IN (SELECT key FROM json_each(:leaves)) AND delete_time = 0
"""
# A row is copied for each of its columns, so a large one has its content beside it.
STAGE_MESSAGES = """
INSERT INTO messages (vault_id, message_id, session_id, ordinal, parent_message_id, role, content, size, turn_id,
    creator, model, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd_nanos, estimated,
    create_time, delete_time, partial, refused, rejected)
SELECT :vault_id, value ->> 'message_id', value ->> 'session_id', value ->> 'ordinal', value ->> 'parent_message_id',
    value ->> 'role', COALESCE(:content, value ->> 'content'), value ->> 'size', value ->> 'turn_id',
    value ->> 'creator', value ->> 'model', value ->> 'input_tokens', value ->> 'output_tokens',
    value ->> 'cache_read_tokens', value ->> 'cache_write_tokens', value ->> 'cost_usd_nanos', value ->> 'estimated',
    value ->> 'create_time', value ->> 'delete_time', value ->> 'partial', value ->> 'refused', value ->> 'rejected'
FROM jsonb_each(:rows)
"""
STAGE_LINKS = """
INSERT INTO message_links (vault_id, message_id, session_id, parent_message_id, depth, jump_message_id, jump_depth,
    size, opens, summarizes)
SELECT :vault_id, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
    value ->> 7, value ->> 8
FROM jsonb_each(:rows)
"""
# Those that a link can jump to are the ones that its parent's jumps lead to.
LIST_JUMPS = """
WITH RECURSIVE jumps (message_id, session_id, depth, jump_message_id, jump_depth) AS (
    SELECT message_id, session_id, depth, jump_message_id, jump_depth FROM message_links
    WHERE vault_id = :vault_id AND message_id IN (SELECT value FROM json_each(:message_ids))
    UNION
    SELECT link.message_id, link.session_id, link.depth, link.jump_message_id, link.jump_depth
    FROM jumps CROSS JOIN message_links AS link
    WHERE link.vault_id = :vault_id AND link.message_id = jumps.jump_message_id
)
SELECT message_id, session_id, depth, jump_message_id, jump_depth FROM jumps
"""
LIST_PLACES = """
SELECT message_id, session_id FROM message_links
WHERE vault_id = :vault_id AND message_id IN (SELECT value FROM json_each(:message_ids))
"""
# Numbers up to the end of a block: the rows of its words are then written once.
GET_NUMBER = "SELECT last_message_number FROM vaults WHERE vault_id = :vault_id"
RESERVE_NUMBERS = "UPDATE vaults SET last_message_number = :number WHERE vault_id = :vault_id"
STAGE_INDEXED = """
INSERT INTO indexed_messages (vault_id, number, message_id, word_count, pending, folding)
SELECT :vault_id, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM jsonb_each(:rows)
"""
STAGE_TURNS = """
INSERT INTO turns (vault_id, turn_id, session_id, user_message_id, reply_message_id, status, stop_reason, stop_details,
    error, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd_nanos, estimated, model,
    model_calls, last_sequence, options, labels, creator, create_time, finish_time, pruned)
SELECT :vault_id, value ->> 'turn_id', value ->> 'session_id', value ->> 'user_message_id',
    value ->> 'reply_message_id', value ->> 'status', value ->> 'stop_reason', value ->> 'stop_details',
    value ->> 'error', value ->> 'input_tokens', value ->> 'output_tokens', value ->> 'cache_read_tokens',
    value ->> 'cache_write_tokens', value ->> 'cost_usd_nanos', value ->> 'estimated', value ->> 'model',
    value ->> 'model_calls', value ->> 'last_sequence', COALESCE(:options, value ->> 'options'), value ->> 'labels',
    value ->> 'creator', value ->> 'create_time', value ->> 'finish_time', 2
FROM jsonb_each(:rows)
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
SELECT vault_id, attachment_id, value ->> 1, value ->> 2
FROM jsonb_each(:rows) CROSS JOIN attachments
WHERE vault_id = :vault_id AND attachment_id = value ->> 0
ON CONFLICT (vault_id, attachment_id, message_id) DO NOTHING
"""


async def find_sessions(tx: Transaction, *, session_ids: Sequence[str]) -> Mapping[str, int | None]:
    """Returns the delete_time of those sessions that the vault has, by ID."""
    rows = await tx.all(FIND_SESSIONS, session_ids=_json(session_ids))
    return {row.session_id: row.delete_time for row in rows}


@grows
async def reserve_numbers(tx: Transaction, *, limit: int) -> range:
    """Returns numbers of messages in the index that only the caller uses: of one block, and at most `limit`."""
    row = await tx.one(GET_NUMBER)
    if row is None:
        raise RuntimeError("a vault that has an import is missing")
    first = row.last_message_number + 1
    end = min(first + limit, ((first >> BLOCK_BITS) + 1) << BLOCK_BITS)
    await tx.run(RESERVE_NUMBERS, number=end - 1)
    return range(first, end)


@grows
async def stage_step(tx: Transaction, *, step: Step, storage_limit: int) -> None:
    """Stages the records of a step. Raises Refused, StorageQuotaExceeded.

    The words of its messages are to be added by `add_offsets`, to the numbers that they have.
    """
    await require_storage(tx, added_bytes=step.size, default_limit=storage_limit)
    if step.lines:
        await _require_free(tx, step)
    if step.sessions:
        await tx.run(STAGE_SESSIONS, rows=step.sessions)
    if step.messages:
        links = await _links(tx, step.placed)
        await tx.run(STAGE_MESSAGES, rows=step.messages, content=step.large)
        await tx.run(STAGE_LINKS, rows=_json(links))
        await tx.run(COUNT_MESSAGES, leaves=step.leaves)
    if step.indexed:
        await tx.run(STAGE_INDEXED, rows=step.indexed)
    if step.uses:
        await tx.run(USE_ATTACHMENTS, rows=step.uses)
    if step.turns:
        await _require_places(tx, step)
        await tx.run(STAGE_TURNS, rows=step.turns, options=step.large)
    if step.records:
        await tx.run(STAGE_RECORDS, rows=step.records)


async def _require_free(tx: Transaction, step: Step) -> None:
    ids = {kind: _json([id_ for of, id_ in step.lines if of == kind]) for kind in ("session", "message", "turn")}
    taken = await tx.all(LIST_TAKEN, session_ids=ids["session"], message_ids=ids["message"], turn_ids=ids["turn"])
    if taken:
        kind, number = min(((row.kind, step.lines[row.kind, row.id]) for row in taken), key=lambda found: found[1])
        raise Refused(number, "id_taken", f"there is another {kind} with this ID")


async def _links(tx: Transaction, placed: Sequence[Placed]) -> list[tuple[object, ...]]:
    """Returns the links of messages, as CREATE_LINK of `links` makes them. Raises Refused for one before its parent."""
    here = {message.message_id for message in placed}
    outside = [message.parent_id for message in placed if message.parent_id and message.parent_id not in here]
    rows = await tx.all(LIST_JUMPS, message_ids=_json(outside)) if outside else []
    known = {row.message_id: (row.session_id, row.depth, row.jump_message_id, row.jump_depth) for row in rows}
    links: list[tuple[object, ...]] = []
    for message in placed:
        link = (message.session_id, 1, message.message_id, 1)
        if message.parent_id is not None:
            parent = known.get(message.parent_id)
            if parent is None or parent[0] != message.session_id:
                raise misplaced(message.line, "message.parent_message_id")
            _, depth, jump_id, jump_depth = parent
            _, _, further_id, further_depth = known[jump_id]
            twice = depth - jump_depth == jump_depth - further_depth
            further = (further_id, further_depth) if twice else (message.parent_id, depth)
            link = (message.session_id, depth + 1, *further)
        known[message.message_id] = link
        shown = (message.size, message.opens, message.summarizes)
        links.append((message.message_id, message.session_id, message.parent_id, *link[1:], *shown))
    return links


async def _require_places(tx: Transaction, step: Step) -> None:
    """Raises Refused if a turn names a message that is none of its session."""
    places = {message.message_id: message.session_id for message in step.placed}
    outside = [message_id for _, _, message_id, _ in step.references if message_id not in places]
    rows = await tx.all(LIST_PLACES, message_ids=_json(outside)) if outside else []
    places |= {row.message_id: row.session_id for row in rows}
    for line, field, message_id, session_id in step.references:
        if places.get(message_id) != session_id:
            raise misplaced(line, f"turn.{field}")


def misplaced(line: int, field: str) -> Refused:
    """Returns the refusal of a record that names a message which is none of its session, or not before it."""
    return Refused(line, "parent", f"{field} is no message of the session before it")


@grows
async def stage_attachment(tx: Transaction, *, line: Line, storage_limit: int) -> bool:
    """Stages an attachment without its bytes, and keeps what the vault has of it. Returns whether the vault had none.

    Raises StorageQuotaExceeded.
    """
    record = line.record
    await require_storage(tx, added_bytes=record["size"], default_limit=storage_limit)
    columns = ("attachment_id", "media_type", "size", "sha256", "create_time", "longest_side", "pages", "rejected")
    stored = await tx.run(STAGE_ATTACHMENT, **{name: record[name] for name in columns})
    await tx.run(HOLD_ATTACHMENT, attachment_id=record["attachment_id"])
    await tx.run(STAGE_RECORDS, rows=_json([staged_record(line)]))
    return bool(stored)


@grows
async def stage_chunk(tx: Transaction, *, attachment_id: str, number: int, data: bytes) -> bool:
    """Stages the bytes of a chunk, unless the vault has them. Returns whether it did."""
    return bool(await tx.run(STAGE_CHUNK, attachment_id=attachment_id, number=number, data=data))


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
