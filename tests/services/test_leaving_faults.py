"""A vault leaves whole even if a file cannot be written meanwhile, or the server is killed."""

import asyncio
from pathlib import Path

import pytest
from metamorphd import housekeeping
from metamorphd.backups.ledger import LedgerFile
from metamorphd.chat.engine import TurnEngine
from metamorphd.models.erased_vault import ErasedVault
from metamorphd.transfers.exports import Exports

from tests.support.exports import exported
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.leaving import delete, tables_of
from tests.support.refusal import refused
from tests.support.serving import asking, serving


def files_of(directory: Path) -> list[Path]:
    """Returns the files of exports."""
    return list(directory.rglob("exp_*"))


async def lost(*_: object) -> int:
    """Does nothing, as a server that was killed before."""
    return 0


async def test_a_vault_leaves_whole_if_the_ledger_cannot_be_written(
    tmp_path: Path, api: FakeMessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: LedgerFile, __: list[ErasedVault]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(housekeeping, "CHORE_ROUND_SECONDS", 0.05)
    api.default = Reply(tuple("word " for _ in range(200)), delay=0.2)
    async with asking(api, tmp_path) as running:
        alice = running.caller()
        session = await alice.create_session()
        await exported(alice)
        assert files_of(tmp_path)
        await alice.start(session.session_id).next()
        with monkeypatch.context() as patch:
            patch.setattr(LedgerFile, "add", full)
            assert (await refused(delete(alice))).reason == "INTERNAL"
            assert (await refused(delete(alice))).reason == "VAULT_DELETED"
            assert (running.server._engine.running_turns, files_of(tmp_path)) == (0, [])
            assert tables_of(tmp_path)["unfiled_entries"] > 0
        async with asyncio.timeout(20):
            while "unfiled_entries" in tables_of(tmp_path):  # noqa: ASYNC110, nobody is notified
                await asyncio.sleep(0.05)


async def test_files_of_a_vault_whose_deletion_a_crash_has_cut_short_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as running:
        alice, mallory = running.caller(), running.caller(vault="evil")
        for caller in (alice, mallory):
            await caller.create_session()
            await exported(caller)
        with monkeypatch.context() as patch:
            for owner, name in ((Exports, "forget"), (TurnEngine, "cancel_turns")):
                patch.setattr(owner, name, lost)
            await delete(alice)
        assert len(files_of(tmp_path)) == 2
    async with serving(tmp_path):
        async with asyncio.timeout(20):
            while len(files_of(tmp_path)) == 2:  # noqa: ASYNC110, nobody is notified
                await asyncio.sleep(0.05)
        assert len(files_of(tmp_path)) == 1
