"""Restores over a database whose server was killed, whole ones and ones that are killed: old or new, never mixed."""

import asyncio
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import apsw
import grpc
from metamorph_client.admin.v1 import admin_service_pb2 as admin
from metamorph_client.admin.v1.backup_pb2 import BACKUP_STATE_READY

from harness.figure import NOT_MEASURED, Figure
from harness.run import Run
from harness.torture.authors import OPTIONS, Author, authors, writing
from harness.torture.backups import backed_up, create_backup, fill, operating
from harness.torture.contents import copied, digest, titles
from harness.torture.zygote import Life, Zygote

CLIENTS = 8
RATE = 200.0
# How long is written before a backup, after it, and beside another one that is not complete.
BEFORE_SECONDS, AFTER_SECONDS, BESIDE_SECONDS = 0.3, 0.3, 0.1
WHOLE, KILLED, INTERRUPTED = "whole", "killed", "interrupted"
# How often a restore passes a point, at most.
PASSES = {"rename": 4, "unlink": 2, "sync": 6}
AT_A_POINT = 0.5
BESIDE = DAMAGED = AGAIN = 0.25
SERVER_KILLED_TOO = 0.4
DAMAGED_BYTES = 4096
FIRST_SECONDS = 0.1
LOOK_SECONDS = 0.0005
NOTED_ROUNDS = 10
# A kill that comes too late or too early does not count, and is tried again.
MOST_TRIES = 4

MOMENTS = ("while the backup was copied", "while files were renamed", "before or after that")
OUTCOMES = OLD, NEW, DAMAGED_BEFORE = "the old one", "the new one", "damaged before the restore"
GONE = "acknowledged rows missing after kill -9"
FAILED = "restores that failed"
MIXED = "databases that are neither the old nor the new one"
NOT_KEPT = "old databases that were not kept as they were"
UNSERVED = "databases with which no server starts"
LEFT = "files that an interrupted restore leaves for good"
FAULTS = (GONE, FAILED, MIXED, NOT_KEPT, UNSERVED, LEFT)


@dataclass(frozen=True)
class Before:
    """A database whose server was killed, and the backup that is to take its place: digests of what is in them."""

    backup: Path
    old: str
    new: str
    damaged: bool


class Restores:
    """Rounds: a server is killed, a backup is restored, and a server is started.

    Stops at the first fault when it looks for a mutant.
    """

    def __init__(self, zygote: Zygote, *, seed: int, mutant: str, at_a_point: float) -> None:
        self.faults: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.moments: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.rounds = 0
        self._zygote = zygote
        self._database = zygote.database
        self._random = random.Random(seed)  # noqa: S311, repeatable
        self._seed = seed
        self._mutant = mutant
        self._at_a_point = at_a_point

    async def run(self, wanted: Counter[str], mebibytes: float) -> None:
        """Runs rounds until there were enough of each kind."""
        if not await self._start():
            return
        async with grpc.aio.insecure_channel(self._zygote.target, options=OPTIONS) as channel:
            await fill(operating(channel), mebibytes, self._seed)
        while (left := wanted - self.done) and self.rounds < MOST_TRIES * wanted.total():
            if self.rounds % NOTED_ROUNDS == 0:
                sys.stderr.write(f"restores: {dict(self.done)} of {dict(wanted)}\n")
            self.rounds += 1
            (kind,) = self._random.choices(list(left), list(left.values()))
            if not await self._round(kind) or (self._mutant and self.faults):
                break
        await self._zygote.kill()

    async def _round(self, kind: str) -> bool:
        """Returns whether another one can follow."""
        before = await self._killed_server(damaging=kind == WHOLE and self._random.random() < DAMAGED)
        life = await self._restore(kind, before.backup)
        counts = life.status == {WHOLE: 0, KILLED: -signal.SIGKILL, INTERRUPTED: 1}[kind]
        if counts and kind != WHOLE:
            self.moments[self._moment()] += 1
        if kind != WHOLE and self._random.random() < SERVER_KILLED_TOO:
            await self._start_and_kill()
        elif kind != WHOLE and self._random.random() < AGAIN:
            life = await self._restore(WHOLE, before.backup)
        if not await self._start():
            return False
        await self._compare(before, must_be_new=life.status == 0)
        self.done[kind] += counts
        for left in (*self._asides(), before.backup, Path(f"{before.backup}.json")):
            left.unlink(missing_ok=True)
        return True

    async def _killed_server(self, *, damaging: bool) -> Before:
        """Writes, makes a backup, goes on writing and kills the server, possibly while it makes another backup."""
        async with (
            grpc.aio.insecure_channel(self._zygote.target, options=OPTIONS) as channel,
            authors(self._zygote.target, CLIENTS, generation=self.rounds, seed=self._seed, rate=RATE) as some,
            writing(some),
        ):
            operator = operating(channel)
            await asyncio.sleep(self._random.uniform(0, BEFORE_SECONDS))
            backup = await create_backup(operator)
            if backup.state != BACKUP_STATE_READY:
                raise RuntimeError(f"no backup was made: {backup}, {self._zygote.log.read_text()[-2000:]}")
            await asyncio.sleep(self._random.uniform(0, AFTER_SECONDS))
            if self._random.random() < BESIDE:
                await operator.admin.CreateBackup(admin.CreateBackupRequest(), metadata=operator.metadata)
                await asyncio.sleep(self._random.uniform(0, BESIDE_SECONDS))
            for author in some:
                author.stopping = True
            acknowledged = [author.written.acknowledged for author in some]
            await self._zygote.kill()
        file = self._database.parent / "backups" / backup.name
        old, new = await asyncio.to_thread(self._digests, file, some, acknowledged)
        if damaging:
            with self._database.open("r+b") as damaged:
                damaged.write(self._random.randbytes(DAMAGED_BYTES))
            self.outcomes[DAMAGED_BEFORE] += 1
        return Before(file, old=old, new=new, damaged=damaging)

    def _digests(self, backup: Path, some: list[Author], acknowledged: list[int]) -> tuple[str, str]:
        with copied(self._database) as copy:
            stored = titles(copy)
            for author, number in zip(some, acknowledged, strict=True):
                written = author.written
                if missing := written.missing(stored.get((written.vault, written.author), {}), number):
                    self._fault(GONE, f"author {written.author}, sessions {missing}")
            old = digest(copy)
        with copied(backup) as copy:
            return old, digest(copy)

    async def _restore(self, kind: str, backup: Path) -> Life:
        restore, began = self._zygote.restore, time.monotonic()
        if kind == WHOLE:
            life = restore(backup, mutant=self._mutant)
            await life.ended.wait()
            self.seconds.append(time.monotonic() - began)
            if life.status:
                self._fault(FAILED, f"status {life.status}")
            return life
        by = signal.SIGKILL if kind == KILLED else signal.SIGINT
        if self._random.random() < self._at_a_point:
            point, passed = self._point()
            life = restore(backup, mutant=self._mutant, point=point, count=passed, by=by)
        else:
            life = restore(backup, mutant=self._mutant)
            while not self._copy.exists() and not await life.ends_within(LOOK_SECONDS):
                pass
            await asyncio.sleep(self._random.uniform(0, median(self.seconds or [FIRST_SECONDS]) / 2))
            self._zygote.signal(by)
        await life.ended.wait()
        return life

    def _point(self) -> tuple[str, int]:
        noun = self._random.choice(list(PASSES))
        return f"{self._random.choice(('before', 'after'))} {noun}", self._random.randint(1, PASSES[noun])

    @property
    def _copy(self) -> Path:
        return Path(f"{self._database}-restored.part")

    def _moment(self) -> str:
        """When a restore was killed, by the files that it left."""
        if Path(f"{self._database}-replacing").exists():
            return MOMENTS[1]
        return MOMENTS[0] if self._copy.exists() else MOMENTS[2]

    async def _start(self) -> bool:
        life = self._zygote.start(mutant=self._mutant)
        if not await life.until_serving():
            self._fault(UNSERVED, f"status {life.status}")
        return life.serving.is_set()

    async def _start_and_kill(self) -> None:
        """Kills a server where it completes a restore, or if it has no such point, once it serves."""
        point, passed = self._point()
        await self._zygote.start(mutant=self._mutant, point=point, count=passed).until_serving()
        await self._zygote.kill()

    async def _compare(self, before: Before, *, must_be_new: bool) -> None:
        try:
            found = await asyncio.to_thread(digest, self._database)
        except apsw.Error as error:
            self._fault(MIXED, str(error))
            return
        if found not in ((before.new,) if must_be_new else (before.old, before.new)):
            self._fault(MIXED, f"it is the old one: {found == before.old}")
            return
        self.outcomes[NEW if found == before.new else OLD] += 1
        if found == before.new and not before.damaged and not await asyncio.to_thread(self._kept, before.old):
            self._fault(NOT_KEPT, f"{[path.name for path in self._asides()]}")
        files = (self._database.parent, self._database.parent / "backups")
        left = [path.name for where in files for path in where.iterdir() if path.name.endswith((".part", "-replacing"))]
        if left:
            self._fault(LEFT, f"{left}")

    def _kept(self, old: str) -> bool:
        for path in self._asides():
            if not path.name.endswith(("-wal", "-shm")):
                with copied(path) as copy:
                    if digest(copy) == old:
                        return True
        return False

    def _asides(self) -> list[Path]:
        return list(self._database.parent.glob(f"{self._database.name}.before-*"))

    def _fault(self, kind: str, where: str) -> None:
        self.faults[kind] += 1
        sys.stderr.write(f"{kind}: round {self.rounds}, {where}\n{self._zygote.log.read_text()[-1000:]}\n")


async def restores(
    run: Run, *, whole: int, kills: int, interrupts: int, mebibytes: float = 20, at_a_point: float = AT_A_POINT
) -> list[Figure]:
    """Restores over databases of killed servers; kills some restores, and ends some as by Ctrl-C.

    `at_a_point` is the share of those that end at a named point. The others end at a random moment.
    """
    async with backed_up(run.directory / "server") as zygote:
        rounds = Restores(zygote, seed=run.seed, mutant=run.mutant, at_a_point=at_a_point)
        await rounds.run(Counter({WHOLE: whole, KILLED: kills, INTERRUPTED: interrupts}), mebibytes)
    done, wanted = rounds.done, {WHOLE: whole, KILLED: kills, INTERRUPTED: interrupts}
    return [
        Figure("restores after kill -9 of the server", done[WHOLE], "", "=", wanted[WHOLE]),
        Figure("kill -9 in mid-restore", done[KILLED], "", "=", wanted[KILLED]),
        Figure("Ctrl-C in mid-restore", done[INTERRUPTED], "", "=", wanted[INTERRUPTED]),
        *(Figure(f"restores ended {moment}", rounds.moments[moment]) for moment in MOMENTS),
        *(Figure(f"databases that were {outcome}", rounds.outcomes[outcome]) for outcome in OUTCOMES),
        Figure("a whole restore, median", median(rounds.seconds or [NOT_MEASURED]), "s"),
        *(Figure(kind, rounds.faults[kind], "", "=", 0) for kind in FAULTS),
    ]
