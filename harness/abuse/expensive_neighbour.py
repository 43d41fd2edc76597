"""One vault does everything that is expensive, at its limits, while another one is served as if it were alone."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from rich.progress import Progress

from harness.abuse.busy_neighbour import PACE_SECONDS
from harness.abuse.expensive_calls import ATTACKS, Vault, attack
from harness.abuse.subject import Subject, p99, subject
from harness.figure import NOT_MEASURED, Figure
from harness.run import Run
from tests.support.generated.files import FILES, measurable
from tests.support.generated.layout import Layout
from tests.support.paths import ROOT
from tests.support.processes import service
from tests.support.tokens import mint

# A reply of two seconds, whose words are the times at which they were sent.
API = ["tests.support.fakes.messages_api", "--words", "40", "--delay-ms", str(PACE_SECONDS * 1000), "--stamp"]
LOOK_SECONDS = 0.05
MEBIBYTE = 1024 * 1024
# The attack's own work must not take the machine from the server and its neighbour.
NICENESS = 10
# Neither must the provider's, which would be on another one.
NICE = ["nice", "-n", str(NICENESS)]
WARM_UP_SECONDS = 2.0
# To refuse these is what costs.
MEANT_TO_BE_REFUSED = {"empty blocks", "empty blocks compressed", "mask of many paths"}
REFUSED = {"INVALID_ARGUMENT", "FAILED_PRECONDITION"}
# What `busy_neighbour` prints.
Measured = dict[str, list[Any]]
OPERATIONS = (
    "CreateSession",
    "GetSession",
    "ListSessions",
    "ListMessages",
    "SearchMessages",
    "SendMessage",
    "a followed turn",
)


async def expensive_neighbour(
    run: Run,
    *,
    messages: int = 2_000_000,
    vaults: int = 1_000,
    idle_seconds: float = 20,
    seconds: float = 120,
    floor_milliseconds: float = 5,
    most_ratio: float = 3,
    most_gap_milliseconds: float = 250,
    most_mebibytes: float = 256,
    most_wal_mebibytes: float = 64,
) -> list[Figure]:
    """Measures another vault's calls before and during the attack, the server's memory, and the write-ahead log.

    An idle p99 below `floor_milliseconds` counts as that: below it, the machine's scheduler makes the difference.
    """
    layout = Layout(messages, vaults)
    with ExitStack() as stack:
        file = await asyncio.to_thread(stack.enter_context, measurable(layout, FILES, Progress(disable=True)))
        api = stack.enter_context(service(API, run.directory, wrapper=NICE))
        environment = {
            "DATABASE_PATH": str(file),
            "ANTHROPIC_API_KEY": "sk-test",
            "ANTHROPIC_BASE_URL": f"http://{api.target}",
        }
        server = stack.enter_context(subject(run.directory, mutant=run.mutant, environment=environment))
        vault = Vault(layout.deep, server.target, mint(layout.deep.vault_id))
        wal = _Largest(file.with_name(file.name + "-wal"))
        async with busy(server) as neighbour:
            await neighbour.measured(0)
            await neighbour.measured(WARM_UP_SECONDS)
            idle = await neighbour.measured(idle_seconds)
            os.nice(NICENESS)
            async with server.growing(), wal.watched(), _attacked(vault):
                attacked = await neighbour.measured(seconds)
        return [
            *compared(idle, attacked, floor=floor_milliseconds, most_ratio=most_ratio, most_gap=most_gap_milliseconds),
            Figure("memory growth", server.growth * 1e6 / MEBIBYTE, "MiB", "≤", most_mebibytes),
            Figure("largest write-ahead log", wal.size / MEBIBYTE or NOT_MEASURED, "MiB", "≤", most_wal_mebibytes),
            Figure("compressed requests that were read", _read_compressed(vault), "", "=", 0),
            *_ended(vault),
        ]


class Busy:
    """The neighbour, in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._input, self._output = process.stdin, process.stdout

    async def measured(self, seconds: float) -> Measured:
        """Returns what it measures in so many seconds, once it is prepared."""
        await asyncio.sleep(seconds)
        self._input.write(b"\n")
        measured: Measured = json.loads(await self._output.readline())
        return measured


@asynccontextmanager
async def busy(server: Subject) -> AsyncIterator[Busy]:
    """Runs the neighbour, until the block ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "harness.abuse.busy_neighbour", server.target, mint("neighbour", "neighbour"),
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=256 * MEBIBYTE,
    )  # fmt: skip
    try:
        yield Busy(process)
    finally:
        process.kill()
        await process.wait()


class _Largest:
    """The largest size of a file while it is watched, in bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = 0

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(FileNotFoundError):
                self.size = max(self.size, self._path.stat().st_size)
            await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def _attacked(vault: Vault) -> AsyncIterator[None]:
    attacking = asyncio.create_task(attack(vault))
    try:
        yield
    finally:
        attacking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await attacking


def compared(idle: Measured, attacked: Measured, *, floor: float, most_ratio: float, most_gap: float) -> list[Figure]:
    """Returns the figures of what a neighbour measured before and during an attack.

    An operation of which either measured nothing has no ratio, and a figure that is not met.
    """
    gap = max(attacked.get("gap", ()), default=NOT_MEASURED)
    failed = attacked.get("failed", [])
    return [
        *(_ratio(name, idle, attacked, floor, most_ratio) for name in OPERATIONS),
        Figure("longest gap in a stream, beyond the pace", gap, "ms", "≤", most_gap),
        Figure("neighbour's calls that failed", len(failed), "", "=", 0, _first(failed)),
    ]


def _ratio(name: str, idle: Measured, attacked: Measured, floor: float, most: float) -> Figure:
    before, during = (p99(measured.get(name, [])) for measured in (idle, attacked))
    ratio = NOT_MEASURED if NOT_MEASURED in (before, during) else during / max(before, floor)
    detail = f"{name}, p99 {before:.1f} ms, attacked {during:.1f} ms of {len(attacked.get(name, ()))}"
    return Figure("p99 of the neighbour, to its idle p99", ratio, "", "≤", most, detail)


def _first(failed: list[Any]) -> str:
    return str(failed[0])[:200] if failed else ""


def _read_compressed(vault: Vault) -> int:
    return sum(
        count
        for (name, code), count in vault.ended.items()
        if name == "empty blocks compressed" and code != "UNIMPLEMENTED"
    )


def _ended(vault: Vault) -> list[Figure]:
    """Returns how often each kind of call ended, how many kinds never did, and how many cost nothing, because the
    server refused what they say."""
    kinds = {name: {code: count for (of, code), count in vault.ended.items() if of == name} for name in ATTACKS}
    missing = [name for name, codes in kinds.items() if not codes]
    refused = [name for name, codes in kinds.items() if codes and codes.keys() <= REFUSED]
    cheap = sorted(set(refused) - MEANT_TO_BE_REFUSED)
    return [
        *(
            Figure("expensive calls", sum(codes.values()), detail=f"{name}: {codes}".replace("'", ""))
            for name, codes in kinds.items()
        ),
        Figure("kinds of expensive calls that never ended", len(missing), "", "=", 0, ", ".join(missing)),
        Figure("kinds of expensive calls that were refused each time", len(cheap), "", "=", 0, ", ".join(cheap)),
    ]
