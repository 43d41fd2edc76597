"""Memories are put to the messages of sessions that ask for them."""

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import message_pb2, session_pb2
from metamorphd.errors import StoreBusy
from metamorphd.memories.memories import Memories

from tests.support.caller import Caller, send_request, text_block
from tests.support.fakes.messages_api import COUNT_PATH, FakeMessagesApi, Received
from tests.support.fakes.replies import Count, Refusal, Reply, thinking
from tests.support.fakes.rules import broken, sign
from tests.support.memories import create, delete, made, page
from tests.support.refusal import refused
from tests.support.serving import Serving
from tests.support.tools import CALL, WEATHER, result
from tests.support.turns import regenerate

HEADING = "What you remember from earlier conversations, which may help:"


async def recalling(caller: Caller, tokens: int = 1000) -> str:
    """Returns a session whose messages have memories."""
    return (await caller.create_session(title="Set", recall_tokens=tokens)).session_id


def asked(api: FakeMessagesApi) -> list[str]:
    """Returns the texts of the newest message that the model was sent."""
    return [block["text"] for block in api.requests[-1].body["messages"][-1]["content"]]


async def test_memories_that_suit_a_message_are_put_to_its_end(alice: Caller, api: FakeMessagesApi) -> None:
    rome = await made(alice, "Ada lives in Rome")
    await create(alice, "Grace likes\nold ships")
    tea = await made(alice, "Ada drinks tea")
    session_id = await recalling(alice)
    started, recalled, *_ = await alice.send(session_id, "Where does Ada live in winter, and what is in her tea?")
    assert (started.sequence, recalled.sequence) == (1, 2)
    assert list(recalled.memories_recalled.memory_ids) == [tea.memory_id, rome.memory_id]
    text = f"{HEADING}\n- Ada drinks tea\n- Ada lives in Rome"
    assert asked(api) == ["Where does Ada live in winter, and what is in her tea?", text]
    sent, _ = await alice.messages(session_id)
    assert sent.content[1].recalled_memories == message_pb2.RecalledMemoriesBlock(
        text=text, memory_ids=[tea.memory_id, rome.memory_id]
    )
    replayed = [
        response.event
        async for response in alice.chat.StreamTurn(
            pb.StreamTurnRequest(turn_id=started.turn_id), metadata=alice.metadata
        )
    ]
    assert replayed[:2] == [started, recalled]


async def test_a_session_that_does_not_ask_has_none(alice: Caller, api: FakeMessagesApi) -> None:
    await create(alice, "Ada lives in Rome")
    session = await alice.create_session(title="Set")
    await alice.send(session.session_id, "Where does Ada live?")
    assert asked(api) == ["Where does Ada live?"]
    mask = FieldMask(paths=["recall_tokens"])
    changed = session_pb2.Session(session_id=session.session_id, recall_tokens=100)
    update = pb.UpdateSessionRequest(session=changed, update_mask=mask)
    assert (await alice.chat.UpdateSession(update, metadata=alice.metadata)).session.recall_tokens == 100
    await alice.send(session.session_id, "Where does Ada live?")
    assert asked(api) == ["Where does Ada live?", f"{HEADING}\n- Ada lives in Rome"]


async def test_nothing_is_put_where_nothing_suits(alice: Caller, api: FakeMessagesApi, mallory: Caller) -> None:
    await create(mallory, "Ada lives in Rome")
    for number in range(40):
        await create(alice, f"Number {number} is in the list of what there is")
    session_id = await recalling(alice)
    for text in ("Where does Ada live?", "?!", "And the giraffe, what of it? Is it there in the zoo of Oslo?"):
        events = await alice.send(session_id, text)
        assert asked(api) == [text]
        assert [event.WhichOneof("event") for event in events].count("memories_recalled") == 0


async def test_memories_have_at_most_as_many_tokens_as_the_session_says(alice: Caller, api: FakeMessagesApi) -> None:
    await create(alice, "tea " + "and cake " * 30, importance=1)
    await create(alice, "tea with milk")
    await create(alice, "漢" * 10 + " tea")
    for tokens in (1, 25, 40, 200):
        await alice.send(await recalling(alice, tokens), "tea")
        _, *recalled = asked(api)
        assert sum(len(text.encode()) for text in recalled) <= 3 * tokens
        assert len(recalled) == (tokens > 25)


async def test_what_was_put_to_a_message_stays_while_memories_change(alice: Caller, api: FakeMessagesApi) -> None:
    memory = await made(alice, "Ada lives in Rome")
    session_id = await recalling(alice)
    await alice.send(session_id, "Where does Ada live?")
    first = api.requests[-1].body["messages"]
    await delete(alice, memory.memory_id)
    await create(alice, "Ada lives in Oslo")
    await alice.send(session_id, "Where does Ada live now?")
    second = api.requests[-1].body["messages"]
    assert second[: len(first)] == first
    assert asked(api) == ["Where does Ada live now?", f"{HEADING}\n- Ada lives in Oslo"]


async def test_thinking_that_answered_memories_is_sent_back(alice: Caller, api: FakeMessagesApi) -> None:
    def provider(received: Received) -> Reply | Refusal:
        if (fault := broken(received.body, received.headers)) is not None:
            return Refusal(400, "invalid_request_error", message=fault)
        return Reply((thinking("Hmm.", sign(received.body, [], "Hmm.")), "Well."))

    api.default = provider
    session_id = await recalling(alice)
    for number in range(4):
        await create(alice, f"Tea number {number}")
        await alice.send(session_id, "Which tea?")
    sent = [block["type"] for message in api.requests[-1].body["messages"] for block in message["content"]]
    assert (len(api.requests), sent.count("thinking")) == (4, 3)


async def test_another_reply_has_the_same_memories(alice: Caller, api: FakeMessagesApi) -> None:
    memory = await made(alice, "Ada lives in Rome")
    session_id = await recalling(alice)
    started, *_ = await alice.send(session_id, "Where does Ada live?")
    before = api.requests[-1].body["messages"]
    await create(alice, "Ada lives in Oslo")
    events = await regenerate(alice, started.turn_started.user_message_id).rest()
    assert api.requests[-1].body["messages"] == before
    assert list(events[1].memories_recalled.memory_ids) == [memory.memory_id]


async def test_results_of_tools_stay_as_they_are(alice: Caller, api: FakeMessagesApi) -> None:
    await create(alice, "The weather is fine")
    session_id = await recalling(alice)
    api.script.append(Reply((CALL,), stop_reason="tool_use"))
    await alice.send(session_id, "How is the weather?", tools=[WEATHER])
    await alice.send(session_id, content=[result(), text_block("Is the weather fine?")])
    assert [block["type"] for block in api.requests[-1].body["messages"][-1]["content"]] == ["tool_result", "text"]


async def test_a_turn_that_fails_before_its_first_word_says_what_was_recalled(
    alice: Caller, api: FakeMessagesApi
) -> None:
    await create(alice, "Ada lives in Rome")
    session_id = await recalling(alice)
    api.default = Refusal(400, "invalid_request_error", message="no")
    kinds = [event.WhichOneof("event") for event in await alice.send(session_id, "Where does Ada live?")]
    assert kinds == ["turn_started", "memories_recalled", "turn_finished"]


async def test_the_content_of_a_deleted_message_has_no_memories(alice: Caller, api: FakeMessagesApi) -> None:
    await create(alice, "Ada lives in Rome")
    session_id = await recalling(alice)
    started, *_ = await alice.send(session_id, "Where does Ada live?")
    request = pb.DeleteMessageRequest(message_id=started.turn_started.user_message_id)
    assert not (await alice.chat.DeleteMessage(request, metadata=alice.metadata)).message.content
    await alice.send(session_id, "And who are you?")
    first, *_, last = api.requests[-1].body["messages"]
    assert [block["text"] for block in first["content"]] == ["[This message is not available any more.]"]
    assert len(last["content"]) == 1


async def test_counting_tokens_counts_memories_and_uses_none(alice: Caller, api: FakeMessagesApi) -> None:
    api.default = lambda received: Count(7) if received.path == COUNT_PATH else Reply(("Well.",))
    await create(alice, "Ada lives in Rome")
    await create(alice, "Ada lives in Oslo")
    session_id = await recalling(alice)
    request = pb.CountTokensRequest(message=send_request(session_id, "Does Ada live in Rome?"))
    await alice.chat.CountTokens(request, metadata=alice.metadata)
    assert len(asked(api)) == 2
    assert (await page(alice)).memories[1].last_use_time == (await page(alice)).memories[1].create_time


async def test_a_caller_who_may_not_read_is_shown_no_memories(running: Serving, api: FakeMessagesApi) -> None:
    caller = running.caller()
    await create(caller, "Ada lives in Rome")
    session_id = await recalling(caller)
    await running.caller(permissions=["write"]).send(session_id, "Where does Ada live?")
    assert asked(api) == ["Where does Ada live?"]


async def test_a_message_is_answered_without_memories_when_they_cannot_be_searched(
    alice: Caller, api: FakeMessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(alice, "Ada lives in Rome")
    session_id = await recalling(alice)

    async def busy(*_: object, **__: object) -> None:
        raise StoreBusy(retry_delay=1.0)

    monkeypatch.setattr(Memories, "search", busy)
    await alice.send(session_id, "Where does Ada live?")
    assert asked(api) == ["Where does Ada live?"]


async def test_a_caller_cannot_put_memories_to_a_message(alice: Caller) -> None:
    session_id = await recalling(alice)
    block = message_pb2.ContentBlock(recalled_memories=message_pb2.RecalledMemoriesBlock(text="x", memory_ids=["mem"]))
    refusal = await refused(alice.start(session_id, content=[text_block("Hello"), block]).next())
    assert refusal.reason == "REQUEST_INVALID"
