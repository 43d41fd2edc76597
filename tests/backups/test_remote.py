"""What lies in a bucket is a copy only if it is complete, and is what its manifest says."""

import asyncio
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from metamorphd.backups.directory import DAY, Directory, name_at
from metamorphd.backups.packed_sources import RemoteCopy
from metamorphd.backups.packing import Packing, parse_keys
from metamorphd.backups.remote import Remote
from metamorphd.errors import StoreNotReady
from metamorphd.models.backup import Copy

from tests.support.buckets import Store
from tests.support.copies import NOW, SetClock, backed_up, copying, read_back, until


async def test_manifests_that_make_no_sense_are_no_copies(store: Store, directory: Directory, clock: SetClock) -> None:
    manifest = backed_up(directory, NOW)
    async with copying(store.bucket, directory, clock, packing=Packing()) as copies:
        await read_back(copies, manifest)
    good = json.loads((store.objects / f"{manifest.name}.json").read_text())
    texts = [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b" " * 2**21 + json.dumps(good).encode()]
    changes: list[dict[str, Any]] = [
        {"name": manifest.name},
        {"name": manifest.name, "manifest": good["manifest"]},
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


async def test_a_copy_that_is_being_replaced_is_not_listed(store: Store, directory: Directory) -> None:
    remote, manifest = Remote(store.bucket), backed_up(directory, NOW)
    file = directory.path / manifest.name

    def copied(step: Callable[[int], None]) -> Copy:
        return remote.write_copy(file, manifest, packing=Packing(), now=lambda: NOW, step=step)

    made = copied(lambda _: None)
    assert remote.list_copies() == [made]

    def stop(_: int) -> None:
        raise StoreNotReady(retry_delay=None)

    with pytest.raises(StoreNotReady):
        copied(stop)
    assert remote.list_copies() == []


async def test_old_copies_stay_while_none_is_good(store: Store, directory: Directory) -> None:
    remote, manifest = Remote(store.bucket), backed_up(directory, NOW)
    file = directory.path / manifest.name
    copy = remote.write_copy(file, manifest, packing=Packing(), now=lambda: NOW, step=lambda _: None)
    remote.write_manifest(replace(copy, faults=("damaged",)))
    later = NOW + 365 * DAY
    assert remote.prune_copies(remote.list_copies(), now=later, days=7) == []
    remote.write_manifest(copy)
    assert remote.prune_copies(remote.list_copies(), now=later, days=7) == []
    assert store.names == [manifest.name, f"{manifest.name}.json"]


async def test_the_copies_of_a_new_database_do_not_displace_those_of_the_one_that_was_lost(
    store: Store, directory: Directory
) -> None:
    remote = Remote(store.bucket)
    made = [
        backed_up(directory, NOW + day * DAY, size=1000, database_id=database)
        for day, database in enumerate(("", "lost", "lost", "new", "new"))
    ]
    for manifest in made:
        file = directory.path / manifest.name
        remote.write_copy(file, manifest, packing=Packing(), now=lambda: NOW, step=lambda _: None)
    remote.prune_copies(remote.list_copies(), now=NOW + 365 * DAY, days=7)
    assert [copy.name for copy in remote.list_copies()] == [made[4].name, made[2].name]


async def test_a_copy_that_unpacks_to_more_than_its_manifest_says_is_damaged(
    store: Store, directory: Directory
) -> None:
    remote, manifest, keys = Remote(store.bucket), backed_up(directory, NOW), parse_keys("")
    bomb = BytesIO()
    Packing(compressed=True).pack(BytesIO(bytes(100 * 2**20)), bomb.write)
    content = bomb.getvalue()
    name, digest = f"{manifest.name}.zst", hashlib.sha256(content).hexdigest()
    store.bucket.write_small(name, content)
    copy = Copy(name=name, size=len(content), sha256=digest, create_time=NOW, manifest=manifest)
    read: list[int] = []
    verified = remote.verify_copy(copy, keys=keys, now=lambda: NOW, step=read.append)
    assert verified.faults == (f"it has more than the {manifest.size:,} bytes of its manifest",)


def test_a_small_object_is_not_read_if_it_is_large(store: Store) -> None:
    store.bucket.write_small("small", b"four")
    assert (store.bucket.read_small("small", limit=4), store.bucket.read_small("small", limit=3)) == (b"four", None)


def test_the_newest_good_copy_is_taken_if_none_is_named(store: Store, directory: Directory) -> None:
    remote, keys = Remote(store.bucket), parse_keys("")
    for day in range(3):
        manifest = backed_up(directory, NOW + day * DAY)
        file = directory.path / manifest.name
        copy = remote.write_copy(file, manifest, packing=Packing(), now=lambda: NOW, step=lambda _: None)
        if day == 2:
            remote.write_manifest(replace(copy, faults=("damaged",)))
    assert RemoteCopy(remote, "", keys=keys).name == f"{store.url}/{name_at(NOW + DAY)}"
    assert RemoteCopy(remote, name_at(NOW), keys=keys).name == f"{store.url}/{name_at(NOW)}"


def test_a_packed_copy_is_found_by_the_name_of_its_backup(store: Store, directory: Directory) -> None:
    remote = Remote(store.bucket)
    for day in range(3):
        manifest = backed_up(directory, NOW + day * DAY)
        file, packing = directory.path / manifest.name, Packing(compressed=True)
        remote.write_copy(file, manifest, packing=packing, now=lambda: NOW, step=lambda _: None)
    for day in range(3):
        name = name_at(NOW + day * DAY)
        assert remote.get_copy(name)[0].name == f"{name}.zst"
