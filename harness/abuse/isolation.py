"""Two tenants call every RPC with everything they have seen, the other's ids included.

Neither may ever see a byte of the other's: in an answer, in a log line about its calls, in a prompt on its behalf, in
the metrics. Requests are generated from the descriptors, so that a new RPC takes part by itself.
"""

import asyncio
import itertools
import json
import random
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import protovalidate
from google.protobuf.message import Message
from metamorphd.edge.methods import SERVICES

from harness.abuse.noise import noise
from harness.abuse.requests import Requests
from harness.abuse.rpcs import EARLY, Answer, Rpc, answer, begin, rpcs_of
from harness.abuse.subject import Subject, subject
from harness.abuse.tenant import Tenant
from harness.figure import Figure, tried
from harness.run import Run
from tests.support.catalogs import permissive
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.tokens import mint

# Concurrent calls of each user.
CALLS = 4
# Pairs of answers for each field: at most so many, and one per so many operations.
PAIRS, PAIRS_SHARE = 300, 15
# Codes that are the server's own fault.
# A status that is lost so often in a row counts as a fault.
ATTEMPTS = 5
FAULTS = ("INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", EARLY)
EXAMPLES = 3
SHORTEST_NAME = 16


@dataclass
class Seen:
    """The outcomes of the operations, and what was seen that should not have been."""

    codes: Counter[str] = field(default_factory=Counter)
    succeeded: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    foreign: Counter[str] = field(default_factory=Counter)
    let_in: int = 0

    def add(self, rpc: Rpc, answered: Answer, foreign_bytes: int) -> None:
        """Counts one answer."""
        self.codes[answered.code] += 1
        # A stream without an end is left after its first message.
        self.succeeded[rpc.name] += answered.code == "OK" or (rpc.endless and bool(answered.messages))
        if answered.code in FAULTS:
            self.faults[f"{rpc.name} {answered.code}"] += 1
        if foreign_bytes:
            self.foreign[rpc.name] += foreign_bytes


# One would leave nothing to find, the other takes a whole file. tests/services has them with two vaults.
NOT_AT_RANDOM = ("DeleteVault", "ImportVault")


async def attack(run: Run, *, operations: int) -> list[Figure]:
    """Performs operations, then compares pairs of answers for every field that takes an id."""
    tenants, rpcs = (Tenant(), Tenant()), rpcs_of(SERVICES)
    async with FakeMessagesApi() as model:
        environment = {
            "ANTHROPIC_API_KEY": "key",
            "ANTHROPIC_BASE_URL": model.base_url,
            "TOKEN_ENCRYPTION_KEY": secrets.token_hex(32),
            # Random options are seldom all that one model accepts.
            "MODEL_CATALOG": str(permissive(run.directory)),
        }
        with subject(run.directory, mutant=run.mutant, environment=environment) as server:
            performed = Operations(server, rpcs, count=operations, seed=run.seed)
            await performed.run(tenants)
            pairs = min(PAIRS, operations // PAIRS_SHARE)
            noisy = await noise(
                server, {rpc.path: rpc for rpc in rpcs}, known=tenants[0].ids, pairs=pairs, mutant=run.mutant
            )
            metrics = (await server.metrics()).encode()
            lines = list(server.lines())
        asked = [json.dumps(request.body).encode() for request in model.requests]
    seen = performed.seen
    unreached = [
        rpc.name for rpc in rpcs if not (rpc.operator or rpc.name in NOT_AT_RANDOM or seen.succeeded[rpc.name])
    ]
    return [
        tried("operations", seen.codes.total()),
        *(Figure(f"answered {code}", count) for code, count in seen.codes.most_common()),
        Figure("RPCs that never succeeded", len(unreached), "", "=", 0, ", ".join(unreached)),
        Figure("calls that the server failed", seen.faults.total(), "", "=", 0, _named(seen.faults)),
        Figure("calls with x-vault-id that were let in", seen.let_in, "", "=", 0),
        Figure("foreign bytes in answers", seen.foreign.total(), "", "=", 0, _named(seen.foreign)),
        tried("log lines", len(lines)),
        Figure("foreign bytes in log lines", sum(_misplaced(tenants, lines)), "", "=", 0),
        Figure("foreign bytes in the metrics", sum(_named_bytes(tenants, metrics)), "", "=", 0),
        tried("prompts", len(asked)),
        Figure("foreign bytes in prompts", sum(_mixed(tenants, asked)), "", "=", 0),
        *noisy,
    ]


class Operations:
    """Operations by all users of both tenants at once."""

    def __init__(self, server: Subject, rpcs: list[Rpc], *, count: int, seed: int) -> None:
        self._server = server
        self._rpcs = rpcs
        # Frequent deletion would leave nothing to find; an operator's RPC refuses both tenants.
        self._weights = list(itertools.accumulate(0.3 if rpc.deletes or rpc.operator else 1.0 for rpc in rpcs))
        self._seed = seed
        self._numbers = iter(range(count))
        self._validator = protovalidate.Validator()
        self.seen = Seen()

    async def run(self, tenants: tuple[Tenant, Tenant]) -> None:
        """Returns when all are done."""
        async with asyncio.TaskGroup() as group:
            for own, other in (tenants, tenants[::-1]):
                for user in own.users:
                    group.create_task(self._user(own, other, user))

    async def _user(self, own: Tenant, other: Tenant, user: str) -> None:
        token = mint(own.vault, user, email=f"{own.content}@example.org")
        async with grpc.aio.insecure_channel(self._server.target) as channel, asyncio.TaskGroup() as group:
            for _ in range(CALLS):
                group.create_task(self._calls(channel, token, own, other))

    async def _calls(self, channel: grpc.aio.Channel, token: str, own: Tenant, other: Tenant) -> None:
        for number in self._numbers:
            chosen = random.Random(f"{self._seed} {number}")  # noqa: S311, repeatable
            (rpc,) = chosen.choices(self._rpcs, cum_weights=self._weights)
            requests = Requests(own, other, validator=self._validator, seed=chosen.getrandbits(64))
            made = requests.make(rpc)
            metadata = [("authorization", f"Bearer {token}"), ("x-note", own.text("x-note"))]
            if chosen.random() < 0.5:
                metadata.append(("x-request-id", own.call_id()))
            chooses_vault = chosen.random() < 0.02
            if chooses_vault:
                metadata.append(("x-vault-id", other.vault))
            at_most = 1 if chosen.random() < 0.05 or rpc.endless else None
            for _ in range(ATTEMPTS):
                answered = await answer(begin(channel, rpc, made, metadata), rpc, at_most=at_most)
                if answered.code != EARLY:
                    break
            foreign_bytes = own.foreign_bytes(_without(answered.whole, requests.borrowed), other)
            if answered.code == "OK" and not foreign_bytes:
                self._learn(own, rpc, made, answered)
            self.seen.let_in += chooses_vault and answered.code != "INVALID_ARGUMENT"
            self.seen.add(rpc, answered, foreign_bytes)

    def _learn(self, own: Tenant, rpc: Rpc, made: list[Message], answered: Answer) -> None:
        responses = [rpc.response_type.FromString(payload) for payload in answered.messages]
        for response in responses:
            own.learn(response)
        if rpc.deletes:
            own.forget(made[0])
        elif not rpc.client_streaming and responses:
            own.repeatable(rpc.path, made[0], responses[-1])


def _without(data: bytes, borrowed: list[str]) -> bytes:
    """Returns an answer without what the caller itself sent."""
    for text in borrowed:
        # Shorter text, such as an etag, names nobody, and might be part of a name.
        if len(text) >= SHORTEST_NAME:
            data = data.replace(text.encode(), b" ")
    return data


def _misplaced(tenants: tuple[Tenant, Tenant], lines: list[dict[str, Any]]) -> Iterator[int]:
    """Counts bytes of any content, and bytes of the other tenant in log lines about one tenant's calls."""
    for line in lines:
        text = json.dumps(line, ensure_ascii=False).encode()
        for own, other in (tenants, tenants[::-1]):
            yield text.count(own.content.encode()) * len(own.content)
            if line.get("vaultId") == own.vault:
                yield own.foreign_bytes(text, other)


def _named_bytes(tenants: tuple[Tenant, Tenant], data: bytes) -> Iterator[int]:
    """Counts bytes that name either tenant."""
    for own, other in (tenants, tenants[::-1]):
        yield own.foreign_bytes(data, other)


def _mixed(tenants: tuple[Tenant, Tenant], asked: list[bytes]) -> Iterator[int]:
    """Counts bytes of both tenants in one prompt, which is made for one of them."""
    one, other = tenants
    for prompt in asked:
        yield min(prompt.count(one.mark.encode()), prompt.count(other.mark.encode())) * len(one.mark)


def _named(what: Counter[str]) -> str:
    return ", ".join(name for name, _ in what.most_common(EXAMPLES))
