"""The Claude adapter against a failing Messages API."""

import asyncio
import time
from dataclasses import replace
from email.utils import formatdate

import pytest
from metamorphd import errors
from metamorphd.errors import DomainError
from metamorphd.llm.claude import Claude
from metamorphd.llm.interface import (
    ReplyStop,
)

from tests.llm.claude import REFUSALS, opened, outcome, prompt, text
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Behaviour, Hangup, Raw, Refusal, Reply, Silence


@pytest.mark.parametrize(("behaviour", "expected"), REFUSALS, ids=lambda value: str(value)[:60])
async def test_an_upstream_failure_is_reported_without_its_message_and_keeps_the_text(
    api: FakeMessagesApi, behaviour: Behaviour, expected: type[DomainError]
) -> None:
    api.default = behaviour
    async with opened(api, stall=0.3) as claude:
        events, error = await outcome(claude)
    assert type(error) is expected
    assert "provider's own words" not in str(error)
    assert text(events) == ("abcd" if isinstance(behaviour, Reply) else "")
    assert not any(isinstance(event, ReplyStop) for event in events)


async def test_a_rejection_includes_its_type_if_that_is_an_identifier(api: FakeMessagesApi) -> None:
    names: list[object] = ["invalid_request_error", "Not a name! sk-ant-1", 5, ["invalid_request_error"]]
    api.script.extend([Refusal(400, name) for name in names])
    async with opened(api) as claude:
        for expected in ("invalid_request_error", "unknown", "unknown", "unknown"):
            _, error = await outcome(claude)
            assert error is not None
            # One that is not known may be about anything.
            blamed = {} if expected == "unknown" else {"field": "content"}
            assert error.metadata == {"type": expected} | blamed


async def test_a_wrong_key_and_an_unreachable_provider_have_different_reasons(api: FakeMessagesApi) -> None:
    async with opened(api, key="wrong") as claude:
        _, error = await outcome(claude)
    assert type(error) is errors.UpstreamUnauthenticated
    nowhere = Claude(api_key="sk", base_url="http://127.0.0.1:1", max_retries=0, stall_seconds=1, compact_above=0)
    await nowhere.__aenter__()
    _, error = await outcome(nowhere)
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
        b'{"type":"message_delta","delta":{"stop_reason":["end_turn"]},"usage":null}',
        b'{"type":"message_start","message":{"id":"another"}}',
    ],
)
async def test_malformed_events_interrupt_the_reply(api: FakeMessagesApi, garbage: bytes) -> None:
    api.default = Reply(("a",), ending="garbage", garbage=garbage)
    async with opened(api) as claude:
        events, error = await outcome(claude)
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
async def test_the_retry_delay_of_the_provider_is_passed_on(
    api: FakeMessagesApi, header: str, value: str, expected: float | None
) -> None:
    if value == "in an hour":
        value = formatdate(time.time() + 3600, usegmt=True)
    for refusal in (Refusal(429, "rate_limit_error"), Refusal(529, "overloaded_error")):
        api.default = replace(refusal, headers=((header, value),))
        async with opened(api) as claude:
            _, error = await outcome(claude)
        assert error is not None
        assert error.retry_delay == (None if expected is None else pytest.approx(expected, abs=60))


async def test_a_refusal_before_the_first_event_is_retried(api: FakeMessagesApi) -> None:
    api.script.extend([Refusal(529, "overloaded_error", (("retry-after-ms", "10"),)), Hangup(), Reply(("a",))])
    async with opened(api, retries=2) as claude:
        events, error = await outcome(claude)
    assert (text(events), error, len(api.requests)) == ("a", None, 3)


async def test_a_long_retry_delay_is_left_to_the_caller(api: FakeMessagesApi) -> None:
    api.default = Refusal(429, "rate_limit_error", (("retry-after", "3600"),))
    async with opened(api, retries=5) as claude:
        _, error = await outcome(claude)
    assert error is not None
    assert (error.retry_delay, len(api.requests)) == (3600.0, 1)


async def test_an_unreadable_retry_delay_does_not_delay_the_call(api: FakeMessagesApi) -> None:
    api.script.append(Refusal(429, "rate_limit_error", (("retry-after", "inf"), ("retry-after-ms", "1e99"))))
    async with opened(api, retries=1) as claude, asyncio.timeout(5):
        events, error = await outcome(claude)
    assert (text(events), error) == ("You said: Hello", None)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (307, errors.UpstreamRedirected),
        (400, errors.UpstreamRejected),
        (401, errors.UpstreamUnauthenticated),
        (529, errors.UpstreamOverloaded),
    ],
)
@pytest.mark.parametrize(
    "raw",
    [
        Raw(b'{"type": "error"', later=(b" ",) * 100, pause=0.05),
        Raw(b'{"type": "error"', later=(b" " * 65_536,) * 100, pause=0.05),
        Raw(b'{"type": "error"', ending="stall"),
        Raw(b'{"type": "error"', ending="drop"),
    ],
    ids=["byte by byte", "endless", "silent", "dropped"],
)
async def test_an_error_that_does_not_end_is_one_all_the_same(
    api: FakeMessagesApi, raw: Raw, status: int, expected: type[errors.DomainError]
) -> None:
    api.default = replace(raw, status=status, content_type="application/json")
    async with opened(api, stall=0.3) as claude:
        await claude.opened()
        async with asyncio.timeout(3):
            _, error = await outcome(claude)
            assert type(error) is expected
            with pytest.raises(expected):
                await claude.count_tokens(prompt())


async def test_a_stalled_request_is_not_retried(api: FakeMessagesApi) -> None:
    api.script.append(Refusal(529, "overloaded_error", (("retry-after-ms", "1"),)))
    api.default = Silence()
    began = time.monotonic()
    async with opened(api, retries=5, stall=0.3) as claude:
        _, error = await outcome(claude)
    assert (type(error), len(api.requests)) == (errors.UpstreamStalled, 2)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("ending", ["drop", "error", "garbage", "truncate", "stall"])
async def test_a_reply_that_has_begun_is_never_retried(api: FakeMessagesApi, ending: str) -> None:
    api.default = Reply(("a",), ending=ending)
    async with opened(api, retries=5, stall=0.3) as claude:
        await outcome(claude)
    assert len(api.requests) == 1
