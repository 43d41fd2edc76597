"""Copies of backups in a bucket: made, read back, deleted, and tried again."""

import asyncio
import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pyrage
import pytest
from metamorph.admin.v1 import admin_service_pb2 as pb
from metamorph.admin.v1 import backup_pb2
from metamorphd.backups.bucket import Bucket, Credentials
from metamorphd.backups.copies import Copies
from metamorphd.backups.directory import DAY, Directory, name_at
from metamorphd.backups.packing import Packing, parse_keys
from metamorphd.backups.remote import Remote
from metamorphd.clock import Clock
from metamorphd.models.backup import Copy, Manifest

from tests.support.buckets import Store, bucket_server
from tests.support.caller import Caller
from tests.support.serving import Serving, serving

IDENTITY = pyrage.x25519.Identity.generate()
NOW = 1_764_200_000_000_000


class SetClock(Clock):
    def __init__(self) -> None:
        super().__init__()
        self.time = NOW

    def now(self) -> int:
        return self.time


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with bucket_server(tmp_path / "bucket") as running:
        yield running


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    made = Directory(tmp_path / "backups")
    made.prepare()
    return made


def backed_up(directory: Directory, time: int, size: int = 300_000) -> Manifest:
    """Stores a backup as the server does, of bytes that mean nothing."""
    name, content = name_at(time), os.urandom(size)
    directory.partial(name).write_bytes(content)
    manifest = Manifest(
        name=name,
        begin_time=time,
        create_time=time,
        server_version="0",
        size=size,
        sha256=hashlib.sha256(content).hexdigest(),
        schema_version=1,
        row_counts={"sessions": 3},
        verify_time=time,
    )
    directory.complete_backup(manifest)
    return manifest


@asynccontextmanager
async def copying(
    bucket: Bucket, directory: Directory, clock: Clock, *, packing: Packing | None = None, retry_seconds: float = 900
) -> AsyncIterator[Copies]:
    copies = Copies(
        remote=Remote(bucket),
        packing=packing or Packing(compressed=True, keys=parse_keys(str(IDENTITY))),
        directory=directory,
        clock=clock,
        retention_days=7,
        retry_seconds=retry_seconds,
    )
    async with copies:
        copies.wake()
        yield copies


async def until(true: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return found


async def read_back(copies: Copies, manifest: Manifest, *, after: int = 0) -> Copy:
    """Returns the copy of a backup once it was read back after a time."""

    def found() -> Copy | None:
        copy, _ = copies.copy_of(manifest.name)
        return copy if copy is not None and copy.verify_time > after else None

    copy: Copy = await until(found)
    return copy


async def test_a_backup_is_copied_and_read_back(store: Store, directory: Directory, clock: SetClock) -> None:
    older, newest = backed_up(directory, NOW - DAY), backed_up(directory, NOW)
    async with copying(store.bucket, directory, clock) as copies:
        copy = await read_back(copies, newest)
        assert copies.copy_of(newest.name) == (copy, "")
        # Only what was not copied in time is missing.
        assert copies.copy_of(older.name) == (None, "")
        assert copies.url(copy) == f"{store.url}/{newest.name}.zst.age"
    assert store.names == [f"{newest.name}.zst.age", f"{newest.name}.zst.age.json"]
    stored = (store.objects / copy.name).read_bytes()
    assert (len(stored), hashlib.sha256(stored).hexdigest()) == (copy.size, copy.sha256)
    plain = pyrage.decrypt(stored, [IDENTITY])
    assert plain.startswith(b"\x28\xb5\x2f\xfd")
    gauges = {name: read() for name, (_, read) in copies.gauges.items()}
    assert gauges == {
        "metamorph_backup_copy_timestamp_seconds": NOW / 1e6,
        "metamorph_backup_copy_verified_timestamp_seconds": NOW / 1e6,
        "metamorph_backup_copy_failed": 0.0,
    }


async def test_a_large_backup_is_sent_in_parts(store: Store, directory: Directory, clock: SetClock) -> None:
    manifest = backed_up(directory, NOW, size=40 * 2**20)
    async with copying(store.bucket, directory, clock, packing=Packing()) as copies:
        copy = await read_back(copies, manifest)
    assert (store.objects / manifest.name).read_bytes() == (directory.path / manifest.name).read_bytes()
    assert (copy.faults, store.unfinished) == ((), [])


async def test_a_copy_is_read_back_every_day_and_made_anew_if_it_is_damaged(
    store: Store, directory: Directory, clock: SetClock
) -> None:
    manifest = backed_up(directory, NOW)
    async with copying(store.bucket, directory, clock, packing=Packing(), retry_seconds=0.2) as copies:
        await read_back(copies, manifest)
        file = store.objects / manifest.name
        content = file.read_bytes()
        file.write_bytes(content[:1000] + b"?" + content[1001:])
        clock.time = NOW + DAY - 1
        copies.wake()
        await asyncio.sleep(0.3)
        assert copies.copy_of(manifest.name)[1] == ""
        clock.time = NOW + DAY
        copies.wake()
        await until(lambda: "its SHA-256 is not that of its manifest" in copies.copy_of(manifest.name)[1])
        assert copies.damaged
        assert copies.gauges["metamorph_backup_copy_failed"][1]() == 1.0
        # At the next attempt.
        await until(lambda: copies.copy_of(manifest.name)[1] == "" and not copies.damaged)
    assert file.read_bytes() == content


async def test_a_copy_that_has_another_size_or_is_gone_is_made_anew(
    store: Store, directory: Directory, clock: SetClock
) -> None:
    manifest = backed_up(directory, NOW)
    async with copying(store.bucket, directory, clock, packing=Packing()) as copies:
        await read_back(copies, manifest)
    file = store.objects / manifest.name
    content = file.read_bytes()
    for change in (
        lambda: file.write_bytes(content[:-1]),
        file.unlink,
        (store.objects / f"{manifest.name}.json").unlink,
    ):
        change()
        async with copying(store.bucket, directory, clock, packing=Packing()):
            await until(lambda: file.exists() and file.read_bytes() == content and len(store.names) == 2)


async def test_a_bucket_that_fails_is_tried_again(store: Store, directory: Directory, clock: SetClock) -> None:
    manifest = backed_up(directory, NOW)
    # The objects' place is taken by a file.
    blocking = store.directory / "backups" / "here"
    blocking.write_bytes(b"")
    async with copying(store.bucket, directory, clock, retry_seconds=0.2) as copies:
        await until(lambda: copies.copy_of(manifest.name)[1])
        assert copies.gauges["metamorph_backup_copy_failed"][1]() == 1.0
        blocking.unlink()
        await read_back(copies, manifest)
        await until(lambda: copies.copy_of(manifest.name)[1] == "")
        assert copies.gauges["metamorph_backup_copy_failed"][1]() == 0.0


async def test_what_a_bucket_answers_is_shown_without_secrets(
    store: Store, directory: Directory, clock: SetClock
) -> None:
    manifest = backed_up(directory, NOW)
    for url, secret, expected in (
        (store.url, "wrong-secret", "SignatureDoesNotMatch"),
        ("s3://missing/here", "test-secret-of-a-bucket", "NoSuchBucket: The specified bucket does not exist."),
    ):
        bucket = Bucket(url, Credentials("test-key", secret, "us-east-1", store.endpoint))
        async with copying(bucket, directory, clock) as copies:
            fault = await until(lambda copies=copies: copies.copy_of(manifest.name)[1])
            assert fault.startswith(expected)
            assert secret not in fault


async def test_copies_are_kept_as_long_as_backups_but_never_the_newest_good_one(
    store: Store, directory: Directory, clock: SetClock
) -> None:
    made = []
    for day in range(3):
        clock.time = NOW + day * DAY
        made.append(backed_up(directory, clock.time))
        async with copying(store.bucket, directory, clock, packing=Packing()) as copies:
            await until(lambda copies=copies, day=day: copies.copy_of(made[day].name)[0])
            await read_back(copies, made[day])
    theirs = ["other.db", f"{made[0].name}.bak", f"{name_at(NOW)[:-3]}x.db.json"]
    for name in theirs:
        (store.objects / name).write_bytes(b"theirs")
    # What an interrupted deletion leaves.
    (store.objects / f"{name_at(NOW - 20 * DAY)}.age").write_bytes(b"x")
    names = [manifest.name for manifest in made]
    for days, left in ((8, names[1:]), (50, names[2:])):
        clock.time = NOW + days * DAY
        async with copying(store.bucket, directory, clock, packing=Packing()):
            expected = sorted([*theirs, *left, *(f"{name}.json" for name in left)])
            await until(lambda expected=expected: store.names == expected)


async def test_manifests_that_make_no_sense_are_no_copies(store: Store, directory: Directory, clock: SetClock) -> None:
    manifest = backed_up(directory, NOW)
    async with copying(store.bucket, directory, clock, packing=Packing()) as copies:
        await read_back(copies, manifest)
    good = json.loads((store.objects / f"{manifest.name}.json").read_text())
    texts = [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b" " * 2**21 + json.dumps(good).encode()]
    changes: list[dict[str, Any]] = [
        {"name": manifest.name},
        {"size": "many"},
        {"size": -1},
        {"faults": 3},
        {"manifest": 1},
        {"manifest": good["manifest"] | {"name": "../../etc/passwd"}},
        {"manifest": good["manifest"] | {"size": 10**400}},
        {"manifest": good["manifest"] | {"row_counts": []}},
    ]
    for number, wrong in enumerate([*texts, *changes]):
        name = name_at(NOW + (number + 1) * 1_000_000)
        (store.objects / name).write_bytes(b"?" * good["size"])
        made = good | {"name": name, "manifest": good["manifest"] | {"name": name}}
        content = wrong if isinstance(wrong, bytes) else json.dumps(made | wrong).encode()
        (store.objects / f"{name}.json").write_bytes(content)
    assert [copy.name for copy in Remote(store.bucket).list_copies()] == [manifest.name]


async def test_a_backup_that_is_damaged_is_not_copied(store: Store, directory: Directory, clock: SetClock) -> None:
    manifest = backed_up(directory, NOW, size=20 * 2**20)
    file = directory.path / manifest.name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    async with copying(store.bucket, directory, clock, packing=Packing()) as copies:
        fault = await until(lambda: copies.copy_of(manifest.name)[1])
    assert "is damaged" in fault
    assert (store.names, store.unfinished) == ([], [])


async def test_a_copy_is_compared_as_it_was_sent_if_it_cannot_be_decrypted(
    store: Store, directory: Directory, clock: SetClock
) -> None:
    manifest = backed_up(directory, NOW)
    packing = Packing(keys=parse_keys(str(IDENTITY.to_public())))
    async with copying(store.bucket, directory, clock, packing=packing) as copies:
        copy = await read_back(copies, manifest)
        assert copies.copy_of(manifest.name) == (copy, "")
        file = store.objects / copy.name
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        clock.time += DAY
        copies.wake()
        await until(lambda: "its SHA-256" in copies.copy_of(manifest.name)[1])


async def test_a_bucket_that_does_not_answer_does_not_keep_a_server_from_stopping(
    directory: Directory, clock: SetClock
) -> None:
    backed_up(directory, NOW)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        bucket = Bucket("s3://silent/here", Credentials("id", "secret", "us-east-1", endpoint))
        async with copying(bucket, directory, clock):
            connection, _ = await asyncio.to_thread(silent.accept)
            begun = time.monotonic()
        assert time.monotonic() - begun < 10
        connection.close()


def operator_of(server: Serving) -> Caller:
    # For a while after a clock that is set.
    return server.caller(operator=True, exp=int(time.time()) + 30 * 24 * 3600)


async def made(server: Serving) -> str:
    operator = operator_of(server)
    return (await operator.admin.CreateBackup(pb.CreateBackupRequest(), metadata=operator.metadata)).backup.name


async def got(server: Serving, name: str, what: Callable[[backup_pb2.Backup], bool]) -> backup_pb2.Backup:
    """Returns a backup once something is true of it."""
    operator, request = operator_of(server), pb.GetBackupRequest(name=name)
    async with asyncio.timeout(30):
        while True:
            backup = (await operator.admin.GetBackup(request, metadata=operator.metadata)).backup
            if what(backup):
                return backup
            await asyncio.sleep(0.05)


async def test_a_bucket_that_fails_does_not_fail_the_backup(store: Store, tmp_path: Path) -> None:
    store.process.kill()
    async with serving(tmp_path / "server", **store.settings) as server, httpx.AsyncClient() as http:
        backup = await got(server, await made(server), lambda backup: bool(backup.copy_fault))
        assert (backup.state, backup.HasField("copy")) == (backup_pb2.BACKUP_STATE_READY, False)
        assert "the bucket cannot be reached" in backup.copy_fault
        metrics = (await http.get(f"{server.http}/metrics")).text
        assert "metamorph_backup_copy_failed 1.0" in metrics
        assert "metamorph_backup_failed 0.0" in metrics


async def test_health_is_degraded_while_the_newest_backup_or_copy_is_too_old_or_damaged(
    store: Store, tmp_path: Path
) -> None:
    clock = SetClock()
    clock.time = Clock().now()

    async with serving(tmp_path / "server", clock=clock, **store.settings) as server, httpx.AsyncClient() as http:

        async def check() -> str:
            response = await http.get(f"{server.http}/health")
            assert response.status_code == 200
            return str(response.json().get("check", "ok"))

        begun = clock.time
        assert await check() == "ok"
        clock.time = begun + 2 * DAY + 1_000_000
        assert await check() == "backup"
        await got(server, await made(server), lambda backup: backup.HasField("copy"))
        assert await check() == "ok"
        clock.time += 2 * DAY + 60_000_000
        assert await check() == "backup"
        store.process.kill()
        await got(server, await made(server), lambda backup: bool(backup.copy_fault))
        # The backup is new, and the copy is not.
        assert await check() == "backup"


async def test_a_copy_that_is_interrupted_by_a_kill_does_not_look_complete_and_is_made_at_the_next_start(
    store: Store, directory: Directory, clock: SetClock
) -> None:
    manifest = backed_up(directory, NOW, size=60 * 2**20)
    program = [sys.executable, "-c", INTERRUPTED, store.url, store.endpoint, str(directory.path)]
    process = await asyncio.create_subprocess_exec(*program)
    await until(lambda: store.unfinished)
    process.kill()
    await process.wait()
    assert store.names == []
    assert Remote(store.bucket).list_copies() == []
    async with copying(store.bucket, directory, clock, packing=Packing()) as copies:
        await read_back(copies, manifest)


INTERRUPTED = """
import sys, time
from pathlib import Path
from metamorphd.backups.bucket import Bucket, Credentials
from metamorphd.backups.directory import Directory
from metamorphd.backups.packing import Packing
from metamorphd.backups.remote import Remote

url, endpoint, path = sys.argv[1:]
bucket = Bucket(url, Credentials("test-key", "test-secret-of-a-bucket", "us-east-1", endpoint))
(backup,) = Directory(Path(path)).list_backups()
Remote(bucket).write_copy(
    Path(path) / backup.name, backup.manifest, packing=Packing(), now=lambda: 1, step=lambda _: time.sleep(0.02)
)
"""
