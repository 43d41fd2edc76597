"""What the drivers of both Python clients share: the lines, and the JSON of events and errors."""

import asyncio
import json
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from google.protobuf.json_format import MessageToDict, ParseDict
from metamorph_client import TLS, MetamorphError, Tool
from metamorph_client.chat.v1.generation_pb2 import GenerationOptions
from metamorph_client.chat.v1.message_pb2 import ContentBlock
from metamorph_client.chat.v1.turn_pb2 import TurnEvent, TurnStatus

T = TypeVar("T")
Asked = dict[str, Any]
LISTS = {
    "sessions": "list_sessions",
    "messages": "list_messages",
    "turns": "list_turns",
    "memories": "list_memories",
    "search_messages": "search_messages",
}


class Broken(Exception):
    """The events of a reply have ended with an error."""

    def __init__(self, error: Exception, events: list[Any]) -> None:
        self.error = error
        self.events = events


class Seen:
    """What a client has reported since it was connected."""

    def __init__(self) -> None:
        self.retries: list[Any] = []
        self.tokens = 0

    def on_retry(self, error: MetamorphError) -> None:
        self.retries.append(error_of(error))

    def token(self, described: Any) -> Any:
        """Returns a token from its description: text, or a function, async or not, some of whose calls may fail."""
        if not isinstance(described, dict):
            return described
        values = described["values"]
        first, last = described.get("fails_from", sys.maxsize), described.get("fails_to", sys.maxsize)

        def ask() -> Any:
            self.tokens += 1
            if first <= self.tokens <= last:
                raise RuntimeError("the issuer is down")
            return values[min(self.tokens, len(values)) - 1]

        async def ask_async() -> Any:
            await asyncio.sleep(described.get("seconds", 0))
            return ask()

        return ask if described["kind"] == "function" else ask_async


class Tools:
    """The tools of the suite, and which of them were called."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.most_at_once = 0
        self._running = 0
        self._lock = threading.Lock()

    def chosen(self, names: Iterable[str]) -> list[Tool]:
        return [Tool.of(getattr(self, name)) for name in names]

    def add(self, a: int, b: int) -> int:
        """Adds two numbers."""
        return self._counted("add", lambda: a + b)

    def boom(self) -> str:
        """Fails."""

        def fail() -> str:
            raise RuntimeError("boom")

        return self._counted("boom", fail)

    def slow(self, text: str) -> str:
        """Returns a text after a while."""

        def wait() -> str:
            time.sleep(0.2)
            return text

        return self._counted("slow", wait)

    def _counted(self, name: str, work: Callable[[], T]) -> T:
        with self._lock:
            self.calls.append(name)
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        try:
            return work()
        finally:
            with self._lock:
                self._running -= 1


def connection(asked: Asked, seen: Seen) -> dict[str, Any]:
    """Returns the arguments of a client."""
    arguments: dict[str, Any] = {
        name: asked[name] for name in ("target", "vault", "timeout", "give_up_after") if name in asked
    }
    if "token" in asked:
        arguments["token"] = seen.token(asked["token"])
    if "tls" in asked:
        arguments["tls"] = _tls(asked["tls"])
    return arguments | {"on_retry": seen.on_retry}


def sending(asked: Asked) -> dict[str, Any]:
    """Returns the arguments of a message to send, or of a reply to regenerate."""
    arguments: dict[str, Any] = {
        name: asked[name]
        for name in ("session_id", "user_message_id", "request_id", "parent_message_id", "labels")
        if name in asked
    }
    if "options" in asked:
        arguments["options"] = ParseDict(asked["options"], GenerationOptions())
    if "content" in asked:
        given = asked["content"]
        arguments["content"] = (
            given if isinstance(given, str) else [ParseDict(block, ContentBlock()) for block in given]
        )
    return arguments


def calling(asked: Asked) -> dict[str, Any]:
    """Returns the options of a call of a stub."""
    options = {"timeout": asked["timeout"]} if "timeout" in asked else {}
    return options | {"metadata": tuple(asked["metadata"].items())} if "metadata" in asked else options


def request_of(asked: Asked) -> Any:
    """Returns the request of a method, from its JSON."""
    name = asked["method"]
    module = sys.modules[f"metamorph_client.{asked['service']}.v1.{asked['service']}_service_pb2"]
    return ParseDict(asked["request"], getattr(module, f"{name}Request")())


def as_json(message: Any) -> dict[str, Any]:
    return dict(MessageToDict(message))


def event_of(event: TurnEvent) -> dict[str, Any]:
    kind = event.WhichOneof("event") or ""
    described: dict[str, Any] = {"turn_id": event.turn_id, "sequence": event.sequence, "kind": kind}
    if kind == "text_delta":
        described["text"] = event.text_delta.text
    if kind == "turn_finished":
        described["status"] = TurnStatus.Name(event.turn_finished.status)
    return described


def error_of(error: BaseException) -> dict[str, Any]:
    if isinstance(error, MetamorphError):
        return {
            "type": "MetamorphError",
            "code": error.code.name,
            "reason": error.reason,
            "message": error.message,
            "metadata": dict(error.metadata),
            "retry_delay": error.retry_delay,
            "violations": [violation._asdict() for violation in error.violations],
            "call_id": error.call_id,
            "resumable": error.resumable,
            "text": str(error),
        }
    usage = isinstance(error, ValueError | TypeError)
    if not usage:
        traceback.print_exception(error)
    return {"type": "usage" if usage else f"other: {type(error).__name__}", "message": str(error)}


def failure(error: Exception) -> dict[str, Any]:
    """Returns the answer to a command that has failed."""
    if isinstance(error, Broken):
        return {"error": error_of(error.error), "ok": {"events": error.events}}
    return {"error": error_of(error)}


def listing(asked: Asked) -> dict[str, Any]:
    """Returns the arguments of a list."""
    return {name: asked[name] for name in ("session_id", "query", "page_size") if name in asked}


def source_of(asked: Asked) -> Any:
    """Returns what to upload, in the form that is asked for."""
    data = _read(asked["path"])
    match asked["how"]:
        case "path":
            return asked["path"]
        case "stream":
            return (data[start : start + 100_000] for start in range(0, len(data), 100_000))
    return data


def write(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _tls(described: Any) -> Any:
    if described is True:
        return True
    files = {name: described[name] for name in ("ca", "cert", "key") if name in described}
    if described.get("as") == "bytes":
        files = {name: _read(path) for name, path in files.items()}
    return TLS(**files)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
