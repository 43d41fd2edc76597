"""The records of an export: a kind for each table, in the order of the file.

To add a kind, add a function that reads a page of its records, and an entry of the table. A test compares the table
with the schema: a column that is neither exported nor left out for a reason fails.
"""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

from metamorphd.store.attachments import chunk_count
from metamorphd.store.database import Row, Transaction

GET_VAULT = """
SELECT display_name, default_model, system_prompt, tokens_per_day, tokens_per_month, cost_usd_nanos_per_day,
    cost_usd_nanos_per_month
FROM vaults WHERE vault_id = :vault_id
"""
# Those of its users and labels that the vault has set itself.
LIST_OWN_BUDGETS = """
SELECT kind AS subject_kind, subject, tokens_per_day, tokens_per_month, cost_usd_nanos_per_day, cost_usd_nanos_per_month
FROM subject_budgets
WHERE vault_id = :vault_id AND (kind, subject) > (:after_kind, :after_subject) AND set_by = 'vault'
ORDER BY kind, subject
LIMIT :limit
"""
LIST_SESSIONS = """
SELECT session_id, title, model, system_prompt, metadata, labels, archived, recall_tokens, memory_tool, creator,
    create_time, update_time
FROM sessions
WHERE vault_id = :vault_id AND session_id > :after AND delete_time IS NULL
ORDER BY session_id
LIMIT :limit
"""
# In the order in which they were stored, so that parents precede their children. Sizes are read from the links, because
# reading a column behind a long content reads all of it.
LIST_MESSAGE_RECORDS = """
WITH candidates AS (
    SELECT messages.message_id AS id, ordinal AS place, link.size AS bytes
    FROM messages CROSS JOIN message_links AS link
    WHERE messages.vault_id = :vault_id AND messages.session_id = :session_id AND ordinal > :after
        AND link.vault_id = :vault_id AND link.message_id = messages.message_id
    ORDER BY ordinal
    LIMIT :limit
), page AS (
    SELECT id, place, SUM(bytes) OVER (ORDER BY place) - bytes AS preceding FROM candidates
)
SELECT message_id, session_id, parent_message_id, role,
    CASE WHEN delete_time IS NULL THEN content ELSE '[]' END AS content,
    turn_id, creator, model, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd_nanos,
    estimated, create_time, delete_time, partial, refused, rejected, place
FROM page CROSS JOIN messages
WHERE messages.vault_id = :vault_id AND messages.message_id = page.id AND preceding < :most_bytes
ORDER BY place
"""
# One that runs ends with its server, as far as its reader can know: with what is stored of it. So does one whose reply
# is not among the messages that were read before. One whose message is not is left out: it is newer, or being erased.
LIST_TURNS = """
WITH page AS (
    SELECT turns.*, status = 'RUNNING' OR COALESCE(reply.ordinal > :read, reply_message_id IS NOT NULL) AS runs
    FROM turns CROSS JOIN messages AS asked
    LEFT JOIN messages AS reply ON reply.vault_id = :vault_id AND reply.message_id = turns.reply_message_id
    WHERE turns.vault_id = :vault_id AND turns.session_id = :session_id AND turns.turn_id > :after
        AND asked.vault_id = :vault_id AND asked.message_id = turns.user_message_id AND asked.ordinal <= :read
    ORDER BY turns.turn_id
    LIMIT :limit
)
SELECT turn_id, session_id, user_message_id, CASE WHEN NOT runs THEN reply_message_id END AS reply_message_id,
    CASE WHEN runs THEN 'INTERRUPTED' ELSE status END AS status, CASE WHEN NOT runs THEN stop_reason END AS stop_reason,
    CASE WHEN NOT runs THEN stop_details END AS stop_details, CASE WHEN NOT runs THEN error END AS error,
    input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd_nanos, estimated, model, model_calls,
    CASE WHEN runs THEN 2 ELSE last_sequence END AS last_sequence, options, labels, creator, create_time,
    CASE WHEN runs THEN create_time ELSE finish_time END AS finish_time
FROM page
ORDER BY turn_id
"""
# Those that a message of a visible session holds. What was uploaded and not sent expires within a day.
LIST_ATTACHMENTS = """
SELECT attachment_id, media_type, size, sha256, create_time, longest_side, pages, rejected
FROM attachments
WHERE vault_id = :vault_id AND attachment_id > :after AND EXISTS (
    SELECT 1 FROM attachment_uses AS used CROSS JOIN sessions
    WHERE used.vault_id = :vault_id AND used.attachment_id = attachments.attachment_id
        AND sessions.vault_id = :vault_id AND sessions.session_id = used.session_id AND sessions.delete_time IS NULL)
ORDER BY attachment_id
LIMIT :limit
"""
LIST_CHUNKS = """
SELECT attachment_id, number, data FROM attachment_chunks
WHERE vault_id = :vault_id AND attachment_id = :attachment_id AND number > :after
ORDER BY number
LIMIT :limit
"""
LIST_USAGE = """
SELECT day, session_id, model, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd_nanos,
    estimated, turns
FROM usage
WHERE vault_id = :vault_id AND (day, session_id, model) > (:after_day, :after_session_id, :after_model)
ORDER BY day, session_id, model
LIMIT :limit
"""
LIST_SUBJECT_USAGE = """
SELECT kind AS subject_kind, subject, day, model, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens,
    cost_usd_nanos, estimated, turns
FROM subject_usage
WHERE vault_id = :vault_id AND (kind, subject, day, model) > (:after_kind, :after_subject, :after_day, :after_model)
ORDER BY kind, subject, day, model
LIMIT :limit
"""
# Superseded ones too. Their contents have up to 32 KiB.
LIST_MEMORIES = """
SELECT memory_id, state, type, importance, path, superseded_by, creator, session_id, message_id, create_time,
    update_time, last_use_time, expire_time, metadata, content
FROM memories
WHERE vault_id = :vault_id AND memory_id > :after AND state >= 0 AND (expire_time IS NULL OR expire_time > :now)
ORDER BY memory_id
LIMIT :limit
"""
LIST_SECRETS = """
SELECT name, version, labels, creator, create_time, update_time, expire_time FROM secrets
WHERE vault_id = :vault_id AND name > :after AND (expire_time IS NULL OR expire_time > :now)
ORDER BY name
LIMIT :limit
"""
LIST_VERSIONS = """
SELECT name, version, creator, create_time, destroy_time FROM secret_versions
WHERE vault_id = :vault_id AND name = :name AND version > :after
ORDER BY version
LIMIT :limit
"""

Key = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """The records after the key `after`, of those that belong to the one with the key `parent`.

    A page may be longer than `most_bytes` by one record. `elder` is the key of the last record that precedes them
    within that parent, of the kind before.
    """

    parent: Key
    after: Key
    most_bytes: int
    now: int
    elder: Key = ()


Read = Callable[[Transaction, Page], Coroutine[Any, Any, Sequence[Row]]]


@dataclass(frozen=True)
class Kind:
    """A kind of record: the table that it has a row of, and which columns.

    `key` are what orders its records, `json` the columns whose text is JSON, `flags` those that are true or false, and
    `encoded` those of bytes, in base64. `children` belong to a record of this kind, and follow it. `parts` returns how
    many of them a row has; one that has fewer is not exported. Without it, any number will do.
    """

    name: str
    table: str
    columns: tuple[str, ...]
    read: Read
    key: tuple[str, ...] = ()
    json: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    encoded: tuple[str, ...] = ()
    children: "tuple[Kind, ...]" = ()
    parts: Callable[[Row], int] | None = None

    @cached_property
    def values(self) -> Callable[[Row], tuple[Any, ...]]:
        """Returns the function from a row to the values of `columns`."""
        return attrgetter(*self.columns)


async def read_vault(tx: Transaction, page: Page) -> Sequence[Row]:
    """Returns the vault's own row, once."""
    return [] if page.after else await tx.all(GET_VAULT)


async def read_sessions(tx: Transaction, page: Page) -> Sequence[Row]:
    """Returns sessions by ID, hidden ones not."""
    return await tx.all(LIST_SESSIONS, after=_text(page.after), limit=32)


async def read_messages(tx: Transaction, page: Page) -> Sequence[Row]:
    """Returns messages of a session in the order in which they were stored."""
    return await tx.all(
        LIST_MESSAGE_RECORDS,
        session_id=page.parent[0],
        after=_number(page.after),
        limit=512,
        most_bytes=page.most_bytes,
    )


async def read_turns(tx: Transaction, page: Page) -> Sequence[Row]:
    """Returns turns of a session by ID, as they are without the messages that were stored since those were read."""
    return await tx.all(
        LIST_TURNS, session_id=page.parent[0], after=_text(page.after), read=_number(page.elder), limit=16
    )


async def read_attachments(tx: Transaction, page: Page) -> Sequence[Row]:
    """Returns attachments by ID."""
    return await tx.all(LIST_ATTACHMENTS, after=_text(page.after), limit=32)


async def read_chunks(tx: Transaction, page: Page) -> Sequence[Row]:
    """Returns the next chunk of an attachment."""
    return await tx.all(LIST_CHUNKS, attachment_id=page.parent[0], after=_number(page.after), limit=1)


async def read_usage(tx: Transaction, page: Page) -> Sequence[Row]:
    """Returns usage by day, session and model."""
    day, session_id, model = page.after or ("", "", "")
    return await tx.all(LIST_USAGE, after_day=day, after_session_id=session_id, after_model=model, limit=256)


async def read_subject_usage(tx: Transaction, page: Page) -> Sequence[Row]:
    """Returns usage by user and by label, by day and model."""
    kind, subject, day, model = page.after or ("", "", "", "")
    return await tx.all(
        LIST_SUBJECT_USAGE, after_kind=kind, after_subject=subject, after_day=day, after_model=model, limit=256
    )


async def read_subject_budgets(tx: Transaction, page: Page) -> Sequence[Row]:
    """Returns the vault's own budgets of users and of labels."""
    kind, subject = page.after or ("", "")
    return await tx.all(LIST_OWN_BUDGETS, after_kind=kind, after_subject=subject, limit=256)


async def read_memories(tx: Transaction, page: Page) -> Sequence[Row]:
    """Returns memories by ID, expired ones not."""
    return await tx.all(LIST_MEMORIES, after=_text(page.after), now=page.now, limit=32)


async def read_secrets(tx: Transaction, page: Page) -> Sequence[Row]:
    """Returns secrets by name, expired ones not."""
    return await tx.all(LIST_SECRETS, after=_text(page.after), now=page.now, limit=32)


async def read_secret_versions(tx: Transaction, page: Page) -> Sequence[Row]:
    """Returns the versions of a secret, oldest first, without their values."""
    return await tx.all(LIST_VERSIONS, name=page.parent[0], after=_number(page.after), limit=32)


def _text(after: Key) -> str | int:
    return after[0] if after else ""


def _number(after: Key) -> str | int:
    return after[0] if after else -1


LIMITS = ("tokens_per_day", "tokens_per_month", "cost_usd_nanos_per_day", "cost_usd_nanos_per_month")
TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cost_usd_nanos", "estimated")
MESSAGE = Kind(
    "message",
    "messages",
    (
        *("message_id", "session_id", "parent_message_id", "role", "content", "turn_id", "creator", "model"),
        *(*TOKENS, "create_time", "delete_time", "partial", "refused", "rejected"),
    ),
    read_messages,
    key=("place",),
    json=("content",),
    flags=("estimated", "partial", "refused", "rejected"),
)
TURN = Kind(
    "turn",
    "turns",
    (
        *("turn_id", "session_id", "user_message_id", "reply_message_id", "status", "stop_reason", "stop_details"),
        *("error", *TOKENS, "model", "model_calls", "last_sequence", "options", "labels", "creator", "create_time"),
        "finish_time",
    ),
    read_turns,
    key=("turn_id",),
    json=("stop_details", "error", "options", "labels"),
    flags=("estimated",),
)
SESSION = Kind(
    "session",
    "sessions",
    (
        *("session_id", "title", "model", "system_prompt", "metadata", "labels", "archived", "recall_tokens"),
        *("memory_tool", "creator", "create_time", "update_time"),
    ),
    read_sessions,
    key=("session_id",),
    json=("metadata", "labels"),
    flags=("archived", "memory_tool"),
    children=(MESSAGE, TURN),
)
CHUNK = Kind(
    "attachment_chunk",
    "attachment_chunks",
    ("attachment_id", "number", "data"),
    read_chunks,
    key=("number",),
    encoded=("data",),
)
ATTACHMENT = Kind(
    "attachment",
    "attachments",
    ("attachment_id", "media_type", "size", "sha256", "create_time", "longest_side", "pages", "rejected"),
    read_attachments,
    key=("attachment_id",),
    flags=("rejected",),
    children=(CHUNK,),
    parts=lambda row: chunk_count(row.size),
)
SECRET_VERSION = Kind(
    "secret_version",
    "secret_versions",
    ("name", "version", "creator", "create_time", "destroy_time"),
    read_secret_versions,
    key=("version",),
)
SECRET = Kind(
    "secret",
    "secrets",
    ("name", "version", "labels", "creator", "create_time", "update_time", "expire_time"),
    read_secrets,
    key=("name",),
    json=("labels",),
    children=(SECRET_VERSION,),
)
# Attachments follow the sessions, so that one which is sent while the file is written is in it.
KINDS = (
    Kind(
        "vault",
        "vaults",
        (
            *("display_name", "default_model", "system_prompt"),
            *LIMITS,
        ),
        read_vault,
    ),
    Kind(
        "subject_budget",
        "subject_budgets",
        ("subject_kind", "subject", *LIMITS),
        read_subject_budgets,
        key=("subject_kind", "subject"),
    ),
    SESSION,
    ATTACHMENT,
    Kind(
        "usage",
        "usage",
        ("day", "session_id", "model", *TOKENS, "turns"),
        read_usage,
        key=("day", "session_id", "model"),
        flags=("estimated",),
    ),
    Kind(
        "subject_usage",
        "subject_usage",
        ("subject_kind", "subject", "day", "model", *TOKENS, "turns"),
        read_subject_usage,
        key=("subject_kind", "subject", "day", "model"),
        flags=("estimated",),
    ),
    Kind(
        "memory",
        "memories",
        (
            *("memory_id", "state", "type", "importance", "path", "superseded_by", "creator", "session_id"),
            *("message_id", "create_time", "update_time", "last_use_time", "expire_time", "metadata", "content"),
        ),
        read_memories,
        key=("memory_id",),
        json=("metadata",),
    ),
    SECRET,
)
