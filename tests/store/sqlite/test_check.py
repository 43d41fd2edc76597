"""The check for damage: what it finds, and how it goes on."""

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import httpx
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from metamorph_client.admin.v1.admin_service_pb2 import GetServerInfoRequest
from metamorphd.edge.grpc import health
from metamorphd.models.store_check import StoreCheck
from metamorphd.store.sqlite import check
from metamorphd.store.sqlite.check import Check
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.sqlite.gate import Gate
from metamorphd.store.sqlite.trees import read_trees

from tests.store.sqlite.engine import migrated
from tests.support.rows import ACME, EVIL, finish, new_session, new_turn, stored_message
from tests.support.serving import serving

SESSIONS = 60
PAGE = 4096
DAMAGED_PAGES = 24


async def store_rows(path: Path) -> bytes:
    async with SqliteDatabase(path=path, synchronous="NORMAL") as database:
        for number in range(SESSIONS):
            scope = (ACME, EVIL)[number % 2]
            session = await new_session(database, scope, title="x" * 100, metadata={"number": str(number)})
            await stored_message(database, session.session_id, f"message {number} " * 200, scope=scope)
            if scope is ACME:
                await finish(database, await new_turn(database, session.session_id))
    return path.read_bytes()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Returns a database file that was closed."""
    return asyncio.run(store_rows(tmp_path_factory.mktemp("stored") / "metamorph.db"))


@pytest.fixture
def path(stored: bytes, tmp_path: Path) -> Path:
    """Returns the path of a database with rows."""
    (tmp_path / "metamorph.db").write_bytes(stored)
    return tmp_path / "metamorph.db"


@contextmanager
def checking(path: Path, *, clean: bool = True, gate: Gate | None = None) -> Iterator[Check]:
    connections: list[apsw.Connection] = []

    def connect() -> apsw.Connection:
        connections.append(apsw.Connection(str(path)))
        return connections[-1]

    checked = Check(path, connect=connect, gate=gate or Gate(), clean=clean)
    yield checked
    checked.close()
    for connection in connections:
        connection.close()


def check_all(path: Path) -> StoreCheck:
    with checking(path) as checked:
        while checked.step():
            pass
        return checked.found


@contextmanager
def schema_changed(path: Path, name: str, sql: str | None) -> Iterator[apsw.Connection]:
    """Makes SQLite take a table or an index for another one, or for none, during the block."""
    connection = apsw.Connection(str(path))
    schema = "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema WHERE name = ?"
    (real,) = connection.execute(schema, (name,)).fetchall()

    def change(statement: str, *values: Any) -> None:
        connection.execute("PRAGMA writable_schema = ON").fetchall()
        connection.execute(statement, values).fetchall()
        connection.execute("PRAGMA writable_schema = RESET").fetchall()

    if sql is None:
        change("DELETE FROM sqlite_schema WHERE name = ?", name)
    else:
        change("UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE name = ?", *sql.split("|"), name)
    yield connection
    if sql is None:
        change("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", *real)
    else:
        change("UPDATE sqlite_schema SET sql = ? WHERE name = ?", real[4], name)
    connection.close()


def test_a_sound_file_has_no_faults(path: Path) -> None:
    found = check_all(path)
    assert found.faults == ()
    assert found.complete_time
    assert found.progress == 1


@pytest.mark.parametrize(
    ("name", "sql", "change", "faults"),
    [
        (
            "sessions_by_creator",
            None,
            "UPDATE sessions SET creator = 'somebody' WHERE rowid = 30",
            ("sessions has entries missing in an index", "sessions_by_creator has entries without a row"),
        ),
        (
            "sessions_by_creator",
            None,
            "DELETE FROM sessions WHERE rowid = 1",
            ("sessions_by_creator has entries without a row",),
        ),
        (
            "turns_to_prune",
            None,
            "UPDATE turns SET pruned = 2 WHERE rowid = 5",
            ("turns_to_prune has entries without a row",),
        ),
        (
            "sessions",
            ") STRICT|)",
            "UPDATE sessions SET archived = 'no' WHERE rowid = 30",
            ("sessions has entries of a wrong type",),
        ),
        ("turns_to_prune", None, "SELECT 1", ()),
    ],
    ids=["row changed", "row deleted", "condition", "type", "nothing"],
)
def test_an_entry_that_contradicts_others_is_found(
    path: Path, name: str, sql: str | None, change: str, faults: tuple[str, ...]
) -> None:
    with schema_changed(path, name, sql) as connection:
        connection.execute(change).fetchall()
    assert set(faults) <= set(check_all(path).faults)
    assert bool(check_all(path).faults) is bool(faults)


def test_a_row_that_refers_to_none_is_found(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("DELETE FROM vaults WHERE vault_id = 'evil'")
    connection.close()
    assert check_all(path).faults == ("sessions has entries without the row they refer to",)


def test_an_index_in_a_wrong_order_is_found(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA writable_schema = ON").fetchall()
    connection.execute(
        "UPDATE sqlite_schema SET sql = replace(sql, ' DESC', '') WHERE name = 'sessions_by_activity'"
    ).fetchall()
    connection.execute("PRAGMA writable_schema = RESET").fetchall()
    connection.close()
    assert "sessions_by_activity has entries not in order" in check_all(path).faults


def test_what_the_quick_check_of_sqlite_finds_in_pages_is_found_too(path: Path, stored: bytes) -> None:
    chance = random.Random(12)  # noqa: S311
    found = []
    for _ in range(DAMAGED_PAGES):
        page = chance.randrange(1, len(stored) // PAGE) * PAGE
        path.write_bytes(stored[:page] + chance.randbytes(100) + stored[page + 100 :])
        path.with_name(path.name + "-check").unlink(missing_ok=True)
        connection = apsw.Connection(str(path))
        try:
            quick = connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        except apsw.CorruptError:
            quick = False
        connection.close()
        if not quick:
            found.append(bool(check_all(path).faults))
    assert len(found) > DAMAGED_PAGES / 2
    assert all(found)


def test_a_check_goes_on_where_it_was_when_the_file_was_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "STEP_SECONDS", 0)
    monkeypatch.setattr(check, "MOST", 8)
    with checking(path) as checked:
        whole = 1
        while checked.step():
            whole += 1
    path.with_name(path.name + "-check").unlink()
    steps, more = 0, True
    while more:
        # Closed and opened after every few steps.
        with checking(path) as checked:
            for _ in range(7):
                more = checked.step()
                steps += 1
                if not more:
                    break
    assert steps == whole
    with checking(path, clean=False) as checked:
        assert checked.step()
        assert checked.found.progress < 0.1


def test_a_file_that_took_the_place_of_another_is_checked_from_the_beginning(path: Path, stored: bytes) -> None:
    assert check_all(path).complete_time
    restored = path.with_name("restored.db")
    restored.write_bytes(stored)
    restored.rename(path)
    with checking(path) as checked:
        assert checked.found.complete_time is None


def test_a_complete_check_is_due_again_after_a_day(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with checking(path) as checked:
        while checked.step():
            pass
        assert not checked.step()
        monkeypatch.setattr(check, "INTERVAL_SECONDS", 0.0)
        assert checked.step()


def test_a_check_gives_way_when_the_log_must_be_emptied(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    with checking(path, gate=gate) as checked:
        monkeypatch.setattr(check, "STATEMENT_STEPS", 1)
        gate.hurried = True
        assert checked.step()
        assert checked.found.progress == 0
        gate.hurried = False
        while checked.step():
            pass
        assert checked.found.faults == ()


def test_a_step_waits_while_the_gate_is_closed(path: Path) -> None:
    gate, done = Gate(), threading.Event()

    def step() -> None:
        checked.step()
        done.set()

    with checking(path, gate=gate) as checked:
        with gate.closed(hurry=True):
            thread = threading.Thread(target=step)
            thread.start()
            assert not done.wait(0.05)
        thread.join()
        assert done.is_set()


FIXED_BY_THEIR_CONDITION = {"indexed_messages_pending", "indexed_messages_to_refold"}


def test_each_range_of_each_tree_is_found_by_an_index_and_not_sorted() -> None:
    connection = migrated()
    trees = read_trees(connection)
    assert {"messages", "messages_by_session", "sqlite_autoindex_messages_1", "postings"} <= {
        tree.name for tree in trees
    }
    for tree in trees:
        for condition, values in tree.ranges([None] * len(tree.keys)):
            for statement in (tree.check(condition), tree.key_at(condition)):
                rows = connection.execute("EXPLAIN QUERY PLAN " + statement, (*values, 1)).fetchall()
                plan = [str(row[3]) for row in rows]
                # Where its condition fixes a column, SQLite sorts what is left of the key, of one vault.
                sorted_steps = [step for step in plan if "TEMP B-TREE" in step]
                assert not sorted_steps or tree.name in FIXED_BY_THEIR_CONDITION, (tree.name, plan)
                assert not [step for step in plan if step.startswith(("SCAN entry", "SCAN other"))], (tree.name, plan)
    connection.close()


async def test_damage_is_in_health_metrics_and_server_info_also_after_a_restart(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LOOK_SECONDS", 0.02)
    connection = apsw.Connection(str(path))
    connection.execute("DELETE FROM vaults WHERE vault_id = 'evil'")
    connection.close()
    fault = "sessions has entries without the row they refer to"
    for _ in range(2):
        async with serving(path.parent) as running, httpx.AsyncClient(base_url=running.http) as http:
            answer = await http.get("/health")
            for _ in range(200):
                if answer.status_code != 200:
                    break
                await asyncio.sleep(0.02)
                answer = await http.get("/health")
            operator = running.caller(operator=True)
            info = await operator.admin.GetServerInfo(GetServerInfoRequest(), metadata=operator.metadata)
            await asyncio.sleep(0.1)
            status = (await operator.health.Check(HealthCheckRequest())).status
            metrics = (await http.get("/metrics")).text.splitlines()
        assert (answer.status_code, answer.json()["check"]) == (503, "damaged")
        assert list(info.store.check.faults) == [fault]
        assert status == HealthCheckResponse.NOT_SERVING
        assert "metamorph_check_faults 1.0" in metrics


async def test_a_server_that_was_killed_checks_the_file_again(path: Path, stored: bytes) -> None:
    async with SqliteDatabase(path=path, synchronous="NORMAL") as database:
        while await database.check():
            pass
        before = database.checked
        await new_session(database)
        log = path.with_name(path.name + "-wal").read_bytes()
    async with SqliteDatabase(path=path, synchronous="NORMAL") as database:
        assert not await database.check()
        assert database.checked == before
    # As after kill -9.
    path.with_name(path.name + "-wal").write_bytes(log)
    async with SqliteDatabase(path=path, synchronous="NORMAL") as database:
        assert database.checked.progress == 0
        while await database.check():
            pass
        assert database.checked.complete_time != before.complete_time
