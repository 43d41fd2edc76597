"""The events between a turn's first and last ones, which are derived from its own row."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import orjson

from metamorphd.errors import TurnNotFound
from metamorphd.models.content import (
    Block,
    CompactionBlock,
    Content,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from metamorphd.models.turn import (
    Compaction,
    MemoriesRecalled,
    MiddleEvent,
    TextDelta,
    ThinkingDelta,
    ToolResult,
    ToolUse,
    UsageUpdate,
)
from metamorphd.models.usage import Usage
from metamorphd.store.codec import decode_content, encode_content
from metamorphd.store.database import Row, SystemTransaction, Transaction, concludes

# It changes nothing, and still conflicts with another transaction that does the same, or ends or deletes the turn.
LOCK_TURN = """
UPDATE turns SET model_calls = model_calls
WHERE vault_id = :vault_id AND turn_id = :turn_id AND status = 'RUNNING'
"""
CREATE_EVENT = """
INSERT INTO events (vault_id, turn_id, sequence, block_index, kind, text)
VALUES (:vault_id, :turn_id, :sequence, :block_index, :kind, :text)
"""
# A page ends with the event that brings it to :max_characters.
LIST_EVENTS = """
WITH candidates AS (
    SELECT sequence, block_index, kind, text FROM events
    WHERE vault_id = :vault_id AND turn_id = :turn_id AND sequence > :after_sequence
    ORDER BY sequence
    LIMIT :limit
), page AS (
    SELECT sequence, block_index, kind, text, SUM(LENGTH(text)) OVER (ORDER BY sequence) - LENGTH(text) AS before
    FROM candidates
)
SELECT sequence, block_index, kind, text FROM page WHERE before < :max_characters ORDER BY sequence
"""
GET_BLOCKS = """
SELECT block_index, kind, string_agg(text, '' ORDER BY sequence) AS text FROM events
WHERE vault_id = :vault_id AND turn_id = :turn_id AND kind NOT IN ('usage', 'recalled')
GROUP BY block_index, kind
ORDER BY block_index
"""
MARK_TO_PRUNE = """
UPDATE turns SET pruned = 1
WHERE (vault_id, turn_id) IN (
    SELECT vault_id, turn_id FROM turns
    WHERE pruned = 0 AND finish_time < :before
    ORDER BY finish_time
    LIMIT :turns
)
"""
GET_BEING_PRUNED = "SELECT vault_id, turn_id FROM turns WHERE pruned = 1 ORDER BY vault_id, turn_id LIMIT 1"
PRUNE_EVENTS = """
DELETE FROM events
WHERE vault_id = :target_vault_id AND turn_id = :turn_id AND sequence IN (
    SELECT sequence FROM events WHERE vault_id = :target_vault_id AND turn_id = :turn_id ORDER BY sequence LIMIT :events
)
"""
MARK_PRUNED = "UPDATE turns SET pruned = 2 WHERE vault_id = :target_vault_id AND turn_id = :turn_id"

PRUNED_TURNS = 50


def _stored(event: MiddleEvent) -> tuple[int, str, str]:
    """Returns (block index, kind, text) of an event."""
    match event:
        case TextDelta() | ThinkingDelta():
            return event.block_index, "text" if isinstance(event, TextDelta) else "thinking", event.text
        case ToolUse():
            return event.block_index, "tool_use", orjson.dumps(asdict(event.block)).decode()
        case ToolResult():
            return event.block_index, "tool_result", encode_content((event.block,))
        case Compaction():
            return event.block_index, "compaction", orjson.dumps(asdict(event.block)).decode()
        case MemoriesRecalled():
            return 0, "recalled", orjson.dumps(event.memory_ids).decode()
        case UsageUpdate():
            return 0, "usage", orjson.dumps(asdict(event.usage)).decode()


def _event(turn_id: str, row: Row) -> MiddleEvent:
    sequence, block_index, text = row.sequence, row.block_index, row.text
    match row.kind:
        case "text" | "thinking":
            delta = TextDelta if row.kind == "text" else ThinkingDelta
            return delta(turn_id, sequence, block_index, text)
        case "tool_use":
            return ToolUse(turn_id, sequence, block_index, ToolUseBlock(**orjson.loads(text)))
        case "tool_result":
            return ToolResult(turn_id, sequence, block_index, _result(text))
        case "compaction":
            return Compaction(turn_id, sequence, block_index, CompactionBlock(**orjson.loads(text)))
        case "recalled":
            return MemoriesRecalled(turn_id, sequence, tuple(orjson.loads(text)))
        case _:
            return UsageUpdate(turn_id, sequence, Usage(**orjson.loads(text)))


def _result(text: str) -> ToolResultBlock:
    (block,) = decode_content(text)
    if not isinstance(block, ToolResultBlock):
        raise TypeError("not a tool's result")
    return block


@concludes
async def append_events(tx: Transaction, *, events: Sequence[MiddleEvent]) -> None:
    """Appends the next events of one running turn. Raises TurnNotFound if it was ended or deleted elsewhere."""
    for turn_id in {event.turn_id for event in events}:
        if not await tx.run(LOCK_TURN, turn_id=turn_id):
            raise TurnNotFound(turn_id=turn_id)
    for event in events:
        block_index, kind, text = _stored(event)
        values: dict[str, Any] = {"sequence": event.sequence, "block_index": block_index, "kind": kind, "text": text}
        await tx.run(CREATE_EVENT, turn_id=event.turn_id, **values)


async def list_middle_events(
    tx: Transaction, *, turn_id: str, after_sequence: int, limit: int, max_characters: int
) -> tuple[list[MiddleEvent], bool]:
    """Returns the events after a sequence, in order, and whether there are no more.

    At most `limit` of them, ending with the one that brings them to `max_characters` of text.
    """
    rows = await tx.all(
        LIST_EVENTS, turn_id=turn_id, after_sequence=after_sequence, limit=limit, max_characters=max_characters
    )
    last = len(rows) < limit and sum(len(row.text) for row in rows) < max_characters
    return [_event(turn_id, row) for row in rows], last


async def reply_content(tx: Transaction, *, turn_id: str, closed: Mapping[int, ThinkingBlock]) -> Content:
    """Returns the reply that the events add up to. `closed` has ended thinking blocks without text, by block index."""
    blocks: list[Block] = []
    for row in await tx.all(GET_BLOCKS, turn_id=turn_id):
        match row.kind:
            case "text":
                blocks.append(TextBlock(row.text))
            case "thinking":
                blocks.append(replace(closed.get(row.block_index, ThinkingBlock("")), text=row.text))
            case "tool_use":
                blocks.append(ToolUseBlock(**orjson.loads(row.text)))
            case "tool_result":
                blocks.append(_result(row.text))
            case "compaction":
                blocks.append(CompactionBlock(**orjson.loads(row.text)))
    return tuple(blocks)


async def prune_events(tx: SystemTransaction, *, before: int, limit: int) -> bool:
    """Deletes at most `limit` events of turns that ended before. Returns whether there may be more of them.

    A turn is marked first, as a whole, so that its remaining events are no longer replayed.
    """
    turn = await tx.one(GET_BEING_PRUNED)
    if turn is None:
        return bool(await tx.run(MARK_TO_PRUNE, before=before, turns=PRUNED_TURNS))
    deleted = await tx.run(PRUNE_EVENTS, target_vault_id=turn.vault_id, turn_id=turn.turn_id, events=limit)
    if deleted < limit:
        await tx.run(MARK_PRUNED, target_vault_id=turn.vault_id, turn_id=turn.turn_id)
    return True
