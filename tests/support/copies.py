"""Backups without a server, and the copies of them."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pyrage
from metamorphd.backups.bucket import Bucket
from metamorphd.backups.copies import Copies
from metamorphd.backups.directory import Directory, name_at
from metamorphd.backups.ledger import NAME, LedgerFile
from metamorphd.backups.packing import Packing, parse_keys
from metamorphd.backups.remote import Remote
from metamorphd.clock import Clock
from metamorphd.models.backup import Copy, Manifest

IDENTITY = pyrage.x25519.Identity.generate()
NOW = 1_764_200_000_000_000


class SetClock(Clock):
    def __init__(self) -> None:
        super().__init__()
        self.time = NOW

    def now(self) -> int:
        return self.time


def backed_up(directory: Directory, time: int, size: int = 300_000, *, database_id: str = "") -> Manifest:
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
        database_id=database_id,
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
        ledger=LedgerFile(directory.path / NAME),
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
