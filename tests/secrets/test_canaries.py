"""The values of secrets are in no file, no log line, no metric and no error, in any spelling."""

import asyncio
import base64
import secrets
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
from google.protobuf.timestamp_pb2 import Timestamp
from metamorph.admin.v1 import admin_service_pb2 as admin
from metamorph.admin.v1.backup_pb2 import BACKUP_STATE_CREATING, BACKUP_STATE_READY, BACKUP_STATE_VERIFYING

from tests.support.caller import Caller, calling
from tests.support.processes import serving_process
from tests.support.refusal import refused
from tests.support.secrets import delete, destroy, get, listed, put, value, versions
from tests.support.tokens import mint

COUNT = 1000
KEY = secrets.token_hex(32)
TOGETHER = 50


def spellings(canary: bytes) -> set[bytes]:
    """Returns a value as it might be written."""
    encoded = [base64.b64encode(bytes(pad) + canary)[4:-4] for pad in range(3)]
    return {canary, canary.hex().encode(), canary.hex().upper().encode(), *encoded}


def files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file())


async def provoke(caller: Caller, canary: bytes) -> list[str]:
    """Has the server refuse a canary in several ways, and returns all that it says."""
    request_id = str(uuid.uuid4())
    await put(caller, "refused", b"other", request_id=request_id)
    said = []
    for call in (
        put(caller, "refused", canary, expected_version=0),
        put(caller, "refused", canary, request_id=request_id),
        put(caller, "a b", canary),
        put(caller, "refused", canary * 3000),
        put(caller, "refused", canary, labels={"a b": "c"}),
        put(caller, "refused", canary, expire_time=Timestamp(seconds=1)),
        get(caller, "refused", 99),
    ):
        refusal = await refused(call)
        said.append(f"{refusal.message} {refusal.info} {refusal.fields} {refusal.quotas} {refusal.request}")
    await delete(caller, "refused")
    return said


async def backed_up(operator: Caller) -> None:
    made = (await operator.admin.CreateBackup(admin.CreateBackupRequest(), metadata=operator.metadata)).backup
    while made.state in (BACKUP_STATE_CREATING, BACKUP_STATE_VERIFYING):
        await asyncio.sleep(0.05)
        request = admin.GetBackupRequest(name=made.name)
        made = (await operator.admin.GetBackup(request, metadata=operator.metadata)).backup
    assert made.state == BACKUP_STATE_READY


async def test_a_thousand_values_are_nowhere(tmp_path: Path) -> None:
    canaries = [secrets.token_bytes(24) if number % 2 else secrets.token_hex(16).encode() for number in range(COUNT)]
    said: list[str] = []
    with serving_process(tmp_path, TOKEN_ENCRYPTION_KEY=KEY, LOG_LEVEL="debug") as server:
        async with calling(server.target) as caller, calling(server.target, mint(operator=True)) as operator:
            for first in range(0, COUNT, TOGETHER):
                numbers = range(first, first + TOGETHER)
                request_ids = [str(uuid.uuid4()) if number % 3 else "" for number in numbers]
                await asyncio.gather(
                    *(
                        put(caller, f"canary-{number % 400}", canaries[number], request_id=request_id)
                        for number, request_id in zip(numbers, request_ids, strict=True)
                    )
                )
            for number in range(0, COUNT, 100):
                said += await provoke(caller, canaries[number])
            await destroy(caller, 1, "canary-5")
            await delete(caller, "canary-6")
            assert [await value(caller, f"canary-{number % 400}") for number in range(900, COUNT)] == canaries[900:]
            said.append(f"{await listed(caller)} {await versions(caller, 'canary-1')}")
            await backed_up(operator)
            async with httpx.AsyncClient() as web:
                said.append((await web.get(f"http://127.0.0.1:{server.http_port}/metrics")).text)
            everything = {path: path.read_bytes() for path in files(tmp_path)}
    everything |= {path.with_name(f"{path.name}.after"): path.read_bytes() for path in files(tmp_path)}
    texts = ["\n".join(said).encode(), *everything.values()]
    names = {path.name for path in everything}
    assert {"metamorph.db", "metamorph.db-wal"} <= names
    # Names are not encrypted, so what is looked through has what was put.
    assert any(b"canary-399" in everything[tmp_path / name] for name in ("metamorph.db", "metamorph.db-wal"))
    (backup,) = (path for path in everything if path.parent.name == "backups" and path.suffix == ".db")
    assert b"canary-399" in everything[backup]
    found = [canary for canary in canaries for spelling in spellings(canary) if any(spelling in text for text in texts)]
    assert found == []
    assert not any(spelling in text for text in texts for spelling in spellings(KEY.encode()))
