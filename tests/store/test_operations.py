"""Operations as they are stored: how many go on, how many are kept, and what the vault's log has of them."""

import itertools
from typing import Any

import pytest
from metamorphd.errors import OperationNotFound, TooManyOperations
from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.change import ChangedResource
from metamorphd.models.operation import Failure, Operation, OperationKind, Progress
from metamorphd.store.changes import list_changes
from metamorphd.store.database import Database
from metamorphd.store.operations import (
    CANCELLED,
    LAST_ID,
    MOST_KEPT,
    MOST_RUNNING,
    begin_operation,
    end_operation,
    get_operation,
    list_all_operations,
    list_operations,
    list_running_operations,
    prune_operations,
)

from tests.support.rows import ACME, CLOCK, EVIL

DONE = Progress(3, 3, "things")
# IDs that sort by age, within a millisecond too.
NUMBERS = itertools.count()


async def begun(database: Database, scope: Scope = ACME, **fields: Any) -> Operation:
    values: dict[str, Any] = {
        "operation_id": f"op_{next(NUMBERS):032x}",
        "vault_id": scope.vault_id,
        "kind": OperationKind.ROTATE_DATA_KEYS,
        "target": "",
        "creator": scope.actor.user_id,
        "progress": Progress(0, 3, "things"),
        "create_time": CLOCK.now(),
    }
    return await database.write(begin_operation, scope, operation=Operation(**(values | fields)))


async def ended(database: Database, operation: Operation, scope: Scope = ACME, **fields: Any) -> Operation:
    values: dict[str, Any] = {"progress": DONE, "now": CLOCK.now()}
    await database.write(end_operation, scope, operation_id=operation.operation_id, **(values | fields))
    return await database.read(get_operation, scope, operation_id=operation.operation_id)


async def test_an_operation_ends_once(database: Database) -> None:
    operation = await begun(database)
    assert (operation.end_time, operation.progress.done) == (None, 0)
    end = await ended(database, operation, counts={"things": 3}, now=1000)
    assert (end.end_time, end.progress, end.counts, end.failure) == (1000, DONE, {"things": 3}, None)
    assert await ended(database, operation, failure=Failure("INTERNAL", "late")) == end


async def test_another_vaults_operation_is_unknown(database: Database) -> None:
    operation = await begun(database)
    with pytest.raises(OperationNotFound):
        await database.read(get_operation, EVIL, operation_id=operation.operation_id)
    await database.write(end_operation, EVIL, operation_id=operation.operation_id, progress=DONE, now=1)
    assert await database.read(get_operation, ACME, operation_id=operation.operation_id) == operation
    assert (await database.read(list_operations, EVIL, after=LAST_ID, page_size=10)).items == ()


async def test_its_beginning_and_end_are_in_the_vaults_log(database: Database) -> None:
    failures = [None, Failure(CANCELLED, "the operation was cancelled"), Failure("INTERNAL", "it failed")]
    made = [await begun(database) for _ in failures]
    for operation, failure in zip(made, failures, strict=True):
        await ended(database, operation, failure=failure)
    changes = (await database.read(list_changes, ACME, after_revision=0, limit=10)).changes
    assert {change.resource for change in changes} == {ChangedResource.OPERATION}
    assert [(change.resource_id, change.verb) for change in changes] == [
        *((operation.operation_id, "started") for operation in made),
        *zip([operation.operation_id for operation in made], ["completed", "cancelled", "failed"], strict=True),
    ]


async def test_so_many_go_on_at_once_in_a_vault_and_no_more(database: Database) -> None:
    first, *_ = [await begun(database) for _ in range(MOST_RUNNING)]
    with pytest.raises(TooManyOperations):
        await begun(database)
    await begun(database, EVIL)
    await ended(database, first)
    await begun(database)


async def test_the_newest_are_kept_and_none_that_goes_on_is_forgotten(database: Database) -> None:
    going_on = await begun(database)
    made = [await ended(database, await begun(database)) for _ in range(MOST_KEPT + 3)]
    await begun(database)
    page = await database.read(list_operations, ACME, after=LAST_ID, page_size=1000)
    assert [operation.operation_id for operation in page.items[1:-1]] == [
        operation.operation_id for operation in made[:-MOST_KEPT:-1]
    ]
    assert page.items[-1].operation_id == going_on.operation_id


async def test_pages_go_from_the_newest_to_the_oldest(database: Database) -> None:
    made = [await begun(database, scope) for scope in (ACME, EVIL, server_scope(), ACME)]
    first = await database.read(list_operations, ACME, after=LAST_ID, page_size=1)
    assert (first.items, first.next_after) == ((made[3],), (made[3].operation_id,))
    second = await database.read(list_operations, ACME, after=made[3].operation_id, page_size=1)
    assert (second.items, second.next_after) == ((made[0],), None)
    every = await database.read_system(list_all_operations, server_scope(), after=LAST_ID, page_size=3)
    assert (every.items, every.next_after) == (tuple(made[:0:-1]), (made[1].operation_id,))


async def test_those_that_ended_long_ago_are_forgotten_in_steps(database: Database) -> None:
    made = [await begun(database) for _ in range(4)]
    for number, operation in enumerate(made[:3]):
        await ended(database, operation, now=1000 + number)

    async def pruned() -> int:
        return await database.write_system(prune_operations, server_scope(), before=1002, limit=1)

    assert [await pruned() for _ in range(3)] == [1, 1, 0]
    page = await database.read(list_operations, ACME, after=LAST_ID, page_size=10)
    assert [operation.operation_id for operation in page.items] == [made[3].operation_id, made[2].operation_id]


async def test_those_that_go_on_are_found_in_all_vaults(database: Database) -> None:
    made = [await begun(database, scope) for scope in (EVIL, ACME, server_scope())]
    await ended(database, await begun(database))
    found = await database.read_system(list_running_operations, server_scope(), after=("", ""), limit=2)
    assert found == [made[2], made[1]]
    last = (found[-1].vault_id, found[-1].operation_id)
    assert await database.read_system(list_running_operations, server_scope(), after=last, limit=2) == [made[0]]
