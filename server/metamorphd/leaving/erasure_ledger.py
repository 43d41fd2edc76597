"""The erasure ledger: the database's entries and those of its files, of which neither loses what the other has.

See docs/decisions/0060-the-ledger-is-read-from-where-it-was-left.md.
"""

import asyncio
from collections.abc import Collection

import structlog

from metamorphd.backups.ledger import BEGINNING, Ledger, LedgerFile
from metamorphd.models.caller import server_scope
from metamorphd.models.erased_vault import ErasedVault, Filed, LedgerPosition
from metamorphd.models.operation import OperationKind
from metamorphd.operations import Operations
from metamorphd.store.database import Database
from metamorphd.store.erasure_ledger import (
    end_filing,
    enter_entries,
    get_ledger_position,
    list_erased_vaults,
    list_unfiled,
    put_ledger_position,
    queue_entries,
)
from metamorphd.store.vault_deletion import replay_deletion

# Written at a time. A step that takes the writer 250 ms is stopped, and so would be the start.
STEP_ENTRIES = 200
BROUGHT = ""

logger = structlog.get_logger(__name__)


class ErasureLedger:
    """Keeps the ledger of a database. Its methods raise OSError when a file cannot be read or written."""

    def __init__(self, *, database: Database, files: Ledger, operations: Operations) -> None:
        self._database = database
        self._files = files
        self._operations = operations
        # A file's position goes on only if nothing else was appended meanwhile.
        self._filing = asyncio.Lock()

    @property
    def places(self) -> Collection[str]:
        """The places of the files."""
        return self._files.files.keys()

    async def replay(self) -> int:
        """Deletes the vaults that a restored backup has brought back, and returns how many.

        What only the database or only a file knows is in all of them then. What was read before is not read again.
        To be called before calls are admitted.
        """
        deleted = 0
        for place, file in self._files.files.items():
            deleted += await self._replay(place, file, await self._begin(place, file))
        deleted += await self._replay(BROUGHT, self._files.brought, BEGINNING)
        await self.file()
        await asyncio.to_thread(self._files.brought.delete)
        return deleted

    async def file(self) -> None:
        """Appends to files what they lack. It is durable then."""
        async with self._filing:
            while lacking := await self._database.read_system(list_unfiled, server_scope(), limit=STEP_ENTRIES):
                filed = []
                for place, entries in lacking.items():
                    begin, end = await asyncio.to_thread(self._files.files[place].add, entries)
                    filed.append(Filed(place, tuple(entries), begin, end))
                await self._database.write_system(end_filing, server_scope(), filed=filed)

    async def _begin(self, place: str, file: LedgerFile) -> LedgerPosition:
        """Returns how far a file was read. If it is another one by now, all entries are filed that it may lack."""
        position = await self._database.read_system(get_ledger_position, server_scope(), place=place)
        if position is not None and await asyncio.to_thread(file.holds, position):
            return position
        if position is not None:
            logger.warning("a file of the erasure ledger was lost or replaced; it is read and completed", place=place)
        after = ("", "")
        while page := await self._database.read_system(
            list_erased_vaults, server_scope(), after=after, limit=STEP_ENTRIES
        ):
            await self._database.write_system(queue_entries, server_scope(), place=place, entries=page)
            after = (page[-1].vault_id, page[-1].life)
        return BEGINNING

    async def _replay(self, place: str, file: LedgerFile, after: LedgerPosition) -> int:
        """Enters what is in a file after a position, and returns how many vaults of it were deleted again."""
        deleted = 0
        while True:
            entries, end = await asyncio.to_thread(file.read, after)
            for first in range(0, len(entries), STEP_ENTRIES):
                step = entries[first : first + STEP_ENTRIES]
                unerased = await self._database.write_system(
                    enter_entries, server_scope(), place=place, places=self.places, entries=step
                )
                for entry in unerased:
                    deleted += await self._delete_again(entry)
            if place != BROUGHT:
                # Only now: a start that is killed before reads these again.
                await self._database.write_system(put_ledger_position, server_scope(), place=place, position=end)
            if end == after:
                return deleted
            after = end

    async def _delete_again(self, entry: ErasedVault) -> bool:
        scope = server_scope(entry.vault_id)
        operation = self._operations.new(scope, OperationKind.ERASE_VAULT)
        deleted = await self._database.write(replay_deletion, scope, entry=entry, operation=operation)
        if deleted:
            logger.warning("a vault that was deleted is in the restored backup; it is erased", vaultId=entry.vault_id)
        return deleted
