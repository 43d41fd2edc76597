"""Long work ends as its operation says, whatever ends it."""

import asyncio
from typing import Any

import pytest
from metamorphd.clock import Clock
from metamorphd.errors import OperationNotCancellable, OperationTimeout, StorageFull, StoreBusy, TooManyOperations
from metamorphd.models.caller import server_scope
from metamorphd.models.operation import Operation, OperationKind
from metamorphd.operations import Operations, Running
from metamorphd.store.changes import list_changes
from metamorphd.store.database import Database
from metamorphd.store.operations import MOST_RUNNING

from tests.support.rows import ACME, EVIL, scope_of

KIND = OperationKind.CREATE_BACKUP


@pytest.fixture
def operations(database: Database) -> Operations:
    return Operations(database=database, clock=Clock())


async def begun(operations: Operations) -> Running:
    return await operations.begin(ACME, operations.new(ACME, KIND, target="it"), cancel=lambda: None)


async def now(operations: Operations, running: Running) -> Operation:
    return await operations.get(ACME, running.operation.operation_id)


async def working(running: Running, raised: BaseException) -> None:
    async with running:
        raise raised


def outcome(operation: Operation) -> tuple[bool, str | None]:
    return operation.end_time is not None, None if operation.failure is None else operation.failure.reason


async def test_its_progress_is_seen_and_its_result_kept(operations: Operations) -> None:
    running = await begun(operations)
    async with running:
        running.advance(40)
        assert ((await now(operations, running)).progress.done, outcome(await now(operations, running))) == (
            40,
            (False, None),
        )
        (listed,) = (await operations.list(ACME, after="~", page_size=10)).items
        assert listed.progress.done == 40
        running.count(files=2)
    end = await now(operations, running)
    assert (outcome(end), end.progress.done, end.counts) == ((True, None), 100, {"files": 2})
    assert (end.creator, end.target, end.kind) == ("alice", "it", KIND)


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (StorageFull(), "STORAGE_FULL"),
        (ValueError("a path"), "INTERNAL"),
        (asyncio.CancelledError(), "OPERATION_INTERRUPTED"),
    ],
)
async def test_what_is_raised_is_why_it_failed(operations: Operations, raised: BaseException, reason: str) -> None:
    running = await begun(operations)
    running.advance(10)
    with pytest.raises(type(raised)):
        await working(running, raised)
    end = await now(operations, running)
    assert (outcome(end), end.progress.done) == ((True, reason), 10)
    assert end.failure is not None
    assert "path" not in end.failure.message


async def test_a_cancelled_one_ends_as_cancelled(operations: Operations) -> None:
    async def work(started: "asyncio.Future[Running]") -> None:
        task = asyncio.current_task()
        assert task is not None
        running = await operations.begin(ACME, operations.new(ACME, KIND), cancel=task.cancel)
        async with running:
            started.set_result(running)
            await asyncio.Event().wait()

    started: asyncio.Future[Running] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(work(started))
    running = await started
    asked = await operations.cancel(ACME, running.operation.operation_id)
    assert outcome(asked) == (False, None)
    await asyncio.wait({task})
    assert outcome(await now(operations, running)) == (True, "OPERATION_CANCELLED")
    again = await operations.cancel(ACME, running.operation.operation_id)
    assert outcome(again) == (True, "OPERATION_CANCELLED")


async def test_one_that_succeeds_though_somebody_has_cancelled_it_is_of_who_began_it(
    database: Database, operations: Operations
) -> None:
    async with await begun(operations) as running:
        await operations.cancel(scope_of("acme", "bob"), running.operation.operation_id)
    changes = (await database.read(list_changes, ACME, after_revision=0, limit=10)).changes
    assert [(change.verb, change.actor) for change in changes] == [("started", "alice"), ("completed", "alice")]


async def test_one_that_cannot_be_cancelled_says_so(operations: Operations) -> None:
    running = await operations.begin(EVIL, operations.new(EVIL, OperationKind.ROTATE_DATA_KEYS))
    with pytest.raises(OperationNotCancellable):
        await operations.cancel(EVIL, running.operation.operation_id)


async def test_after_a_restart_what_can_go_on_does_and_the_rest_has_failed(
    database: Database, operations: Operations
) -> None:
    lost = await begun(operations)
    server = server_scope()
    rotation = await operations.begin(server, operations.new(server, OperationKind.ROTATE_DATA_KEYS, total=7))
    next_server = Operations(database=database, clock=Clock())
    new = await begun(next_server)
    await next_server.recover()
    assert outcome(await now(next_server, lost)) == (True, "OPERATION_INTERRUPTED")
    assert outcome(await now(next_server, new)) == (False, None)
    resumed = await next_server.resume(server, OperationKind.ROTATE_DATA_KEYS)
    assert resumed is not None
    assert resumed.operation == rotation.operation
    await resumed.end()
    assert await next_server.resume(server, OperationKind.ROTATE_DATA_KEYS) is None


async def end_refused(database: Database, running: Running, patch: pytest.MonkeyPatch, error: Exception) -> None:
    """Ends an operation, with a count, while the store refuses whatever is written."""

    async def refused(*_: object, **__: object) -> None:
        raise error

    with patch.context() as patched:
        patched.setattr(type(database), "write", refused)
        async with running:
            running.count(files=2)


@pytest.mark.parametrize(
    "error", [StoreBusy(), OperationTimeout(limit_milliseconds=250), StorageFull(), RuntimeError("a fault")]
)
async def test_an_end_that_the_store_does_not_take_is_stored_later(
    database: Database, operations: Operations, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    made = [await begun(operations) for _ in range(MOST_RUNNING)]
    for running in made:
        await end_refused(database, running, monkeypatch, error)
    assert outcome(await operations.cancel(ACME, made[0].operation.operation_id)) == (False, None)
    with pytest.raises(TooManyOperations):
        await begun(operations)
    await operations.work()
    for running in made:
        end = await now(operations, running)
        assert (outcome(end), end.counts, end.progress.done) == ((True, None), {"files": 2}, 100)
    await begun(operations)


async def test_an_end_that_is_refused_for_good_keeps_no_other_from_being_stored(
    database: Database, operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, taken = [await begun(operations) for _ in range(2)]
    for running in (refused, taken):
        await end_refused(database, running, monkeypatch, StoreBusy())
    write = type(database).write

    async def write_but_one(self: Database, *arguments: Any, **named: Any) -> Any:
        if named["operation_id"] == refused.operation.operation_id:
            raise RuntimeError
        return await write(self, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(type(database), "write", write_but_one)
        await operations.work()
    assert outcome(await now(operations, taken)) == (True, None)
    assert outcome(await now(operations, refused)) == (False, None)


async def test_one_whose_end_could_not_be_stored_is_ended_by_the_next_server(
    database: Database, operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await begun(operations)
    await end_refused(database, running, monkeypatch, StorageFull())
    next_server = Operations(database=database, clock=Clock())
    assert outcome(await now(next_server, running)) == (False, None)
    await next_server.recover()
    assert outcome(await now(next_server, running)) == (True, "OPERATION_INTERRUPTED")
