"""The server under attack, a process of its own, and how a neighbour fares meanwhile."""

import asyncio
import json
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.caller import Caller, calling
from tests.support.paths import ROOT
from tests.support.processes import Service, environment_of, service
from tests.support.tokens import mint

LOOK_SECONDS = 0.2


@dataclass
class Subject:
    """A running server. `http` is where its metrics are."""

    service: Service
    http: str
    growth_from: float = field(default=0.0)
    growth_to: float = field(default=0.0)

    @property
    def target(self) -> str:
        return self.service.target

    def begin(self) -> None:
        """From here on memory is counted."""
        self.growth_from = self.service.resident_megabytes

    @property
    def growth(self) -> float:
        """Megabytes since `begin`; after `growing`, the most that it was."""
        return max(self.growth_to, self.service.resident_megabytes) - self.growth_from

    @asynccontextmanager
    async def growing(self) -> AsyncIterator[None]:
        """Looks at the memory all through the block."""
        self.begin()
        looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            looking.cancel()

    async def _look(self) -> None:
        while self.alive:
            self.growth_to = max(self.growth_to, self.service.resident_megabytes)
            await asyncio.sleep(LOOK_SECONDS)

    @property
    def alive(self) -> bool:
        return self.service.process.poll() is None

    def lines(self) -> Iterator[dict[str, Any]]:
        """Its log, but for a line that is being written."""
        with self.service.log.open() as log:
            for line in log:
                if line.endswith("\n"):
                    yield json.loads(line)

    async def metrics(self) -> str:
        """What /metrics tells."""

        def fetch() -> str:
            with urllib.request.urlopen(f"{self.http}/metrics") as response:  # noqa: S310, ours, on loopback
                return str(response.read().decode())

        return await asyncio.to_thread(fetch)

    @asynccontextmanager
    async def caller(self, **claims: Any) -> AsyncIterator[Caller]:
        """A caller with a channel of its own."""
        async with calling(self.target, mint(**claims)) as caller:
            yield caller


@contextmanager
def subject(
    directory: Path,
    *,
    mutant: str = "",
    patience_seconds: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Subject]:
    """A server without a rate limit, so that the attack reaches what lies behind it; changed by `mutant` if there is
    one. `patience_seconds` is how long it waits for a caller to read, if not as long as in production."""
    # As in the image.
    allocator = {"MALLOC_ARENA_MAX": "2", "MALLOC_TRIM_THRESHOLD_": "131072"}
    module = ["metamorphd", "serve"]
    if mutant or patience_seconds is not None:
        patience = [] if patience_seconds is None else [f"--patience-seconds={patience_seconds}"]
        module = ["harness.abuse.serve", *patience, f"--mutant={mutant}"]
    with service(module, directory, environment_of(directory) | allocator | dict(environment or {})) as running:
        yield Subject(running, f"http://127.0.0.1:{running.http_port}")


@asynccontextmanager
async def neighbour(subject: Subject) -> AsyncIterator[list[float]]:
    """Another vault's GetSession calls, one after the other from a process of their own, during the block.

    Yields a list that afterwards holds each call's milliseconds; infinity for one that failed.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "harness.abuse.neighbour", subject.target, mint("neighbour", "neighbour"),
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    await process.stdout.readline()
    measured: list[float] = []
    try:
        yield measured
    finally:
        told, _ = await process.communicate(b"")
        measured.extend(json.loads(told))


def p99(milliseconds: list[float]) -> float:
    """The 99th percentile."""
    return sorted(milliseconds)[int(len(milliseconds) * 0.99)]


def since(began: float) -> float:
    """Seconds since `began`, a monotonic time."""
    return time.monotonic() - began
