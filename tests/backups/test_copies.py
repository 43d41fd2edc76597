"""Copies of backups in a bucket: made, read back, deleted, and tried again."""

import asyncio
import hashlib
import socket
import time
from collections.abc import Callable
from functools import partial

import pyrage
import pytest
from metamorphd.backups.bucket import PART_BYTES, Bucket, Credentials
from metamorphd.backups.copies import Copies, retry_delay
from metamorphd.backups.directory import DAY, Directory, name_at
from metamorphd.backups.packing import Packing, parse_keys
from metamorphd.models.backup import Manifest

from tests.support.buckets import Store
from tests.support.copies import IDENTITY, NOW, SetClock, backed_up, copying, read_back, until


async def test_a_backup_is_copied_and_read_back(store: Store, directory: Directory, clock: SetClock) -> None:
    newest = backed_up(directory, NOW)
    async with copying(store.bucket, directory, clock) as copies:
        copy = await read_back(copies, newest)
        assert copies.copy_of(newest.name) == (copy, "")
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
        await until(lambda: copies.gauges["metamorph_backup_copy_failed"][1]() == 1.0)
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


async def test_backups_that_were_missed_are_copied_once_the_bucket_is_back(
    store: Store, directory: Directory, clock: SetClock
) -> None:
    backed_up(directory, NOW - 8 * DAY)
    missed = [backed_up(directory, NOW - days * DAY) for days in (0, 2, 4, 6)]
    # Only this one cannot be copied.
    damaged = directory.path / missed[2].name
    damaged.write_bytes(bytes(missed[2].size))
    blocking = store.directory / "backups" / "here"
    blocking.write_bytes(b"")
    async with copying(store.bucket, directory, clock, packing=Packing(), retry_seconds=0.2) as copies:
        await until(lambda: copies.copy_of(missed[0].name)[1])
        blocking.unlink()
        whole = [manifest.name for manifest in (*missed[:2], missed[3])]
        await until(partial(has_names, store, sorted([*whole, *(f"{name}.json" for name in whole)])))
        await until(lambda: "is damaged" in copies.copy_of(missed[2].name)[1])
        await until(lambda: copies.copy_of(missed[0].name)[1] == "")
        assert copies.gauges["metamorph_backup_copy_failed"][1]() == 1.0
    # Newest first.
    times = [(store.objects / f"{name}.json").stat().st_ctime_ns for name in whole[1:]]
    assert times == sorted(times)


def fault_of(copies: Copies, manifest: Manifest) -> str:
    return copies.copy_of(manifest.name)[1]


def has_names(store: Store, names: list[str]) -> bool:
    return store.names == names


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
            fault = await until(partial(fault_of, copies, manifest))
            assert fault.startswith(expected)
            assert secret not in fault
            assert secret not in repr(Credentials("test-key", secret, "us-east-1"))


async def test_copies_are_kept_as_long_as_backups_but_never_the_newest_good_one(
    store: Store, directory: Directory, clock: SetClock
) -> None:
    made = []
    for day in range(3):
        clock.time = NOW + day * DAY
        made.append(backed_up(directory, clock.time))
        async with copying(store.bucket, directory, clock, packing=Packing()) as copies:
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
            await until(partial(has_names, store, expected))


async def test_a_backup_that_is_damaged_is_not_copied(store: Store, directory: Directory, clock: SetClock) -> None:
    manifest = backed_up(directory, NOW, size=20 * 2**20)
    file = directory.path / manifest.name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    async with copying(store.bucket, directory, clock, packing=Packing()) as copies:
        fault = await until(lambda: copies.copy_of(manifest.name)[1])
    assert "is damaged" in fault
    assert store.names == []


async def test_an_upload_that_fails_leaves_nothing(store: Store) -> None:
    def produce(send: Callable[[bytes], object]) -> None:
        send(bytes(2 * PART_BYTES))
        # One that is on its way when the upload is discarded may be stored all the same.
        while len(store.unfinished) < 2 or any(part.stat().st_size < PART_BYTES for part in store.unfinished):
            time.sleep(0.02)
        raise OSError("the file cannot be read")

    with pytest.raises(OSError, match="cannot be read"):
        await asyncio.to_thread(store.bucket.write, "name", produce, size=3 * PART_BYTES)
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


def test_what_fails_again_is_tried_later_each_time() -> None:
    delays = [retry_delay(failures, first=900) for failures in (1, 2, 3, 4, 5, 6, 10_000)]
    assert delays == [900, 1800, 3600, 7200, 14_400, 14_400, 14_400]
