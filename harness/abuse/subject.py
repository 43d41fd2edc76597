"""The server under attack, in a process of its own, and a neighbour that measures its latency."""

import asyncio
import json
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.figure import NOT_MEASURED
from tests.support.caller import Caller, calling
from tests.support.paths import ROOT
from tests.support.processes import ALLOCATOR, Service, environment_of, service
from tests.support.tokens import mint

LOOK_SECONDS = 0.2


@dataclass
class Subject:
    """A running server; `http` is the URL of its metrics."""

    service: Service
    http: str
    growth_from: float = field(default=0.0)
    growth_to: float = field(default=0.0)

    @property
    def target(self) -> str:
        return self.service.target

    def begin(self) -> None:
        """Begins to measure the growth of memory."""
        self.growth_from = self.service.resident_megabytes

    @property
    def growth(self) -> float:
        """Megabytes since `begin`; after `growing`, the maximum."""
        return max(self.growth_to, self.service.resident_megabytes) - self.growth_from

    @asynccontextmanager
    async def growing(self) -> AsyncIterator[None]:
        """Samples the memory during the block."""
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
        """The complete lines of its log."""
        with self.service.log.open() as log:
            for line in log:
                if line.endswith("\n"):
                    yield json.loads(line)

    async def metrics(self) -> str:
        """Returns the text of /metrics."""

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
    wrapper: Sequence[str] = (),
) -> Iterator[Subject]:
    """Starts a server without a rate limit, so that the attack reaches what lies behind it, with `mutant` if there is
    one. `patience_seconds` is how long it waits for a caller to read, by default as long as in production. `wrapper` is
    as for `service`."""
    module = ["metamorphd", "serve"]
    if mutant or patience_seconds is not None:
        patience = [] if patience_seconds is None else [f"--patience-seconds={patience_seconds}"]
        module = ["harness.abuse.serve", *patience, f"--mutant={mutant}"]
    variables = environment_of(directory) | ALLOCATOR | dict(environment or {})
    with service(module, directory, variables, wrapper=wrapper) as running:
        yield Subject(running, f"http://127.0.0.1:{running.http_port}")


@asynccontextmanager
async def neighbour(subject: Subject) -> AsyncIterator[list[float]]:
    """Makes another vault's GetSession calls, one after another, from a process of its own during the block.

    Yields a list that holds each call's milliseconds after the block; infinity for a call that failed.
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
        output, _ = await process.communicate(b"")
        measured.extend(json.loads(output))


def p99(milliseconds: list[float]) -> float:
    """Returns the 99th percentile, or NOT_MEASURED of nothing."""
    return sorted(milliseconds)[int(len(milliseconds) * 0.99)] if milliseconds else NOT_MEASURED


def since(began: float) -> float:
    """Returns the seconds since `began`, a monotonic time."""
    return time.monotonic() - began
