"""The full-text index of earlier servers, an FTS5 table. It is removed in steps, because a large one takes seconds.

The first step removes the virtual table alone. What FTS5 kept it in (https://sqlite.org/fts5.html#fts5_data_structures)
are ordinary tables then: as long as there is the virtual table, an integrity check compares them with each other, and a
server that starts with them half empty would take its database for damaged.
"""

import apsw

TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'message_search*'"
VIRTUAL = "message_search"
DETACH = "DELETE FROM sqlite_schema WHERE type = 'table' AND name = 'message_search'"
# Each step takes about 3 ms.
STEPS = (
    "DELETE FROM message_search_content WHERE id IN (SELECT id FROM message_search_content LIMIT 64)",
    "DELETE FROM message_search_data WHERE id IN (SELECT id FROM message_search_data LIMIT 64)",
    "DELETE FROM message_search_docsize WHERE id IN (SELECT id FROM message_search_docsize LIMIT 500)",
    """
    DELETE FROM message_search_idx WHERE (segid, term) IN (SELECT segid, term FROM message_search_idx LIMIT 500)
    """,
)


async def remove_old_index(connection: apsw.Connection) -> bool:
    """Removes a part of the index, and its tables once they are empty. Returns whether there is more."""
    tables = [name for (name,) in connection.execute(TABLES).fetchall()]
    if VIRTUAL in tables:
        _detach(connection)
        return True
    if not tables:
        return False
    for step in STEPS:
        connection.execute(step).fetchall()
        if connection.changes():
            return True
    for name in tables:
        connection.execute(f"DROP TABLE {name}").fetchall()
    return False


def _detach(connection: apsw.Connection) -> None:
    """Removes the virtual table from the schema. DROP TABLE would remove all of its tables at once."""
    version = connection.pragma("schema_version")
    connection.execute("PRAGMA writable_schema = ON").fetchall()
    try:
        connection.execute(DETACH).fetchall()
        # Other connections read the schema again when this changes.
        connection.execute(f"PRAGMA schema_version = {version + 1}").fetchall()
    finally:
        connection.execute("PRAGMA writable_schema = RESET").fetchall()
