"""Part (h): what a backup of a large file costs those who write meanwhile, and how fast it is restored."""

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from metamorph_client.admin.v1.admin_service_pb2 import CreateBackupRequest, GetBackupRequest
from metamorph_client.admin.v1.admin_service_pb2_grpc import AdminServiceStub
from metamorph_client.admin.v1.backup_pb2 import BACKUP_STATE_CREATING, Backup
from metamorph_client.chat.v1.chat_service_pb2 import CreateSessionRequest
from metamorph_client.chat.v1.chat_service_pb2_grpc import ChatServiceStub
from metamorph_client.chat.v1.session_pb2 import Session
from rich.progress import Progress

from bench.figure import Figure
from bench.processes import sized_service, token
from bench.sizes import at
from tests.support.generated.files import FILES, measurable
from tests.support.generated.layout import Layout
from tests.support.processes import SOURCES, Service

PER_SECOND = 250
IDLE_SECONDS = 20.0
WARM_SECONDS = 5.0
LOOK_SECONDS = 0.1
MOST_RATIO = 2.0
MOST_MEBIBYTES = 64
LEAST_MEGABYTES = 200
STEPS = 3


class Backups:
    """Measures a backup of one file: first the writers alone, then beside it, then the restore."""

    def __init__(
        self,
        layout: Layout,
        *,
        progress: Progress,
        step: Callable[[str], None],
        files: Path = FILES,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._layout = layout
        self._progress = progress
        self._step = step
        self._files = files
        self._idle_seconds = idle_seconds

    def figures(self) -> Iterator[Figure]:
        """Yields the figures. The file is generated if it is not there."""
        with measurable(self._layout, self._files, self._progress) as file:
            with sized_service(file) as server:
                backup, figures = asyncio.run(self._measured(server, file))
                yield from figures
            yield self._restored(file.parent / "backups" / backup.name)
            for made in (file.parent / "backups").glob(f"{backup.name}*"):
                made.unlink()

    async def _measured(self, server: Service, file: Path) -> tuple[Backup, list[Figure]]:
        async with grpc.aio.insecure_channel(server.target) as channel:
            writers = Writers(channel)
            self._step("writers alone")
            await writers.during(asyncio.sleep(min(WARM_SECONDS, self._idle_seconds)))
            idle = await writers.during(asyncio.sleep(self._idle_seconds))
            self._step("writers beside a backup")
            before = server.resident_megabytes
            watch = Watch(server, file)
            began = time.monotonic()
            backups: list[Backup] = []
            with watch:
                beside = await writers.during(_backed_up(channel, backups))
            seconds, backup = time.monotonic() - began, backups[-1]
        size = f"{backup.size_bytes / 1e9:.2f} GB"
        ratio = at(beside, 99) / at(idle, 99)
        grown = (watch.megabytes - before) * 1e6 / 2**20
        return backup, [
            Figure(
                f"(h) CreateSession, {PER_SECOND}/s, beside a backup of {size}, against none",
                latency(beside),
                latency(idle),
                f"p99 {ratio:.2f}",
                f"≤ {MOST_RATIO:.0f}",
                ratio <= MOST_RATIO,
            ),
            Figure(
                "(h) resident memory that the backup added",
                f"{grown:.0f} MiB",
                target=f"≤ {MOST_MEBIBYTES} MiB",
                met=grown <= MOST_MEBIBYTES,
            ),
            Figure("(h) largest write-ahead log beside the backup", f"{watch.log / 2**20:.0f} MiB"),
            Figure("(h) backup, verified", f"{seconds:.0f} s, {backup.size_bytes / 1e6 / seconds:.0f} MB/s"),
        ]

    def _restored(self, backup: Path) -> Figure:
        self._step("restore")
        with tempfile.TemporaryDirectory(dir=backup.parent.parent) as directory:
            command = ["backup", "restore", str(backup), "--yes", "--to", str(Path(directory) / "metamorph.db")]
            began = time.monotonic()
            subprocess.run(
                [sys.executable, "-m", "metamorphd", *command],
                check=True,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": SOURCES},
            )
            seconds = time.monotonic() - began
        rate = backup.stat().st_size / 1e6 / seconds
        return Figure(
            "(h) restore, verified and durable, of the whole command",
            f"{seconds:.0f} s, {rate:.0f} MB/s",
            target=f"≥ {LEAST_MEGABYTES} MB/s",
            met=rate >= LEAST_MEGABYTES,
        )


class Writers:
    """Calls that write, each at its time whether or not those before it have ended."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._chat = ChatServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token('writers')}"),)

    async def during(self, work: Coroutine[Any, Any, object]) -> list[float]:
        """Writes until some work is done, and returns how long each write took, in seconds."""
        seconds: list[float] = []
        running, calls = asyncio.ensure_future(work), set()
        due = time.perf_counter()
        while not running.done():
            call = asyncio.ensure_future(self._write(due, seconds))
            calls.add(call)
            call.add_done_callback(calls.discard)
            due += 1 / PER_SECOND
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await asyncio.gather(running, *calls)
        return seconds

    async def _write(self, due: float, seconds: list[float]) -> str:
        """Creates a session, and returns its ID."""
        request = CreateSessionRequest(session=Session(title="Beside a backup"))
        answer = await self._chat.CreateSession(request, metadata=self._metadata)
        # From when it was due: a server that stands still delays all that follow.
        seconds.append(time.perf_counter() - due)
        return answer.session.session_id


class Watch:
    """Watches the memory of a server and the log of its database."""

    def __init__(self, server: Service, file: Path) -> None:
        self.megabytes, self.log = 0.0, 0
        self._server = server
        self._log = Path(f"{file}-wal")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.megabytes = max(self.megabytes, self._server.resident_megabytes)
            self.log = max(self.log, self._log.stat().st_size if self._log.exists() else 0)


async def _backed_up(channel: grpc.aio.Channel, backups: list[Backup]) -> None:
    """Makes a backup, and appends it once it is verified. Raises RuntimeError if it is not good."""
    admin, metadata = AdminServiceStub(channel), (("authorization", f"Bearer {token('operator', operator=True)}"),)
    backup = (await admin.CreateBackup(CreateBackupRequest(), metadata=metadata)).backup
    while backup.state == BACKUP_STATE_CREATING:
        await asyncio.sleep(LOOK_SECONDS)
        backup = (await admin.GetBackup(GetBackupRequest(name=backup.name), metadata=metadata)).backup
    if backup.fault:
        raise RuntimeError(f"the backup is not good: {backup.fault}")
    backups.append(backup)


def latency(seconds: Sequence[float]) -> str:
    """Returns the p50 and the p99."""
    return f"p50 {at(seconds, 50) * 1e3:.1f}, p99 {at(seconds, 99) * 1e3:.1f} ms"
