"""Copies of backups in a bucket, made by a server and restored without one."""

import asyncio
import hashlib
import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyrage
import pytest
from metamorph_client.admin.v1 import admin_service_pb2 as pb
from metamorph_client.admin.v1 import backup_pb2
from metamorphd.cli.backups import shown_time

from tests.support.buckets import Store, bucket_server
from tests.support.caller import Caller
from tests.support.command import METAMORPH, run
from tests.support.serving import Serving, serving
from tests.support.tokens import SECRET

IDENTITY = str(pyrage.x25519.Identity.generate())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with bucket_server(tmp_path / "bucket") as running:
        yield running


async def copied(operator: Caller) -> backup_pb2.Backup:
    """Makes a backup, and returns it once it was copied."""
    name = (await operator.admin.CreateBackup(pb.CreateBackupRequest(), metadata=operator.metadata)).backup.name
    async with asyncio.timeout(30):
        while True:
            request = pb.GetBackupRequest(name=name)
            backup = (await operator.admin.GetBackup(request, metadata=operator.metadata)).backup
            if backup.copy.url:
                return backup
            await asyncio.sleep(0.05)


async def restored(directory: Path, source: str, **environment: str) -> tuple[int | None, Any, str]:
    code, out, err = await run(
        "backup", "restore", source, "--yes", "--json", "--to", str(directory / "metamorph.db"), **environment
    )
    return code, json.loads(out) if out else None, err


async def titles(directory: Path) -> list[str]:
    async with serving(directory) as server:
        return [session.title for session in await server.caller().sessions()]


async def test_a_copy_is_listed_and_restored_to_a_new_machine(store: Store, tmp_path: Path) -> None:
    secrets = {"backup_encryption_key": IDENTITY, "backup_compression": "zstd"}
    async with serving(tmp_path / "lost", **store.settings, **secrets) as server:
        await server.caller().create_session(title="First")
        await copied(server.caller(operator=True))
        await server.caller().create_session(title="Second")
        backup = await copied(server.caller(operator=True))
        assert backup.copy.url == f"{store.url}/{backup.name}.zst.age"
        code, out, _ = await listed_by(server)
        assert (code, out.count("ready")) == (0, 2)
    shutil.rmtree(tmp_path / "lost")
    environment = store.environment | {"BACKUP_ENCRYPTION_KEY": IDENTITY}
    code, out, _ = await run("backup", "list", "--remote", "--json", **environment)
    copies = json.loads(out)
    assert (code, copies[0]["url"], len(copies)) == (0, backup.copy.url, 2)
    assert [copy["verify_time"] > 0 for copy in copies] == [False, True]
    code, out, _ = await run("backup", "list", "--remote", **environment)
    assert (code, backup.name in out, shown_time(copies[1]["verify_time"] // 1_000_000) in out) == (0, True, True)
    # The newest one, one by the backup's name, and one by its own.
    for number, (source, expected) in enumerate((
        (store.url, ["Second", "First"]),
        (f"{store.url}/{copies[1]['manifest']['name']}", ["First"]),
        (copies[0]["url"], ["Second", "First"]),
    )):  # fmt: skip
        directory = tmp_path / f"new-{number}"
        code, result, err = await restored(directory, source, **environment)
        assert (code, err) == (0, "")
        assert result["restored"].startswith(store.url)
        assert await titles(directory) == expected


async def listed_by(server: Serving) -> tuple[int | None, str, str]:
    return await run("backup", "list", METAMORPH_TARGET=server.target, EMBLEM_JWT_SECRET=SECRET)


async def test_a_copy_that_was_taken_from_the_bucket_is_restored_as_a_file(store: Store, tmp_path: Path) -> None:
    secrets = {"backup_encryption_key": IDENTITY, "backup_compression": "zstd"}
    async with serving(tmp_path / "server", **store.settings, **secrets) as server:
        await server.caller().create_session(title="Kept")
        backup = await copied(server.caller(operator=True))
    file = store.objects / f"{backup.name}.zst.age"
    alone = tmp_path / "taken.db.zst.age"
    alone.write_bytes(file.read_bytes())
    for number, taken in enumerate((file, alone)):
        directory = tmp_path / f"new-{number}"
        code, _, err = await restored(directory, str(taken), BACKUP_ENCRYPTION_KEY=IDENTITY)
        assert (code, err) == (0, "")
        assert await titles(directory) == ["Kept"]
    for key, expected in (("", "set BACKUP_ENCRYPTION_KEY"), (str(pyrage.x25519.Identity.generate()), "other keys")):
        code, _, err = await restored(tmp_path / "none", str(alone), BACKUP_ENCRYPTION_KEY=key)
        assert (code, expected in err, "Traceback" in err) == (1, True, False)
    assert list((tmp_path / "none").glob("*.part")) == []


async def test_a_damaged_copy_is_not_restored(store: Store, tmp_path: Path) -> None:
    async with serving(tmp_path / "server", **store.settings) as server:
        await server.caller().create_session(title="Kept")
        backup = await copied(server.caller(operator=True))
    file = store.objects / backup.name
    content = file.read_bytes()
    changed = content[: len(content) // 2] + b"?" + content[len(content) // 2 + 1 :]
    for damaged, expected in ((changed, "damaged"), (content[:-4096], "damaged"), (content + b"x", "has more than")):
        file.write_bytes(damaged)
        code, _, err = await restored(tmp_path / "none", f"{store.url}/{backup.name}", **store.environment)
        assert (code, expected in err, "Traceback" in err) == (1, True, False), err
    # And not if somebody has made its manifest fit.
    manifest = json.loads((store.objects / f"{backup.name}.json").read_text())
    manifest["manifest"]["sha256"] = manifest["sha256"] = hashlib.sha256(content[:-4096]).hexdigest()
    manifest["manifest"]["size"] = manifest["size"] = len(content) - 4096
    file.write_bytes(content[:-4096])
    (store.objects / f"{backup.name}.json").write_text(json.dumps(manifest))
    code, _, err = await restored(tmp_path / "none", f"{store.url}/{backup.name}", **store.environment)
    assert (code, "is damaged" in err) == (1, True), err
    assert not (tmp_path / "none" / "metamorph.db-restored.part").exists()


async def test_what_prevents_it_is_said_with_what_to_do(store: Store, tmp_path: Path) -> None:
    for source, changed, expected in (
        (store.url, {}, "there is no complete, good copy in"),
        (f"{store.url}/metamorph-20250125_120000.db", {}, "`metamorph backup list --remote` lists the copies"),
        ("s3://missing/here", {}, "NoSuchBucket"),
        ("s3://", {}, "must be an address like s3://bucket/prefix"),
        (store.url, {"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch"),
        (store.url, {"AWS_SECRET_ACCESS_KEY": ""}, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set"),
        (store.url, {"AWS_ENDPOINT_URL": "http://s3.example"}, "AWS_ENDPOINT_URL must begin with https://"),
        (store.url, {"BACKUP_ENCRYPTION_KEY": "age1none"}, "BACKUP_ENCRYPTION_KEY must be age recipients"),
    ):
        code, _, err = await restored(tmp_path / "none", source, **(store.environment | changed))
        assert (code, expected in err, "Traceback" in err) == (1, True, False), err
    code, _, err = await run("backup", "list", "--remote", **(store.environment | {"BACKUP_S3_URL": ""}))
    assert (code, "BACKUP_S3_URL is not set" in err) == (1, True)


async def test_a_restore_needs_room(tmp_path: Path) -> None:
    huge = tmp_path / "huge.db"
    with huge.open("wb") as file:
        file.truncate(shutil.disk_usage(tmp_path).free + 2**30)
    code, _, err = await restored(tmp_path / "none", str(huge))
    assert (code, "there is no room for" in err, "free some space" in err) == (1, True, True), err
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["metamorph.db.lock"]


async def test_a_restore_from_a_bucket_that_does_not_answer_can_be_interrupted(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = await asyncio.create_subprocess_exec(
            *METAMORPH,
            *("backup", "restore", "s3://silent/here", "--yes", "--to", str(tmp_path / "metamorph.db")),
            env={
                **os.environ,
                "AWS_ACCESS_KEY_ID": "id",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            },
            stderr=asyncio.subprocess.PIPE,
        )
        connection, _ = await asyncio.to_thread(silent.accept)
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), 20)
        connection.close()
    assert (process.returncode, "Aborted" in err.decode(), "Traceback" in err.decode()) == (1, True, False)
