"""The values of a thousand secrets are looked for in all that a server writes, sends and answers, in any spelling."""

import asyncio
import base64
import contextlib
import random
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyrage
from google.protobuf.timestamp_pb2 import Timestamp
from metamorph_client.admin.v1 import admin_service_pb2 as admin
from metamorph_client.admin.v1.backup_pb2 import BACKUP_STATE_CREATING, BACKUP_STATE_READY, BACKUP_STATE_VERIFYING

from harness.abuse.subject import Subject
from harness.figure import Figure, tried
from harness.run import Run
from tests.support.caller import Caller, calling
from tests.support.exports import exported, of_kind
from tests.support.fakes.otlp_receiver import OtlpReceiver
from tests.support.processes import environment_of, service
from tests.support.refusal import refused
from tests.support.secrets import delete, destroy, get, listed, put, value, versions
from tests.support.tokens import mint

TOGETHER = 50
# So that each has several versions.
NAMES = 400
NAME = "canary-99"
# In which the names of secrets are, as they are not encrypted: what is looked through has what was put.
NAMED = ("database", "backups", "exports")
PLACES = {".log": "log lines", ".ndjson": "exports", ".db": "database", ".db-wal": "database", ".db-shm": "database"}
Texts = dict[str, list[bytes]]


async def attack(run: Run, *, count: int = 1_000) -> list[Figure]:
    """Puts, gets, refuses, deletes, exports and backs up secrets, traces each call, and looks for their values."""
    source = random.Random(run.seed)  # noqa: S311, repeatable
    canaries = [source.randbytes(24) if number % 2 else source.randbytes(16).hex().encode() for number in range(count)]
    key = source.randbytes(32).hex()
    async with OtlpReceiver() as receiver:
        environment = {
            "TOKEN_ENCRYPTION_KEY": key,
            "LOG_LEVEL": "debug",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_TRACES_SAMPLER_ARG": "1",
        }
        module = ["harness.abuse.serve", f"--mutant={run.mutant}"]
        variables = environment_of(run.directory) | environment
        with service(module, run.directory, variables, stderr=subprocess.STDOUT) as running:
            texts, opened = await _used(Subject(running, f"http://127.0.0.1:{running.http_port}"), canaries)
            # The write-ahead log is there only while the server runs.
            _look(run.directory, texts)
            running.process.terminate()
            await asyncio.to_thread(running.process.wait)
        _look(run.directory, texts)
        texts["spans"] = receiver.bodies
        traced = len(receiver.named("metamorph.vault.v1.VaultService/PutSecret"))
    return [
        tried("values that were put", count),
        tried("calls that were traced", traced, "PutSecret"),
        Figure("values in the sealed export that its recipient reads", opened, "", "≥", min(count, NAMES) // 2),
        *(tried("places that have the names of secrets", _naming(texts[place]), place) for place in NAMED),
        *(_found(place, texts[place], [*canaries, key.encode()]) for place in texts),
    ]


async def _used(server: Subject, canaries: list[bytes]) -> tuple[Texts, int]:
    """Has a server work with values. Returns what it says by place, and how many values a sealed export has."""
    said: list[str] = []
    async with server.caller() as caller, calling(server.target, mint(operator=True)) as operator:
        for first in range(0, len(canaries), TOGETHER):
            await asyncio.gather(
                *(
                    put(caller, f"canary-{number % NAMES}", canary, request_id=str(uuid.uuid4()) if number % 3 else "")
                    for number, canary in enumerate(canaries[first : first + TOGETHER], first)
                )
            )
        for canary in canaries[:: max(1, len(canaries) // 10)]:
            said += await _provoked(caller, canary)
        await destroy(caller, 1, "canary-5")
        await delete(caller, "canary-6")
        newest = len(canaries) - 1
        assert await value(caller, f"canary-{newest % NAMES}") == canaries[newest]
        said.append(f"{await listed(caller)} {await versions(caller, 'canary-1')}")
        await _backed_up(operator)
        identity = pyrage.x25519.Identity.generate()
        sealed = await exported(caller, secrets_recipient=str(identity.to_public()))
        texts = {
            "answers": [*map(str.encode, said), (await server.metrics()).encode()],
            "exports": [await exported(caller), sealed],
        }
        return texts, _opened(sealed, identity, {*canaries})


async def _provoked(caller: Caller, canary: bytes) -> list[str]:
    """Has a server refuse a value in several ways, and returns all that it says."""
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


async def _backed_up(operator: Caller) -> None:
    made = (await operator.admin.CreateBackup(admin.CreateBackupRequest(), metadata=operator.metadata)).backup
    while made.state in (BACKUP_STATE_CREATING, BACKUP_STATE_VERIFYING):
        await asyncio.sleep(0.05)
        request = admin.GetBackupRequest(name=made.name)
        made = (await operator.admin.GetBackup(request, metadata=operator.metadata)).backup
    assert made.state == BACKUP_STATE_READY


def _opened(sealed: bytes, identity: pyrage.x25519.Identity, canaries: set[bytes]) -> int:
    """Returns how many of the values a sealed export has for its recipient."""
    records = (record for record in of_kind(sealed, "secret_version") if record.get("sealed_value"))
    opened = set[bytes]()
    for record in records:
        with contextlib.suppress(pyrage.DecryptError):
            opened.add(bytes(pyrage.decrypt(base64.b64decode(record["sealed_value"]), [identity])))
    return len(opened & canaries)


def _look(directory: Path, texts: Texts) -> None:
    """Adds what files have, by what they are."""
    for path in directory.rglob("*"):
        if path.is_file():
            texts.setdefault(_place(path), []).append(path.read_bytes())


def _place(path: Path) -> str:
    if path.parent.name == "backups":
        return "backups"
    return PLACES.get(path.suffix, "other files")


def _naming(texts: list[bytes]) -> int:
    return sum(NAME.encode() in text for text in texts)


def _found(place: str, texts: list[bytes], values: list[bytes]) -> Figure:
    found = sum(any(spelling in text for spelling in _spellings(each) for text in texts) for each in values)
    return Figure("values that were found", found, "", "=", 0, f"{place}, {sum(map(len, texts)):,} bytes")


def _spellings(canary: bytes) -> Iterator[bytes]:
    """Yields a value as it might be written."""
    yield from (canary, canary.hex().encode(), canary.hex().upper().encode())
    yield from (base64.b64encode(bytes(pad) + canary)[4:-4] for pad in range(3))
