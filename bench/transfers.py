"""Part (x): how fast a vault is exported, and what memory that takes."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
from metamorph.vault.v1.vault_service_pb2 import ExportVaultRequest
from metamorph.vault.v1.vault_service_pb2_grpc import VaultServiceStub
from rich.progress import Progress

from bench.backups import Watch
from bench.figure import Figure
from bench.processes import sized_service, token
from tests.support.generated.files import FILES, measurable
from tests.support.generated.layout import LARGE_VAULT, Layout
from tests.support.processes import Service

STEPS = 1
LEAST_MEGABYTES = 50
MOST_MEBIBYTES = 32


class Transfers:
    """Measures the export of the largest vault of a file."""

    def __init__(self, layout: Layout, *, progress: Progress, step: Callable[[str], None], files: Path = FILES) -> None:
        self._layout = layout
        self._progress = progress
        self._step = step
        self._files = files

    def figures(self) -> Iterator[Figure]:
        """Yields the figures. The file is generated if it is not there."""
        with measurable(self._layout, self._files, self._progress) as file, sized_service(file) as server:
            self._step("export")
            # What the first one imports and caches stays.
            asyncio.run(_exported(server))
            before, watch = server.resident_megabytes, Watch(server, file)
            began = time.monotonic()
            with watch:
                size = asyncio.run(_exported(server))
            rate = size / 1e6 / (time.monotonic() - began)
        grown = (watch.megabytes - before) * 1e6 / 2**20
        yield Figure(
            f"(x) export of {size / 1e6:.0f} MB, downloaded and hashed",
            f"{rate:.0f} MB/s",
            target=f"≥ {LEAST_MEGABYTES} MB/s",
            met=rate >= LEAST_MEGABYTES,
        )
        yield Figure(
            "(x) resident memory that the export added",
            f"{grown:.0f} MiB",
            target=f"≤ {MOST_MEBIBYTES} MiB",
            met=grown <= MOST_MEBIBYTES,
        )
        yield Figure("(x) largest write-ahead log beside the export", f"{watch.log / 2**20:.0f} MiB")


async def _exported(server: Service) -> int:
    """Exports a vault, and returns the size of the file."""
    metadata = (("authorization", f"Bearer {token(LARGE_VAULT, permissions=['admin'])}"),)
    size, hashed = 0, hashlib.sha256()
    async with grpc.aio.insecure_channel(server.target) as channel:
        async for response in VaultServiceStub(channel).ExportVault(ExportVaultRequest(), metadata=metadata):
            size += len(response.data)
            hashed.update(response.data)
    return size
