"""Reading turns."""

import orjson

from metamorphd.errors import (
    SequenceAhead,
    TurnNotFound,
)
from metamorphd.models.page import Page
from metamorphd.models.turn import (
    StopDetails,
    StopReason,
    Turn,
    TurnError,
    TurnEvent,
    TurnFinished,
    TurnStarted,
    TurnStatus,
)
from metamorphd.store.codec import decode_options, decode_usage
from metamorphd.store.database import Row, Transaction, point_read
from metamorphd.store.labels import decode_labels
from metamorphd.store.messages import get_message
from metamorphd.store.paging import page_of
from metamorphd.store.sessions import get_session
from metamorphd.store.turns.events import list_middle_events

# Of a running turn the newest event is in `events` only, so that a delta costs one insert and no update.
_COLUMNS = """
    turn_id, session_id, user_message_id, reply_message_id, status, stop_reason,
    input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd_nanos, estimated, model, model_calls,
    error,
    CASE WHEN status = 'RUNNING' THEN COALESCE(
        (SELECT MAX(sequence) FROM events WHERE events.vault_id = :vault_id AND events.turn_id = turns.turn_id),
        last_sequence) ELSE last_sequence END AS last_sequence,
    creator, create_time, finish_time, pruned, labels, stop_details"""
COLUMNS = _COLUMNS + ", options"
GET_TURN = (
    "SELECT "
    + COLUMNS
    + """
FROM turns
WHERE vault_id = :vault_id AND turn_id = :turn_id AND EXISTS (
    SELECT 1 FROM sessions
    WHERE sessions.vault_id = :vault_id AND sessions.session_id = turns.session_id AND sessions.delete_time IS NULL)
"""
)
# Tools and schemas may be a megabyte a turn, and a list leaves them out.
LISTED = _COLUMNS + ", '{}' AS options"
# A page visits :limit turns, and ends before its first one beyond :max_size bytes; `candidate_count` counts what would
# follow of those that it visited.
LIST_TURNS = (
    """
WITH visited AS (
    SELECT turn_id AS id,
        COALESCE(octet_length(error), 0) + COALESCE(octet_length(stop_details), 0) + octet_length(creator)
            + octet_length(model) + octet_length(labels) + 512 AS size,
        (:status IS NULL OR status = :status) AS wanted
    FROM turns
    WHERE vault_id = :vault_id AND session_id = :session_id AND turn_id < :after_id
    ORDER BY turn_id DESC
    LIMIT :limit
), candidates AS (
    SELECT id, size FROM visited WHERE wanted ORDER BY id DESC LIMIT :page_size + 1
), page AS (
    SELECT id, SUM(size) OVER (ORDER BY id DESC) - size AS before, COUNT(*) OVER () AS candidate_count FROM candidates
)
SELECT """
    + LISTED
    + """, candidate_count
FROM page CROSS JOIN turns
WHERE turns.vault_id = :vault_id AND turns.turn_id = page.id AND before < :max_size
ORDER BY turn_id DESC
"""
)
GET_LAST_VISITED = """
SELECT turn_id FROM turns
WHERE vault_id = :vault_id AND session_id = :session_id AND turn_id < :after_id
ORDER BY turn_id DESC
LIMIT 1 OFFSET :limit - 1
"""

LIST_RUNNING_TURNS = "SELECT turn_id FROM turns WHERE vault_id = :vault_id AND status = 'RUNNING'"

# A page visits at most this many turns that its filter may leave out. It is then shorter than it could be.
MOST_VISITED = 1000

# Above every id, so that the first page begins at the newest turn.
LAST_ID = "~"


def turn_of(row: Row) -> Turn:
    """Returns the turn that a row of `COLUMNS` holds."""
    return Turn(
        turn_id=row.turn_id,
        session_id=row.session_id,
        user_message_id=row.user_message_id,
        reply_message_id=row.reply_message_id,
        status=TurnStatus(row.status),
        stop_reason=row.stop_reason and StopReason(row.stop_reason),
        usage=decode_usage(row),
        model=row.model,
        model_calls=row.model_calls,
        error=row.error and TurnError(**orjson.loads(row.error)),
        last_sequence=row.last_sequence,
        creator=row.creator,
        create_time=row.create_time,
        finish_time=row.finish_time,
        options=decode_options(row.options),
        pruned=bool(row.pruned),
        labels=decode_labels(row.labels),
        stop_details=row.stop_details and StopDetails(**orjson.loads(row.stop_details)),
    )


def started_event(turn: Turn) -> TurnStarted:
    """A turn's first event."""
    return TurnStarted(
        turn_id=turn.turn_id,
        sequence=1,
        session_id=turn.session_id,
        user_message_id=turn.user_message_id,
        model=turn.model,
    )


@point_read
async def get_turn(tx: Transaction, *, turn_id: str) -> Turn:
    """Reads one turn. Raises TurnNotFound."""
    row = await tx.one(GET_TURN, turn_id=turn_id)
    if row is None:
        raise TurnNotFound(turn_id=turn_id)
    return turn_of(row)


async def list_turns(
    tx: Transaction,
    *,
    session_id: str,
    status: TurnStatus | None,
    after: tuple[int | str, ...] | None,
    page_size: int,
    max_size: int,
) -> Page[Turn]:
    """A session's turns, newest first, their options left out; `after` is (turn id). Raises SessionNotFound.

    Pages are cut as those of `list_sessions`.
    """
    await get_session(tx, session_id=session_id)
    place = {
        "session_id": session_id,
        "after_id": after[0] if after else LAST_ID,
        "limit": page_size + 1 if status is None else MOST_VISITED,
    }
    rows = await tx.all(LIST_TURNS, status=status, page_size=page_size, max_size=max_size, **place)
    page = page_of(rows, page_size, item=turn_of, after=lambda row: (row.turn_id,))
    if status is None or page.next_after is not None:
        return page
    last = await tx.one(GET_LAST_VISITED, **place)
    return Page(page.items, None if last is None else (last.turn_id,))


async def list_running_turns(tx: Transaction) -> list[str]:
    """Returns the IDs of the vault's running turns, which are as many as may run at most."""
    return [row.turn_id for row in await tx.all(LIST_RUNNING_TURNS)]


async def list_events(
    tx: Transaction, *, turn_id: str, after_sequence: int, limit: int, max_characters: int
) -> tuple[Turn, list[TurnEvent]]:
    """A turn and its next events, about `limit` of them, or fewer that hold about `max_characters` of text.

    The last of a finished one is its TurnFinished.

    Of a turn whose events were pruned that is the only one. Raises TurnNotFound, SequenceAhead.
    """
    turn = await get_turn(tx, turn_id=turn_id)
    if after_sequence > turn.last_sequence:
        raise SequenceAhead(last_sequence=turn.last_sequence)
    events: list[TurnEvent] = []
    last = True
    if not turn.pruned:
        middle, last = await list_middle_events(
            tx, turn_id=turn_id, after_sequence=after_sequence, limit=limit, max_characters=max_characters
        )
        events += [started_event(turn), *middle] if after_sequence < 1 else middle
    if turn.status is not TurnStatus.RUNNING and last and after_sequence < turn.last_sequence:
        reply = turn.reply_message_id and await get_message(tx, message_id=turn.reply_message_id)
        events.append(
            TurnFinished(
                turn_id,
                turn.last_sequence,
                turn.status,
                reply or None,
                turn.stop_reason,
                turn.usage,
                turn.error,
                turn.stop_details,
            )
        )
    return turn, events
