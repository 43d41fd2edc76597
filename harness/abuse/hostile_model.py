"""A model calls the memory tool as it should not: outside of its files, for another vault, with nonsense, without end.

It may fill its own vault with junk up to the limit, and nothing else.
"""

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metamorph_client.chat.v1.turn_pb2 import TURN_STATUS_COMPLETED

from harness.abuse.subject import subject
from harness.figure import Figure, tried
from harness.run import Run
from tests.support.caller import Caller, calling
from tests.support.fakes.messages_api import FakeMessagesApi, Received
from tests.support.fakes.replies import Behaviour, Refusal, Reply, tool_use
from tests.support.fakes.rules import broken
from tests.support.memories import listed
from tests.support.tokens import mint

VAULTS = {"acme": "canary-of-acme-5f1c", "evil": "canary-of-evil-9d27"}
# The server's limits.
MOST_CALLS, MOST_MEMORIES = 16, 3
# Beyond this even a hostile model stops, so that a server without a limit is found.
PATIENCE = 20
TURNS_AT_ONCE = 4
OUTSIDE = (
    "/etc/passwd",
    "memories/x",
    "/memoriesx",
    "/memories/../x",
    "/memories/%2e%2e/x",
    "/memories/a/../../x",
    "/memories//x",
    "/memories\\..\\x",
    "/memories/\x00x",
    "/memories/" + "a" * 300,
    "../evil/memories/x",
    "",
)
# An input that is no object is no call.
NONSENSE = (
    "{}",
    '{"command": "format"}',
    '{"command": {}}',
    '{"command": "view"}',
    '{"command": "insert", "path": []}',
)


@dataclass
class Model:
    """A provider's model that means harm, and what it got for it."""

    randomness: random.Random
    calls: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    foreign: int = 0
    outside: set[str] = field(default_factory=set)

    def __call__(self, received: Received) -> Behaviour:
        messages = received.body["messages"]
        # `acme 17`: the vault, and the number of the turn.
        asked: str = messages[0]["content"][0]["text"]
        vault_id = asked.split(maxsplit=1)[0]
        sent = json.dumps(messages)
        self.foreign += sum(sent.count(canary) for other, canary in VAULTS.items() if other != vault_id)
        self.calls[asked] += 1
        for block in messages[-1]["content"]:
            if block["type"] == "tool_result" and block["tool_use_id"] in self.outside:
                self.accepted += not block.get("is_error", False)
        if (fault := broken(received.body, received.headers)) is not None:
            self.faults[fault] += 1
            return Refusal(400, "invalid_request_error", message=fault)
        # A third of the turns have no end of their own.
        tired = int(asked.split()[1]) % 3 and self.calls[asked] > 1 and self.randomness.random() < 0.2
        if self.calls[asked] > PATIENCE or tired:
            return Reply(("Done.",))
        first, number = self.calls[asked] == 1, sum(self.calls.values())
        calls = [self._input(vault_id, f"toolu_{number}_{place}", first) for place in range(1 + number % 3)]
        return Reply(
            tuple(tool_use(f"toolu_{number}_{place}", "memory", text) for place, text in enumerate(calls)),
            stop_reason="tool_use",
        )

    def _input(self, vault_id: str, call_id: str, first: bool) -> str:
        draw = self.randomness
        other = next(each for each in VAULTS if each != vault_id)
        path = draw.choice(
            ("/memories", "/memories/canary", f"/memories/{draw.randrange(100)}", f"/memories/{other}/a")
        )
        text = draw.choice(("x", "\ud800", "\x00", "a\n" * 2000, "y" * 200_000, ""))
        fields: dict[str, Any] = {
            "command": draw.choice(("view", "create", "str_replace", "insert", "delete", "rename"))
        }
        fields |= {
            "path": path,
            "file_text": text,
            "old_str": "x",
            "new_str": text,
            "insert_line": draw.randrange(-1, 4),
        }
        fields |= {"insert_text": text, "old_path": path, "new_path": f"/memories/{draw.randrange(100)}"}
        match 0 if first else draw.randrange(6):
            case 0:
                fields |= {"command": "create", "path": "/memories/canary", "file_text": VAULTS[vault_id]}
            case 1:
                fields |= dict.fromkeys(("path", "old_path", "new_path"), draw.choice(OUTSIDE))
                self.outside.add(call_id)
            case 2:
                fields |= {
                    "vault_id": other,
                    "vaultId": other,
                    "x-vault-id": other,
                    "command": "view",
                    "path": "/memories/canary",
                }
            case 3:
                return draw.choice(NONSENSE)
            case 4:
                fields |= {draw.choice(list(fields)): draw.choice((None, [], {}, 2**70, -1, True, "z"))}
        return json.dumps(fields)


async def attack(run: Run, *, turns: int) -> list[Figure]:
    """Has two vaults send messages to the model, so many turns in all."""
    model = Model(random.Random(run.seed))  # noqa: S311, repeatable
    async with FakeMessagesApi(model) as api:
        environment = {
            "ANTHROPIC_API_KEY": "key",
            "ANTHROPIC_BASE_URL": api.base_url,
            "MAX_VAULT_MEMORIES": str(MOST_MEMORIES),
        }
        with subject(run.directory, mutant=run.mutant, environment=environment) as server:
            numbers, ended = iter(range(turns)), Counter[str]()
            async with calling(server.target, mint("acme")) as acme, calling(server.target, mint("evil")) as evil:
                callers = {"acme": acme, "evil": evil}
                await asyncio.gather(*(_talk(callers, numbers, ended) for _ in range(TURNS_AT_ONCE)))
                memories = {vault_id: await listed(caller) for vault_id, caller in callers.items()}
    mixed = sum(
        canary in content
        for other, canary in VAULTS.items()
        for vault_id, contents in memories.items()
        for content in contents
        if other != vault_id
    )
    stray = [path for path in (*run.directory.rglob("x"), Path("/memories")) if path.exists()]
    return [
        tried("calls of the memory tool", sum(model.calls.values()), f"in {turns} turns"),
        Figure("turns that failed", turns - ended["COMPLETED"], "", "=", 0, ", ".join(ended)),
        Figure("most calls of a turn", max(model.calls.values()), "", "≤", MOST_CALLS),
        Figure(
            "requests that break the provider's rules", model.faults.total(), "", "=", 0, ", ".join(model.faults)[:200]
        ),
        Figure("sights of another vault", model.foreign + mixed, "", "=", 0),
        tried("paths outside", len(model.outside)),
        Figure("paths outside that were accepted", model.accepted + len(stray), "", "=", 0),
        Figure("most memories of a vault", max(map(len, memories.values())), "", "≤", MOST_MEMORIES),
    ]


async def _talk(callers: dict[str, Caller], numbers: Any, ended: Counter[str]) -> None:
    for number in numbers:
        vault_id = "acme" if number % 2 else "evil"
        session = await callers[vault_id].create_session(title="Set", memory_tool=True)
        finished = (await callers[vault_id].send(session.session_id, f"{vault_id} {number}"))[-1].turn_finished
        ended["COMPLETED" if finished.status == TURN_STATUS_COMPLETED else finished.error.reason] += 1
