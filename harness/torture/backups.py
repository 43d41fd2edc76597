"""Backups under writes: each one restored to another place, and compared with what was acknowledged before it began."""

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import apsw
import grpc
from metamorph_client.admin.v1 import admin_service_pb2 as admin
from metamorph_client.admin.v1.backup_pb2 import BACKUP_STATE_CREATING, BACKUP_STATE_READY, Backup, BackupState

from harness.figure import NOT_MEASURED, Figure, tried
from harness.run import Run
from harness.torture.authors import OPTIONS, VAULTS, Author, authors, writing
from harness.torture.contents import titles
from harness.torture.zygote import Life, Zygote
from tests.support.caller import Caller
from tests.support.ports import free_port
from tests.support.tokens import mint

AUTHORS = 16
# More than is claimed, since a busy server is late now and then.
AIMED_RATE = 300.0
LOOK_SECONDS = 0.02
DAY_SECONDS = 24 * 3600
# A session of this many random characters, so that copying takes a while.
FILLING = 100_000
NOTED_BACKUPS = 20
LOST = "acknowledged rows missing from a backup begun after them"
MIXED = "backups that are not of one moment"
BAD = "backups that were not made, or are damaged"
UNRESTORED = "backups that cannot be restored"
UNSERVED = "restored databases that a server does not serve as they were"
FAULTS = (LOST, MIXED, BAD, UNRESTORED, UNSERVED)


@dataclass
class Seen:
    """Measurements, and the faults by kind."""

    faults: Counter[str] = field(default_factory=Counter)
    backups: int = 0
    restored: int = 0
    compared: int = 0
    seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def fault(self, kind: str, where: str, count: int = 1) -> None:
        """Records a fault and prints it."""
        self.faults[kind] += count
        sys.stderr.write(f"{kind}: {where}\n")


class Backups:
    """Backups of one server, one after another. While the next one is made, the one before is restored and checked."""

    def __init__(
        self, operator: Caller, *, server: Zygote, elsewhere: Zygote, some: Sequence[Author], mutant: str
    ) -> None:
        self.seen = Seen()
        self._operator = operator
        self._server = server
        self._elsewhere = elsewhere
        self._authors = some
        self._mutant = mutant

    async def run(self, count: int) -> None:
        """Makes backups, and stops at the first fault when it looks for a mutant."""
        checking: asyncio.Task[None] | None = None
        for number in range(count):
            if number % NOTED_BACKUPS == 0:
                sys.stderr.write(f"backups: {number} of {count}, {self.acknowledged} writes\n")
            before = [author.written.acknowledged for author in self._authors]
            name = await self._make()
            if checking is not None:
                await checking
            checking = None
            if self._mutant and self.seen.faults:
                return
            if name:
                checking = asyncio.create_task(self._check(name, before))
        if checking is not None:
            await checking

    @property
    def acknowledged(self) -> int:
        """How many writes were acknowledged."""
        return sum(author.written.acknowledged for author in self._authors)

    async def _make(self) -> str:
        """Makes a backup, and returns its name, or nothing if it is not good."""
        began, acknowledged = time.monotonic(), self.acknowledged
        backup = await create_backup(self._operator)
        seconds = time.monotonic() - began
        self.seen.backups += 1
        self.seen.seconds.append(seconds)
        self.seen.rates.append((self.acknowledged - acknowledged) / seconds)
        if backup.state != BACKUP_STATE_READY:
            self.seen.fault(
                BAD, f"{backup.name}: {BackupState.Name(backup.state)}, {backup.fault}, {_last_lines(self._server.log)}"
            )
            return ""
        return str(backup.name)

    async def _check(self, name: str, acknowledged: Sequence[int]) -> None:
        file = self._server.database.parent / "backups" / name
        restore = self._elsewhere.restore(file, mutant=self._mutant)
        await restore.ended.wait()
        if restore.status:
            self.seen.fault(UNRESTORED, f"{name}: status {restore.status}, {_last_lines(self._elsewhere.log)}")
            return
        self.seen.restored += 1
        try:
            stored = await asyncio.to_thread(titles, self._elsewhere.database)
        except apsw.Error as error:
            self.seen.fault(UNSERVED, f"{name}: {error}")
            return
        for author, number in zip(self._authors, acknowledged, strict=True):
            self._compare(name, author, number, stored.get((author.written.vault, author.written.author), {}))
        if await self._serves(stored):
            self.seen.compared += 1
        else:
            self.seen.fault(UNSERVED, name)
        for old in self._elsewhere.database.parent.glob(f"{self._elsewhere.database.name}.before-*"):
            old.unlink()
        await self._operator.admin.DeleteBackup(admin.DeleteBackupRequest(name=name), metadata=self._operator.metadata)

    def _compare(self, name: str, author: Author, acknowledged: int, stored: Mapping[int, int]) -> None:
        missing = author.written.missing(stored, acknowledged)
        where = f"{name}, author {author.written.author}"
        if missing:
            self.seen.fault(LOST, f"{where}: sessions {missing[:9]} of {acknowledged} writes", len(missing))
        elif not author.written.of_one_moment(stored):
            self.seen.fault(MIXED, where)

    async def _serves(self, stored: Mapping[tuple[str, str], Mapping[int, int]]) -> bool:
        life: Life = self._elsewhere.start(mutant=self._mutant)
        try:
            if not await life.until_serving():
                return False
            async with grpc.aio.insecure_channel(self._elsewhere.target, options=OPTIONS) as channel:
                caller = Caller(channel, ())
                for author in self._authors:
                    key = (author.written.vault, author.written.author)
                    if await author.differs(caller, stored.get(key, {})):
                        return False
        except grpc.aio.AioRpcError as error:
            sys.stderr.write(f"{error.details()}\n")
            return False
        finally:
            # With a log beside its database, over which the next backup is restored.
            await self._elsewhere.kill()
        return True


async def create_backup(operator: Caller) -> Backup:
    """Makes a backup, and returns it once nothing is done on it."""
    backup = (await operator.admin.CreateBackup(admin.CreateBackupRequest(), metadata=operator.metadata)).backup
    while backup.state == BACKUP_STATE_CREATING:
        await asyncio.sleep(LOOK_SECONDS)
        request = admin.GetBackupRequest(name=backup.name)
        backup = (await operator.admin.GetBackup(request, metadata=operator.metadata)).backup
    return backup


def operating(channel: grpc.aio.Channel) -> Caller:
    """Returns an operator, for a day."""
    token = mint(user="operator", operator=True, exp=int(time.time()) + DAY_SECONDS)
    return Caller(channel, [("authorization", f"Bearer {token}")])


async def fill(caller: Caller, mebibytes: float, seed: int) -> None:
    """Stores sessions of so much text."""
    chance = random.Random(seed)  # noqa: S311, repeatable
    for _ in range(int(mebibytes * 2**20 / FILLING)):
        await caller.create_session(title="filling", system_prompt=chance.randbytes(FILLING // 2).hex())


def backed_up(directory: Path) -> Zygote:
    """Returns servers that make no backup by themselves, with their files in a directory."""
    directory.mkdir()
    return Zygote(directory, port=free_port(), backup_interval_hours=0)


async def backups(
    run: Run, *, count: int, mebibytes: float = 20, least_rate: float = 200, clients: int = AUTHORS
) -> list[Figure]:
    """Makes `count` backups while clients write, restores each, and counts what is missing."""
    async with AsyncExitStack() as stack:
        server, elsewhere = [
            await stack.enter_async_context(backed_up(run.directory / name)) for name in ("server", "elsewhere")
        ]
        if not await server.start(mutant=run.mutant).until_serving():
            raise RuntimeError(f"the server does not start: {_last_lines(server.log)}")
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.target))
        operator = operating(channel)
        await fill(operator, mebibytes, run.seed)
        some = await stack.enter_async_context(
            authors(server.target, clients, generation=0, seed=run.seed, rate=AIMED_RATE)
        )
        making = Backups(operator, server=server, elsewhere=elsewhere, some=some, mutant=run.mutant)
        began = time.monotonic()
        async with writing(some):
            await making.run(count)
            seconds = time.monotonic() - began
        await server.kill()
    return _figures(making, count, seconds, least_rate)


def _figures(making: Backups, count: int, seconds: float, least_rate: float) -> list[Figure]:
    seen = making.seen
    return [
        Figure("backups made", seen.backups, "", "=", count),
        Figure("backups restored and checked", seen.compared, "", "=", count),
        tried("writes acknowledged", making.acknowledged, f"{AUTHORS} clients of {VAULTS} vaults"),
        Figure("writes acknowledged a second", making.acknowledged / seconds, "/s", "≥", least_rate),
        Figure(
            "writes acknowledged a second while a backup was made, median", median(seen.rates or [NOT_MEASURED]), "/s"
        ),
        Figure("from the call to a backup that is verified, median", median(seen.seconds or [NOT_MEASURED]), "s"),
        Figure("from the call to a backup that is verified, longest", max(seen.seconds, default=NOT_MEASURED), "s"),
        *(Figure(kind, seen.faults[kind], "", "=", 0) for kind in FAULTS),
    ]


def _last_lines(log: Path) -> str:
    return log.read_text()[-2000:] if log.exists() else ""
