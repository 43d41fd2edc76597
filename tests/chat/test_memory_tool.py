"""The model uses the memory tool, which the server runs within the turn."""

import asyncio
import json
import time
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import session_pb2, turn_pb2
from metamorph_client.vault.v1 import usage_pb2
from metamorph_client.vault.v1 import vault_service_pb2 as vault_pb
from metamorphd.chat import rounds

from tests.support.caller import Caller, calling, text_of
from tests.support.fakes.messages_api import FakeMessagesApi, Received
from tests.support.fakes.replies import Behaviour, Block, Refusal, Reply, thinking, tool_use
from tests.support.fakes.rules import broken, sign
from tests.support.memories import listed, page, searched, update
from tests.support.processes import serving_process
from tests.support.refusal import refused
from tests.support.serving import Serving
from tests.support.tools import CALL, WEATHER, result
from tests.support.turns import followed

EDITED = "The memory file has been edited. Here is the snippet showing the change (with line numbers):"
SEVERAL = "Error: No replacement was performed. Multiple occurrences"
COMPLETED = turn_pb2.TURN_STATUS_COMPLETED


class Script:
    """A provider that enforces its rules, and whose replies call the tool with these inputs, then say something."""

    def __init__(self, api: FakeMessagesApi, *replies: dict[str, Any] | Block | str) -> None:
        self.faults: list[str] = []
        self._replies = list(replies)
        self._calls = 0
        api.default = self

    def __call__(self, received: Received) -> Behaviour:
        fault = broken(received.body, received.headers)
        if fault is not None:
            self.faults.append(fault)
            return Refusal(400, "invalid_request_error", message=fault)
        next_ = self._replies.pop(0) if self._replies else "Well."
        if isinstance(next_, str):
            return Reply((next_,))
        self._calls += 1
        thought = thinking("Hmm.", sign(received.body, [], "Hmm."))
        call = next_ if isinstance(next_, Block) else memory_call(f"toolu_{self._calls}", next_)
        return Reply((thought, call), stop_reason="tool_use")


def memory_call(call_id: str, command: dict[str, Any]) -> Block:
    return tool_use(call_id, "memory", json.dumps(command))


def create(path: str, text: str) -> dict[str, Any]:
    return {"command": "create", "path": path, "file_text": text}


def view(path: str = "/memories", **more: Any) -> dict[str, Any]:
    return {"command": "view", "path": path, **more}


async def remembering(caller: Caller) -> str:
    """Returns a session that has the tool."""
    return (await caller.create_session(title="Set", memory_tool=True)).session_id


async def results(caller: Caller, api: FakeMessagesApi, *commands: dict[str, Any]) -> list[str]:
    """Has the model run commands in one turn, and returns the results."""
    script = Script(api, *commands, "Done.")
    events = await caller.send(await remembering(caller))
    assert (script.faults, events[-1].turn_finished.status) == ([], COMPLETED)
    return [event.tool_result.text for event in events if event.HasField("tool_result")]


async def test_a_file_that_the_model_writes_is_a_memory_of_the_vault(alice: Caller, api: FakeMessagesApi) -> None:
    script = Script(api, create("/memories/ada.txt", "Ada drinks tea"), view("/memories/ada.txt"), "I know.")
    session_id = await remembering(alice)
    events = await alice.send(session_id, "Remember that Ada drinks tea")
    happened = (str(event.WhichOneof("event")) for event in events if not event.HasField("usage_update"))
    kinds = [kind for kind, _ in groupby(happened)]
    assert kinds == [
        "turn_started",
        *("thinking_delta", "tool_use", "tool_result") * 2,
        "text_delta",
        "turn_finished",
    ]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    said = [event.tool_result for event in events if event.HasField("tool_result")]
    assert [each.text for each in said] == [
        "File created successfully at: /memories/ada.txt",
        "Here's the content of /memories/ada.txt with line numbers:\n     1\tAda drinks tea",
    ]
    assert [(each.block_index, each.tool_use_id, each.is_error) for each in said] == [
        (2, "toolu_1", False),
        (5, "toolu_2", False),
    ]
    assert await searched(alice, "tea") == ["Ada drinks tea"]
    finished = events[-1].turn_finished
    assert [block.WhichOneof("block") for block in finished.message.content] == [
        *("thinking", "tool_use", "tool_result") * 2,
        "text",
    ]
    turn = (await alice.chat.GetTurn(pb.GetTurnRequest(turn_id=finished.message.turn_id), metadata=alice.metadata)).turn
    assert (turn.model_calls, turn.usage) == (3, finished.usage)
    assert (turn.usage.input_tokens, turn.usage.cache_read_tokens) == (3 * 11, 3 * 5)
    (memory,) = (await page(alice)).memories
    assert (memory.session_id, memory.creator) == (session_id, "alice")
    assert script.faults == []
    assert api.requests[0].body["tools"] == [{"type": "memory_20250818", "name": "memory"}]


async def test_later_prompts_begin_as_those_of_the_turn(alice: Caller, api: FakeMessagesApi) -> None:
    script = Script(api, view(), view(), "First.", view(), "Second.", "Third.")
    session_id = await remembering(alice)
    for _ in range(3):
        await alice.send(session_id)
    assert script.faults == []
    bodies = [request.body["messages"] for request in api.requests]
    assert [len(messages) for messages in bodies] == [1, 3, 5, 7, 9, 11]
    for before, after in pairwise(bodies):
        assert after[: len(before)] == before
    sent = [block["type"] for message in bodies[-1] for block in message["content"]]
    # All of it is signed, and none was left out.
    assert sent.count("thinking") == 3


async def test_what_the_tool_says_is_what_the_sdk_has_it_say(alice: Caller, api: FakeMessagesApi) -> None:
    said = await results(
        alice,
        api,
        view(),
        create("/memories/a/one.txt", "1\n2\n3\n4\n5\n"),
        create("/memories/a/one.txt", "again"),
        create("/memories/two.txt", "two"),
        view(),
        view("/memories/a/one.txt", view_range=[2, 3]),
        {"command": "str_replace", "path": "/memories/a/one.txt", "old_str": "3", "new_str": "three"},
        {"command": "str_replace", "path": "/memories/a/one.txt", "old_str": "9", "new_str": "x"},
        {"command": "str_replace", "path": "/memories/a/one.txt", "old_str": "\n", "new_str": "x"},
        {"command": "insert", "path": "/memories/a/one.txt", "insert_line": 0, "insert_text": "0\n"},
        {"command": "insert", "path": "/memories/a/one.txt", "insert_line": 9, "insert_text": "0\n"},
        {"command": "rename", "old_path": "/memories/a", "new_path": "/memories/b"},
        view("/memories/b/one.txt"),
        {"command": "delete", "path": "/memories/b"},
        view("/memories/b"),
    )
    header = "Here're the files and directories up to 2 levels deep in /memories, excluding hidden items:"
    assert said == [
        f"{header}\n0\t/memories",
        "File created successfully at: /memories/a/one.txt",
        "Error: File /memories/a/one.txt already exists",
        "File created successfully at: /memories/two.txt",
        f"{header}\n53\t/memories\n31\t/memories/a/\n31\t/memories/a/one.txt\n22\t/memories/two.txt",
        "Here's the content of /memories/a/one.txt with line numbers:\n     2\t2\n     3\t3",
        f"{EDITED}\n     1\t1\n     2\t2\n     3\tthree\n     4\t4\n     5\t5",
        "Error: No replacement was performed, old_str `9` did not appear verbatim in /memories/a/one.txt.",
        f"{SEVERAL} of old_str `\n` in lines: 1, 2, 3, 4, 5. Please ensure it is unique",
        "The file /memories/a/one.txt has been edited.",
        "Error: Invalid `insert_line` parameter: 9. It should be within the range [0, 6].",
        "Successfully renamed /memories/a to /memories/b",
        "Here's the content of /memories/b/one.txt with line numbers:\n"
        + "\n".join(f"{number:6}\t{line}" for number, line in enumerate(["0", "1", "2", "three", "4", "5", ""], 1)),
        "Successfully deleted /memories/b",
        "Error: The path /memories/b does not exist. Please provide a valid path.",
    ]
    assert await listed(alice) == ["two"]


@pytest.mark.parametrize(
    "command",
    [
        create("/etc/passwd", "x"),
        create("/memories/../x", "x"),
        create("/memories/%2e%2e/x", "x"),
        create("/memoriesx", "x"),
        create("/memories", "x"),
        create("/memories/" + "x" * 300, "x"),
        create("/memories/long", "x" * 8193),
        {"command": "delete", "path": "/memories"},
        {"command": "create", "path": "/memories/x"},
        {"command": "create", "path": 7, "file_text": "x"},
        {"command": "view", "path": "/memories", "view_range": ["a", "b"]},
        {"command": "explode", "path": "/memories/x"},
        {},
    ],
)
async def test_what_the_tool_cannot_do_is_said_in_the_result(
    alice: Caller, api: FakeMessagesApi, command: dict[str, Any]
) -> None:
    script = Script(api, command, "Well.")
    events = await alice.send(await remembering(alice))
    (said,) = [event.tool_result for event in events if event.HasField("tool_result")]
    assert (said.is_error, said.text.startswith("Error: ")) == (True, True)
    assert (script.faults, events[-1].turn_finished.status) == ([], COMPLETED)
    assert await listed(alice) == []


async def test_a_path_is_of_a_file_or_of_a_directory_and_stays_valid(alice: Caller, api: FakeMessagesApi) -> None:
    said = await results(
        alice,
        api,
        create("/memories/a", "a"),
        create("/memories/a/b/c", "c"),
        create("/memories/d/e", "e"),
        {"command": "rename", "old_path": "/memories/d", "new_path": "/memories/a/d"},
        {"command": "rename", "old_path": "/memories/d", "new_path": "/memories/" + "x" * 245},
    )
    assert [text.startswith("Error: ") for text in said] == [False, True, False, True, True]
    assert said[1] == said[3] == "Error: /memories/a is a file, not a directory"
    assert await listed(alice) == ["e", "a"]


async def test_a_file_that_has_expired_is_not_there_and_its_path_is_free(alice: Caller, api: FakeMessagesApi) -> None:
    await results(alice, api, *(create(f"/memories/old/{name}", name) for name in ("a", "b", "c")))
    await results(alice, api, create("/memories/kept", "kept"), create("/memories/file", "file"))
    soon = Timestamp()
    soon.FromMicroseconds(time.time_ns() // 1000 + 2_000_000)
    for memory in (await page(alice)).memories:
        if memory.content not in ("kept", "file"):
            await update(alice, memory.memory_id, expire_time=soon)
    await asyncio.sleep(2.1)
    said = await results(
        alice,
        api,
        view(),
        view("/memories/old/a"),
        {"command": "insert", "path": "/memories/old/a", "insert_line": 0, "insert_text": "x"},
        {"command": "delete", "path": "/memories/old"},
        create("/memories/old/a/x", "below a file that was"),
        create("/memories/old/b", "another"),
        {"command": "rename", "old_path": "/memories/file", "new_path": "/memories/old/c"},
    )
    assert "old" not in said[0]
    assert [text.startswith("Error: ") for text in said[1:]] == [True, True, True, False, False, False]
    assert "does not exist" in said[1]
    assert "does not exist" in said[2]
    assert await listed(alice) == ["another", "below a file that was", "file", "kept"]


async def test_the_vault_is_that_of_the_call(alice: Caller, mallory: Caller, api: FakeMessagesApi) -> None:
    await results(alice, api, create("/memories/hers", "hers"))
    said = await results(mallory, api, view(), view("/memories/hers"), create("/memories/hers", "his"))
    assert "hers" not in said[0]
    assert said[1].startswith("Error: ")
    assert await listed(mallory) == ["his"]
    assert await listed(alice) == ["hers"]


async def test_the_tool_may_do_what_the_user_may(running: Serving, api: FakeMessagesApi) -> None:
    writer = running.caller(permissions=["write"])
    path = "/memories/a"
    # Its result shows the lines around.
    replacement = {"command": "str_replace", "path": path, "old_str": "a", "new_str": "b"}
    said = await results(writer, api, create(path, "a"), view(path), replacement, {"command": "delete", "path": path})
    assert [text.startswith("Error: the user has no permission to") for text in said] == [False, True, True, True]


async def test_a_session_without_the_tool_leaves_calls_to_the_caller(alice: Caller, api: FakeMessagesApi) -> None:
    session = await alice.create_session(title="Set")
    api.default = Reply((memory_call("toolu_1", view()),), stop_reason="tool_use")
    finished = (await alice.send(session.session_id))[-1].turn_finished
    assert finished.stop_reason == turn_pb2.STOP_REASON_TOOL_USE
    assert "tools" not in api.requests[-1].body


async def test_a_tool_of_the_caller_cannot_have_its_name(alice: Caller, api: FakeMessagesApi) -> None:
    session_id = await remembering(alice)
    tool = type(WEATHER)(name="memory", input_schema='{"type": "object"}')
    refusal = await refused(alice.start(session_id, tools=[tool]).next())
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["options.tools"])


async def test_calls_of_both_kinds_at_once_end_the_turn_and_the_caller_answers_its_own(
    alice: Caller, api: FakeMessagesApi
) -> None:
    script = Script(api)
    both = Reply((memory_call("toolu_m", create("/memories/x", "x")), CALL), stop_reason="tool_use")
    session_id = await remembering(alice)
    api.script.append(both)
    finished = (await alice.send(session_id, tools=[WEATHER]))[-1].turn_finished
    assert finished.stop_reason == turn_pb2.STOP_REASON_TOOL_USE
    kinds = [block.WhichOneof("block") for block in finished.message.content]
    assert kinds == ["tool_use", "tool_use", "tool_result"]
    refusal = await refused(alice.start(session_id).next())
    assert (refusal.reason, refusal.info.metadata["tool_use_ids"]) == (
        "TOOL_RESULT_REQUIRED",
        finished.message.content[1].tool_use.tool_use_id,
    )
    after = (await alice.send(session_id, content=[result()]))[-1].turn_finished
    assert (script.faults, after.status) == ([], COMPLETED)
    answered = [block["tool_use_id"] for block in api.requests[-1].body["messages"][-1]["content"]]
    assert answered == ["toolu_m", finished.message.content[1].tool_use.tool_use_id]


async def test_a_turn_has_so_many_calls_and_then_pauses(
    alice: Caller, api: FakeMessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metamorphd.chat.generation.MOST_CALLS", 3)
    assert rounds.MOST_CALLS == 16
    script = Script(api, *[view()] * 5)
    session_id = await remembering(alice)
    finished = (await alice.send(session_id))[-1].turn_finished
    assert (finished.status, finished.stop_reason, len(api.requests)) == (COMPLETED, turn_pb2.STOP_REASON_PAUSE, 3)
    finished = (await alice.send(session_id, "Go on"))[-1].turn_finished
    assert (script.faults, finished.stop_reason) == ([], turn_pb2.STOP_REASON_END_TURN)


async def test_a_failure_of_a_later_call_keeps_what_was_said_and_paid(alice: Caller, api: FakeMessagesApi) -> None:
    script = Script(api, create("/memories/x", "x"), "Never")
    session_id = await remembering(alice)
    first = True

    def provider(received: Received) -> Behaviour:
        nonlocal first
        if not first:
            return Refusal(400, "invalid_request_error", message="no")
        first = False
        return script(received)

    api.default = provider
    finished = (await alice.send(session_id))[-1].turn_finished
    assert (finished.status, finished.error.reason) == (turn_pb2.TURN_STATUS_FAILED, "UPSTREAM_REJECTED")
    assert finished.usage.input_tokens == 11
    kinds = [block.WhichOneof("block") for block in finished.message.content]
    assert kinds == ["thinking", "tool_use", "tool_result"]
    Script(api)
    finished = (await alice.send(session_id, "And now?"))[-1].turn_finished
    assert finished.status == COMPLETED


@pytest.mark.parametrize(
    ("message", "blamed"),
    [
        ("prompt is too long: 1000001 tokens > 1000000 maximum", "reply"),
        ("messages.4.content.0.tool_result.content.0: no such text", "reply"),
        ("messages.3.content.1.tool_use.input: what is no object", "reply"),
        ("messages.2.content.0.text: no such text", "message"),
        ("messages.0.content.0.text: no such text", "earlier"),
        ("tools.0: what is no tool", "options.tools"),
    ],
)
async def test_a_further_call_that_is_rejected_is_not_blamed_on_the_message(
    alice: Caller, api: FakeMessagesApi, message: str, blamed: str
) -> None:
    session_id = await remembering(alice)
    api.default = Reply(("Hello.",))
    earlier = (await alice.send(session_id, "Hi"))[-1].turn_finished.message.parent_message_id
    script = Script(api, create("/memories/x", "x"))
    poison = "File created successfully"

    def provider(received: Received) -> Behaviour:
        # As a provider does: whatever is sent with it again is rejected again.
        rejects = poison in str(received.body) if blamed == "reply" else len(received.body["messages"]) == 5
        return Refusal(400, "invalid_request_error", message=message) if rejects else script(received)

    api.default = provider
    finished = (await alice.send(session_id, "Remember"))[-1].turn_finished
    assert (finished.status, finished.error.reason) == (turn_pb2.TURN_STATUS_FAILED, "UPSTREAM_REJECTED")
    asked = finished.message.parent_message_id
    named = {"reply": finished.message.message_id, "message": asked, "earlier": earlier}.get(blamed, blamed)
    assert set(finished.error.metadata.values()) == {"invalid_request_error", named}
    api.default = script if blamed != "reply" else provider
    for text in ("And now?", "And then?"):
        finished = (await alice.send(session_id, text))[-1].turn_finished
        assert (script.faults, finished.status) == ([], COMPLETED)
    assert ("Remember" in str(api.requests[-1].body)) == (blamed != "message")
    assert (poison in str(api.requests[-1].body)) == (blamed != "reply")


async def test_a_turn_that_is_cancelled_between_calls_keeps_what_was_said(alice: Caller, api: FakeMessagesApi) -> None:
    hold = asyncio.Event()
    replies: list[Behaviour] = [
        Reply((memory_call("toolu_1", create("/memories/x", "x")),), stop_reason="tool_use"),
        Reply(("One ", "two"), hold=hold),
    ]
    api.default = lambda _: replies.pop(0)
    session_id = await remembering(alice)
    events = alice.start(session_id)
    turn_id = (await events.next()).turn_id
    while not (await events.next()).HasField("text_delta"):
        pass
    await alice.chat.CancelTurn(pb.CancelTurnRequest(turn_id=turn_id), metadata=alice.metadata)
    finished = (await events.rest())[-1].turn_finished
    assert finished.status == turn_pb2.TURN_STATUS_CANCELLED
    assert text_of(finished.message) == "One "
    assert await listed(alice) == ["x"]
    script = Script(api)
    assert (await alice.send(session_id, "Go on"))[-1].turn_finished.status == COMPLETED
    assert script.faults == []


async def test_after_kill_9_what_the_tool_did_stays_and_all_calls_are_paid(tmp_path: Path) -> None:
    replies: list[Behaviour] = [
        Reply((memory_call("toolu_1", create("/memories/x", "x")),), stop_reason="tool_use"),
        Reply(("One ", "two"), hold=asyncio.Event()),
    ]
    async with FakeMessagesApi() as api:
        api.default = lambda _: replies.pop(0)
        upstream = {"ANTHROPIC_API_KEY": "sk-test", "ANTHROPIC_BASE_URL": api.base_url}
        with serving_process(tmp_path, **upstream) as server:
            async with calling(server.target) as caller:
                session_id = await remembering(caller)
                events = caller.start(session_id)
                turn_id = (await events.next()).turn_id
                while not (await events.next()).HasField("text_delta"):
                    pass
                server.process.kill()
                server.process.wait()
        script = Script(api)
        with serving_process(tmp_path, **upstream) as server:
            async with calling(server.target) as caller:
                finished = (await followed(caller, turn_id))[-1].turn_finished
                assert finished.status == turn_pb2.TURN_STATUS_INTERRUPTED
                kinds = [block.WhichOneof("block") for block in finished.message.content]
                assert kinds == ["tool_use", "tool_result", "text"]
                assert finished.usage.estimated
                assert finished.usage.output_tokens > 1000
                assert await listed(caller) == ["x"]
                assert (await caller.send(session_id, "Go on"))[-1].turn_finished.status == COMPLETED
        assert script.faults == []


async def test_a_budget_that_is_used_up_ends_the_turn_before_its_next_call(alice: Caller, api: FakeMessagesApi) -> None:
    budget = usage_pb2.Budget(tokens_per_day=10)
    request = vault_pb.UpdateVaultRequest(vault=vault_pb.Vault(budget=budget), update_mask=FieldMask(paths=["budget"]))
    await alice.vault.UpdateVault(request, metadata=alice.metadata)
    Script(api, view(), view())
    finished = (await alice.send(await remembering(alice)))[-1].turn_finished
    assert (finished.status, finished.error.reason) == (turn_pb2.TURN_STATUS_FAILED, "BUDGET_EXCEEDED")
    assert len(api.requests) == 1
    usage = await alice.vault.GetUsage(vault_pb.GetUsageRequest(), metadata=alice.metadata)
    (status,) = usage.budgets
    assert (status.reserved, status.used) == (
        0,
        usage.total.usage.input_tokens + 5 + 3 + usage.total.usage.output_tokens,
    )


async def test_a_budget_that_is_not_used_up_does_not_end_a_turn(alice: Caller, api: FakeMessagesApi) -> None:
    budget = usage_pb2.Budget(tokens_per_day=1000)
    request = vault_pb.UpdateVaultRequest(vault=vault_pb.Vault(budget=budget), update_mask=FieldMask(paths=["budget"]))
    await alice.vault.UpdateVault(request, metadata=alice.metadata)
    Script(api, view(), view(), "Well.")
    assert (await alice.send(await remembering(alice)))[-1].turn_finished.status == COMPLETED


async def test_the_tool_can_be_turned_on_later(alice: Caller, api: FakeMessagesApi) -> None:
    script = Script(api, "First.", "Second.")
    session = await alice.create_session(title="Set")
    await alice.send(session.session_id)
    changed = session_pb2.Session(session_id=session.session_id, memory_tool=True)
    update = pb.UpdateSessionRequest(session=changed, update_mask=FieldMask(paths=["memory_tool"]))
    assert (await alice.chat.UpdateSession(update, metadata=alice.metadata)).session.memory_tool
    await alice.send(session.session_id)
    assert ["tools" in request.body for request in api.requests] == [False, True]
    assert script.faults == []
