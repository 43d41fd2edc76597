"""Whether time or text tells another vault's id from one that never existed."""

import random
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import grpc

from tests.abuse.rpcs import Rpc, begin
from tests.abuse.subject import Figure, Subject
from tests.contract.test_rpcs import ID_FIELDS, request_with, told
from tests.serving import Caller, Refusal, refused


@dataclass
class _Measured:
    """Milliseconds of both kinds of answer to one field of one RPC, and how many pairs of them differed."""

    foreign: list[float] = field(default_factory=list)
    unknown: list[float] = field(default_factory=list)
    differing: int = 0

    @property
    def ratio(self) -> float:
        """Of the medians, the larger by the smaller."""
        foreign, unknown = median(self.foreign), median(self.unknown)
        return max(foreign, unknown) / min(foreign, unknown)


async def noise(server: Subject, rpcs: Mapping[str, Rpc], *, pairs: int) -> list[Figure]:
    """Asks, in pairs, for an id of another vault and for one that nobody has, in every field that takes an id."""
    async with server.caller(vault="quiet") as own, server.caller(vault="secret") as other:
        try:
            session = (await own.create_session()).session_id
            foreign = await _foreign(other)
        except grpc.aio.AioRpcError as error:
            return [Figure(f"calls that failed before any pair was asked for ({error.code().name})", 1, "", "=", 0)]
        measured = {}
        for method, path in ID_FIELDS:
            identity = next(value for name, value in foreign.items() if path[-1].endswith(name))
            fields = measured[f"{method.path} {'.'.join(path)}"] = _Measured()
            for _ in range(pairs):
                unknown = f"{identity.partition('_')[0]}_{uuid.uuid4().hex}"
                await _pair(
                    own.channel, rpcs[method.path], own.metadata, fields,
                    {value: request_with(method, path, value, session) for value in (identity, unknown)},
                )  # fmt: skip
    slowest = max(measured, key=lambda name: measured[name].ratio)
    differing = {name: fields.differing for name, fields in measured.items() if fields.differing}
    return [
        Figure("fields that take an id", len(measured)),
        Figure("pairs of answers in each", pairs),
        Figure(f"pairs that differ{differing or ''}", sum(differing.values()), "", "=", 0),
        Figure(f"largest ratio of their median times ({slowest})", measured[slowest].ratio, "", "≤", 1.25),
    ]


async def _foreign(other: Caller) -> dict[str, str]:
    """An id of each kind, by the field that it is told in."""
    session = (await other.create_session()).session_id
    finished = (await other.send(session, max_output_tokens=1))[-1]
    message = finished.turn_finished.message.message_id
    return {"session_id": session, "turn_id": finished.turn_id, "message_id": message}


async def _pair(
    channel: grpc.aio.Channel, rpc: Rpc, metadata: Any, fields: _Measured, requests: dict[str, Any]
) -> None:
    answers: dict[str, Any] = {}
    # Whichever comes second finds caches warm.
    for value in random.sample(list(requests), 2):
        began = time.perf_counter()
        refusal = await _refusal(begin(channel, rpc, [requests[value]], metadata))
        took = time.perf_counter() - began
        (fields.foreign if value == next(iter(requests)) else fields.unknown).append(took)
        answers[value] = refusal and (refusal.code is grpc.StatusCode.NOT_FOUND, told(refusal, value))
    one, other = answers.values()
    fields.differing += not one or not one[0] or one != other


async def _refusal(call: Any) -> Refusal | None:
    try:
        return await refused(call)
    except AssertionError:
        return None
