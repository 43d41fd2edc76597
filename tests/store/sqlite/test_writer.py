"""The writer: whose turn it is, what a batch and an operation may take, and how it fails."""

import asyncio
import time
from pathlib import Path
from typing import Any

import apsw
import httpx
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from metamorphd import process
from metamorphd.edge.grpc import health
from metamorphd.errors import OperationTimeout, ServerFailed, SessionNotFound, StoreBusy, StoreNotReady
from metamorphd.models.caller import Scope
from metamorphd.server import Server
from metamorphd.settings import loading
from metamorphd.store.database import Transaction
from metamorphd.store.sqlite import writer
from metamorphd.store.sqlite.database import SqliteDatabase

from tests.store.sqlite.faulty_vfs import FaultyVFS
from tests.store.sqlite.writer import COUNTING, ENDLESS, Commits, hold_writer
from tests.support.caller import Caller
from tests.support.rows import ACME, EVIL, new_session
from tests.support.serving import serving
from tests.support.tokens import SECRET

ENDLESS_WRITE = (
    COUNTING  # noqa: S608
    + "INSERT INTO requests (vault_id, rpc, request_id, body_hash, resource_id, create_time)"
    + " SELECT :vault_id, '', i, x'', '', 0 FROM n"
)


class Ran(list[str]):
    """Operations note their names here, in the order in which they run."""

    async def note(self, tx: Transaction, name: str, *, seconds: float = 0) -> None:
        self.append(name)
        time.sleep(seconds)  # noqa: ASYNC251, an operation keeps the writer's thread

    async def refuse(self, tx: Transaction, name: str, *, changed: bool, seconds: float = 0) -> None:
        self.append(name)
        time.sleep(seconds)  # noqa: ASYNC251
        if changed:
            await tx.run("UPDATE sessions SET title = title WHERE vault_id = :vault_id")
        raise SessionNotFound(session_id="ses_1")

    async def endless(self, tx: Transaction, name: str, *, sql: str) -> None:
        self.append(name)
        await tx.run(sql)


async def together(database: SqliteDatabase, *writes: tuple[Scope, Any, Any]) -> list[Any]:
    """Runs writes that wait in the queue at the same time, each given as (scope, operation, keyword arguments)."""
    release = hold_writer(database)
    await asyncio.sleep(0.05)
    tasks = [
        asyncio.create_task(database.write(operation, scope, **arguments)) for scope, operation, arguments in writes
    ]
    await asyncio.sleep(0.05)
    release.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_write_waits_for_one_of_each_other_vault_however_many_wait(database: SqliteDatabase) -> None:
    ran = Ran()
    flood: list[Any] = [(EVIL, ran.note, {"name": f"evil {number}"}) for number in range(300)]
    await together(database, *flood, (ACME, ran.note, {"name": "acme"}))
    assert ran.index("acme") == 1
    assert [name for name in ran if name != "acme"] == [f"evil {number}" for number in range(300)]


async def test_vaults_have_equal_time_of_the_writer_not_equal_numbers_of_writes(database: SqliteDatabase) -> None:
    ran = Ran()
    slow: list[Any] = [(EVIL, ran.note, {"name": f"evil {number}", "seconds": 0.02}) for number in range(5)]
    quick: list[Any] = [(ACME, ran.note, {"name": f"acme {number}"}) for number in range(50)]
    await together(database, *slow, *quick)
    assert ran[:2] == ["evil 0", "acme 0"]
    assert ran.index("acme 49") < ran.index("evil 1")


async def test_a_vault_is_owed_nothing_for_the_time_before_it_wrote(database: SqliteDatabase) -> None:
    ran = Ran()
    slow: list[Any] = [(EVIL, ran.note, {"name": f"evil {number}", "seconds": 0.02}) for number in range(20)]
    waiting = asyncio.create_task(together(database, *slow))
    while len(ran) < 10:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    late = [database.write(ran.note, ACME, name=f"acme {number}", seconds=0.02) for number in range(5)]
    await asyncio.gather(waiting, *late)
    # They alternate, though the other one has had the writer for ten operations already.
    between = [name.split()[0] for name in ran[ran.index("acme 0") : ran.index("acme 4")]]
    assert between.count("evil") >= 3


async def test_a_vault_cannot_fill_the_queue_of_all(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "VAULT_QUEUE", 10)
    ran = Ran()
    flood: list[Any] = [(EVIL, ran.note, {"name": "evil"})] * 11
    *accepted, refused, other = await together(database, *flood, (ACME, ran.note, {"name": "acme"}))
    assert accepted == [None] * 10
    assert isinstance(refused, StoreBusy)
    assert refused.retry_delay
    assert other is None
    await database.write(ran.note, EVIL, name="later")


async def test_a_slow_operation_ends_its_batch(database: SqliteDatabase) -> None:
    session = await new_session(database)
    ran, commits = Ran(), Commits(database)
    committed = []

    async def counts(tx: Transaction) -> None:
        committed.append(commits.count)

    async def slow(tx: Transaction) -> None:
        await tx.run("UPDATE sessions SET title = 'slow' WHERE vault_id = :vault_id")
        time.sleep(writer.BATCH_SECONDS * 2)  # noqa: ASYNC251

    release = hold_writer(database)
    await asyncio.sleep(0.05)
    before = commits.count
    writes = [asyncio.create_task(database.write(operation, ACME)) for operation in (slow, counts)]
    await asyncio.sleep(0.05)
    release.set()
    await asyncio.gather(*writes)
    assert ran == []
    assert committed == [before + 2]
    assert session


@pytest.mark.parametrize("sql", [ENDLESS, ENDLESS_WRITE], ids=["read", "write"])
async def test_an_endless_operation_is_stopped_runs_once_and_harms_no_other(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    monkeypatch.setattr(writer, "JOB_SECONDS", 0.05)
    ran = Ran()
    release = hold_writer(database)
    await asyncio.sleep(0.05)
    before = asyncio.create_task(new_session(database))
    endless = asyncio.create_task(database.write(ran.endless, ACME, name="endless", sql=sql))
    after = asyncio.create_task(new_session(database))
    await asyncio.sleep(0.05)
    release.set()
    with pytest.raises(OperationTimeout) as refusal:
        await endless
    assert refusal.value.metadata == {"limit_milliseconds": "50"}
    assert await before
    assert await after
    assert ran == ["endless"]
    assert await database.read(count, ACME, table="sessions") == 2
    assert await database.read(count, ACME, table="requests") == 0


async def count(tx: Transaction, *, table: str) -> int:
    row = await tx.one(f"SELECT COUNT(*) AS count FROM {table} WHERE vault_id = :vault_id")  # noqa: S608
    return int(row.count) if row else -1


@pytest.mark.parametrize(
    ("changed", "runs"), [(False, ["first", "refused", "last"]), (True, ["first", "refused"] * 2 + ["last"])]
)
async def test_a_batch_runs_again_only_if_a_refused_operation_had_changed_something(
    database: SqliteDatabase, changed: bool, runs: list[str]
) -> None:
    await new_session(database)
    ran = Ran()
    outcomes = await together(
        database,
        (ACME, ran.note, {"name": "first"}),
        (ACME, ran.refuse, {"name": "refused", "changed": changed}),
        (ACME, ran.note, {"name": "last"}),
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), SessionNotFound, type(None)]
    assert ran == runs


async def test_a_long_operation_runs_once_whether_it_or_its_neighbour_is_refused(database: SqliteDatabase) -> None:
    await new_session(database)
    ran, long = Ran(), writer.BATCH_SECONDS * 2
    await together(
        database,
        (ACME, ran.note, {"name": "quick"}),
        (ACME, ran.note, {"name": "long", "seconds": long}),
        (ACME, ran.refuse, {"name": "refused", "changed": True}),
        (ACME, ran.refuse, {"name": "long and refused", "changed": True, "seconds": long}),
    )
    assert ran.count("long") == 1
    assert ran.count("long and refused") == 1


def break_rollback(database: SqliteDatabase) -> None:
    """Makes every ROLLBACK of the writer fail, from its next transaction on."""

    def deny(action: int, statement: str | None, *_: str | None) -> int:
        rollback = action == apsw.SQLITE_TRANSACTION and statement == "ROLLBACK"
        return apsw.SQLITE_DENY if rollback else apsw.SQLITE_OK

    def set_authorizer() -> None:
        database._writer.connection.authorizer = deny

    # A connection refuses to be used by two threads at once.
    database._writer.between_writes(set_authorizer)


async def test_a_writer_that_cannot_roll_back_answers_all_and_says_that_it_failed(database: SqliteDatabase) -> None:
    await new_session(database)
    ran = Ran()
    break_rollback(database)
    outcomes = await together(
        database,
        (ACME, ran.refuse, {"name": "refused", "changed": True}),
        *[(ACME, ran.note, {"name": "waiting"})] * 1200,
    )
    assert {type(outcome) for outcome in outcomes} <= {StoreNotReady, StoreBusy}
    await asyncio.wait_for(database.failed(), 5)
    assert await database.failing() == "write"
    with pytest.raises(StoreNotReady):
        await new_session(database)


async def test_a_server_whose_writer_failed_ends_with_an_error(tmp_path: Path) -> None:
    async def fail(database: Any) -> None:
        await new_session(database)
        break_rollback(database)
        with pytest.raises(StoreNotReady):
            await database.write(Ran().refuse, ACME, name="refused", changed=True)

    failing = []

    def announce(server: Server) -> None:
        failing.append(asyncio.ensure_future(fail(server._database)))

    loaded = loading.load(
        emblem_jwt_secret=SECRET,
        emblem_api_url="",
        listen_address="127.0.0.1",
        port=0,
        grpc_port=0,
        database_path=tmp_path / "metamorph.db",
    )
    serving = asyncio.ensure_future(process.serve(loaded, announce=announce))
    await asyncio.wait([serving], timeout=20)
    await asyncio.gather(*failing)
    with pytest.raises(ServerFailed):
        await asyncio.wait_for(serving, 0)


async def test_health_proves_that_writing_works_without_a_write_for_each_request(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = Commits(database)
    await new_session(database)
    before = commits.count
    assert [await database.failing() for _ in range(5)] == [None] * 5
    assert commits.count == before
    monkeypatch.setattr(writer, "PROOF_SECONDS", 0.0)
    assert await database.failing() is None
    assert commits.count == before + 1


async def test_health_fails_while_the_writer_is_stuck(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PROOF_SECONDS", 0.0)
    monkeypatch.setattr(writer, "PROBE_SECONDS", 0.1)
    release = hold_writer(database)
    assert await database.failing() == "write"
    assert await database.checks() == {"store": True, "damaged": True, "write": False, "disk": True}
    release.set()
    await new_session(database)
    monkeypatch.setattr(writer, "PROBE_SECONDS", 5.0)
    assert await database.failing() is None


async def test_a_look_at_health_that_is_cancelled_when_it_has_its_answer_ends(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PROOF_SECONDS", 0.0)
    release = hold_writer(database)
    look = asyncio.create_task(database.failing())
    async with asyncio.timeout(10):
        while (probe := vars(vars(database)["_writer"])["_probe"]) is None:  # noqa: ASYNC110, nothing is set
            await asyncio.sleep(0)
    probe.add_done_callback(lambda _: look.cancel())
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await look


async def test_health_says_that_nothing_can_be_written_until_it_can_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PROOF_SECONDS", 0.0)
    monkeypatch.setattr(health, "LOOK_SECONDS", 0.02)
    vfs = FaultyVFS("write-health")
    database = SqliteDatabase(path=tmp_path / "full.db", synchronous="FULL", vfs=vfs.name)
    async with serving(tmp_path, database=database) as running, httpx.AsyncClient(base_url=running.http) as http:
        caller = running.caller("")
        vfs.log_limit = 0
        full = await http.get("/health")
        await until_health(caller, HealthCheckResponse.NOT_SERVING)
        vfs.log_limit = None
        await until_health(caller, HealthCheckResponse.SERVING)
        again = await http.get("/health")
    assert (full.status_code, full.json()["check"], again.status_code) == (503, "write", 200)


async def until_health(caller: Caller, status: HealthCheckResponse.ServingStatus.ValueType) -> None:
    for _ in range(200):
        if (await caller.health.Check(HealthCheckRequest())).status == status:
            return
        await asyncio.sleep(0.02)
    pytest.fail("health stayed as it was")
