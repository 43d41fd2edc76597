"""The storage quota holds for all that an import brings."""

from collections.abc import Callable
from typing import Any

import pytest
from metamorph_client.chat.v1.chat_service_pb2 import DeleteSessionRequest
from metamorph_client.vault.v1 import vault_service_pb2 as pb

from tests.support.caller import Caller
from tests.support.exports import Record, exported, import_, of_kind, records, whole
from tests.support.memories import made
from tests.support.refusal import refused
from tests.support.serving import Serving

LIMIT = 100_000


@pytest.fixture
def overrides() -> dict[str, Any]:
    return {"vault_storage_bytes": LIMIT}


async def stored(caller: Caller) -> int:
    """Returns the bytes that count towards the quota."""
    return (await caller.vault.GetUsage(pb.GetUsageRequest(), metadata=caller.metadata)).storage.stored_bytes


async def something(alice: Caller) -> bytes:
    """Returns an export with a session, a turn, usage and a memory."""
    session = await alice.create_session()
    await alice.send(session.session_id)
    await made(alice, "Something to remember")
    return await exported(alice)


def failed(turn: Record, number: int) -> Record:
    error: Record = {"reason": "INTERNAL", "message": "x" * 1_000, "metadata": {}, "retry_delay": None}
    return turn | {"turn_id": f"turn_{number}", "status": "FAILED", "error": error}


MADE: dict[str, Callable[[Record, int], Record]] = {
    "turn": failed,
    "memory": lambda memory, number: memory | {"memory_id": f"mem_{number}", "content": f"{number}" + " x" * 500},
    "usage": lambda usage, number: usage | {"session_id": f"ses_{number}"},
    "subject_usage": lambda usage, number: usage | {"subject_kind": "user", "subject": f"user_{number}"},
}


def with_many(data: bytes, kind: str, count: int) -> bytes:
    """Returns an export with so many records of a kind in place of one."""
    lines = records(data)[:-1]
    place = next(number for number, line in enumerate(lines) if line["kind"] == kind)
    many = [MADE[kind](lines[place], number) for number in range(count)]
    return whole([*lines[:place], *many, *lines[place + 1 :]])


@pytest.mark.parametrize("kind", MADE)
async def test_what_is_beyond_the_quota_is_refused_and_leaves_nothing(
    alice: Caller, running: Serving, kind: str
) -> None:
    data = with_many(await something(alice), kind, LIMIT // 100 if kind.endswith("usage") else LIMIT // 1_000)
    bob = running.caller(vault="other", user="bob")
    refusal = await refused(import_(bob, data))
    assert refusal.reason == "STORAGE_QUOTA_EXCEEDED"
    await running.erased()
    assert await stored(bob) == 0
    assert of_kind(await exported(bob), *MADE) == []


@pytest.mark.parametrize("kind", MADE)
async def test_what_is_imported_counts(alice: Caller, running: Serving, kind: str) -> None:
    data, least = await something(alice), 100 if kind.endswith("usage") else 1_000
    bob = running.caller(vault="other", user="bob")
    await import_(bob, with_many(data, kind, 50))
    carol = running.caller(vault="third", user="carol")
    await import_(carol, with_many(data, kind, 20))
    assert 30 * least <= await stored(bob) - await stored(carol) <= 30 * (least + 200)


async def test_what_is_erased_counts_no_more_but_for_usage(alice: Caller, running: Serving) -> None:
    data = with_many(with_many(await something(alice), "turn", 20), "memory", 20)
    bob = running.caller(vault="other", user="bob")
    await import_(bob, data)
    assert await stored(bob) > 40_000
    for session in await bob.sessions():
        await bob.chat.DeleteSession(DeleteSessionRequest(session_id=session.session_id), metadata=bob.metadata)
    for memory in of_kind(data, "memory"):
        await bob.vault.DeleteMemory(pb.DeleteMemoryRequest(memory_id=memory["memory_id"]), metadata=bob.metadata)
    await running.erased()
    used = of_kind(data, "usage", "subject_usage")
    names = [row.get("session_id") or row["subject"] for row in used]
    assert await stored(bob) == sum(100 + len(name + row["model"]) for name, row in zip(names, used, strict=True))
