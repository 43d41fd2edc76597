"""A server is killed in mid-import: after the next start all of the file is in the vault or nothing, and no rest."""

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc
from metamorph_client.vault.v1.vault_service_pb2 import ImportVaultRequest, ImportVaultResponse
from rich.progress import Progress

from harness.figure import Figure, tried
from harness.run import Run
from tests.support.caller import Caller, calling
from tests.support.exports import Record, comparable, exported
from tests.support.generated.generate import generate
from tests.support.generated.layout import LARGE_VAULT, Layout
from tests.support.memories import made
from tests.support.processes import Service, environment_of, service
from tests.support.rows import row_counts
from tests.support.tokens import mint

# (phase, point, how often an import passes it at least).
POINTS = (
    ("verifying", "before verify", 1),
    ("verifying", "after verify", 1),
    ("staging", "after begin_import", 1),
    ("staging", "after stage_attachment", 10),
    ("staging", "after stage_chunk", 10),
    ("staging", "before reserve_numbers", 1),
    ("staging", "before stage_step", 20),
    ("staging", "after stage_step", 20),
    ("staging", "after add_lists", 4),
    ("staging", "before complete_import", 1),
    ("revealing", "after complete_import", 1),
    ("revealing", "after end_import_step", 2),
)
PHASES = ("receiving", "verifying", "staging", "revealing")
PIECE_BYTES = 16_384
MEMORIES = 30
LOOK_SECONDS = 0.1
# Of what imports store, but for the log.
TABLES = (
    *("sessions", "session_metadata", "messages", "message_links", "turns", "attachments", "attachment_chunks"),
    *("attachment_uses", "indexed_messages", "postings", "memories", "usage", "staged_records", "imports"),
)
PART = "imports of which the next start shows a part"
LEFT = "imports that leave rows or files behind"
LOST = "imports that were answered, and are gone"
AGAIN = "imports that do not succeed when they are repeated, or bring something else"
FAULTS = (PART, LEFT, LOST, AGAIN)


async def imports(
    run: Run, *, rounds: int, messages: int = 4_000, settle_seconds: float = 60.0, random_kills: float = 0.3
) -> list[Figure]:
    """Imports a file into a new vault in each round, while the server is killed, and then again.

    The vault that it is of has a quarter of the `messages`. A share of `random_kills` comes at any time, and the others
    at the points in turn. What a start has not ended within `settle_seconds` is left for good.
    """
    layout = Layout(messages, 2, 0, deep_messages=60)
    await asyncio.to_thread(generate, run.directory / "metamorph.db", layout, Progress(disable=True))
    torture = Imports(run, settle_seconds=settle_seconds)
    await torture.prepare()
    for number in range(rounds):
        if run.mutant and torture.faults:
            break
        await torture.round(number, at_random=torture.random.random() < random_kills)
    killed = torture.killed
    return [
        tried("imports that were killed", killed.total(), ", ".join(f"{killed[phase]} {phase}" for phase in killed)),
        *(Figure(fault, torture.faults[fault], "", "=", 0, torture.details.get(fault, "")) for fault in FAULTS),
        Figure("imports that were there as a whole after a kill", torture.whole),
    ]


class Imports:
    """Rounds of imports of one file, each into a vault of its own. Stops at the first fault of a mutant."""

    def __init__(self, run: Run, *, settle_seconds: float) -> None:
        self.faults: Counter[str] = Counter()
        self.details: dict[str, str] = {}
        self.killed: Counter[str] = Counter()
        self.whole = 0
        self.random = random.Random(run.seed)  # noqa: S311, repeatable
        self._run = run
        self._settle_seconds = settle_seconds
        self._points: list[tuple[str, str, int]] = []
        self._data = b""
        self._records: list[Record] = []
        self._seconds = 0.0

    async def prepare(self) -> None:
        """Exports the file, and imports it once."""
        with self._serving() as server:
            async with calling(server.target, mint(LARGE_VAULT)) as source:
                for number in range(MEMORIES):
                    await made(source, f"Memory number {number} of the vault")
                self._data = await exported(source)
            self._records = comparable(self._data)
            began = time.monotonic()
            async with self._vault(server, "first") as caller:
                await imported(caller, self._data)
            self._seconds = time.monotonic() - began

    async def round(self, number: int, *, at_random: bool) -> None:
        """Kills a server in an import, and looks at what the next one has of it."""
        before = self._counts()
        vault, answered = f"round-{number}", await self._killed(f"round-{number}", at_random=at_random)
        with self._serving() as server:
            settled = await self._settled()
            async with self._vault(server, vault) as caller:
                records = comparable(await exported(caller))
                whole = records == self._records
                if not whole and [record for record in records if record["kind"] != "vault"]:
                    self._fault(PART, f"{len(records)} of {len(self._records)} records in {vault}")
                if answered and not whole:
                    self._fault(LOST, vault)
                if not settled or (not whole and self._counts() != before):
                    self._fault(LEFT, f"{vault}: {_difference(before, self._counts())}")
                self.whole += whole
                await self._repeated(caller, whole=whole)

    async def _killed(self, vault: str, *, at_random: bool) -> bool:
        """Imports the file until the server is killed, and returns whether the import was answered before."""
        if not at_random and not self._points:
            self._points = [("receiving", "", 1), *POINTS]
        phase, point, passes = ("", "", 1) if at_random else self._points.pop(0)
        count = self.random.randint(1, passes)
        with self._serving("--point", point, "--count", str(count)) as server:
            part = self.random.random() if phase == "receiving" else 1.0
            async with self._vault(server, vault) as caller:
                importing = asyncio.create_task(
                    imported(caller, self._data[: int(part * len(self._data))], ends=part == 1)
                )
                if point:
                    await asyncio.wait({importing})
                else:
                    await asyncio.wait({importing}, timeout=self.random.uniform(0.2, 1) * self._seconds)
                    server.process.kill()
                with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
                    await importing
                    self.killed["after the answer"] += 1
                    return True
        self.killed[phase or "at any time"] += 1
        return False

    async def _settled(self) -> bool:
        """Waits until nothing staged and nothing to be erased is left, and returns whether that is so."""
        deadline = time.monotonic() + self._settle_seconds
        while time.monotonic() < deadline:
            files = list((self._run.directory / "metamorph.db-imports").glob("*"))
            if not files and not any(row_counts(self._run.directory, "imports", "staged_records", "erasures")):
                return True
            await asyncio.sleep(LOOK_SECONDS)
        return False

    async def _repeated(self, caller: Caller, *, whole: bool) -> None:
        try:
            answer = await imported(caller, self._data)
        except grpc.aio.AioRpcError as error:
            self._fault(AGAIN, error.details() or "")
            return
        stored = sum(answer.imported_counts.values())
        if comparable(await exported(caller)) != self._records or stored != (0 if whole else len(self._records)):
            self._fault(AGAIN, f"{stored} of {len(self._records)} records were stored")

    def _fault(self, fault: str, detail: str) -> None:
        self.faults[fault] += 1
        self.details.setdefault(fault, detail)
        sys.stderr.write(f"imports: {fault}: {detail}\n")

    def _counts(self) -> dict[str, int]:
        return dict(zip(TABLES, row_counts(self._run.directory, *TABLES), strict=True))

    def _vault(self, server: Service, vault: str) -> Any:
        return calling(server.target, mint(vault))

    @contextmanager
    def _serving(self, *arguments: str) -> Iterator[Service]:
        module = ["harness.torture.importing", f"--mutant={self._run.mutant}", *arguments]
        # The file is of another year.
        environment = environment_of(self._run.directory) | {"CHANGE_RETENTION_DAYS": "36500"}
        with service(module, self._run.directory, environment) as running:
            yield running


async def imported(caller: Caller, data: bytes, *, ends: bool = True) -> ImportVaultResponse:
    """Imports a file, or sends a part of it and never ends."""
    call: Any = caller.vault.ImportVault(metadata=caller.metadata)
    for start in range(0, len(data), PIECE_BYTES):
        await call.write(ImportVaultRequest(data=data[start : start + PIECE_BYTES]))
    if ends:
        await call.done_writing()
    answer: ImportVaultResponse = await call
    return answer


def _difference(before: dict[str, int], after: dict[str, int]) -> str:
    return ", ".join(f"{after[table] - before[table]:+} {table}" for table in TABLES if after[table] != before[table])
