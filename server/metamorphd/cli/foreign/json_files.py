"""Reads JSON that may have anything in it, an object at a time."""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import IO, Any

from metamorphd.cli.foreign.conversations import Unreadable

READ_CHARACTERS = 1_048_576

Object = Mapping[str, Any]


def objects(file: IO[str]) -> Iterator[Object]:
    """Yields the objects of a JSON array, or the only one there is, holding one at a time. Raises Unreadable."""
    decoder, text, ended = json.JSONDecoder(), "", False
    wanted = READ_CHARACTERS

    def more() -> None:
        nonlocal text, ended
        read = file.read(wanted)
        text, ended = text + read, not read

    more()
    text = text.lstrip("\ufeff \t\r\n")
    in_array = text.startswith("[")
    text = text[1:] if in_array else text
    while True:
        text = text.lstrip(" \t\r\n,")
        if not text and not ended:
            more()
            continue
        if text.startswith("]") or not text:
            if in_array and not text:
                raise Unreadable("the file is cut")
            return
        try:
            found, end = decoder.raw_decode(text)
        except RecursionError:
            raise Unreadable("the file is too deeply nested") from None
        except ValueError as exc:
            if ended:
                raise Unreadable(f"the file is not JSON ({exc})") from None
            # Twice as much each time, so that a long conversation is not tried again too often.
            wanted = max(READ_CHARACTERS, len(text))
            more()
            continue
        if not isinstance(found, dict):
            raise Unreadable("there is something other than conversations")
        text, wanted = text[end:], READ_CHARACTERS
        yield found
        if not in_array:
            return


def text_in(value: Any) -> str:
    """Returns a text that UTF-8 can have, empty if the value is none."""
    # Halves of surrogate pairs are in JSON, but not in UTF-8.
    return value.encode(errors="ignore").decode() if isinstance(value, str) else ""


def object_in(value: Any) -> Object:
    """Returns an object, empty if the value is none."""
    return value if isinstance(value, dict) else {}


def time_in(value: Any) -> int | None:
    """Returns a time in microseconds, given in seconds, milliseconds or as ISO 8601, or None."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value).timestamp()
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 10**13:
        return None
    # A second of that number is in the year 5138.
    return int(value * 1e6) if value < 10**11 else int(value * 1e3)


def text_of(content: Any, lose: Callable[[str], None]) -> str:
    """Returns the text of a content that is a list of parts. `lose` counts parts of other types."""
    texts = []
    for part in content if isinstance(content, list) else []:
        text = object_in(part).get("text")
        if object_in(part).get("type") == "text":
            texts.append(text_in(text) or text_in(object_in(text).get("value")))
        else:
            lose(f"contents of type {text_in(object_in(part).get('type')) or 'unknown'}")
    return "\n".join(filter(None, texts))
