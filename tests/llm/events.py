"""Raw events of replies, and what is read from them."""

from typing import Any

from metamorphd.errors import DomainError
from metamorphd.llm.interface import ReplyEvent, ReplyUsage

from tests.llm.claude import opened, outcome
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Raw, sse

Event = dict[str, Any]
# The most that a reply may have: see `tests.llm.claude.prompt`.
LIMIT = 100
STOP = {"type": "message_stop"}
PING = {"type": "ping"}
THINKING = {"type": "thinking", "thinking": "", "signature": ""}
TOOL = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}


def start(usage: object = None, **message: object) -> Event:
    known = {"input_tokens": 11, "output_tokens": 1}
    return {"type": "message_start", "message": {"id": "msg_1", "usage": usage or known, **message}}


def block(index: int = 0, content_block: Event | None = None) -> Event:
    return {
        "type": "content_block_start",
        "index": index,
        "content_block": content_block or {"type": "text", "text": ""},
    }


def delta(kind: str, value: object, index: int = 0) -> Event:
    name = {"input_json_delta": "partial_json"}.get(kind, kind.removesuffix("_delta"))
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, name: value}}


def said(value: object, index: int = 0) -> Event:
    return delta("text_delta", value, index)


def end(index: int = 0) -> Event:
    return {"type": "content_block_stop", "index": index}


def message_delta(stop_reason: str | None = "end_turn", /, **usage: object) -> Event:
    return {"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": usage}


FINAL = message_delta(output_tokens=7)
HELLO = (block(), said("Hello"), end())


async def read(api: FakeMessagesApi, *events: Event, **raw: Any) -> tuple[list[ReplyEvent], DomainError | None]:
    """Returns the events of a reply of these raw events, and the error that ended it."""
    api.default = Raw(sse(*events), **raw)
    async with opened(api) as claude:
        return await outcome(claude)


def used(events: list[ReplyEvent]) -> ReplyUsage:
    return [event for event in events if isinstance(event, ReplyUsage)][-1]


def content(events: list[ReplyEvent]) -> list[ReplyEvent]:
    return [event for event in events if not isinstance(event, ReplyUsage)]
