"""Opens and reads Claude as the turn engine does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from metamorphd import errors
from metamorphd.errors import DomainError
from metamorphd.llm.claude import Claude
from metamorphd.llm.interface import (
    Prompt,
    PromptMessage,
    ReplyEvent,
    ReplyText,
)
from metamorphd.models.content import TextBlock
from metamorphd.models.generation import EffectiveOptions
from metamorphd.models.message import Role

from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Behaviour, Hangup, Raw, Refusal, Reply, Silence

ELSEWHERE = (("location", "/v1/messages"),)
SPENT = "You have reached your specified workspace API usage limits"
REFUSALS: list[tuple[Behaviour, type[DomainError]]] = [
    (Refusal(401, "authentication_error"), errors.UpstreamUnauthenticated),
    (Refusal(403, "permission_error"), errors.UpstreamUnauthenticated),
    (Refusal(429, "rate_limit_error"), errors.UpstreamRateLimited),
    (Refusal(529, "overloaded_error"), errors.UpstreamOverloaded),
    (Refusal(500, "api_error"), errors.UpstreamUnavailable),
    (Refusal(503, "api_error"), errors.UpstreamUnavailable),
    (Refusal(400, "invalid_request_error"), errors.UpstreamRejected),
    (Refusal(404, "not_found_error"), errors.UpstreamRejected),
    (Refusal(413, "request_too_large"), errors.UpstreamRejected),
    (Refusal(422, "invalid_request_error"), errors.UpstreamRejected),
    (Refusal(402, "billing_error"), errors.UpstreamSpendLimit),
    (Refusal(403, "billing_error"), errors.UpstreamSpendLimit),
    (Refusal(429, "rate_limit_error", error_code="enforced_spend_limit_reached"), errors.UpstreamSpendLimit),
    (Refusal(429, "rate_limit_error", error_code="contract_spend_limit_reached"), errors.UpstreamSpendLimit),
    (Refusal(429, "rate_limit_error", error_code="ramp_limit_exceeded"), errors.UpstreamRateLimited),
    (Refusal(400, "invalid_request_error", message=f"{SPENT}. It resumes"), errors.UpstreamSpendLimit),
    (Refusal(400, "invalid_request_error", message=f"Not: {SPENT}"), errors.UpstreamRejected),
    (Hangup(), errors.UpstreamUnavailable),
    (Silence(), errors.UpstreamStalled),
    (Reply(("ab", "cd"), ending="error", error_type="overloaded_error"), errors.UpstreamOverloaded),
    (Reply(("ab", "cd"), ending="error", error_type="rate_limit_error"), errors.UpstreamRateLimited),
    (Reply(("ab", "cd"), ending="error", error_type="billing_error"), errors.UpstreamSpendLimit),
    (Reply(("ab", "cd"), ending="error", error_type="api_error"), errors.UpstreamInterrupted),
    (Reply(("ab", "cd"), ending="drop"), errors.UpstreamInterrupted),
    (Reply(("ab", "cd"), ending="truncate"), errors.UpstreamInterrupted),
    (Reply(("ab", "cd"), ending="garbage"), errors.UpstreamInterrupted),
    (Reply(("ab", "cd"), ending="stall"), errors.UpstreamStalled),
    (Raw(b"<html>", "text/html"), errors.UpstreamNotAStream),
    (Raw(b'{"id": "msg_1", "content": []}', "application/json"), errors.UpstreamNotAStream),
    (Raw(b"", "Application/Problem+JSON; charset=utf-8"), errors.UpstreamNotAStream),
    (Raw(b"", status=301, headers=ELSEWHERE), errors.UpstreamRedirected),
    (Raw(b"", status=307, headers=ELSEWHERE), errors.UpstreamRedirected),
    (Raw(b"", status=308), errors.UpstreamRedirected),
]


@asynccontextmanager
async def opened(api: FakeMessagesApi, *, key: str = "sk", retries: int = 0, stall: float = 5) -> AsyncIterator[Claude]:
    claude = Claude(api_key=key, base_url=api.base_url, max_retries=retries, stall_seconds=stall, compact_above=0)
    await claude.__aenter__()
    yield claude
    await claude.__aexit__()


def prompt(text: str = "Hello", system: str = "", stop: tuple[str, ...] = ()) -> Prompt:
    options = EffectiveOptions(model="claude-x", max_output_tokens=100, stop_sequences=stop)
    return Prompt(system, (PromptMessage(Role.USER, (TextBlock(text),)),), {}, options)


async def outcome(claude: Claude, sent: Prompt | None = None) -> tuple[list[ReplyEvent], DomainError | None]:
    """Returns every event of a reply and the error that ended it."""
    events: list[ReplyEvent] = []
    replying = claude.generate(sent or prompt())
    while True:
        try:
            events.extend(await anext(replying))
        except StopAsyncIteration:
            return events, None
        except DomainError as error:
            return events, error


def text(events: list[ReplyEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, ReplyText))
