"""Findings of a running server about its own deployment."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from metamorphd.checks.memory import memory, read_memory
from metamorphd.checks.mounts import volume
from metamorphd.errors import StorageFull
from metamorphd.models.finding import Finding, failed, ok, warning
from metamorphd.store.database import Database

MIB = 1024 * 1024
# Of the volume, and so many bytes whatever its size.
LEAST_SHARE = 0.15
LEAST_FREE = 5 * 1024 * MIB
FAILING = {
    "store": ("the database cannot be read", "look for `the database cannot be read` in the log"),
    "damaged": ("the database is damaged", "restore a backup: `metamorph backup restore`"),
    "write": ("the database cannot be written", "look for `the database cannot be written` in the log"),
}


class RunningServer:
    """Finds what only the server itself can see. `settings` is what was found of its settings, `telemetry` finds more.

    `role` returns what is found of the work of the server's role, and `keys` of the keys that the database needs. A
    server that is `read_only` serves copies.
    `memory_needed` is what large requests may take up, in bytes; `contained` is as for `volume`.
    """

    def __init__(
        self,
        *,
        database: Database,
        directory: Path,
        settings: Sequence[Finding],
        role: Callable[[], Sequence[Finding]],
        keys: Callable[[], Awaitable[Sequence[Finding]]],
        read_only: bool,
        memory_needed: int,
        contained: bool,
        telemetry: Callable[[], Sequence[Finding]],
    ) -> None:
        self._database = database
        self._directory = directory
        self._settings = settings
        self._role = role
        self._keys = keys
        self._read_only = read_only
        self._memory_needed = memory_needed
        self._contained = contained
        self._telemetry = telemetry

    async def findings(self) -> list[Finding]:
        """Returns all that is found now."""
        return [*await self.at_start(), *self._telemetry(), await self._serving(), *self._role()]

    async def at_start(self) -> list[Finding]:
        """Returns what is found of a server that has just opened its store."""
        # A read-only server returns no secret, and appends to no log.
        keys = [] if self._read_only else await self._keys()
        return [*self._settings, *await asyncio.to_thread(lambda: list(self._machine())), *keys]

    def _machine(self) -> Iterator[Finding]:
        # What a read-only server keeps, it can fetch again.
        place = None if self._read_only else volume(self._directory, contained=self._contained)
        if place is not None:
            yield place
        yield from self._disk()
        yield from memory(read_memory(), needed=self._memory_needed)
        if not self._database.clean:
            yield warning(
                "last-end",
                "the previous server was killed, for lack of memory perhaps, or the machine failed",
                "look for its end in the platform's log: exit code 137 is a kill; if it was memory, add some",
            )

    def _disk(self) -> Iterator[Finding]:
        try:
            stated = os.statvfs(self._directory)
        except OSError:
            return
        free, whole = stated.f_bavail * stated.f_frsize, stated.f_blocks * stated.f_frsize
        mend = "make the volume larger, or delete old sessions and backups"
        shown = f"{free // MIB:,} of {whole // MIB:,} MiB are free on the volume"
        if free < min(LEAST_FREE, whole * LEAST_SHARE):
            yield warning("disk", shown, mend)
        else:
            yield ok("disk", shown)

    async def _serving(self) -> Finding:
        failing = await self._database.failing()
        if failing is None:
            try:
                self._database.require_space()
            except StorageFull:
                return failed(
                    "database",
                    "the volume is almost full: whatever stores more is refused",
                    "make the volume larger, or delete old sessions and backups",
                )
            return ok("database", "the database can be read and written, and no damage was found")
        if failing == "write" and (holder := await asyncio.to_thread(self._database.locked_by)) is not None:
            return failed(
                "database",
                f"the database is locked: {holder} holds it, so nothing can be written",
                "end that program; none but the server may open the file for writing while it runs",
            )
        what, remedy = FAILING.get(failing, (f"the database fails: {failing}", "look into the log"))
        return failed("database", what, remedy)
