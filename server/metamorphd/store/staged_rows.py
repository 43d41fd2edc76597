"""The rows that records of an import become, made before they are stored.

Rows are JSON objects with the names of their columns, or arrays of columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from metamorphd.models.content import text_of
from metamorphd.models.imports import Line
from metamorphd.models.message import BranchMessage, Role
from metamorphd.store.codec import decode_content

# What is needed of these once they are revealed or discarded. All of the other kinds.
STAGED_FIELDS = {"session": ("session_id", "archived", "creator", "metadata"), "attachment": ("attachment_id",)}

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Placed:
    """A message and its place in the tree of its session."""

    line: int
    message_id: str
    session_id: str
    parent_id: str | None
    size: int
    opens: bool
    summarizes: bool


@dataclass(frozen=True, slots=True)
class Step:
    """Records that are staged in one transaction. Texts are JSON arrays of rows, empty if there are none.

    `lines` are the numbers of lines by kind and ID of sessions, messages and turns. `references` are (line, field,
    message ID, session ID) of what turns name. `large` is the content of the only message, or the options of the only
    turn, if that is large. `leaves` is an object of the last messages of sessions, by session.
    """

    size: int
    lines: Mapping[tuple[str, str], int]
    placed: Sequence[Placed]
    references: Sequence[tuple[int, str, str, str]]
    large: str | None
    sessions: str
    messages: str
    leaves: str
    indexed: str
    uses: str
    turns: str
    records: str


def session_row(record: Row) -> Row:
    """Returns the row of a session."""
    return {**record, "metadata": _sorted(record["metadata"]), "labels": _sorted(record["labels"])}


def message_row(line: Line, ordinal: int) -> tuple[Row, Placed, str]:
    """Returns the row of a message, its place and its text. One whose content was deleted has none."""
    record = line.record
    deleted = record["delete_time"] is not None
    content = _json([] if deleted else record["content"])
    decoded, size, parent_id = decode_content(content), len(content.encode()), record["parent_message_id"]
    spoken = BranchMessage(
        record["message_id"],
        Role(record["role"]),
        decoded,
        is_root=parent_id is None,
        refused=record["refused"],
        rejected=record["rejected"],
    )
    place = Placed(
        line.number,
        record["message_id"],
        record["session_id"],
        parent_id,
        size,
        opens=spoken.opens_prompt,
        summarizes=spoken.summarizes,
    )
    return {**record, "ordinal": ordinal, "content": content, "size": size}, place, text_of(decoded)


def uses_of(record: Row) -> list[tuple[str, str, str]]:
    """Returns (attachment ID, message ID, session ID) of what a message holds."""
    return [(block["attachment_id"], record["message_id"], record["session_id"]) for block in attached_in(record)]


def attached_in(record: Row) -> list[dict[str, Any]]:
    """Returns the images and documents in a message, those of tools' results too."""
    blocks = [] if record["delete_time"] is not None else record["content"]
    parts = [part for block in blocks for part in (block["content"] if block["type"] == "tool_result" else [block])]
    return [part for part in parts if "attachment_id" in part]


def turn_row(record: Row) -> Row:
    """Returns the row of a turn."""
    return {
        **record,
        "stop_details": _json_or_null(record["stop_details"]),
        "error": _json_or_null(record["error"]),
        "options": _json(record["options"]),
        "labels": _sorted(record["labels"]),
    }


def staged_record(line: Line) -> Row:
    """Returns the row of a record that waits until the import is complete."""
    wanted = STAGED_FIELDS.get(line.kind)
    record = line.record if wanted is None else {name: line.record[name] for name in wanted}
    return {"number": line.number, "kind": line.kind, "record": _json(record)}


def json_rows(rows: Sequence[object] | Mapping[str, object]) -> str:
    """Returns rows as JSON, or nothing if there are none."""
    return _json(rows) if rows else ""


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _sorted(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _json_or_null(value: object) -> str | None:
    return None if value is None else _json(value)
