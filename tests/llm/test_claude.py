"""Claude's adapter against a Messages API over HTTP: the real SDK, its events, its errors."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from email.utils import formatdate

import pytest
from metamorphd import errors
from metamorphd.errors import DomainError
from metamorphd.llm.claude import Claude
from metamorphd.llm.interface import (
    Prompt,
    PromptMessage,
    ReplyEvent,
    ReplyStop,
    ReplyText,
    ReplyThinking,
    ReplyThinkingEnd,
    ReplyUsage,
)
from metamorphd.models.content import TextBlock, ThinkingBlock
from metamorphd.models.generation import EffectiveOptions, Tool
from metamorphd.models.message import Role
from metamorphd.models.turn import StopReason
from metamorphd.models.usage import Usage

from tests.support.fakes.messages_api import (
    COUNT_PATH,
    Behaviour,
    Count,
    FakeMessagesApi,
    Hangup,
    Refusal,
    Reply,
    Silence,
    thinking,
)


@asynccontextmanager
async def opened(api: FakeMessagesApi, *, key: str = "sk", retries: int = 0, stall: float = 5) -> AsyncIterator[Claude]:
    claude = Claude(api_key=key, base_url=api.base_url, max_retries=retries, stall_seconds=stall, compact_above=0)
    await claude.__aenter__()
    yield claude
    await claude.__aexit__()


def prompt(text: str = "Hello", system: str = "", stop: tuple[str, ...] = ()) -> Prompt:
    options = EffectiveOptions(model="claude-x", max_output_tokens=100, stop_sequences=stop)
    return Prompt(system, (PromptMessage(Role.USER, (TextBlock(text),)),), {}, options)


async def told(claude: Claude, asked: Prompt | None = None) -> tuple[list[ReplyEvent], DomainError | None]:
    """Every event, and the error that ended the reply."""
    events: list[ReplyEvent] = []
    replying = claude.generate(asked or prompt())
    while True:
        try:
            events.extend(await anext(replying))
        except StopAsyncIteration:
            return events, None
        except DomainError as error:
            return events, error


def text(events: list[ReplyEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, ReplyText))


async def test_a_reply_streams_with_its_usage_and_ends_once(api: FakeMessagesApi) -> None:
    async with opened(api) as claude:
        events, error = await told(claude, prompt("who?"))
    assert error is None
    assert text(events) == "You said: who?"
    assert events[-1] == ReplyStop(StopReason.END_TURN)
    assert [event for event in events if isinstance(event, ReplyUsage)][-1] == ReplyUsage(Usage(11, 3, 5, 3))


async def test_the_request_says_what_the_prompt_says_and_caching_is_on(api: FakeMessagesApi) -> None:
    branch = (
        PromptMessage(Role.USER, (TextBlock("a"), TextBlock("b"))),
        PromptMessage(Role.ASSISTANT, (TextBlock("c"),)),
        PromptMessage(Role.USER, (TextBlock("d"),)),
    )
    async with opened(api, key="sk-test") as claude:
        options = EffectiveOptions(model="claude-y", max_output_tokens=77, stop_sequences=("END",))
        await told(claude, Prompt("Be brief.", branch, {}, options))
        await told(claude)
    full, plain = api.requests
    assert full.headers["authorization"] == "Bearer sk-test"
    assert full.body == {
        "model": "claude-y",
        "max_tokens": 77,
        "system": "Be brief.",
        "stop_sequences": ["END"],
        "stream": True,
        "cache_control": {"type": "ephemeral"},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "c"}]},
            {"role": "user", "content": [{"type": "text", "text": "d"}]},
        ],
    }
    assert not {"system", "stop_sequences", "temperature", "top_p", "top_k"} & plain.body.keys()


@pytest.mark.parametrize(
    ("provided", "expected"),
    [
        ("end_turn", StopReason.END_TURN),
        ("max_tokens", StopReason.MAX_TOKENS),
        ("stop_sequence", StopReason.STOP_SEQUENCE),
        ("tool_use", StopReason.TOOL_USE),
        ("pause_turn", StopReason.PAUSE),
        ("refusal", StopReason.REFUSAL),
        ("model_context_window_exceeded", StopReason.CONTEXT_EXCEEDED),
        ("something_new", StopReason.OTHER),
    ],
)
async def test_stop_reasons_are_told_in_our_terms(api: FakeMessagesApi, provided: str, expected: StopReason) -> None:
    api.default = Reply(("a",), stop_reason=provided)
    async with opened(api) as claude:
        events, _ = await told(claude)
    assert events[-1] == ReplyStop(expected)


async def test_blocks_count_from_0_in_the_order_of_the_reply(api: FakeMessagesApi) -> None:
    api.default = Reply(("a", thinking("hmm", "sig"), "b", "c"))
    async with opened(api) as claude:
        events, _ = await told(claude)
    assert [event for event in events if not isinstance(event, (ReplyUsage, ReplyStop))] == [
        ReplyText(0, "a"),
        ReplyThinking(1, "hmm"),
        ReplyThinking(1, ""),
        ReplyThinkingEnd(1, ThinkingBlock("", signature="sig")),
        ReplyText(2, "b"),
        ReplyText(2, "c"),
    ]


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
]


@pytest.mark.parametrize(("behaviour", "expected"), REFUSALS, ids=lambda value: str(value)[:60])
async def test_what_goes_wrong_upstream_is_told_without_its_words_and_the_text_is_kept(
    api: FakeMessagesApi, behaviour: Behaviour, expected: type[DomainError]
) -> None:
    api.default = behaviour
    async with opened(api, stall=0.3) as claude:
        events, error = await told(claude)
    assert type(error) is expected
    assert "provider's own words" not in str(error)
    assert text(events) == ("abcd" if isinstance(behaviour, Reply) else "")
    assert not any(isinstance(event, ReplyStop) for event in events)


async def test_a_rejection_says_its_type_where_that_is_a_name(api: FakeMessagesApi) -> None:
    names: list[object] = ["invalid_request_error", "Not a name! sk-ant-1", 5, ["invalid_request_error"]]
    api.script.extend([Refusal(400, name) for name in names])
    async with opened(api) as claude:
        for expected in ("invalid_request_error", "unknown", "unknown", "unknown"):
            _, error = await told(claude)
            assert error is not None
            assert error.metadata == {"type": expected}


async def test_a_wrong_key_and_an_unreachable_provider_are_told_apart(api: FakeMessagesApi) -> None:
    async with opened(api, key="wrong") as claude:
        _, error = await told(claude)
    assert type(error) is errors.UpstreamUnauthenticated
    nowhere = Claude(api_key="sk", base_url="http://127.0.0.1:1", max_retries=0, stall_seconds=1, compact_above=0)
    await nowhere.__aenter__()
    _, error = await told(nowhere)
    await nowhere.__aexit__()
    assert type(error) is errors.UpstreamUnavailable


@pytest.mark.parametrize(
    "garbage",
    [
        b"null",
        b"[1]",
        b"\xff",
        b'{"type":"content_block_delta"}',
        b'{"type":"content_block_delta","index":9,"delta":{"type":"text_delta","text":"a"}}',
        b'{"type":"content_block_start","index":[1],"content_block":{"type":"text","text":""}}',
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":5}}',
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\\ud800"}}',
        b'{"type":"message_delta","delta":{"stop_reason":["end_turn"]},"usage":null}',
        b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":"7"}}',
        b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":-1}}',
        b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":9223372036854775807}}',
    ],
)
async def test_events_that_make_no_sense_break_the_reply_off(api: FakeMessagesApi, garbage: bytes) -> None:
    api.default = Reply(("a",), ending="garbage", garbage=garbage)
    async with opened(api) as claude:
        events, error = await told(claude)
    assert (text(events), type(error)) == ("a", errors.UpstreamInterrupted)


@pytest.mark.parametrize(
    ("header", "value", "expected"),
    [
        ("retry-after", "7", 7.0),
        ("retry-after-ms", "1500", 1.5),
        ("retry-after", "in an hour", 3600.0),
        ("retry-after", "soon", None),
    ],
)
async def test_the_wait_that_the_provider_asks_for_is_passed_on(
    api: FakeMessagesApi, header: str, value: str, expected: float | None
) -> None:
    if value == "in an hour":
        value = formatdate(time.time() + 3600, usegmt=True)
    for refusal in (Refusal(429, "rate_limit_error"), Refusal(529, "overloaded_error")):
        api.default = replace(refusal, headers=((header, value),))
        async with opened(api) as claude:
            _, error = await told(claude)
        assert error is not None
        assert error.retry_delay == (None if expected is None else pytest.approx(expected, abs=60))


async def test_a_refusal_is_tried_again_before_the_first_event(api: FakeMessagesApi) -> None:
    api.script.extend([Refusal(529, "overloaded_error", (("retry-after-ms", "10"),)), Hangup(), Reply(("a",))])
    async with opened(api, retries=2) as claude:
        events, error = await told(claude)
    assert (text(events), error, len(api.requests)) == ("a", None, 3)


async def test_a_long_wait_is_the_callers_to_make(api: FakeMessagesApi) -> None:
    api.default = Refusal(429, "rate_limit_error", (("retry-after", "3600"),))
    async with opened(api, retries=5) as claude:
        _, error = await told(claude)
    assert error is not None
    assert (error.retry_delay, len(api.requests)) == (3600.0, 1)


async def test_a_wait_that_cannot_be_read_does_not_hold_the_call(api: FakeMessagesApi) -> None:
    api.script.append(Refusal(429, "rate_limit_error", (("retry-after", "inf"), ("retry-after-ms", "1e99"))))
    async with opened(api, retries=1) as claude, asyncio.timeout(5):
        events, error = await told(claude)
    assert (text(events), error) == ("You said: Hello", None)


async def test_silence_is_not_asked_for_again(api: FakeMessagesApi) -> None:
    api.script.append(Refusal(529, "overloaded_error", (("retry-after-ms", "1"),)))
    api.default = Silence()
    began = time.monotonic()
    async with opened(api, retries=5, stall=0.3) as claude:
        _, error = await told(claude)
    assert (type(error), len(api.requests)) == (errors.UpstreamStalled, 2)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("ending", ["drop", "error", "garbage", "truncate", "stall"])
async def test_a_reply_that_has_begun_is_never_asked_for_again(api: FakeMessagesApi, ending: str) -> None:
    api.default = Reply(("a",), ending=ending)
    async with opened(api, retries=5, stall=0.3) as claude:
        await told(claude)
    assert len(api.requests) == 1


async def test_leaving_a_reply_ends_the_upstream_connection(api: FakeMessagesApi) -> None:
    api.default = Reply(("a", "b"), ending="stall")
    async with opened(api) as claude:
        events = claude.generate(prompt())
        async for batch in events:
            if any(isinstance(event, ReplyText) for event in batch):
                break
        assert api.open_streams == 1
        await events.aclose()
        await api.until_idle()


async def test_cancelling_whoever_reads_ends_the_upstream_connections(api: FakeMessagesApi) -> None:
    api.default = Reply(("a", "b"), ending="stall")
    async with opened(api, stall=30) as claude:
        replies = [claude.generate(prompt()) for _ in range(100)]
        for reply in replies:
            while ReplyText(0, "b") not in await anext(reply):
                pass
        assert api.open_streams == len(replies)
        readers = [asyncio.create_task(read_on(reply)) for reply in replies]
        await asyncio.sleep(0)
        for reader in readers:
            reader.cancel()
        ended = await asyncio.gather(*readers, return_exceptions=True)
        await api.until_idle()
    assert all(isinstance(end, asyncio.CancelledError) for end in ended)


async def read_on(reply: AsyncIterator[Sequence[ReplyEvent]]) -> None:
    async for _ in reply:
        pass


async def test_what_is_counted_is_what_would_be_asked_the_length_of_the_reply_aside(api: FakeMessagesApi) -> None:
    tools = (Tool("look", "Looks.", '{"type": "object", "properties": {"b": {}, "a": {}}}'),)
    options = EffectiveOptions(model="claude-x", max_output_tokens=77, stop_sequences=("END",), tools=tools)
    asked = replace(prompt(system="Be brief."), options=options)
    api.script.append(Count(42))
    async with opened(api) as claude:
        assert await claude.count_tokens(asked) == 42
        await told(claude, asked)
    counted, sent = api.requests
    assert (counted.path, sent.path) == (COUNT_PATH, "/v1/messages")
    spoken = {
        name: value for name, value in sent.body.items() if name not in ("max_tokens", "stop_sequences", "stream")
    }
    assert counted.body == spoken
    assert list(counted.body["tools"][0]["input_schema"]["properties"]) == ["b", "a"]


COUNTING: list[tuple[Behaviour, type[DomainError]]] = [
    *((behaviour, expected) for behaviour, expected in REFUSALS if not isinstance(behaviour, Reply)),
    (Count("many"), errors.UpstreamUnavailable),
    (Count(None), errors.UpstreamUnavailable),
    (Count(1.5), errors.UpstreamUnavailable),
]


@pytest.mark.parametrize(("behaviour", "expected"), COUNTING, ids=lambda value: str(value)[:60])
async def test_what_goes_wrong_while_counting_is_told_alike(
    api: FakeMessagesApi, behaviour: Behaviour, expected: type[DomainError]
) -> None:
    api.default = behaviour
    async with opened(api, stall=0.3) as claude:
        with pytest.raises(expected) as error:
            await claude.count_tokens(prompt())
    assert type(error.value) is expected
    assert "provider's own words" not in str(error.value)
