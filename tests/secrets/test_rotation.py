"""Data keys are rewrapped while secrets are read, and where a rotation was stopped, it goes on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from metamorph_client.admin.v1.admin_service_pb2 import GetKeyRotationRequest, KeyRotation, RotateDataKeysRequest
from metamorphd.clock import Clock
from metamorphd.keys.environment import EnvironmentKeys
from metamorphd.keys.holder import KeyHolder, NoKeys
from metamorphd.keys.key_file import add_key
from metamorphd.keys.vault_keys import VaultKeys
from metamorphd.models.caller import server_scope
from metamorphd.models.operation import OperationKind
from metamorphd.models.secret import NewVersion
from metamorphd.operations import Operations, Running
from metamorphd.secrets import rotation
from metamorphd.secrets.rotation import Rotation
from metamorphd.secrets.secrets import Secrets
from metamorphd.store.database import Database, Transaction
from metamorphd.store.operations import LAST_ID, list_operations

from tests.support.caller import Caller
from tests.support.refusal import refused
from tests.support.rows import scope_of
from tests.support.secrets import put, value
from tests.support.serving import serving

OLD, NEW, NEWEST = "o" * 32, "n" * 32, "w" * 32
VAULTS = [f"v{number:03}" for number in range(120)]


def holding(*texts: str) -> KeyHolder:
    return EnvironmentKeys(texts, key_time=None)


def secrets_of(database: Database, holder: KeyHolder) -> Secrets:
    return Secrets(database=database, keys=VaultKeys(holder), clock=Clock(), storage_limit=0)


def rotation_of(database: Database, holder: KeyHolder, clock: Clock | None = None) -> Rotation:
    operations = Operations(database=database, clock=clock or Clock())
    return Rotation(database=database, keys=VaultKeys(holder), operations=operations, clock=clock or Clock())


async def plant(database: Database, holder: KeyHolder, vaults: list[str]) -> None:
    secrets = secrets_of(database, holder)
    for vault in vaults:
        await secrets.put(scope_of(vault), NewVersion("key", None, {}, None), value=vault.encode(), request=None)


async def readable(database: Database, holder: KeyHolder) -> bool:
    secrets = secrets_of(database, holder)
    got = [await secrets.get(scope_of(vault), name="key", version=0) for vault in VAULTS]
    return [value.decode() for _, value, _ in got] == VAULTS


async def left(database: Database, holder: KeyHolder) -> int:
    return (await rotation_of(database, holder).state(server_scope())).left


async def test_all_data_keys_are_wrapped_by_the_current_key_and_values_stay(database: Database) -> None:
    # The IDs of the others are on both sides of the current one's.
    first, current, last = sorted((OLD, NEW, NEWEST), key=lambda text: holding(text).key_id)
    after = holding(current, first, last)
    await plant(database, holding(first), VAULTS[::2])
    await plant(database, holding(last), VAULTS[1::2])
    rotating = rotation_of(database, after)
    assert (await rotating.state(server_scope())).left == len(VAULTS)
    await rotating.work()
    state = await rotating.state(server_scope())
    assert (state.key_id, state.key_time, state.left, state.unavailable) == (after.key_id, None, 0, 0)
    assert await readable(database, holding(current))
    ((_, read),) = rotating.gauges.values()
    assert read() == 0


async def test_a_rotation_that_is_stopped_goes_on_where_it_was(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plant(database, holding(OLD), VAULTS)
    monkeypatch.setattr(rotation, "STEP_DATA_KEYS", 7)
    monkeypatch.setattr(rotation, "PAUSE_SECONDS", 0.02)
    lefts, both = [len(VAULTS)], holding(NEW, OLD)
    while lefts[-1]:
        working = asyncio.create_task(rotation_of(database, both).work())
        await asyncio.sleep(0.06)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        assert await readable(database, both)
        lefts.append(await left(database, both))
    assert len(lefts) > 3
    assert await readable(database, holding(NEW))


class Passing(Clock):
    """Time that passes when a test says so."""

    passed = 0

    def now(self) -> int:
        return super().now() + self.passed


async def test_what_cannot_be_unwrapped_is_counted_passed_over_and_tried_again(database: Database) -> None:
    await plant(database, holding(NEWEST), VAULTS[:3])
    await plant(database, holding(OLD), VAULTS[3:])
    clock = Passing()
    rotating = rotation_of(database, holding(NEW, OLD), clock)
    await rotating.work()
    state = await rotating.state(server_scope())
    assert (state.left, state.unavailable) == (3, 3)
    ((_, read),) = rotating.gauges.values()
    assert read() == 3
    await plant(database, holding(OLD), ["later"])
    await rotating.work()
    assert await left(database, holding(NEW, OLD)) == 4
    clock.passed = 3_600_000_001
    await rotating.work()
    assert await left(database, holding(NEW, OLD)) == 3


async def swap_wrapped(tx: Transaction, *, wrapped: bytes) -> None:
    await tx.run("UPDATE data_keys SET wrapped_key = :wrapped WHERE vault_id = :vault_id", wrapped=wrapped)


async def test_a_damaged_data_key_does_not_stop_the_others(database: Database) -> None:
    await plant(database, holding(OLD), VAULTS[:5])
    await database.write(swap_wrapped, scope_of(VAULTS[1]), wrapped=bytes(94))
    rotating = rotation_of(database, holding(NEW, OLD))
    await rotating.work()
    state = await rotating.state(server_scope())
    assert (state.left, state.unavailable) == (1, 1)


async def operations_of(database: Database) -> list[tuple[bool, dict[str, int]]]:
    """Returns whether each operation has ended, and its result, the newest first."""
    page = await database.read(list_operations, server_scope(), after=LAST_ID, page_size=10)
    return [(found.end_time is not None, dict(found.counts)) for found in page.items]


async def test_rotations_at_once_have_one_operation_which_ends(database: Database) -> None:
    await plant(database, holding(OLD), VAULTS)
    rotating = rotation_of(database, holding(NEW, OLD))
    begun = await asyncio.gather(*(rotating.rotate(server_scope()) for _ in range(3)), rotating.work())
    assert len({state.operation_id for state in begun if state is not None}) == 1
    await rotating.work()
    ((ended, result),) = await operations_of(database)
    assert (ended, set(result)) == (True, {"data_keys", "unavailable"})


async def test_a_rotation_that_begins_while_keys_are_rewrapped_ends(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plant(database, holding(NEWEST), VAULTS[:3])
    await plant(database, holding(OLD), VAULTS[3:])
    monkeypatch.setattr(rotation, "STEP_DATA_KEYS", 7)
    rotating = rotation_of(database, holding(NEW, OLD))
    working = asyncio.create_task(rotating.work())
    await asyncio.sleep(0.05)
    assert (await rotating.rotate(server_scope())).left > 3
    await working
    await rotating.work()
    ((ended, result),) = await operations_of(database)
    assert (ended, result["unavailable"]) == (True, 3)


class Changing(EnvironmentKeys):
    """Keys of which a rotation makes another one the current."""

    async def rotate(self, *, now: int) -> None:
        vars(self).update(vars(holding(NEWEST, NEW, OLD)))


async def test_an_operation_ends_once_all_is_wrapped_by_the_newest_key(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plant(database, holding(OLD), VAULTS)
    monkeypatch.setattr(rotation, "STEP_DATA_KEYS", 7)
    rotating = rotation_of(database, Changing((NEW, OLD), key_time=None))
    working = asyncio.create_task(rotating.work())
    await asyncio.sleep(0.05)
    assert (await rotating.rotate(server_scope())).left > 0
    await working
    assert [ended for ended, _ in await operations_of(database)] == [False]
    await rotating.work()
    assert [ended for ended, _ in await operations_of(database)] == [True]
    assert await readable(database, holding(NEWEST))


async def test_every_operation_that_an_earlier_server_has_left_ends(database: Database) -> None:
    left_ones = Operations(database=database, clock=Clock())
    for _ in range(3):
        new = left_ones.new(server_scope(), OperationKind.ROTATE_DATA_KEYS, total=7)
        await left_ones.begin(server_scope(), new)
    rotating = rotation_of(database, holding(NEW))
    for _ in range(3):
        await rotating.work()
    assert [ended for ended, _ in await operations_of(database)] == [True] * 3


async def test_a_rotation_whose_caller_is_gone_ends(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await plant(database, holding(OLD), VAULTS[:3])
    rotating = rotation_of(database, holding(NEW, OLD))
    begin, begun = Operations.begin, asyncio.Event()

    async def begin_slowly(*arguments: Any) -> Running:
        running = await begin(*arguments)
        begun.set()
        await asyncio.sleep(0.01)
        return running

    monkeypatch.setattr(Operations, "begin", begin_slowly)
    asking = asyncio.create_task(rotating.rotate(server_scope()))
    await begun.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await rotating.work()
    assert await operations_of(database) == [(True, {"data_keys": 3, "unavailable": 0})]


async def test_without_a_key_there_is_nothing_to_rotate(database: Database) -> None:
    await rotation_of(database, NoKeys()).work()


@pytest.fixture
async def operators(tmp_path: Path) -> AsyncIterator[tuple[Caller, Path]]:
    """Yields an operator of a server with a key file, and the file."""
    path = tmp_path / "keys"
    add_key(path, now=Clock().now())
    async with serving(tmp_path, token_encryption_key_file=path, token_encryption_key_previous=OLD) as server:
        yield server.caller(operator=True), path


async def rotated(operator: Caller) -> KeyRotation:
    return (await operator.admin.RotateDataKeys(RotateDataKeysRequest(), metadata=operator.metadata)).rotation


async def settled(operator: Caller) -> KeyRotation:
    """Returns the state once nothing is left."""
    while True:
        answer = await operator.admin.GetKeyRotation(GetKeyRotationRequest(), metadata=operator.metadata)
        if not answer.rotation.left_count:
            return answer.rotation
        await asyncio.sleep(0.05)


async def test_a_server_makes_a_new_key_in_its_file_and_rewraps(operators: tuple[Caller, Path]) -> None:
    operator, path = operators
    await put(operator)
    first = await settled(operator)
    begun = await rotated(operator)
    assert (begun.key_id != first.key_id, len(path.read_text().splitlines())) == (True, 2)
    assert begun.key_time.ToMicroseconds() >= first.key_time.ToMicroseconds()
    assert (await settled(operator)).key_id == begun.key_id
    assert await value(operator) == b"value"


async def test_without_a_key_a_rotation_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        operator: Any = server.caller(operator=True)
        for call in (
            operator.admin.RotateDataKeys(RotateDataKeysRequest(), metadata=operator.metadata),
            operator.admin.GetKeyRotation(GetKeyRotationRequest(), metadata=operator.metadata),
        ):
            assert (await refused(call)).reason == "ENCRYPTION_NOT_CONFIGURED"
