"""Copies of another server's database."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import grpc
import pytest
from metamorphd.errors import ReadOnly, ReplicaFailed, StartupRefused, StoreNotReady
from metamorphd.store import migrations
from metamorphd.store.database import Transaction
from metamorphd.store.sessions import get_session
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.sqlite.replica import SqliteReplica

from tests.support.rows import ACME, new_session, stored_message

PRIMARY = "primary.internal:50051"
COPIES = 15


def replica_in(directory: Path) -> SqliteReplica:
    return SqliteReplica(path=directory / "metamorph.db", primary=PRIMARY)


@pytest.fixture
async def replica(tmp_path: Path) -> AsyncIterator[SqliteReplica]:
    async with replica_in(tmp_path / "replica") as opened:
        yield opened


async def copied(database: SqliteDatabase, replica: SqliteReplica, *, time: int = 0) -> None:
    """Serves a copy of a database."""
    await database.copy(replica.incoming, progress=lambda _: None)
    await replica.adopt(time=time)


async def counted(tx: Transaction) -> tuple[int, int]:
    """Returns how many messages there are, and how many their sessions have counted, in two statements."""
    rows = [
        await tx.one("SELECT COUNT(*) AS count FROM messages WHERE vault_id = :vault_id"),
        await tx.one("SELECT COUNT(*) AS count FROM sessions WHERE vault_id = :vault_id"),
    ]
    messages, sessions = (0 if row is None else int(row.count) for row in rows)
    return messages, sessions


async def test_reads_see_one_copy_or_the_next_and_none_is_stopped(
    database: SqliteDatabase, replica: SqliteReplica
) -> None:
    await copied(database, replica)
    seen: list[int] = []

    async def read_on() -> None:
        while len(seen) < 20 * COPIES or seen[-1] < COPIES:
            messages, sessions = await replica.read(counted, ACME)
            assert messages == sessions
            seen.append(messages)

    reading = [asyncio.create_task(read_on()) for _ in range(4)]
    for _ in range(COPIES):
        session = await new_session(database)
        await stored_message(database, session.session_id)
        await copied(database, replica)
    await asyncio.wait_for(asyncio.gather(*reading), 30)
    assert set(seen) >= {COPIES}
    # Those before are gone.
    assert len(list(replica.incoming.parent.glob("metamorph.db-replica-*"))) == 1


async def test_a_write_is_refused_and_names_the_primary(database: SqliteDatabase, replica: SqliteReplica) -> None:
    session = await new_session(database)
    await copied(database, replica)
    for refused in (
        new_session(replica),
        stored_message(replica, session.session_id),
        replica.copy(Path("anywhere"), progress=lambda _: None),
    ):
        with pytest.raises(ReadOnly) as refusal:
            await refused
        assert refusal.value.code is grpc.StatusCode.FAILED_PRECONDITION
        assert PRIMARY in str(refusal.value.to_status(call_id="call"))
    found = await replica.read(get_session, ACME, session_id=session.session_id)
    assert found == session


async def test_nothing_is_read_before_the_first_copy(replica: SqliteReplica) -> None:
    assert (replica.time, await replica.checks()) == (None, {"store": False})
    with pytest.raises(StoreNotReady):
        await replica.read(counted, ACME)


def damage_page(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 3] = b"\xff" * 4096
    path.write_bytes(content)


def write_newer(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA user_version = {migrations.load('sqlite')[-1][0] + 1}").fetchall()
    connection.close()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def replace_by_text(path: Path) -> None:
    path.write_bytes(b"no database at all" * 1000)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (damage_page, ReplicaFailed),
        (cut, ReplicaFailed),
        (replace_by_text, ReplicaFailed),
        (Path.unlink, ReplicaFailed),
        (write_newer, StartupRefused),
    ],
)
async def test_a_copy_that_is_no_good_is_refused_and_the_one_before_served(
    database: SqliteDatabase, replica: SqliteReplica, damage: Any, expected: type[Exception]
) -> None:
    await copied(database, replica, time=7)
    session = await new_session(database)
    await stored_message(database, session.session_id, "x" * 100_000)
    await database.copy(replica.incoming, progress=lambda _: None)
    damage(replica.incoming)
    with pytest.raises(expected):
        await replica.adopt(time=8)
    assert (replica.time, await replica.read(counted, ACME)) == (7, (0, 0))
    assert await replica.failing() is None


async def test_an_older_servers_copy_is_migrated(tmp_path: Path, replica: SqliteReplica) -> None:
    connection = apsw.Connection(str(replica.incoming))
    connection.execute("PRAGMA application_id = 0x4D544D46").fetchall()
    for version, script in migrations.load("sqlite")[:1]:
        connection.execute(script).fetchall()
        connection.execute(f"PRAGMA user_version = {version}").fetchall()
    connection.close()
    await replica.adopt(time=1)
    assert await replica.read(counted, ACME) == (0, 0)


async def test_after_a_restart_the_newest_copy_is_served_and_what_was_left_is_deleted(
    database: SqliteDatabase, tmp_path: Path
) -> None:
    await new_session(database)
    directory = tmp_path / "replica"
    async with replica_in(directory) as replica:
        await copied(database, replica, time=5)
        # Even if the time of the next one is the same, as those of a bucket can be, it has a name of its own.
        await copied(database, replica, time=5)
        assert replica.time == 6
    (directory / "metamorph.db-replica-3").write_bytes(b"older")
    (directory / "metamorph.db-replica.next.tmp").write_bytes(b"half")
    (directory / "metamorph.db").write_bytes(b"a primary's")
    async with replica_in(directory) as again:
        assert (again.time, await again.read(counted, ACME)) == (6, (0, 1))
        with pytest.raises(StartupRefused, match="in use by another server"):
            async with replica_in(directory):
                pass
    left = sorted(path.name for path in directory.iterdir())
    assert left == [
        "metamorph.db",
        "metamorph.db-replica",
        "metamorph.db-replica-6",
        "metamorph.db-replica.lock",
    ]
    assert (directory / "metamorph.db").read_bytes() == b"a primary's"


async def test_a_check_that_is_cancelled_leaves_the_copy_before(
    database: SqliteDatabase, replica: SqliteReplica
) -> None:
    await copied(database, replica, time=1)
    await database.copy(replica.incoming, progress=lambda _: None)
    adopting = asyncio.create_task(replica.adopt(time=2))
    await asyncio.sleep(0)
    adopting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adopting
    assert (replica.time, await replica.read(counted, ACME)) == (1, (0, 0))
