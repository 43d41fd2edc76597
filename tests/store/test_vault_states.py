"""Nothing is stored for a vault's callers after its suspension is committed."""

import asyncio
from dataclasses import replace

import pytest
from metamorphd.errors import VaultDeleted, VaultSuspended
from metamorphd.models.caller import server_scope
from metamorphd.models.change import ChangeVerb
from metamorphd.models.vault import Budget, VaultState, VaultStatus
from metamorphd.store.changes import list_changes
from metamorphd.store.database import Database, Transaction
from metamorphd.store.turns.read import list_running_turns
from metamorphd.store.vault_states import (
    get_vault_status,
    load_vault_states,
    put_vault_status,
    resume_vault,
    suspend_vault,
)
from metamorphd.store.vaults import update_vault_limits

from tests.support.rows import ACME, EVIL, append, finish, new_session, new_turn

OPERATOR = replace(ACME, actor=replace(ACME.actor, vault_id="ops", user_id="root")).of_vault("acme")


async def suspend(database: Database, reason: str = "unpaid", now: int = 1) -> VaultStatus:
    return await database.write(suspend_vault, OPERATOR, reason=reason, now=now)


async def test_a_write_that_waits_behind_a_suspension_is_refused(database: Database) -> None:
    before, status, *after = await asyncio.gather(
        new_session(database),
        suspend(database),
        *(new_session(database) for _ in range(20)),
        return_exceptions=True,
    )
    assert not isinstance(before, BaseException)
    assert isinstance(status, VaultStatus)
    assert {type(each) for each in after} == {VaultSuspended}
    changes = await database.read(list_changes, ACME, after_revision=0, limit=100)
    assert changes.changes[-1].verb is ChangeVerb.SUSPENDED
    await new_session(database, EVIL)


async def test_a_turn_that_runs_is_ended_and_none_begins(database: Database) -> None:
    session = await new_session(database)
    turn = await new_turn(database, session.session_id)
    await suspend(database)
    with pytest.raises(VaultSuspended):
        await new_turn(database, (session.session_id))
    await append(database, turn, "a")
    assert await database.read(list_running_turns, ACME) == [turn.turn_id]
    await finish(database, turn)
    assert await database.read(list_running_turns, ACME) == []


async def test_the_operator_and_the_server_still_write(database: Database) -> None:
    await suspend(database)
    own = ACME.of_vault("acme")
    await database.write(update_vault_limits, own, budget=Budget(tokens_per_day=1), now=2)
    await new_session(database, server_scope("acme"))
    await database.write(resume_vault, own, now=3)
    await new_session(database)


async def bury_vault(tx: Transaction) -> None:
    await put_vault_status(tx, status=VaultStatus(tx.scope.vault_id, VaultState.DELETED, "", "alice", 5))


async def test_a_deleted_vault_is_refused_and_neither_suspended_nor_resumed(database: Database) -> None:
    await suspend(database)
    await database.write(bury_vault, OPERATOR)
    for refused in (new_session(database), suspend(database), database.write(resume_vault, OPERATOR, now=2)):
        with pytest.raises(VaultDeleted, match="1970-01-01T00:00:00Z"):
            await refused


async def test_states_are_read_by_vault_and_loaded_for_all(database: Database) -> None:
    suspended = await suspend(database, now=7)
    assert suspended == VaultStatus("acme", VaultState.SUSPENDED, "unpaid", "root", 7)
    assert await database.read(get_vault_status, OPERATOR) == suspended
    assert await database.read(get_vault_status, EVIL) == VaultStatus("evil")
    assert await database.read_system(load_vault_states, server_scope()) == [suspended]
