"""The erasure ledger: neither the database nor a file of it loses what the others have, and each is read once."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from metamorphd.backups.ledger import BEGINNING, Ledger, LedgerFile
from metamorphd.leaving.erasure_ledger import ErasureLedger
from metamorphd.models.caller import Scope, server_scope
from metamorphd.models.erased_vault import ErasedVault
from metamorphd.models.operation import OperationKind
from metamorphd.models.vault import VaultState
from metamorphd.operations import Operations
from metamorphd.store.database import Database
from metamorphd.store.erasure_ledger import (
    enter_entries,
    get_ledger_position,
    list_erased_vaults,
    list_unfiled,
    put_ledger_position,
)
from metamorphd.store.vault_deletion import delete_vault
from metamorphd.store.vault_states import get_vault_status

from tests.support.engines import ENGINES
from tests.support.rows import ACME, CLOCK, EVIL, new_session

LOST = ErasedVault("lost", "a" * 32, 1)
PLACES = ("database", "backups")


def entries_of(file: LedgerFile) -> list[ErasedVault]:
    return [entry for part, _ in file.parts() for entry in part]


@dataclass
class Started:
    """A server, as far as the ledger is concerned. `erased` is how many vaults its start has deleted again."""

    database: Database
    files: Ledger
    ledger: ErasureLedger
    erased: int = 0

    async def delete(self, scope: Scope, *, filed: bool = True) -> None:
        """Deletes a vault, and is killed before that is in the ledger's files unless it is `filed`."""
        operation = Operations(database=self.database, clock=CLOCK).new(scope, OperationKind.ERASE_VAULT)
        key, places = CLOCK.new_key(), self.ledger.places
        await self.database.write(
            delete_vault, scope, operation=operation, hash_key=key, places=places, now=CLOCK.now()
        )
        if filed:
            await self.ledger.file()

    async def entries(self) -> list[ErasedVault]:
        return await self.database.read_system(list_erased_vaults, server_scope(), after=("", ""), limit=100)

    async def state(self, scope: Scope) -> VaultState:
        return (await self.database.read(get_vault_status, scope)).state

    async def unread(self) -> list[ErasedVault]:
        """Returns what a start would read of the files."""
        unread = []
        for place, file in self.files.files.items():
            position = await self.database.read_system(get_ledger_position, server_scope(), place=place)
            assert position is not None
            assert file.holds(position)
            unread += [entry for part, _ in file.parts(position) for entry in part]
        return unread

    async def assert_same_everywhere(self, count: int) -> None:
        entries = await self.entries()
        assert len(entries) == count
        for file in self.files.files.values():
            assert sorted(entries_of(file), key=lambda entry: (entry.vault_id, entry.life)) == entries
        assert await self.database.read_system(list_unfiled, server_scope(), limit=1) == {}
        assert await self.unread() == []


@asynccontextmanager
async def started(directory: Path, *, replays: bool = True) -> AsyncIterator[Started]:
    directory.mkdir(exist_ok=True)
    async with ENGINES[0].database(directory) as database:
        files = Ledger(database=directory / "metamorph.db", backups=directory / "backups")
        operations = Operations(database=database, clock=CLOCK)
        server = Started(database, files, ErasureLedger(database=database, files=files, operations=operations))
        if replays:
            server.erased = await server.ledger.replay()
        yield server


def backed_up(directory: Path) -> Callable[[], None]:
    """Returns what puts the database back as it is now, and leaves the ledger's files."""
    copy = directory.with_name("backup")
    copy.mkdir()

    def databases(of: Path) -> list[Path]:
        return [path for path in of.glob("*.db*") if path.is_file() and not path.name.endswith(".jsonl")]

    def restore() -> None:
        for path in databases(directory):
            path.unlink()
        for path in databases(copy):
            shutil.copy(path, directory / path.name)

    for path in databases(directory):
        shutil.copy(path, copy / path.name)
    return restore


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "server"


async def test_what_was_deleted_is_in_the_database_and_in_each_file_once(directory: Path) -> None:
    async with started(directory) as server:
        await server.delete(ACME)
        await server.delete(EVIL)
        await server.assert_same_everywhere(2)
    async with started(directory) as server:
        await server.assert_same_everywhere(2)


async def test_two_deletions_at_once_are_both_filed_once(directory: Path) -> None:
    async with started(directory) as server:
        await asyncio.gather(*(server.delete(server_scope(f"vault-{number}")) for number in range(20)))
        await server.assert_same_everywhere(20)


async def test_a_deletion_whose_server_was_killed_before_it_was_filed_is_filed_by_the_next(directory: Path) -> None:
    async with started(directory) as server:
        await server.delete(EVIL)
        await server.delete(ACME, filed=False)
    async with started(directory) as server:
        await server.assert_same_everywhere(2)


async def test_a_line_that_was_written_before_the_server_was_killed_is_not_written_twice(directory: Path) -> None:
    async with started(directory) as server:
        await server.delete(EVIL)
        await server.delete(ACME, filed=False)
        entry = next(entry for entry in await server.entries() if entry.vault_id == "acme")
        server.files.files["database"].add([entry])
    async with started(directory) as server:
        await server.assert_same_everywhere(2)


@pytest.mark.parametrize("place", PLACES)
async def test_a_line_that_was_cut_is_written_again(directory: Path, place: str) -> None:
    async with started(directory) as server:
        await server.delete(EVIL)
        await server.delete(ACME, filed=False)
        file = server.files.files[place]
        with file.path.open("ab") as opened:
            opened.write(b'\n{"vault_id":"ac')
    async with started(directory) as server:
        await server.assert_same_everywhere(2)


async def test_a_file_that_cannot_be_written_now_is_completed_later(directory: Path) -> None:
    async with started(directory) as server:
        (directory / "backups").write_bytes(b"")
        with pytest.raises(OSError, match="backups"):
            await server.delete(ACME)
        (directory / "backups").unlink()
        await server.ledger.file()
        await server.assert_same_everywhere(1)


async def test_a_vault_that_a_backup_brings_back_is_deleted_again(directory: Path) -> None:
    async with started(directory) as server:
        await new_session(server.database, ACME)
        await new_session(server.database, EVIL)
    restore = backed_up(directory)
    async with started(directory) as server:
        await server.delete(ACME)
    for _ in range(2):
        restore()
        async with started(directory) as server:
            assert server.erased == 1
            assert await server.state(ACME) is VaultState.DELETED
            assert await server.state(EVIL) is VaultState.ACTIVE
            await server.assert_same_everywhere(1)


async def test_it_is_deleted_again_even_if_the_first_start_is_killed_in_between(directory: Path) -> None:
    async with started(directory) as server:
        await new_session(server.database, ACME)
    restore = backed_up(directory)
    async with started(directory) as server:
        await server.delete(ACME)
        entries = await server.entries()
    restore()
    async with started(directory, replays=False) as server:
        entering: dict[str, Any] = {"place": "database", "places": PLACES, "entries": entries}
        assert await server.database.write_system(enter_entries, server_scope(), **entering) == entries
        assert await server.database.write_system(enter_entries, server_scope(), **entering) == entries
    async with started(directory) as server:
        assert server.erased == 1
        await server.assert_same_everywhere(1)


async def test_what_was_read_is_not_read_again(directory: Path) -> None:
    async with started(directory) as server:
        await new_session(server.database, ACME)
        for number in range(100):
            await server.delete(server_scope(f"vault-{number}"))
    async with started(directory) as server:
        # As if it had been there: whoever reads it enters it.
        file = server.files.files["database"]
        lines = file.path.read_bytes().splitlines(keepends=True)
        file.path.write_bytes(b"".join([lines[0].replace(b"vault-0", b"vault-X"), *lines[1:]]))
        assert file.end() == await server.database.read_system(get_ledger_position, server_scope(), place="database")
        assert await server.unread() == []
    async with started(directory) as server:
        assert "vault-X" not in {entry.vault_id for entry in await server.entries()}


@pytest.mark.parametrize("lost", [PLACES[:1], PLACES[1:], PLACES])
async def test_a_file_that_is_lost_is_written_again(directory: Path, lost: tuple[str, ...]) -> None:
    async with started(directory) as server:
        await server.delete(ACME)
        await server.delete(EVIL)
        for place in lost:
            server.files.files[place].delete()
    async with started(directory) as server:
        await server.assert_same_everywhere(2)


async def test_an_older_copy_of_a_file_is_completed(directory: Path) -> None:
    async with started(directory) as server:
        await server.delete(ACME)
        file = server.files.files["backups"]
        older = file.path.read_bytes()
        await server.delete(EVIL)
        file.path.write_bytes(older)
    async with started(directory) as server:
        await server.assert_same_everywhere(2)


async def test_files_that_no_server_has_read_yet_are_completed_by_each_other(directory: Path) -> None:
    async with started(directory, replays=False) as server:
        server.files.files["backups"].add([LOST])
        await server.ledger.replay()
        await server.assert_same_everywhere(1)


async def test_what_a_restore_has_brought_is_filed_and_then_forgotten(directory: Path) -> None:
    async with started(directory) as server:
        await server.delete(ACME)
        entries = await server.entries()
        server.files.bring([[LOST, *entries]])
    async with started(directory) as server:
        await server.assert_same_everywhere(2)
        assert server.files.brought.end() == BEGINNING


async def test_what_was_deleted_while_a_backup_was_in_place_is_kept_when_another_one_is_restored(
    directory: Path,
) -> None:
    async with started(directory) as server:
        await new_session(server.database, ACME)
        await new_session(server.database, EVIL)
    restore = backed_up(directory)
    for scope in (ACME, EVIL):
        async with started(directory) as server:
            await server.delete(scope)
        restore()
    async with started(directory) as server:
        assert server.erased == 2
        await server.assert_same_everywhere(2)


async def test_a_position_goes_on_only_from_where_it_was(directory: Path) -> None:
    async with started(directory) as server:
        # Another server has the same directory of backups.
        server.files.files["backups"].add([LOST])
        await server.delete(ACME)
        assert LOST in await server.unread()
        await server.database.write_system(put_ledger_position, server_scope(), place="backups", position=BEGINNING)
        assert len(await server.unread()) == 2
    async with started(directory) as server:
        await server.assert_same_everywhere(2)
