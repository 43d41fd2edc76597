"""The full-text index of earlier servers, an FTS5 table. It is removed in steps, because a large one takes seconds."""

import apsw

IS_THERE = "SELECT 1 FROM sqlite_schema WHERE name = 'message_search'"
# FTS5 keeps a table in these (https://sqlite.org/fts5.html#fts5_data_structures). Each step takes about 3 ms.
STEPS = (
    "DELETE FROM message_search_content WHERE id IN (SELECT id FROM message_search_content LIMIT 64)",
    "DELETE FROM message_search_data WHERE id IN (SELECT id FROM message_search_data LIMIT 64)",
    "DELETE FROM message_search_docsize WHERE id IN (SELECT id FROM message_search_docsize LIMIT 500)",
    """
    DELETE FROM message_search_idx WHERE (segid, term) IN (SELECT segid, term FROM message_search_idx LIMIT 500)
    """,
)
DROP = "DROP TABLE message_search"


async def remove_old_index(connection: apsw.Connection) -> bool:
    """Removes a part of the table, and the table once it is empty. Returns whether it is still there."""
    if not connection.execute(IS_THERE).fetchall():
        return False
    for step in STEPS:
        connection.execute(step).fetchall()
        if connection.changes():
            return True
    connection.execute(DROP).fetchall()
    return False
