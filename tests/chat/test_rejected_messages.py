"""Messages and options that the provider rejects."""

from collections.abc import Callable
from typing import Any

import pytest
from metamorph_client.chat.v1 import generation_pb2, turn_pb2
from metamorph_client.chat.v1.message_pb2 import ContentBlock, ImageBlock
from metamorphd.chat.prompt_builder import GONE

from tests.support.caller import Caller, text_block
from tests.support.fakes.messages_api import FakeMessagesApi, Received
from tests.support.fakes.replies import Behaviour, Raw, Refusal, Reply, compaction, sse
from tests.support.media import png
from tests.support.tools import ASKS, WEATHER, result
from tests.support.turns import regenerate

TOO_LONG = Refusal(400, "invalid_request_error", message="prompt is too long: 1000001 tokens > 1000000 maximum")
BAD = generation_pb2.Tool(name="bad", input_schema='{"type": "array"}')


def rejection(message: str) -> Refusal:
    return Refusal(400, "invalid_request_error", message=message)


def rejects(text: str, refusal: Refusal) -> Callable[[Received], Behaviour]:
    """Returns a provider that rejects what contains a text."""
    return lambda received: refusal if text in str(received.body) else Reply(("Well.",))


def sent(api: FakeMessagesApi) -> list[str]:
    messages = api.requests[-1].body["messages"]
    return [block.get("text", block["type"]) for message in messages for block in message["content"]]


async def rejected(caller: Caller, session_id: str, **fields: Any) -> dict[str, str]:
    """Sends what is rejected, and returns what the error says of it."""
    finished = (await caller.send(session_id, **fields))[-1].turn_finished
    assert (finished.status, finished.error.reason) == (turn_pb2.TURN_STATUS_FAILED, "UPSTREAM_REJECTED")
    return dict(finished.error.metadata)


@pytest.mark.parametrize(
    ("refusal", "field"),
    [
        (TOO_LONG, "content"),
        (rejection("the provider's own words"), "content"),
        (rejection("messages.2: too much"), "content"),
        (rejection("messages.2.content.1.text: no such text"), "content[1]"),
        (rejection("messages.2.content.1.image.source: of what is no image"), "content[1]"),
        (Refusal(413, "request_too_large"), "content"),
    ],
)
async def test_a_message_that_the_provider_rejected_is_not_sent_again(
    alice: Caller, api: FakeMessagesApi, refusal: Refusal, field: str
) -> None:
    session = await alice.create_session(title="Set")
    await alice.send(session.session_id, "Hi")
    api.default = rejects("Poison", refusal)
    blamed = await rejected(alice, session.session_id, content=[text_block("Look"), text_block("Poison")])
    assert blamed == {"type": refusal.error_type, "field": field}
    for _ in range(2):
        events = await alice.send(session.session_id, "And now?")
        assert events[-1].turn_finished.status == turn_pb2.TURN_STATUS_COMPLETED
    assert sent(api) == ["Hi", "You said: Hi", "And now?", "Well.", "And now?"]
    assert len(await alice.messages(session.session_id)) == 7


async def test_an_earlier_message_that_the_provider_rejects_is_replaced_by_a_note(
    alice: Caller, api: FakeMessagesApi
) -> None:
    session = await alice.create_session(title="Set")
    first = (await alice.send(session.session_id, "Poison"))[-1].turn_finished.message
    await alice.send(session.session_id, "Hi")

    def provider(received: Received) -> Behaviour:
        for number, message in enumerate(received.body["messages"]):
            if "Poison" in str(message):
                return rejection(f"messages.{number}.content.0.text: no longer")
        return Reply(("Well.",))

    api.default = provider
    blamed = await rejected(alice, session.session_id, text="And now?")
    assert blamed == {"type": "invalid_request_error", "message_id": first.parent_message_id}
    # A reply that quotes it.
    blamed = await rejected(alice, session.session_id, text="And then?")
    assert blamed["message_id"] == first.message_id
    assert sent(api) == [GONE.text, "You said: Poison", "Hi", "You said: Hi", "And now?", "And then?"]
    for _ in range(2):
        finished = (await alice.send(session.session_id, "Well?"))[-1].turn_finished
        assert finished.status == turn_pb2.TURN_STATUS_COMPLETED
    assert sent(api) == [GONE.text, "Hi", "You said: Hi", "And now?", "And then?", "Well?", "Well.", "Well?"]
    # It is shown as before, and a regeneration of its reply tries it again.
    assert (await alice.messages(session.session_id))[0].content[0].text.text == "Poison"
    api.default = None
    await regenerate(alice, first.parent_message_id).rest()
    await alice.send(session.session_id, "So?")
    assert sent(api) == ["Poison", "You said: Poison", "So?"]


async def test_results_of_an_earlier_message_that_are_rejected_leave_out_the_calls(
    alice: Caller, api: FakeMessagesApi
) -> None:
    session = await alice.create_session(title="Set")
    api.script.append(ASKS)
    await alice.send(session.session_id, "Weather?", tools=[WEATHER])
    await alice.send(session.session_id, content=[result(text="Storm")])
    api.default = rejects("Storm", rejection("messages.2.content.0.tool_result.content.0.text: no"))
    assert "message_id" in await rejected(alice, session.session_id, text="And now?")
    events = await alice.send(session.session_id, "And now?")
    assert events[-1].turn_finished.status == turn_pb2.TURN_STATUS_COMPLETED
    assert sent(api)[:3] == ["Weather?", "Let me look. ", GONE.text]


async def test_what_a_rejected_summary_stood_for_is_sent_again(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session(title="Set")
    await alice.send(session.session_id, "Hi")
    api.script.append(Reply((compaction("A summary."), "Well.")))
    await alice.send(session.session_id, "Go on")
    api.default = rejects("A summary.", rejection("messages.1.content.0.content: no"))
    assert "message_id" in await rejected(alice, session.session_id, text="And now?")
    await alice.send(session.session_id, "And then?")
    assert sent(api) == ["Hi", "You said: Hi", "Go on", "And now?", "And then?"]


@pytest.mark.parametrize(
    "refusal",
    [
        rejection("messages.7.content.0.text: one that was not sent"),
        rejection("system: no"),
        Refusal(404, "not_found_error"),
        Refusal(500, "api_error", (("x-should-retry", "false"),)),
    ],
)
async def test_a_message_that_is_not_to_blame_is_sent_again(
    alice: Caller, api: FakeMessagesApi, refusal: Refusal
) -> None:
    session = await alice.create_session(title="Set")
    await alice.send(session.session_id, "Hi")
    api.script.append(refusal)
    finished = (await alice.send(session.session_id, "I am Bob"))[-1].turn_finished
    assert "field" not in finished.error.metadata
    await alice.send(session.session_id, "Who am I?")
    assert sent(api) == ["Hi", "You said: Hi", "I am Bob", "Who am I?"]


async def test_a_rejection_may_come_as_an_event(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session(title="Set")
    event = {"type": "error", "error": {"type": "invalid_request_error", "message": "messages.0.content.0.text: no"}}
    api.script.append(Raw(sse(event)))
    assert (await rejected(alice, session.session_id, text="Poison"))["field"] == "content[0]"
    await alice.send(session.session_id, "And now?")
    assert sent(api) == ["And now?"]
    # Not the request's fault if the reply has begun.
    api.script.append(Reply(("We", "ll"), ending="error", error_type="invalid_request_error"))
    finished = (await alice.send(session.session_id, "I am Bob"))[-1].turn_finished
    assert finished.error.reason == "UPSTREAM_INTERRUPTED"
    await alice.send(session.session_id, "Who am I?")
    assert sent(api)[2:] == ["I am Bob", "Well", "Who am I?"]


async def test_a_reply_to_what_was_rejected_brings_it_back(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session(title="Set")
    api.script.append(TOO_LONG)
    asked = (await alice.send(session.session_id, "Long"))[0].turn_started.user_message_id
    api.script.append(Refusal(500, "api_error", (("x-should-retry", "false"),)))
    await regenerate(alice, asked).rest()
    await alice.send(session.session_id, "And now?", parent_message_id=asked)
    assert sent(api) == ["And now?"]
    await regenerate(alice, asked).rest()
    await alice.send(session.session_id, "And now?")
    assert sent(api) == ["Long", "You said: Long", "And now?"]


async def test_results_that_were_rejected_leave_out_their_exchange(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session(title="Set")
    await alice.send(session.session_id, "Hi")
    api.script.append(ASKS)
    asks = (await alice.send(session.session_id, "Weather?", tools=[WEATHER]))[-1].turn_finished.message
    api.default = rejects("Storm", rejection("messages.4.content.0.tool_result.content.0: no"))
    blamed = await rejected(alice, session.session_id, content=[result(text="Storm")])
    assert blamed["field"] == "content[0].tool_result.content[0]"
    await alice.send(session.session_id, "And now?")
    assert sent(api) == ["Hi", "You said: Hi", "And now?"]
    # Other results can be sent in their place.
    await alice.send(session.session_id, content=[result(text="Sun")], parent_message_id=asks.message_id)
    assert sent(api) == ["Hi", "You said: Hi", "Weather?", "Let me look. ", "tool_use", "tool_result"]


async def test_a_message_of_too_many_images_to_name_is_left_out_as_a_whole(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session(title="Set")
    images = [ContentBlock(image=ImageBlock(media_type="image/png", data=png(1, side))) for side in range(1, 13)]
    api.script.append(rejection("Could not process image"))
    blamed = await rejected(alice, session.session_id, content=[*images, images[0]])
    assert blamed["field"] == "content"
    await alice.send(session.session_id, "And now?")
    assert sent(api) == ["And now?"]
    api.script.append(rejection("Could not process image"))
    blamed = await rejected(alice, session.session_id, content=[*images[:11], images[0]])
    stored = (await alice.messages(session.session_id))[-1].content[:11]
    assert blamed["attachment_ids"] == ",".join(block.image.attachment_id for block in stored)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("tools.0.custom.input_schema: JSON schema is invalid", "options.tools"),
        ("output_config.format.schema: not supported", "options.response_schema"),
        ("output_config.effort: not supported", "options.effort"),
        ('"thinking.type.enabled" is not supported for this model', "options.thinking"),
        ("tool_choice: not supported", "options.tool_choice"),
        ("max_tokens: 64001 > 64000", "options.max_output_tokens"),
        ("stop_sequences: each must contain text", "options.stop_sequences"),
    ],
)
async def test_an_option_that_the_provider_rejected_is_named(
    alice: Caller, api: FakeMessagesApi, message: str, field: str
) -> None:
    session = await alice.create_session(title="Set")
    api.script.append(rejection(message))
    assert (await rejected(alice, session.session_id, text="I am Bob"))["field"] == field
    await alice.send(session.session_id, "Who am I?")
    assert sent(api) == ["I am Bob", "Who am I?"]


async def test_tools_that_the_provider_rejected_do_not_stay_in_force(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session(title="Set")
    api.default = rejects("'bad'", rejection("tools.0.custom.input_schema: JSON schema is invalid"))
    await alice.send(session.session_id, "Hi", tools=[WEATHER])
    for _ in range(3):
        await rejected(alice, session.session_id, text="Now?", tools=[BAD])
    events = await alice.send(session.session_id, "And now?")
    assert events[-1].turn_finished.status == turn_pb2.TURN_STATUS_COMPLETED
    # Those of before do, so that earlier thinking stays valid.
    assert [tool["name"] for tool in api.requests[-1].body["tools"]] == ["weather"]
