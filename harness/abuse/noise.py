"""Whether timing or text distinguishes another vault's id from one that never existed."""

import random
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import grpc
from metamorph_client.vault.v1.memory_pb2 import MEMORY_TYPE_SEMANTIC, Memory
from metamorph_client.vault.v1.vault_service_pb2 import CreateMemoryRequest, ExportVaultRequest

from harness.abuse.rpcs import Rpc, begin
from harness.abuse.subject import Subject
from harness.abuse.tenant import kind_of
from harness.figure import Figure, tried
from tests.support.caller import Caller
from tests.support.refusal import Refusal, comparable, refused
from tests.support.rpcs import ID_FIELDS, request_with

# A ratio between these is measured again with more pairs: the machine may be busy.
BOUND, PLAIN = 1.25, 3.0
ROUNDS = 5


@dataclass
class _Measured:
    """Seconds of both kinds of answer for one field of one RPC, and how many pairs of answers differed."""

    foreign: list[float] = field(default_factory=list)
    unknown: list[float] = field(default_factory=list)
    differing: int = 0

    @property
    def ratio(self) -> float:
        """The larger median divided by the smaller."""
        foreign, unknown = median(self.foreign), median(self.unknown)
        return max(foreign, unknown) / min(foreign, unknown)


async def noise(
    server: Subject, rpcs: Mapping[str, Rpc], *, known: Mapping[str, Sequence[str]], pairs: int, mutant: str
) -> list[Figure]:
    """Asks, in pairs, for another vault's id and for one that does not exist, in every field that takes an id.

    `known` are ids of other vaults by kind, for the kinds that are not created here. Stops at the first field
    that shows a `mutant`.
    """
    async with server.caller(vault="quiet") as own, server.caller(vault="secret") as other:
        try:
            session = (await own.create_session()).session_id
            foreign = {kind: ids[-1] for kind, ids in known.items() if ids} | await _foreign(other)
        except grpc.aio.AioRpcError as error:
            return [Figure("calls that failed before any pair was asked for", 1, "", "=", 0, error.code().name)]
        measured: dict[str, _Measured] = {}
        for method, path in ID_FIELDS:
            measured[f"{method.path} {'.'.join(path)}"] = fields = _Measured()
            for _ in range(ROUNDS):
                for _ in range(pairs):
                    identity = foreign[kind_of(path[-1])]
                    values = (identity, f"{identity.partition('_')[0]}_{uuid.uuid4().hex}")
                    requests = {value: request_with(method, path, value, session) for value in values}
                    await _pair(own.channel, rpcs[method.path], own.metadata, fields, requests)
                if not BOUND < fields.ratio < PLAIN:
                    break
            if mutant and fields.ratio > BOUND:
                break
    slowest = max(measured, key=lambda name: measured[name].ratio)
    differing = {name: fields.differing for name, fields in measured.items() if fields.differing}
    return [
        tried("fields that take an id", len(measured)),
        tried("pairs of answers in each, at least", pairs),
        Figure("pairs that differ", sum(differing.values()), "", "=", 0, ", ".join(differing)),
        Figure("largest ratio of their median times", measured[slowest].ratio, "", "≤", BOUND, slowest),
    ]


async def _foreign(other: Caller) -> dict[str, str]:
    """Creates one of each kind, and returns their ids."""
    session = (await other.create_session()).session_id
    finished = (await other.send(session, max_output_tokens=1))[-1]
    memory = Memory(type=MEMORY_TYPE_SEMANTIC, content="Hello")
    remembered = await other.vault.CreateMemory(CreateMemoryRequest(memory=memory), metadata=other.metadata)
    exported = [part async for part in other.vault.ExportVault(ExportVaultRequest(), metadata=other.metadata)]
    return {
        "export": exported[0].export.export_id,
        "memory": remembered.memory.memory_id,
        "session": session,
        "turn": finished.turn_id,
        "message": finished.turn_finished.message.message_id,
    }


async def _pair(
    channel: grpc.aio.Channel, rpc: Rpc, metadata: Any, fields: _Measured, requests: dict[str, Any]
) -> None:
    answers: dict[str, Any] = {}
    # The second request finds warm caches.
    for value in random.sample(list(requests), 2):
        began = time.perf_counter()
        refusal = await _refusal(begin(channel, rpc, [requests[value]], metadata))
        took = time.perf_counter() - began
        (fields.foreign if value == next(iter(requests)) else fields.unknown).append(took)
        answers[value] = refusal and (refusal.code is grpc.StatusCode.NOT_FOUND, comparable(refusal, value))
    one, other = answers.values()
    fields.differing += not one or not one[0] or one != other


async def _refusal(call: Any) -> Refusal | None:
    try:
        return await refused(call)
    except AssertionError:
        return None
