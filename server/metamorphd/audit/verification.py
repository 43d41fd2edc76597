"""Verifies the logs of vaults: whether each entry follows the one before, and what was said of them outside."""

import asyncio
import hmac
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple

from metamorphd.chain import Chain, LogBeginning, StoredEntry
from metamorphd.models.audit import AuditFaultKind, AuditReport, LogHead
from metamorphd.models.caller import Scope
from metamorphd.store.database import Database
from metamorphd.store.verification import (
    get_entry_mac,
    get_log_beginning,
    get_oldest_revision,
    list_entries,
    list_log_heads,
)

PAGE_ENTRIES = 100
# Checked at once, in half a millisecond. The thread that reads the next page holds the loop up as long.
STEP_ENTRIES = 50


class Position(NamedTuple):
    """How far a verification is: the log of a vault, up to which entry, and its MAC.

    It ends with `last`, the newest entry when it was begun. `age` is that of the youngest key so far, -1 before the
    first. `broken` is 1 if the MAC is not known, because that entry is missing. `revision` is -1 between two logs.
    """

    vault_id: str = ""
    revision: int = -1
    last: int = 0
    mac: bytes = b""
    age: int = -1
    broken: int = 0


class Verification:
    """Verifies logs with the keys of `chain`, in steps, while they are in use."""

    def __init__(self, *, database: Database, chain: Chain) -> None:
        self._database = database
        self._chain = chain

    async def verify(self, scope: Scope, position: Position) -> AsyncGenerator[tuple[AuditReport, Position | None]]:
        """Yields reports on all logs from a position on, by the IDs of vaults, and where to go on, None at the end."""
        left: Position | None = position
        while left is not None:
            report = AuditReport()
            while left is not None and not report.full:
                left = await (self._next(scope, left, report) if left.revision < 0 else self.step(scope, left, report))
            yield report, left

    async def begin(self, scope: Scope, head: LogHead, report: AuditReport) -> Position:
        """Returns where the verification of a log begins. Adds to the report if that was not sealed by the server."""
        beginning = await self._beginning(scope, head.vault_id)
        sealed = self._is_sealed(head.vault_id, beginning)
        if not sealed:
            report.add(head.vault_id, beginning.cut.revision, AuditFaultKind.BEGINNING)
        cut = beginning.cut
        # Read after the beginning, since what the server deletes meanwhile can only raise it.
        oldest = await self._database.read(get_oldest_revision, scope.of_vault(head.vault_id))
        if oldest is not None and oldest <= cut.revision:
            report.add(head.vault_id, oldest, AuditFaultKind.CHANGED)
        # What follows must have MACs too, by any key.
        age = self._chain.oldest_age if cut.mac else -1
        return Position(head.vault_id, cut.revision, head.revision, cut.mac, age, int(not sealed))

    async def step(self, scope: Scope, position: Position, report: AuditReport) -> Position:
        """Verifies the next entries of a log, adds them to the report, and returns where to go on."""
        entries = await self._database.read(
            list_entries,
            scope.of_vault(position.vault_id),
            after=position.revision,
            last=position.last,
            limit=PAGE_ENTRIES,
        )
        if entries and entries[0].entry.revision > position.revision + 1:
            # The server may have deleted the oldest ones meanwhile.
            beginning = await self._beginning(scope, position.vault_id)
            if beginning.cut.revision > position.revision and self._is_sealed(position.vault_id, beginning):
                return position._replace(revision=beginning.cut.revision, mac=beginning.cut.mac, broken=0)
        for number, stored in enumerate(entries):
            if number % STEP_ENTRIES == STEP_ENTRIES - 1:
                await asyncio.sleep(0)
            if report.full:
                return position
            position = self._checked(stored, position, report)
        if len(entries) == PAGE_ENTRIES:
            return position
        report.heads.append(LogHead(position.vault_id, position.revision, position.mac, 0))
        return Position(position.vault_id)

    async def compare(self, scope: Scope, anchors: Sequence[LogHead]) -> AuditReport:
        """Returns a report on what was said of logs outside: entries that are gone, or are others, are faults.

        Those that the server itself has deleted because of their age are none.
        """
        report = AuditReport()
        for number, anchor in enumerate(anchors):
            if number % STEP_ENTRIES == STEP_ENTRIES - 1:
                await asyncio.sleep(0)
            found = await self._database.read(get_entry_mac, scope.of_vault(anchor.vault_id), revision=anchor.revision)
            if found is None:
                beginning = await self._beginning(scope, anchor.vault_id)
                # Whoever deletes everything can write a beginning without a MAC.
                sealed = bool(beginning.cut.mac) and self._is_sealed(anchor.vault_id, beginning)
                if sealed and beginning.cut.revision > anchor.revision:
                    continue
                found = beginning.cut.mac if sealed and beginning.cut.revision == anchor.revision else None
            if found is None:
                report.add(anchor.vault_id, anchor.revision, AuditFaultKind.TRUNCATED)
            elif not hmac.compare_digest(found, anchor.mac):
                report.add(anchor.vault_id, anchor.revision, AuditFaultKind.REPLACED)
        return report

    async def _next(self, scope: Scope, position: Position, report: AuditReport) -> Position | None:
        heads = await self._database.read_system(list_log_heads, scope, after=position.vault_id, limit=1)
        return await self.begin(scope, heads[0], report) if heads else None

    async def _beginning(self, scope: Scope, vault_id: str) -> LogBeginning:
        return await self._database.read(get_log_beginning, scope.of_vault(vault_id))

    def _is_sealed(self, vault_id: str, beginning: LogBeginning) -> bool:
        """Returns whether it was the server that deleted what is not there. Without a MAC there is nothing to seal."""
        if not beginning.cut.mac:
            return True
        if self._chain.age_of(beginning.key_id) is None:
            return False
        return hmac.compare_digest(self._chain.seal_of(vault_id, beginning.cut, beginning.key_id), beginning.seal)

    def _checked(self, stored: StoredEntry, position: Position, report: AuditReport) -> Position:
        entry, broken = stored.entry, bool(position.broken)
        report.entry_count += 1
        if entry.revision != position.revision + 1:
            report.add(entry.vault_id, position.revision + 1, AuditFaultKind.MISSING)
            broken = True
        age = self._chain.age_of(stored.key_id)
        fault: AuditFaultKind | None = None
        if not stored.readable:
            fault = AuditFaultKind.CHANGED
        elif not stored.mac:
            report.unprotected_count += 1
            fault = AuditFaultKind.UNPROTECTED if position.age >= 0 else None
        elif age is None:
            fault = AuditFaultKind.KEY_UNKNOWN
        elif not broken and not hmac.compare_digest(self._chain.mac_of(position.mac, entry, stored.key_id), stored.mac):
            fault = AuditFaultKind.CHANGED
        elif 0 <= position.age < age:
            fault = AuditFaultKind.KEY_ORDER
        if fault is not None:
            report.add(entry.vault_id, entry.revision, fault)
        young = position.age if age is None or not stored.mac or 0 <= position.age < age else age
        return Position(entry.vault_id, entry.revision, position.last, stored.mac, young)
