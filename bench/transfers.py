"""Part (x): how fast a vault is exported and imported, what memory that takes, and what others notice."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from metamorph_client.chat.v1.chat_service_pb2 import GetSessionRequest
from metamorph_client.vault.v1.vault_service_pb2 import ExportVaultRequest, ImportVaultRequest
from metamorph_client.vault.v1.vault_service_pb2_grpc import VaultServiceStub
from rich.progress import Progress

from bench.backups import WARM_SECONDS, Watch, Writers, latency
from bench.figure import Figure
from bench.processes import sized_service, token
from bench.sizes import at
from tests.support.generated.files import FILES, measurable
from tests.support.generated.layout import LARGE_VAULT, Layout
from tests.support.processes import Service

STEPS = 4
LEAST_EXPORT_MEGABYTES, LEAST_IMPORT_MEGABYTES = 50, 5
MOST_MEBIBYTES = 32
IDLE_SECONDS = 10.0
# Of another vault's calls, to the p99 of an idle server or to the floor.
MOST_RATIO, FLOOR_SECONDS = 3.0, 0.005
SENT_BYTES = 256 * 1024


@dataclass(frozen=True)
class Transfer:
    """A transfer that was measured: bytes a second, the memory that it added in MiB, the largest log in bytes."""

    size: int
    rate: float
    mebibytes: float
    log: int


class Transfers:
    """Measures the export of the largest vault of a file, and its import into another vault."""

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
        with measurable(self._layout, self._files, self._progress) as file, sized_service(file) as server:
            exported = file.with_suffix(".ndjson")
            self._step("export")
            # What the first one imports and caches stays.
            _export(server, exported)
            export = _measured(server, file, lambda: _export(server, exported))
            self._step("import")
            imported = _measured(server, file, lambda: asyncio.run(_import(server, exported, "imported")))
            idle, beside = asyncio.run(self._beside(server, exported))
        yield Figure(
            f"(x) export of {export.size / 1e6:.0f} MB, downloaded and hashed",
            f"{export.rate / 1e6:.0f} MB/s",
            target=f"≥ {LEAST_EXPORT_MEGABYTES} MB/s",
            met=export.rate >= LEAST_EXPORT_MEGABYTES * 1e6,
        )
        yield _memory("export", export)
        yield Figure(
            "(x) import of the same, to its end",
            f"{imported.rate / 1e6:.1f} MB/s",
            target=f"≥ {LEAST_IMPORT_MEGABYTES} MB/s",
            met=imported.rate >= LEAST_IMPORT_MEGABYTES * 1e6,
        )
        yield _memory("import", imported)
        ratio = at(beside, 99) / max(at(idle, 99), FLOOR_SECONDS)
        yield Figure(
            "(x) another vault's CreateSession and GetSession beside an import, against none",
            latency(beside),
            latency(idle),
            f"p99 {ratio:.2f}",
            f"≤ {MOST_RATIO:.0f}, of 5 ms at least",
            ratio <= MOST_RATIO,
        )
        yield Figure("(x) largest write-ahead log beside both", f"{max(export.log, imported.log) / 2**20:.0f} MiB")

    async def _beside(self, server: Service, file: Path) -> tuple[Sequence[float], Sequence[float]]:
        """Returns how long another vault's calls take on an idle server, and beside an import."""
        async with grpc.aio.insecure_channel(server.target) as channel:
            neighbour = Neighbour(channel)
            self._step("another vault alone")
            await neighbour.during(asyncio.sleep(min(WARM_SECONDS, self._idle_seconds)))
            idle = await neighbour.during(asyncio.sleep(self._idle_seconds))
            self._step("another vault beside an import")
            return idle, await neighbour.during(_import(server, file, "beside"))


class Neighbour(Writers):
    """Calls of a vault, each session created and read."""

    async def _write(self, due: float, seconds: list[float]) -> str:
        session_id = await super()._write(due, seconds)
        began = time.perf_counter()
        await self._chat.GetSession(GetSessionRequest(session_id=session_id), metadata=self._metadata)
        seconds.append(time.perf_counter() - began)
        return session_id


def _memory(name: str, transfer: Transfer) -> Figure:
    return Figure(
        f"(x) resident memory that the {name} added",
        f"{transfer.mebibytes:.0f} MiB",
        target=f"≤ {MOST_MEBIBYTES} MiB",
        met=transfer.mebibytes <= MOST_MEBIBYTES,
    )


def _measured(server: Service, file: Path, transfer: Callable[[], int]) -> Transfer:
    before, watch = server.resident_megabytes, Watch(server, file)
    began = time.monotonic()
    with watch:
        size = transfer()
    rate = size / (time.monotonic() - began)
    return Transfer(size, rate, (watch.megabytes - before) * 1e6 / 2**20, watch.log)


def _export(server: Service, file: Path) -> int:
    """Exports a vault to a file, and returns its size."""
    hashed = hashlib.sha256()

    async def export() -> int:
        async with grpc.aio.insecure_channel(server.target) as channel:
            with open(file, "wb") as written:  # noqa: ASYNC230, nothing else runs
                responses = VaultServiceStub(channel).ExportVault(ExportVaultRequest(), metadata=_metadata(LARGE_VAULT))
                async for response in responses:
                    hashed.update(response.data)
                    written.write(response.data)
                return written.tell()

    return asyncio.run(export())


async def _import(server: Service, file: Path, vault: str) -> int:
    """Imports a file into a vault, and returns its size."""

    sent = 0

    def requests() -> Iterator[ImportVaultRequest]:
        nonlocal sent
        with open(file, "rb") as read:
            while data := read.read(SENT_BYTES):
                sent += len(data)
                yield ImportVaultRequest(data=data)

    async with grpc.aio.insecure_channel(server.target) as channel:
        await VaultServiceStub(channel).ImportVault(requests(), metadata=_metadata(vault))
    return sent


def _metadata(vault: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token(vault, permissions=['admin'])}"),)
