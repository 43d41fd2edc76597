"""A server that copies its backups, and what it says of them."""

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from metamorph_client.admin.v1 import admin_service_pb2 as pb
from metamorph_client.admin.v1 import backup_pb2
from metamorph_client.chat.v1 import turn_pb2
from metamorphd.backups.copies import STOP_SECONDS
from metamorphd.backups.directory import DAY
from metamorphd.clock import Clock
from metamorphd.errors import StartupRefused

from tests.support.buckets import Store
from tests.support.caller import Caller
from tests.support.copies import SetClock
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.leaving import delete
from tests.support.refusal import refused
from tests.support.serving import Serving, asking, serving


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


async def test_a_vault_that_is_deleted_is_in_copies_that_are_not_older_than_it(store: Store, tmp_path: Path) -> None:
    async with serving(tmp_path / "server", **store.settings) as server:
        earlier, later = server.caller(vault="earlier"), server.caller(vault="later")
        await earlier.create_session()
        await got(server, await made(server), lambda backup: backup.HasField("copy"))
        await later.create_session()
        assert (await delete(later, "later")).backup_count == 0
        assert (await delete(earlier, "earlier")).backup_count == 2


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


async def test_a_bucket_that_hangs_does_not_lengthen_a_drain(tmp_path: Path) -> None:
    hanging = {"aws_access_key_id": "id", "aws_secret_access_key": "secret", "backup_s3_url": "s3://silent/here"}
    async with FakeMessagesApi() as api:
        api.default = Reply(("partial ", "rest"), hold=asyncio.Event())
        with socket.create_server(("127.0.0.1", 0)) as silent:
            hanging["aws_endpoint_url"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
            async with asking(api, tmp_path, **hanging) as server:
                alice = server.caller()
                call = alice.start((await alice.create_session()).session_id)
                await call.next()
                await made(server)
                connection, _ = await asyncio.to_thread(silent.accept)
                begun = time.monotonic()
                stopping = asyncio.create_task(server.server.stop(grace_seconds=STOP_SECONDS))
                await asyncio.sleep(0.1)
                operator = operator_of(server)
                refusal = await refused(
                    operator.admin.CreateBackup(pb.CreateBackupRequest(), metadata=operator.metadata)
                )
                assert (refusal.code.name, refusal.reason) == ("UNAVAILABLE", "SERVER_DRAINING")
                assert (await call.rest())[-1].turn_finished.status == turn_pb2.TURN_STATUS_INTERRUPTED
                await stopping
                # One after the other they would take twice as long.
                assert STOP_SECONDS <= time.monotonic() - begun < 2 * STOP_SECONDS - 1
                connection.close()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"aws_secret_access_key": None}, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set"),
        ({"aws_access_key_id": None}, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set"),
        ({"aws_endpoint_url": "http://storage.example"}, "AWS_ENDPOINT_URL must begin with https://"),
        ({"backup_s3_url": "https://storage.example/bucket"}, "must be an address like s3://bucket/prefix"),
        ({"backup_s3_url": "s3://bucket/../other"}, "must be an address like s3://bucket/prefix"),
        ({"backup_encryption_key": "secret"}, "BACKUP_ENCRYPTION_KEY must be age recipients"),
        ({"backup_compression": "gzip"}, "BACKUP_COMPRESSION"),
    ],
)
async def test_a_server_with_settings_that_make_no_copies_does_not_start(
    tmp_path: Path, changed: dict[str, Any], expected: str
) -> None:
    good = {
        "backup_s3_url": "s3://bucket/here",
        "aws_access_key_id": "id",
        "aws_secret_access_key": "secret",
        "aws_endpoint_url": "http://127.0.0.1:1",
    }
    with pytest.raises(StartupRefused, match=expected):
        async with serving(tmp_path, **(good | changed)):
            pass


async def test_health_is_degraded_while_the_newest_backup_is_damaged(tmp_path: Path) -> None:
    async with serving(tmp_path / "server") as server, httpx.AsyncClient() as http:
        backup = await got(server, await made(server), lambda backup: backup.state == backup_pb2.BACKUP_STATE_READY)
        file = tmp_path / "server" / "backups" / backup.name
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        assert (await http.get(f"{server.http}/health")).json()["status"] == "ok"
        operator = operator_of(server)
        await operator.admin.VerifyBackup(pb.VerifyBackupRequest(name=backup.name), metadata=operator.metadata)
        await got(server, backup.name, lambda backup: backup.state == backup_pb2.BACKUP_STATE_DAMAGED)
        health = (await http.get(f"{server.http}/health")).json()
        assert (health["status"], health["check"]) == ("degraded", "backup")
