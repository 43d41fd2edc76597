"""JSON that callers and models write, and that goes on to the provider as it came."""

import json
from typing import Any, NoReturn


def json_object(text: str) -> dict[str, Any]:
    """A JSON object (RFC 8259) that can be sent on. Raises ValueError for what is none.

    Python's own reader takes more: NaN, numbers beyond a double, half of a surrogate pair.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
