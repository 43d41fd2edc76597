"""JSON objects that callers and models write, and that are sent to the provider unchanged."""

import json
from typing import Any, NoReturn

# Both parsers and serializers count levels with Python's own calls, of which there may be more when it is sent.
MOST_LEVELS = 500


def json_object(text: str) -> dict[str, Any]:
    """Parses a JSON object (RFC 8259). Raises ValueError for anything else.

    Also for what Python's parser accepts beyond the RFC: NaN, numbers too large for a double, lone surrogates. And for
    more than MOST_LEVELS of nested values.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text.count("[") + text.count("{") > MOST_LEVELS and _levels(value) > MOST_LEVELS:
        raise ValueError("nested too deeply")
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _levels(value: Any) -> int:
    """Returns how many levels of objects and arrays a value has."""
    level, count = [value], 0
    while level:
        inner = [item for item in level if isinstance(item, (dict, list))]
        level = [child for item in inner for child in (item.values() if isinstance(item, dict) else item)]
        count += bool(inner)
    return count
