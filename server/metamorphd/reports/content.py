"""The part of an error that may leave the server: only text that is known to be code. Everything else stays here.

Messages of exceptions, their arguments and notes, local variables and fields of log lines may hold what callers wrote,
tokens and keys, so they are not looked at.
"""

import errno
import re
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any

from metamorphd.errors import DomainError

# Of one event. What is beyond them is left out.
MOST_EXCEPTIONS = 10
MOST_FRAMES = 50

# Callers choose ids of calls, and may put anything in them: only those that this server made, and UUIDs, are sent.
_CALL_ID = re.compile(
    r"[0-9a-f]{16}-[0-9a-f]{1,12}|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
)

# One exception, its place among the exceptions of an event, that of the one that it belongs to, and how it does.
Linked = tuple[BaseException, int, int | None, str]


def content_of(
    error: BaseException | None, *, level: str, message: str, fields: Mapping[str, object]
) -> dict[str, Any]:
    """Returns Sentry's event for a log line. https://develop.sentry.dev/sdk/foundations/transport/event-payloads/

    `message` must be the text of a log line of ours, which is constant, and is left out if `fields` has the name of a
    library's `logger`. Of the other fields, the event has `endpoint`, and `call_id` if it cannot be anything else.
    """
    library = fields.get("logger")
    tags = {
        "method": fields.get("endpoint"),
        "call_id": _safe_call_id(fields.get("call_id")),
        "reason": error.reason_name() if isinstance(error, DomainError) else None,
    }
    event: dict[str, Any] = {
        "level": "fatal" if level == "critical" else level,
        "logger": library or "metamorphd",
        "message": "logged by a library" if library else message,
        "tags": {name: str(value) for name, value in tags.items() if value},
    }
    if error is not None:
        # Sentry wants the outermost one last.
        event["exception"] = {"values": [_exception(linked) for linked in reversed(_linked(error))]}
    return event


def place_of(error: BaseException | None) -> tuple[object, ...]:
    """Returns what is the same of errors that are raised in the same place: the type, and the innermost frame."""
    if error is None:
        return ()
    frames = deque(traceback.walk_tb(error.__traceback__), maxlen=1)
    return (type(error), *((frame.f_code, line) for frame, line in frames))


def _safe_call_id(call_id: object) -> str | None:
    return call_id if isinstance(call_id, str) and _CALL_ID.fullmatch(call_id) else None


def _linked(error: BaseException) -> Sequence[Linked]:
    """Returns an exception and those that it was raised from, while handling, or that are in its group."""
    found: list[Linked] = []
    seen: set[int] = set()
    waiting: deque[tuple[BaseException, int | None, str]] = deque([(error, None, "")])
    while waiting and len(found) < MOST_EXCEPTIONS:
        each, parent, link = waiting.popleft()
        if id(each) in seen:
            continue
        seen.add(id(each))
        place = len(found)
        found.append((each, place, parent, link))
        waiting.extend((other, place, how) for other, how in _neighbours(each))
    return found


def _neighbours(error: BaseException) -> Iterator[tuple[BaseException, str]]:
    if error.__cause__ is not None:
        yield error.__cause__, "__cause__"
    elif error.__context__ is not None and not error.__suppress_context__:
        yield error.__context__, "__context__"
    if isinstance(error, BaseExceptionGroup):
        yield from ((each, f"exceptions[{place}]") for place, each in enumerate(error.exceptions[:MOST_EXCEPTIONS]))


def _exception(linked: Linked) -> dict[str, Any]:
    error, place, parent, link = linked
    mechanism: dict[str, Any] = {"type": "chained" if link else "logging", "handled": True, "exception_id": place}
    if link:
        mechanism |= {"parent_id": parent, "source": link}
    if isinstance(error, BaseExceptionGroup):
        mechanism["is_exception_group"] = True
    return {
        "type": type(error).__qualname__,
        "module": type(error).__module__,
        "value": _safe_message(error),
        "mechanism": mechanism,
        "stacktrace": {"frames": _frames(error.__traceback__)},
    }


def _safe_message(error: BaseException) -> str:
    """Returns the message of our own errors without its values, the name of the system's error, or nothing."""
    if isinstance(error, DomainError):
        return error.message
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return errno.errorcode.get(error.errno, "")
    return ""


def _frames(trace: TracebackType | None) -> list[dict[str, Any]]:
    """Returns the innermost frames, the innermost last, without variables and without lines of source."""
    return [_frame(frame, line) for frame, line in deque(traceback.walk_tb(trace), maxlen=MOST_FRAMES)]


def _frame(frame: FrameType, line: int) -> dict[str, Any]:
    module = str(frame.f_globals.get("__name__"))
    return {
        "module": module,
        # Not the path, which says where the server is installed.
        "filename": f"{module.replace('.', '/')}.py",
        "function": frame.f_code.co_qualname,
        "lineno": line,
        "in_app": module.partition(".")[0] == "metamorphd",
    }
