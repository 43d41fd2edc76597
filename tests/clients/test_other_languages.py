"""The TypeScript and Go clients, and streams that end OK without an event that they must have."""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
from metamorph_client.chat.v1 import turn_pb2

from tests.support.fakes.chat_service import FakeChatService, Script, turn
from tests.support.paths import ROOT
from tests.support.programs import client_program

PROGRAM = Path(__file__).parent / "programs" / "streams"
WHOLE = "1 2 3 4 5"
ENDED = turn_pb2.TURN_STATUS_COMPLETED
RUNNING = turn_pb2.TURN_STATUS_RUNNING
# For each stream: the call, what the server sends for each attempt, the turn's status, what the program prints, and the
# calls that the client makes.
STREAMS: list[tuple[str, Sequence[Script], turn_pb2.TurnStatus.ValueType, str, str]] = [
    ("send/id", [turn(1, 2, 3, 4, 5)], RUNNING, WHOLE, "SendMessage"),
    ("send/", [turn(1, 2), turn(3), turn(3, 4, 5)], RUNNING, WHOLE, "SendMessage StreamTurn StreamTurn"),
    ("regenerate/", [turn(1), turn(2, 3, 4, 5)], RUNNING, WHOLE, "RegenerateReply StreamTurn"),
    ("send/id", [[], turn(1, 2, 3, 4, 5)], RUNNING, WHOLE, "SendMessage SendMessage"),
    ("send/id", [turn(1, 2, 4, 5), turn(3, 4, 5)], RUNNING, WHOLE, "SendMessage StreamTurn"),
    ("send/id", [turn(1, 2, 2, 1, 3, 4, 5)], RUNNING, WHOLE, "SendMessage"),
    # The others have expired.
    ("follow/1", [turn(5)], ENDED, "5", "StreamTurn"),
    # Without a request ID, it would be another turn.
    ("send/", [[]], RUNNING, "the stream ended after event 0, before TurnFinished", "SendMessage"),
    ("follow/3", [turn(4), turn(5)], RUNNING, "4 5", "StreamTurn GetTurn StreamTurn"),
    ("follow/3", [[], turn(4, 5)], ENDED, "4 5", "StreamTurn GetTurn StreamTurn"),
    ("follow/5", [[]], ENDED, "", "StreamTurn GetTurn"),
    ("send/id", [[*turn(1, 2), grpc.StatusCode.UNAVAILABLE]], RUNNING, "1 2 as scripted", "SendMessage"),
    (
        "send/id",
        [turn(1, 2)],
        RUNNING,
        "1 2 the stream ended after event 2, before TurnFinished",
        " ".join(["SendMessage", *["StreamTurn"] * 5]),
    ),
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("language", ["typescript"])
async def test_a_stream_that_ends_before_its_turn_is_resumed_and_not_taken_for_the_whole(language: str) -> None:
    command = client_program(language, PROGRAM)
    async with contextlib.AsyncExitStack() as stack:
        fakes = [
            await stack.enter_async_context(FakeChatService(*scripts, status=status))
            for _, scripts, status, _, _ in STREAMS
        ]
        calls = [f"{call}/{fake.target}" for (call, *_), fake in zip(STREAMS, fakes, strict=True)]
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT / "clients" / language,
            env={**os.environ, "STREAMS": " ".join(calls)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert out.decode().splitlines() == [printed for *_, printed, _ in STREAMS]
    assert [" ".join(name for name, _ in fake.calls) for fake in fakes] == [made for *_, made in STREAMS]
