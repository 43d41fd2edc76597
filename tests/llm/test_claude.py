"""The Claude adapter and the real SDK against a Messages API over HTTP."""

import asyncio
import importlib
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from metamorphd import errors
from metamorphd.errors import DomainError
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
from metamorphd.llm.prefix import DIGEST_BYTES
from metamorphd.models.content import TextBlock
from metamorphd.models.generation import EffectiveOptions, Tool
from metamorphd.models.message import Role
from metamorphd.models.turn import StopReason
from metamorphd.models.usage import Usage

from tests.llm.claude import ELSEWHERE, REFUSALS, opened, outcome, prompt, text
from tests.support.fakes.messages_api import COUNT_PATH, FakeMessagesApi
from tests.support.fakes.replies import Behaviour, Count, Raw, Refusal, Reply, thinking


async def test_a_reply_streams_with_its_usage_and_ends_once(api: FakeMessagesApi) -> None:
    async with opened(api) as claude:
        events, error = await outcome(claude, prompt("who?"))
    assert error is None
    assert text(events) == "You said: who?"
    assert events[-1] == ReplyStop(StopReason.END_TURN)
    assert [event for event in events if isinstance(event, ReplyUsage)][-1] == ReplyUsage(Usage(11, 3, 5, 3))


async def test_a_call_waits_until_the_sdk_is_imported(api: FakeMessagesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    released, imported = threading.Event(), importlib.import_module

    def slow(name: str) -> Any:
        assert released.wait(10)
        return imported(name)

    monkeypatch.setattr(importlib, "import_module", slow)
    # Entered at once.
    async with opened(api) as claude:
        replying = asyncio.create_task(outcome(claude))
        await asyncio.sleep(0.1)
        assert (replying.done(), api.requests) == (False, [])
        released.set()
        events, error = await replying
    assert (text(events), error) == ("You said: Hello", None)


async def test_the_request_matches_the_prompt_and_enables_caching(api: FakeMessagesApi) -> None:
    branch = (
        PromptMessage(Role.USER, (TextBlock("a"), TextBlock("b"))),
        PromptMessage(Role.ASSISTANT, (TextBlock("c"),)),
        PromptMessage(Role.USER, (TextBlock("d"),)),
    )
    async with opened(api, key="sk-test") as claude:
        options = EffectiveOptions(model="claude-y", max_output_tokens=77, stop_sequences=("END",))
        await outcome(claude, Prompt("Be brief.", branch, {}, options))
        await outcome(claude)
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
async def test_stop_reasons_are_mapped(api: FakeMessagesApi, provided: str, expected: StopReason) -> None:
    api.default = Reply(("a",), stop_reason=provided)
    async with opened(api) as claude:
        events, _ = await outcome(claude)
    assert events[-1] == ReplyStop(expected)


async def test_blocks_are_numbered_from_0_in_reply_order(api: FakeMessagesApi) -> None:
    api.default = Reply(("a", thinking("hmm", "sig"), "b", "c"))
    async with opened(api) as claude:
        events, _ = await outcome(claude)
    (ended,) = [event for event in events if isinstance(event, ReplyThinkingEnd)]
    assert (ended.block.signature, len(ended.block.bound_to)) == ("sig", 2 * DIGEST_BYTES)
    assert [event for event in events if not isinstance(event, (ReplyUsage, ReplyStop))] == [
        ReplyText(0, "a"),
        ReplyThinking(1, "hmm"),
        ReplyThinking(1, ""),
        ended,
        ReplyText(2, "b"),
        ReplyText(2, "c"),
    ]


async def test_abandoning_a_reply_closes_the_upstream_connection(api: FakeMessagesApi) -> None:
    api.default = Reply(("a", "b"), ending="stall")
    async with opened(api) as claude:
        events = claude.generate(prompt())
        async for batch in events:
            if any(isinstance(event, ReplyText) for event in batch):
                break
        assert api.open_streams == 1
        await events.aclose()
        await api.until_idle()


async def test_cancelling_readers_closes_their_upstream_connections(api: FakeMessagesApi) -> None:
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


async def test_a_count_request_equals_a_reply_request_except_for_its_length(api: FakeMessagesApi) -> None:
    tools = (Tool("look", "Looks.", '{"type": "object", "properties": {"b": {}, "a": {}}}'),)
    options = EffectiveOptions(model="claude-x", max_output_tokens=77, stop_sequences=("END",), tools=tools)
    prompted = replace(prompt(system="Be brief."), options=options)
    api.script.append(Count(42))
    async with opened(api) as claude:
        assert await claude.count_tokens(prompted) == 42
        await outcome(claude, prompted)
    counted, sent = api.requests
    assert (counted.path, sent.path) == (COUNT_PATH, "/v1/messages")
    spoken = {
        name: value for name, value in sent.body.items() if name not in ("max_tokens", "stop_sequences", "stream")
    }
    assert counted.body == spoken
    assert list(counted.body["tools"][0]["input_schema"]["properties"]) == ["b", "a"]


COUNTING: list[tuple[Behaviour, type[DomainError]]] = [
    *((behaviour, expected) for behaviour, expected in REFUSALS if not isinstance(behaviour, Reply | Raw)),
    (Raw(b"", status=307, headers=ELSEWHERE), errors.UpstreamRedirected),
    (Raw(b'{"input_tokens', "application/json", ending="drop"), errors.UpstreamUnavailable),
    (Raw(b'{"input_tokens', "application/json", ending="stall"), errors.UpstreamStalled),
    (Raw(b'{"type":"error","error":{"type":"overloaded_error"}}', "application/json"), errors.UpstreamOverloaded),
    (Raw(b'{"error":{"type":"rate_limit_error"}}', "application/json"), errors.UpstreamRateLimited),
    (Raw(b'{"type":"error","error":{"type":"api_error"}}', "application/json"), errors.UpstreamUnavailable),
    (Raw(b'{"type":"error","error":{"type":"invalid_request_error"}}', "text/plain"), errors.UpstreamRejected),
    (Raw(b'{"error":{"message":"the provider\'s own words"}}', "application/json"), errors.UpstreamFailed),
]


@pytest.mark.parametrize(("behaviour", "expected"), COUNTING, ids=lambda value: str(value)[:60])
async def test_count_failures_are_reported_like_reply_failures(
    api: FakeMessagesApi, behaviour: Behaviour, expected: type[DomainError]
) -> None:
    api.default = behaviour
    async with opened(api, stall=0.3) as claude:
        with pytest.raises(expected) as error:
            await claude.count_tokens(prompt())
    assert type(error.value) is expected
    assert "provider's own words" not in str(error.value)


NO_COUNTS: list[object] = ["many", None, 1.5, -1, True, 2**31, [1], {}]


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        *((Count(tokens), "application/json") for tokens in NO_COUNTS),
        *(
            (Raw(body, "application/json"), "application/json")
            for body in (b"{}", b"[1]", b'{"id": "msg_1"}', b"7", b"")
        ),
        (Raw(b"{" * 100_000, "application/json"), "application/json"),
        (Raw(b"<html>Sign in</html>", "text/html; charset=utf-8"), "text/html"),
        (Raw(b"\xef\xbb\xbf\n<html>", "application/json"), "text/html"),
        (Raw(b"<html>", ""), "text/html"),
        (Raw(b'{"tokens": 5}', ""), "application/json"),
        (Raw(b"data: {}\n\n", "text/event-stream"), "text/event-stream"),
        (Raw(b"", ""), "unknown"),
        (Raw(b"\xff", "secret json"), "unknown"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_an_answer_that_is_no_count_is_named_by_its_type(
    api: FakeMessagesApi, answer: Behaviour, named: str
) -> None:
    api.default = answer
    async with opened(api) as claude:
        with pytest.raises(errors.UpstreamNotAStream) as error:
            await claude.count_tokens(prompt())
    assert error.value.metadata == {"content_type": named}


async def test_a_count_may_have_any_type_and_other_fields(api: FakeMessagesApi) -> None:
    for content_type in ("", "text/plain", "application/json"):
        api.default = Raw(b'\xef\xbb\xbf{"input_tokens": 7, "type": null, "message": "x"}', content_type)
        async with opened(api) as claude:
            assert await claude.count_tokens(prompt()) == 7


async def test_an_answer_that_does_not_end_is_not_read_to_its_end(api: FakeMessagesApi) -> None:
    api.default = Raw(b'{"input_tokens": 7, "rest": "', "application/json", later=(b"x" * 100_000,), ending="stall")
    async with opened(api) as claude, asyncio.timeout(2):
        with pytest.raises(errors.UpstreamNotAStream):
            await claude.count_tokens(prompt())


async def test_an_answer_that_comes_byte_by_byte_takes_no_longer_than_silence(api: FakeMessagesApi) -> None:
    api.default = Raw(b'{"input_tokens": 7}', "application/json", later=(b" ",) * 60, pause=0.05)
    async with opened(api, stall=0.3) as claude:
        await claude.opened()
        async with asyncio.timeout(2):
            with pytest.raises(errors.UpstreamStalled):
                await claude.count_tokens(prompt())


async def test_a_prompt_whose_thinking_is_rejected_is_sent_again_without_it(api: FakeMessagesApi) -> None:
    rejected = Refusal(400, "invalid_request_error", message="messages.1.content.0: Invalid `signature` in `thinking`")
    api.script.extend([Reply((thinking("hmm", "sig"), "a"))])
    async with opened(api) as claude:
        events, _ = await outcome(claude)
        (ended,) = [event.block for event in events if isinstance(event, ReplyThinkingEnd)]
        asked = prompt()
        said = (replace(ended, text="hmm"), TextBlock("a"))
        messages = (*asked.messages, PromptMessage(Role.ASSISTANT, said), *asked.messages)
        asked = replace(asked, messages=messages)
        api.script.append(rejected)
        events, error = await outcome(claude, asked)
        assert (text(events), error) == ("You said: Hello", None)
        api.script.append(rejected)
        assert await claude.count_tokens(asked) > 0
        # Once only, and not where there is nothing to leave out.
        api.script.extend([rejected, rejected])
        assert isinstance((await outcome(claude, asked))[1], errors.UpstreamRejected)
        api.script.append(rejected)
        assert isinstance((await outcome(claude))[1], errors.UpstreamRejected)
    sent = [[block["type"] for block in received.body["messages"][1]["content"]] for received in api.requests[1:-1]]
    assert sent == [["thinking", "text"], ["text"]] * 3
