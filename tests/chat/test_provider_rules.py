"""Whatever happens to a conversation, the provider accepts what is sent next.

Random conversations with a provider that enforces its rules: docs/decisions/0033-thinking-is-bound-to-its-prompt.md.
"""

import random
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import generation_pb2, message_pb2, session_pb2, turn_pb2
from metamorph_client.vault.v1 import vault_service_pb2 as vault_pb

from tests.support.caller import Caller, Events, text_block
from tests.support.fakes.messages_api import COUNT_PATH, FakeMessagesApi, Received
from tests.support.fakes.replies import Behaviour, Block, Count, Refusal, Reply, compaction, thinking, tool_use
from tests.support.fakes.rules import broken, sign
from tests.support.media import FILES, pdf
from tests.support.refusal import Refusal as Refused
from tests.support.tools import CALL, WEATHER, result
from tests.support.turns import regenerate

STEPS = 60
MODELS = ("",) * 20 + ("claude-opus-5-5", "claude-haiku-5-5", "claude-sonnet-4-5")
FORECAST = generation_pb2.Tool(name="forecast", description="Looks ahead.", input_schema='{"type": "object"}')
# A tool call that is pending, which other calls than a message with its results run into, and options of other models.
EXPECTED = ("TOOL_RESULT_REQUIRED", "REQUEST_INVALID")
DECLINED = "I can"
LISTS_FILES = '{"command": "view", "path": "/memories"}'
# The others must be refused before they are sent.
ATTACHED = (
    *(("image/png", FILES["image/png"]),) * 6,
    *((media_type, data[:-4]) for media_type, data in FILES.items() if media_type.startswith("image/")),
    ("application/pdf", pdf()),
    # Two have more pages than a prompt may have, for one model or for all.
    *(("application/pdf", pdf(pages=pages)) for pages in (60, 70, 310, 320, 600)),
    ("application/pdf", pdf()[:-20]),
    ("application/pdf", pdf(trailer=b"/Encrypt 4 0 R")),
    ("text/plain", b" \n"),
)
ENDINGS = ("stop",) * 12 + ("drop", "tear", "error", "truncate")


class Provider:
    """A provider that enforces its rules, and replies at random: with thinking, text, tool calls, summaries,
    or not at all."""

    def __init__(self, chance: random.Random) -> None:
        self.faults: list[str] = []
        self.thoughts_sent = 0
        self._chance = chance
        self._calls = 0
        self._declined: set[str] = set()
        self._rejected: set[str] = set()

    def __call__(self, received: Received) -> Behaviour:
        if (refusal := self._refusal(received)) is not None:
            return refusal
        if received.path == COUNT_PATH:
            return Count(7)
        sent = [block["type"] for message in received.body["messages"] for block in message["content"]]
        self.thoughts_sent += sent.count("thinking")
        asked = _texts(received.body["messages"][-1])
        for message, after in pairwise(received.body["messages"]):
            # Unless another reply to it is there.
            if DECLINED in _texts(message) or (self._declined & _texts(message) and after["role"] == "user"):
                self.faults.append("what was declined or rejected is sent again")
            if self._rejected & _texts(message):
                self.faults.append("an earlier message that was rejected is sent again")
        if asked and self._chance.random() < 0.05:
            number = self._chance.randrange(len(received.body["messages"]))
            if number < len(received.body["messages"]) - 1:
                # Only users' texts are unique.
                self._rejected |= {text for text in _texts(received.body["messages"][number]) if text.startswith("Say")}
                return Refusal(400, "invalid_request_error", message=f"messages.{number}.content.0: not accepted")
        if asked and self._chance.random() < 0.05:
            self._declined |= asked
            return Refusal(400, "invalid_request_error", message="prompt is too long")
        if asked and self._chance.random() < 0.08:
            self._declined |= asked
            chunks = self._chance.choice(((), (DECLINED,)))
            return Reply(chunks, stop_reason="refusal", stop_details={"type": "refusal", "category": None})
        self._declined -= asked
        self._rejected -= asked
        return self._reply(received.body)

    def thinking(self, received: Received, *, tool: bool) -> Behaviour:
        """Returns a reply that thinks, and calls a tool if `tool`."""
        signature = sign(received.body, [], "Hmm.")
        chunks = (thinking("Hmm.", signature), CALL if tool else "Well.")
        return self._refusal(received) or Reply(chunks, stop_reason="tool_use" if tool else "end_turn")

    def _refusal(self, received: Received) -> Refusal | None:
        fault = broken(received.body, received.headers)
        if fault is None:
            return None
        self.faults.append(fault)
        return Refusal(400, "invalid_request_error", message=fault)

    def _reply(self, body: dict[str, Any]) -> Reply:
        chance = self._chance
        blocks: list[dict[str, Any]] = []
        chunks: list[str | Block] = []
        if "context_management" in body and len(body["messages"]) > 6 and chance.random() < 0.1:
            blocks.append({"type": "compaction", "content": "So far."})
            chunks.append(compaction("So far."))
        for number in range(chance.randint(1, 2)):
            thought = chance.choice(("", "Hmm. ", "Well, well. "))
            signature = sign(body, blocks, thought)
            blocks.append({"type": "thinking", "thinking": thought, "signature": signature})
            chunks.append(thinking(thought, signature))
            text = f"Number {number}."
            blocks.append({"type": "text", "text": text})
            chunks.append(text)
        stop = chance.choice(("end_turn",) * 6 + ("max_tokens", "stop_sequence"))
        if body.get("tools") and chance.random() < 0.5:
            stop = "tool_use"
            for _ in range(chance.randint(1, 2)):
                self._calls += 1
                name = body["tools"][-(self._calls % 2)]["name"]
                chunks.append(tool_use(f"toolu_{self._calls}", name, LISTS_FILES if name == "memory" else "{}"))
        return Reply(tuple(chunks), stop_reason=stop, ending=chance.choice(ENDINGS))


def _texts(message: dict[str, Any]) -> set[str]:
    return {block["text"] for block in message["content"] if block["type"] == "text"}


def attached(media_type: str, data: bytes) -> message_pb2.ContentBlock:
    if media_type.startswith("image/"):
        return message_pb2.ContentBlock(image=message_pb2.ImageBlock(media_type=media_type, data=data))
    return message_pb2.ContentBlock(document=message_pb2.DocumentBlock(media_type=media_type, data=data))


class Conversation:
    """A session in which anything happens, in an order that `chance` decides."""

    def __init__(self, alice: Caller, session_id: str, chance: random.Random) -> None:
        self._alice = alice
        self._session_id = session_id
        self._chance = chance
        self._steps: tuple[Callable[[], Awaitable[None]], ...] = (
            *(self._send,) * 20,
            self._regenerate,
            self._delete,
            self._prompt_of_session,
            self._prompt_of_vault,
            self._count,
        )

    async def step(self) -> None:
        try:
            await self._chance.choice(self._steps)()
        except grpc.aio.AioRpcError as error:
            refused = Refused(error)
            assert refused.reason in EXPECTED, (refused.reason, refused.message)

    async def _send(self) -> None:
        request = await self._request()
        try:
            await Events(self._alice.chat.SendMessage(request, metadata=self._alice.metadata)).rest()
        except grpc.aio.AioRpcError as error:
            refused = Refused(error)
            if refused.reason != "TOOL_RESULT_REQUIRED":
                raise
            results = [result(call) for call in refused.info.metadata["tool_use_ids"].split(",")]
            del request.content[:]
            request.content.extend(
                [*results, text_block(f"Well {self._chance.random()}")] if self._chance.random() < 0.3 else results
            )
            await Events(self._alice.chat.SendMessage(request, metadata=self._alice.metadata)).rest()

    async def _request(self) -> pb.SendMessageRequest:
        chance = self._chance
        content = [text_block(f"Say {chance.random()}")]
        while chance.random() < 0.3:
            content.append(attached(*chance.choice(ATTACHED)))
        options = generation_pb2.GenerationOptions()
        if chance.random() < 0.15:
            options.tools.CopyFrom(generation_pb2.ToolList(values=chance.choice(([], [WEATHER], [FORECAST, WEATHER]))))
        if model := chance.choice(MODELS):
            options.model = model
        # Among them what the model does not accept, which must be refused before it is sent.
        if chance.random() < 0.3:
            options.thinking.mode = chance.choice(generation_pb2.ThinkingMode.values())
            options.thinking.budget_tokens = 2048 * (options.thinking.mode == generation_pb2.THINKING_MODE_ENABLED)
        if chance.random() < 0.2:
            options.effort = chance.choice(generation_pb2.Effort.values())
        if chance.random() < 0.1:
            options.tool_choice.mode = generation_pb2.TOOL_CHOICE_MODE_ANY
        request = pb.SendMessageRequest(session_id=self._session_id, content=content, options=options)
        if chance.random() < 0.15 and (messages := await self._messages()):
            request.parent_message_id = chance.choice(messages).message_id
        return request

    async def _messages(self) -> list[message_pb2.Message]:
        return await self._alice.messages(self._session_id, all_branches=True, page_size=200)

    async def _regenerate(self) -> None:
        asked = [message for message in await self._messages() if message.role == message_pb2.ROLE_USER]
        kept = [message for message in asked if not message.HasField("delete_time")]
        if kept:
            await regenerate(self._alice, self._chance.choice(kept).message_id).rest()

    async def _delete(self) -> None:
        if messages := await self._messages():
            request = pb.DeleteMessageRequest(message_id=self._chance.choice(messages).message_id)
            await self._alice.chat.DeleteMessage(request, metadata=self._alice.metadata)

    async def _prompt_of_session(self) -> None:
        session = session_pb2.Session(session_id=self._session_id, system_prompt=self._chance.choice(("", "A", "B")))
        request = pb.UpdateSessionRequest(session=session, update_mask=FieldMask(paths=["system_prompt"]))
        await self._alice.chat.UpdateSession(request, metadata=self._alice.metadata)

    async def _prompt_of_vault(self) -> None:
        vault = vault_pb.Vault(system_prompt=self._chance.choice(("", "C", "D")))
        request = vault_pb.UpdateVaultRequest(vault=vault, update_mask=FieldMask(paths=["system_prompt"]))
        await self._alice.vault.UpdateVault(request, metadata=self._alice.metadata)

    async def _count(self) -> None:
        request = pb.CountTokensRequest(message=await self._request())
        await self._alice.chat.CountTokens(request, metadata=self._alice.metadata)


@pytest.mark.filterwarnings("ignore:The model 'claude-sonnet-4-5' is deprecated")
@pytest.mark.parametrize("seed", range(6))
async def test_nothing_that_happens_to_a_conversation_makes_the_provider_refuse_it(
    alice: Caller, api: FakeMessagesApi, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311, not for secrets
    provider = Provider(chance)
    api.default = provider
    # In half of them, the server runs the memory tool.
    title = "Set, so that no call is for a title"
    session = await alice.create_session(title=title, memory_tool=seed % 2 == 1)
    conversation = Conversation(alice, session.session_id, chance)
    for _ in range(STEPS):
        await conversation.step()
    assert provider.faults == []
    # Not because all thinking was left out.
    assert provider.thoughts_sent > STEPS / 2


async def test_thinking_is_sent_back_as_long_as_nothing_before_it_changed(alice: Caller, api: FakeMessagesApi) -> None:
    provider = Provider(random.Random())  # noqa: S311, not for secrets
    api.default = lambda received: provider.thinking(received, tool=len(api.requests) == 1)
    session = await alice.create_session(title="Set", system_prompt="A")

    async def thoughts(*content: message_pb2.ContentBlock, **fields: Any) -> list[int]:
        """Sends a message, and returns how many thoughts of each earlier reply were sent with it."""
        await alice.send(session.session_id, **(fields | ({"content": content} if content else {})))
        messages = api.requests[-1].body["messages"]
        replies = [message["content"] for message in messages if message["role"] == "assistant"]
        return [sum(block["type"] == "thinking" for block in reply) for reply in replies]

    assert await thoughts(tools=[WEATHER]) == []
    assert await thoughts(result()) == [1]
    # The commonest of all: a plain message after a tool exchange.
    assert await thoughts() == [1, 1]
    assert await thoughts(tools=[]) == [0, 0, 0]
    assert await thoughts() == [0, 0, 0, 1]
    # As in the beginning, so is what precedes the first three.
    assert await thoughts(tools=[WEATHER]) == [1, 1, 1, 0, 0]
    assert await thoughts(model="claude-opus-5-5") == [0] * 6
    assert await thoughts() == [1, 1, 1, 0, 0, 1, 0]
    mask = FieldMask(paths=["system_prompt"])
    changed = session_pb2.Session(session_id=session.session_id, system_prompt="B")
    await alice.chat.UpdateSession(pb.UpdateSessionRequest(session=changed, update_mask=mask), metadata=alice.metadata)
    assert await thoughts() == [0] * 8
    assert await thoughts() == [0] * 8 + [1]
    assert provider.faults == []


async def test_thinking_after_a_summary_is_sent_back_with_it(alice: Caller, api: FakeMessagesApi) -> None:
    provider = Provider(random.Random())  # noqa: S311, not for secrets
    api.default = lambda received: provider.thinking(received, tool=False)
    session = await alice.create_session(title="Set")
    await alice.send(session.session_id)

    def summarizes(received: Received) -> Reply:
        so_far = {"type": "compaction", "content": "So far."}
        signature = sign(received.body, [so_far], "Hmm.")
        return Reply((compaction("So far."), thinking("Hmm.", signature), "Well."))

    api.default = summarizes
    await alice.send(session.session_id)
    api.default = lambda received: provider.thinking(received, tool=False)
    for _ in range(2):
        await alice.send(session.session_id)
    sent = [[block["type"] for block in message["content"]] for message in api.requests[-1].body["messages"]]
    assert sent == [["text"], ["compaction", "thinking", "text"], ["text"], ["thinking", "text"], ["text"]]
    assert provider.faults == []


@pytest.mark.filterwarnings("ignore:The model 'claude-sonnet-4-5' is deprecated")
@pytest.mark.parametrize("changed", ["system prompt", "model", "account"])
async def test_a_tool_exchange_whose_thinking_is_left_out_goes_on(
    alice: Caller, api: FakeMessagesApi, changed: str
) -> None:
    provider = Provider(random.Random())  # noqa: S311, not for secrets
    enabled = generation_pb2.ThinkingConfig(mode=generation_pb2.THINKING_MODE_ENABLED, budget_tokens=2048)
    options: dict[str, Any] = {"model": "claude-sonnet-4-5", "thinking": enabled}
    session = await alice.create_session(title="Set", system_prompt="A")
    api.default = lambda received: provider.thinking(received, tool=True)
    asks = options | ({"model": "claude-opus-5-5", "thinking": None} if changed == "model" else {})
    await alice.send(session.session_id, tools=[WEATHER], **asks)
    if changed == "account":
        api.script.append(Refusal(400, "invalid_request_error", message="messages.1.content.0: Invalid `signature`"))
    if changed == "system prompt":
        mask = FieldMask(paths=["system_prompt"])
        update = session_pb2.Session(session_id=session.session_id, system_prompt="B")
        request = pb.UpdateSessionRequest(session=update, update_mask=mask)
        await alice.chat.UpdateSession(request, metadata=alice.metadata)
    api.default = lambda received: provider.thinking(received, tool=False)
    events = await alice.send(session.session_id, content=[result()], **options)
    assert (provider.faults, events[-1].turn_finished.status) == ([], turn_pb2.TURN_STATUS_COMPLETED)
    assert "thinking" not in api.requests[-1].body
    await alice.send(session.session_id, **options)
    assert api.requests[-1].body["thinking"]["type"] == "enabled"


async def test_a_call_with_an_id_and_a_name_that_are_none_goes_on(alice: Caller, api: FakeMessagesApi) -> None:
    # Both are the model's, or a gateway's.
    api.default = Reply((tool_use("call:1", "look\ud83d", "{}"),), stop_reason="tool_use")
    session = await alice.create_session()
    finished = (await alice.send(session.session_id, tools=[WEATHER]))[-1].turn_finished
    called = finished.message.content[0].tool_use
    assert (called.tool_use_id, called.name) == ("call:1", "look\ufffd")
    api.default = Reply(("Sunny",))
    await alice.send(session.session_id, content=[result(called.tool_use_id)])
    received = api.requests[-1]
    assert broken(received.body, received.headers) is None
    assert received.body["messages"][2]["content"][0]["tool_use_id"] == "call_1"


async def test_thinking_that_the_provider_rejected_is_not_sent_again(alice: Caller, api: FakeMessagesApi) -> None:
    # That of another account for instance, which nothing in the request shows.
    rejected: set[str] = set()

    def provider(received: Received) -> Behaviour:
        if rejected & set(_signatures(received)):
            return Refusal(400, "invalid_request_error", message="messages.1.content.0: Invalid `signature`")
        return Reply((thinking("Hmm.", sign(received.body, [], "Hmm.")), "Well."))

    api.default = provider
    session = await alice.create_session(title="Set")

    async def calls() -> int:
        """Sends a message, and returns for how many calls to the provider."""
        before = len(api.requests)
        finished = (await alice.send(session.session_id))[-1].turn_finished
        assert finished.status == turn_pb2.TURN_STATUS_COMPLETED
        assert broken(api.requests[-1].body, api.requests[-1].headers) is None
        return len(api.requests) - before

    assert [await calls() for _ in range(3)] == [1, 1, 1]
    for _ in range(2):
        rejected.update(_signatures(api.requests[-1]))
        assert len(_signatures(api.requests[-1])) == 2
        assert [await calls() for _ in range(3)] == [2, 1, 1]


def _signatures(received: Received) -> list[str]:
    messages = received.body["messages"]
    return [block["signature"] for message in messages for block in message["content"] if "signature" in block]


@pytest.mark.filterwarnings("ignore:The model 'claude-sonnet-4-5' is deprecated")
async def test_a_summary_is_text_for_a_model_that_has_none(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session(title="Set")
    await alice.send(session.session_id)
    api.default = Reply((compaction("So far."), "Well."))
    await alice.send(session.session_id)
    api.default = Reply(("Well.",))
    await alice.send(session.session_id, "And now?", model="claude-sonnet-4-5")
    body, headers = api.requests[-1].body, api.requests[-1].headers
    assert (broken(body, headers), "anthropic-beta" in headers) == (None, False)
    sent = [[block["text"] for block in message["content"]] for message in body["messages"]]
    assert sent == [["Hello"], ["So far.", "Well."], ["And now?"]]
