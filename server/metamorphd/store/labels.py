"""Labels, as they are stored: a JSON object with sorted keys."""

from collections.abc import Iterator, Mapping

import orjson

from metamorphd.errors import FieldViolation, RequestInvalid

# Of a turn: each of them is a row that its end updates.
MOST_LABELS = 8
NONE = "{}"


def encode_labels(labels: Mapping[str, str]) -> str:
    """Returns labels as they are stored."""
    return orjson.dumps(dict(labels), option=orjson.OPT_SORT_KEYS).decode() if labels else NONE


def decode_labels(text: str) -> Mapping[str, str]:
    """Returns the labels that `encode_labels` stored as `text`."""
    return {} if text == NONE else orjson.loads(text)


def labels_size(labels: Mapping[str, str]) -> int:
    """Returns the bytes that the schema counts for labels."""
    return len(encode_labels(labels)) if labels else 0


def label_names(labels: Mapping[str, str]) -> tuple[str, ...]:
    """Returns each label as usage and budgets name it: `key=value`."""
    return tuple(f"{key}={value}" for key, value in sorted(labels.items()))


def stored_pair(name: str) -> str:
    """Returns the part of stored labels that is the one of this name. It is nowhere else: names have no quotes."""
    key, _, value = name.partition("=")
    return f'"{key}":"{value}"'


def labels_of_turn(session: Mapping[str, str], request: Mapping[str, str]) -> Mapping[str, str]:
    """Returns the labels that a turn counts towards: those of its session and of its request.

    Raises RequestInvalid if the request has another value for a key of the session, and for more than MOST_LABELS.
    """
    if violations := list(_violations(session, request)):
        raise RequestInvalid(violations=violations)
    return {**session, **request} if request else session


def _violations(session: Mapping[str, str], request: Mapping[str, str]) -> Iterator[FieldViolation]:
    for key, value in request.items():
        if session.get(key, value) != value:
            yield FieldViolation(f'labels["{key}"]', f"the session has another value, {session[key]}")
    count = len(session.keys() | request.keys())
    if count > MOST_LABELS:
        yield FieldViolation("labels", f"are {count} with the session's, more than {MOST_LABELS}")
