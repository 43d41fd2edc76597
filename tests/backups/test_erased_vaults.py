"""No backup brings a deleted vault back, wherever it is restored from."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from metamorph_client.admin.v1 import admin_service_pb2 as pb
from metamorph_client.admin.v1.backup_pb2 import BACKUP_STATE_READY, Backup
from metamorphd.backups.ledger_copy import OBJECT

from tests.support.buckets import Store
from tests.support.caller import Caller
from tests.support.command import run
from tests.support.leaving import delete, erased, fill, release, tables_of
from tests.support.refusal import refused
from tests.support.serving import Serving, serving

KEY = {"token_encryption_key": "k" * 32}
KEPT = {"changes", "log_beginnings", "operations", "vault_states", "erased_vaults"}
LEDGERS = ("metamorph.db.erased-vaults.jsonl", "backups/erased-vaults.jsonl")


def operator_of(server: Serving) -> Caller:
    return server.caller(operator=True, vault="operations")


async def backed_up(server: Serving, true: Callable[[Backup], bool] = lambda _: True) -> Backup:
    """Returns a new backup, once it is good and something is true of it."""
    operator = operator_of(server)
    made = (await operator.admin.CreateBackup(pb.CreateBackupRequest(), metadata=operator.metadata)).backup
    async with asyncio.timeout(60):
        while made.state != BACKUP_STATE_READY or not true(made):
            await asyncio.sleep(0.05)
            request = pb.GetBackupRequest(name=made.name)
            made = (await operator.admin.GetBackup(request, metadata=operator.metadata)).backup
    return made


async def deleted(server: Serving) -> None:
    caller = server.caller()
    answer = await delete(caller)
    await erased(caller, answer.operation.operation_id)


async def restored(directory: Path, source: str, **environment: str) -> str:
    """Restores a backup to a directory, and returns what was printed."""
    code, out, err = await run(
        "backup",
        "restore",
        source,
        "--yes",
        DATABASE_PATH=str(directory / "metamorph.db"),
        BACKUP_DIR=str(directory / "backups"),
        **environment,
    )
    assert code == 0, err
    return out


async def gone(server: Serving, directory: Path) -> None:
    """Asserts that the vault `acme` is as deleted as before, that its rows go, and that others are there."""
    alice = server.caller()
    assert (await refused(alice.sessions())).reason == "VAULT_DELETED"
    assert "data_keys" not in tables_of(directory)
    assert len(await server.caller(vault="evil").sessions()) == 2
    async with asyncio.timeout(60):
        while tables_of(directory).keys() != KEPT:  # noqa: ASYNC110, nobody is notified
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("lost", [(), LEDGERS[:1], LEDGERS[1:]], ids=["none", "the database's", "the backups'"])
async def test_a_restore_of_an_older_backup_erases_it_again(tmp_path: Path, lost: tuple[str, ...]) -> None:
    async with serving(tmp_path, **KEY) as server:
        await fill(server.caller())
        await fill(server.caller(vault="evil"))
        backup = await backed_up(server)
        await deleted(server)
    for name in lost:
        (tmp_path / name).unlink()
    printed = await restored(tmp_path, backup.name)
    assert "the server erases them" in printed
    assert tables_of(tmp_path)["messages"] == 4
    async with serving(tmp_path, **KEY) as server:
        await gone(server, tmp_path)
    assert all((tmp_path / name).exists() for name in LEDGERS)
    async with serving(tmp_path, **KEY) as server:
        await gone(server, tmp_path)


async def test_a_copied_file_that_is_put_in_place_by_hand_does_not_bring_it_back(tmp_path: Path) -> None:
    async with serving(tmp_path, **KEY) as server:
        await fill(server.caller())
        await fill(server.caller(vault="evil"))
        backup = await backed_up(server)
        await deleted(server)
    for path in tmp_path.glob("metamorph.db*"):
        if path.is_file() and not path.name.endswith(".jsonl"):
            path.unlink()
    shutil.copy(tmp_path / "backups" / backup.name, tmp_path / "metamorph.db")
    async with serving(tmp_path, **KEY) as server:
        await gone(server, tmp_path)


async def test_the_copies_in_a_bucket_have_the_ledger_too(tmp_path: Path, store: Store) -> None:
    async with serving(tmp_path / "lost", **KEY, **store.settings) as server:
        await fill(server.caller())
        await fill(server.caller(vault="evil"))
        await backed_up(server, lambda backup: backup.HasField("copy"))
        await deleted(server)
        async with asyncio.timeout(30):
            while not any(OBJECT.fullmatch(name) for name in store.names):  # noqa: ASYNC110, it is another process
                await asyncio.sleep(0.05)
    # Another machine, which has nothing.
    (tmp_path / "new").mkdir()
    await restored(tmp_path / "new", store.url, **store.environment)
    async with serving(tmp_path / "new", **KEY) as server:
        await gone(server, tmp_path / "new")


async def test_what_the_ledger_lost_the_database_gives_back(tmp_path: Path) -> None:
    async with serving(tmp_path, **KEY) as server:
        await fill(server.caller())
        await fill(server.caller(vault="evil"))
        backup = await backed_up(server)
        await deleted(server)
    for name in LEDGERS:
        (tmp_path / name).unlink()
    async with serving(tmp_path, **KEY):
        pass
    await restored(tmp_path, backup.name)
    async with serving(tmp_path, **KEY) as server:
        await gone(server, tmp_path)


async def test_a_later_vault_with_the_same_id_is_not_taken_for_it(tmp_path: Path) -> None:
    async with serving(tmp_path, **KEY) as server:
        await fill(server.caller())
        await deleted(server)
        await release(operator_of(server))
        await fill(server.caller(), sessions=1)
        backup = await backed_up(server)
        await server.caller().create_session(title="lost")
    await restored(tmp_path, backup.name)
    async with serving(tmp_path, **KEY) as server:
        assert [session.title for session in await server.caller().sessions()] == ["Session 0"]


async def test_the_ledger_of_another_database_deletes_no_vault_with_the_same_id(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    async with serving(one, **KEY) as server:
        await fill(server.caller())
        await deleted(server)
    async with serving(two, **KEY) as server:
        await server.caller().create_session(title="another")
    shutil.copy(one / LEDGERS[1], two / LEDGERS[1])
    async with serving(two, **KEY) as server:
        assert [session.title for session in await server.caller().sessions()] == ["another"]
