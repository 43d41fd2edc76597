"""Part (x): how fast a vault is exported and imported, and what memory that takes."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
from metamorph.vault.v1.vault_service_pb2 import ExportVaultRequest, ImportVaultRequest
from metamorph.vault.v1.vault_service_pb2_grpc import VaultServiceStub
from rich.progress import Progress

from bench.backups import Watch
from bench.figure import Figure
from bench.processes import sized_service, token
from tests.support.generated.files import FILES, measurable
from tests.support.generated.layout import LARGE_VAULT, Layout
from tests.support.processes import Service

STEPS = 2
LEAST_MEGABYTES = 50
MOST_MEBIBYTES = 32
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

    def __init__(self, layout: Layout, *, progress: Progress, step: Callable[[str], None], files: Path = FILES) -> None:
        self._layout = layout
        self._progress = progress
        self._step = step
        self._files = files

    def figures(self) -> Iterator[Figure]:
        """Yields the figures. The file is generated if it is not there."""
        with measurable(self._layout, self._files, self._progress) as file, sized_service(file) as server:
            exported = file.with_suffix(".ndjson")
            self._step("export")
            # What the first one imports and caches stays.
            _export(server, exported)
            export = _measured(server, file, lambda: _export(server, exported))
            self._step("import")
            imported = _measured(server, file, lambda: _import(server, exported))
        yield Figure(
            f"(x) export of {export.size / 1e6:.0f} MB, downloaded and hashed",
            f"{export.rate / 1e6:.0f} MB/s",
            target=f"≥ {LEAST_MEGABYTES} MB/s",
            met=export.rate >= LEAST_MEGABYTES * 1e6,
        )
        yield _memory("export", export)
        yield Figure("(x) import of the same, to its end", f"{imported.rate / 1e6:.1f} MB/s")
        yield _memory("import", imported)
        yield Figure("(x) largest write-ahead log beside both", f"{max(export.log, imported.log) / 2**20:.0f} MiB")


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


def _import(server: Service, file: Path) -> int:
    """Imports a file into another vault, and returns its size."""

    def requests() -> Iterator[ImportVaultRequest]:
        with open(file, "rb") as read:
            while data := read.read(SENT_BYTES):
                yield ImportVaultRequest(data=data)

    async def imported() -> None:
        async with grpc.aio.insecure_channel(server.target) as channel:
            await VaultServiceStub(channel).ImportVault(requests(), metadata=_metadata("imported"))

    asyncio.run(imported())
    return file.stat().st_size


def _metadata(vault: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token(vault, permissions=['admin'])}"),)
