"""CountTokens in a whole server that calls a Messages API."""

import asyncio
from typing import Any

import pytest
from metamorph_client.chat.v1 import chat_service_pb2 as pb

from tests.support.caller import Caller, send_request
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Count, Refusal, Reply
from tests.support.refusal import refused
from tests.support.serving import replies_from
from tests.support.usage import allow, usage


@pytest.fixture
def overrides(api: FakeMessagesApi) -> dict[str, Any]:
    return replies_from(api) | {"compaction_trigger_tokens": 0}


async def test_the_count_covers_the_prompt_of_a_send_and_nothing_is_stored(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session(system_prompt="Be brief.")
    await alice.send(session.session_id, "first")
    api.script.append(Count(1234))
    message = send_request(session.session_id, "second", max_output_tokens=5, stop_sequences=["END"])
    request = pb.CountTokensRequest(message=message)
    counted = await alice.chat.CountTokens(request, metadata=alice.metadata)
    assert counted.input_tokens == 1234
    assert len(await alice.messages(session.session_id)) == 2
    assert (await usage(alice)).total.turns == 1
    await alice.send(session.session_id, "second", max_output_tokens=5, stop_sequences=["END"])
    of_count, of_send = api.requests[-2:]
    apart = {"max_tokens", "stop_sequences", "stream"}
    assert of_count.body == {name: value for name, value in of_send.body.items() if name not in apart}
    assert [part["text"] for message in of_count.body["messages"] for part in message["content"]] == [
        "first",
        "You said: first",
        "second",
    ]


async def test_counting_fails_as_a_send_would_and_as_a_turn_would(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session()
    message = send_request(session.session_id)

    def count() -> Any:
        return alice.chat.CountTokens(pb.CountTokensRequest(message=message), metadata=alice.metadata)

    for upstream, code, reason in (
        (Refusal(401, "authentication_error"), "UNAVAILABLE", "UPSTREAM_UNAUTHENTICATED"),
        (Refusal(402, "billing_error"), "RESOURCE_EXHAUSTED", "UPSTREAM_SPEND_LIMIT"),
        (Refusal(413, "request_too_large"), "INVALID_ARGUMENT", "UPSTREAM_REJECTED"),
    ):
        api.script.append(upstream)
        refusal = await refused(count())
        assert (refusal.code.name, refusal.reason) == (code, reason)
    message.parent_message_id = "msg_unknown"
    assert (await refused(count())).reason == "MESSAGE_NOT_FOUND"
    message.ClearField("parent_message_id")
    message.session_id = "ses_unknown"
    assert (await refused(count())).reason == "SESSION_NOT_FOUND"
    message.session_id = session.session_id
    held = asyncio.Event()
    api.script.append(Reply(("a", "b"), hold=held))
    call = alice.start(session.session_id)
    await call.next()
    assert (await refused(count())).reason == "BRANCH_BUSY"
    held.set()
    await call.rest()
    await allow(alice, tokens_per_day=0)
    # Counting is free.
    assert (await count()).input_tokens > 0
