"""Reads memories one by one, and in lists."""

import orjson

from metamorphd.errors import MemoryNotFound
from metamorphd.models.memory import Memory, MemoryType
from metamorphd.models.page import Page
from metamorphd.store.database import Row, SqlValue, Transaction, point_read
from metamorphd.store.memories.rows import COLUMNS, memory_of

# A page visits at most this many memories that its filters may leave out. It is then shorter than it could be.
MOST_VISITED = 1000

GET_MEMORY = (
    "SELECT "
    + COLUMNS
    + """
FROM memories
WHERE vault_id = :vault_id AND memory_id = :memory_id AND state >= 0 AND (expire_time IS NULL OR expire_time > :now)
"""
)
_VISITED = """
SELECT memory_id, last_use_time, number, size,
    (expire_time IS NULL OR expire_time > :now) AND (:type IS NULL OR type = :type)
    AND (:superseded_by IS NULL OR superseded_by = :superseded_by) AS wanted
FROM memories
WHERE vault_id = :vault_id AND state = :state
"""
VISIT_NEWEST_FIRST = (
    _VISITED
    + """ AND number < :number
ORDER BY number DESC
LIMIT :limit
"""
)
VISIT_LEAST_RECENTLY_USED_FIRST = (
    _VISITED
    + """ AND (last_use_time, number) > (:last_use_time, :number)
ORDER BY last_use_time, number
LIMIT :limit
"""
)
GET_MEMORIES = (
    "SELECT "
    + COLUMNS
    + """
FROM memories
WHERE vault_id = :vault_id AND memory_id IN (SELECT value FROM json_each(:memory_ids))
"""
)

# Above every number, so that the first page begins at the newest memory.
END_OF_NUMBERS = 2**62
# What a page counts for a memory beside its content and metadata.
OTHER_BYTES = 512


@point_read
async def get_memory(tx: Transaction, *, memory_id: str, now: int) -> Memory:
    """Reads one memory. Raises MemoryNotFound, also for one that has expired."""
    row = await tx.one(GET_MEMORY, memory_id=memory_id, now=now)
    if row is None:
        raise MemoryNotFound(memory_id=memory_id)
    return memory_of(row)


async def list_memories(
    tx: Transaction,
    *,
    after: tuple[int | str, ...] | None,
    page_size: int,
    max_size: int,
    by_use: bool,
    type_: MemoryType | None,
    superseded: bool,
    superseded_by: str | None,
    now: int,
) -> Page[Memory]:
    """Returns memories, newest first or, `by_use`, those first that were not used for the longest time.

    `after` is (last use, number). Of more than one memory a page has at most `max_size` bytes plus the last one. It has
    fewer than `page_size`, or none, when it has visited `MOST_VISITED`.
    """
    filtered = type_ is not None or superseded_by is not None
    last_use_time, number = after or (-1, 0 if by_use else END_OF_NUMBERS)
    query: dict[str, SqlValue] = {"type": type_, "superseded_by": superseded_by, "state": int(superseded), "now": now}
    query |= {"number": number, "limit": MOST_VISITED if filtered else page_size + 1}
    if by_use:
        rows = await tx.all(VISIT_LEAST_RECENTLY_USED_FIRST, last_use_time=last_use_time, **query)
    else:
        rows = await tx.all(VISIT_NEWEST_FIRST, **query)
    wanted, end = _page(rows, page_size, max_size)
    if end is None and len(rows) == query["limit"]:
        end = rows[-1]
    return Page(
        tuple(await read_memories(tx, memory_ids=wanted)), None if end is None else (end.last_use_time, end.number)
    )


def _page(rows: list[Row], page_size: int, max_size: int) -> tuple[list[str], Row | None]:
    """Returns the IDs of a page, and the row after which the next one begins, or None if all rows were looked at."""
    wanted: list[str] = []
    size = 0
    for place, row in enumerate(rows):
        if len(wanted) == page_size or size >= max_size:
            return wanted, rows[place - 1]
        if row.wanted:
            wanted.append(row.memory_id)
            size += row.size + OTHER_BYTES
    return wanted, None


async def read_memories(tx: Transaction, *, memory_ids: list[str]) -> list[Memory]:
    """Returns memories of the same snapshot by their IDs, in that order."""
    rows = await tx.all(GET_MEMORIES, memory_ids=orjson.dumps(memory_ids).decode()) if memory_ids else []
    found = {row.memory_id: memory_of(row) for row in rows}
    return [found[memory_id] for memory_id in memory_ids]
