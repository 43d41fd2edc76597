"""JSON objects that callers and models write, and that are sent to the provider unchanged."""

import json
from typing import Any, NoReturn


def json_object(text: str) -> dict[str, Any]:
    """Parses a JSON object (RFC 8259). Raises ValueError for anything else.

    Also for what Python's parser accepts beyond the RFC: NaN, numbers too large for a double, lone surrogates.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
