"""Lists of sessions."""

from collections.abc import Mapping

from metamorphd.models.page import Page
from metamorphd.models.session import Session
from metamorphd.store.database import Row, SqlValue, Transaction
from metamorphd.store.paging import page_of
from metamorphd.store.sessions import COLUMNS, encode_metadata, session_of

# A page visits at most this many sessions that its filters may leave out. It is then shorter than it could be.
MOST_VISITED = 1000

COUNT_PAIR = """
SELECT COUNT(*) AS sessions FROM (
    SELECT session_id FROM session_metadata
    WHERE vault_id = :vault_id AND key = :key AND value = :value
    LIMIT :limit
) AS pair
"""

_NEWEST_FIRST = "last_activity_time DESC, sessions.session_id DESC"
_FROM = """
FROM sessions
WHERE sessions.vault_id = :vault_id AND (last_activity_time, sessions.session_id) < (:after_time, :after_id)"""
# Those below are hidden. With this condition the planner would not use the indexes of the others.
_FROM_ALL = _FROM + " AND last_activity_time >= 0"
_FROM_CREATORS = _FROM + " AND creator = :creator"
_FROM_ARCHIVED = _FROM + " AND archived = :archived"
_FROM_PAIR = """
FROM session_metadata AS pair CROSS JOIN sessions
WHERE pair.vault_id = :vault_id AND pair.key = :key AND pair.value = :value
    AND sessions.vault_id = :vault_id AND sessions.session_id = pair.session_id
    AND (last_activity_time, sessions.session_id) < (:after_time, :after_id)"""


def _page(visited: str) -> str:
    """Returns a statement for a page of the sessions `visited`, which ends before its first one beyond :max_size bytes.

    `candidate_count` counts what would follow, as far as it was visited.
    """
    return f"""
WITH visited AS (
    SELECT sessions.session_id AS id, last_activity_time AS activity,
        octet_length(system_prompt) + octet_length(metadata) + octet_length(labels) + octet_length(title) + 512 AS size,
        (:archived IS NULL OR archived = :archived) AND (:creator IS NULL OR creator = :creator)
        AND (:pair1 IS NULL OR replace(metadata, :pair1, '') <> metadata)
        AND (:pair2 IS NULL OR replace(metadata, :pair2, '') <> metadata)
        AND (:pair3 IS NULL OR replace(metadata, :pair3, '') <> metadata)
        AND (:pair4 IS NULL OR replace(metadata, :pair4, '') <> metadata) AS wanted
    {visited}
    ORDER BY {_NEWEST_FIRST}
    LIMIT :limit
), candidates AS (
    SELECT id, activity, size FROM visited WHERE wanted ORDER BY activity DESC, id DESC LIMIT :page_size + 1
), page AS (
    SELECT id, SUM(size) OVER (ORDER BY activity DESC, id DESC) - size AS before, COUNT(*) OVER () AS candidate_count
    FROM candidates
)
SELECT {COLUMNS}, last_activity_time, candidate_count
FROM page CROSS JOIN sessions
WHERE sessions.vault_id = :vault_id AND sessions.session_id = page.id AND before < :max_size
ORDER BY {_NEWEST_FIRST}
"""


def _last_visited(visited: str) -> str:
    return f"""
SELECT last_activity_time, session_id
{visited}
ORDER BY {_NEWEST_FIRST}
LIMIT 1 OFFSET :limit - 1
"""


LIST_SESSIONS = _page(_FROM_ALL)
LIST_CREATORS = _page(_FROM_CREATORS)
LIST_ARCHIVED = _page(_FROM_ARCHIVED)
LIST_PAIR = _page(_FROM_PAIR)
GET_LAST_VISITED = _last_visited(_FROM_ALL)
GET_LAST_OF_CREATOR = _last_visited(_FROM_CREATORS)
GET_LAST_ARCHIVED = _last_visited(_FROM_ARCHIVED)

# Above every time, so that the first page begins at the newest session.
END_OF_TIME = 2**62


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

    A page holds at most `page_size` sessions, and of more than one at most `max_size` bytes plus the last one. It has
    fewer, or none, when it has visited `MOST_VISITED` sessions.
    """
    after_time, after_id = after or (END_OF_TIME, "")
    place: dict[str, SqlValue] = {"after_time": after_time, "after_id": after_id}
    page: dict[str, SqlValue] = {"archived": archived, "creator": creator, "page_size": page_size, "max_size": max_size}
    page |= {f"pair{number}": None for number in range(1, 5)}
    page |= {f"pair{number}": _pair(*pair) for number, pair in enumerate(metadata.items(), 1)}
    rarest = await _rarest_pair(tx, metadata)
    if rarest is not None:
        key, value = rarest
        rows = await tx.all(LIST_PAIR, key=key, value=value, limit=MOST_VISITED, **place, **page)
        return _page_of(rows, page_size)
    by_creator, by_archived = creator is not None, creator is None and archived is not None
    filtered = bool(metadata) or (by_creator and archived is not None)
    limit = MOST_VISITED if filtered else page_size + 1
    rows = await tx.all(
        LIST_CREATORS if by_creator else LIST_ARCHIVED if by_archived else LIST_SESSIONS, limit=limit, **place, **page
    )
    listed = _page_of(rows, page_size)
    if not filtered or listed.next_after is not None:
        return listed
    last = await tx.one(
        GET_LAST_OF_CREATOR if by_creator else GET_LAST_ARCHIVED if by_archived else GET_LAST_VISITED,
        limit=limit,
        **(place | ({"creator": creator} if by_creator else {"archived": archived} if by_archived else {})),
    )
    return Page(listed.items, None if last is None else (last.last_activity_time, last.session_id))


def _page_of(rows: list[Row], page_size: int) -> Page[Session]:
    return page_of(rows, page_size, item=session_of, after=lambda row: (row.last_activity_time, row.session_id))


async def _rarest_pair(tx: Transaction, metadata: Mapping[str, str]) -> tuple[str, str] | None:
    """Returns the pair that the fewest sessions have, or None if each is in more than `MOST_VISITED`."""
    counts = []
    for key, value in metadata.items():
        row = await tx.one(COUNT_PAIR, key=key, value=value, limit=MOST_VISITED + 1)
        counts.append((MOST_VISITED if row is None else row.sessions, key, value))
    fewest, *rarest = min(counts, default=(MOST_VISITED + 1, "", ""))
    return None if fewest > MOST_VISITED else (rarest[0], rarest[1])


def _pair(key: str, value: str) -> str:
    """The pair as it is stored. A value's own quotes are escaped there, so this text occurs as a pair only."""
    return encode_metadata({key: value})[1:-1]
