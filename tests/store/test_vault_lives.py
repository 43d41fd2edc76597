"""What began in a vault that is deleted leaves nothing in it, nor in the next vault with its ID."""

from pathlib import Path
from typing import Any

import pytest
from metamorphd.models.caller import server_scope
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.models.operation import OperationKind
from metamorphd.models.turn import Turn
from metamorphd.models.usage import Usage
from metamorphd.models.vault import Budget
from metamorphd.operations import Operations
from metamorphd.store.audit import record_event
from metamorphd.store.database import Database, Transaction
from metamorphd.store.erasure_ledger import get_life
from metamorphd.store.imports import begin_import, complete_import, end_import_step
from metamorphd.store.session_titles import set_title, wants_title
from metamorphd.store.usage import count_deleted_usage
from metamorphd.store.vault_deletion import delete_vault, release_vault
from metamorphd.store.vault_erasure import erase_vault_step
from metamorphd.store.vault_states import suspend_vault
from metamorphd.store.vaults import update_vault_limits

from tests.support.leaving import tables_of
from tests.support.rows import ACME, CLOCK, finish, new_session, new_turn

SERVER = server_scope("acme")
STAGE_SESSION = """
INSERT INTO staged_records (vault_id, number, kind, record) VALUES (:vault_id, 1, 'session', '{"session_id": "ses_1"}')
"""


async def delete(database: Database) -> str:
    """Deletes the vault, and returns the ID of the operation that erases it."""
    operation = Operations(database=database, clock=CLOCK).new(ACME, OperationKind.ERASE_VAULT)
    key, now = CLOCK.new_key(), CLOCK.now()
    await database.write(delete_vault, ACME, operation=operation, hash_key=key, places=(), now=now)
    return operation.operation_id


async def erase(database: Database, operation_id: str) -> None:
    """Erases the deleted vault."""
    while await database.write(erase_vault_step, SERVER, operation_id=operation_id, now=CLOCK.now()):
        pass


async def ended_turn(database: Database) -> tuple[Turn, str | None]:
    """Returns a turn that has ended, and the life of its vault."""
    turn = await new_turn(database, (await new_session(database)).session_id, labels={"customer": "secret"})
    await finish(database, turn)
    return turn, await database.read(get_life, ACME)


async def count_late(database: Database, turn: Turn, life: str | None) -> None:
    """Counts what a turn and its session's title have used, of which the server has learned only now."""
    used: dict[str, Any] = {"turn": turn, "life": life, "usage": Usage(7), "now": CLOCK.now()}
    assert await database.write(count_deleted_usage, ACME, **used)
    await database.write(set_title, ACME, title="Late", model="m", **used)


async def test_usage_that_comes_after_the_erasing_is_not_kept(database: Database, tmp_path: Path) -> None:
    turn, life = await ended_turn(database)
    await erase(database, await delete(database))
    erased = tables_of(tmp_path)
    await count_late(database, turn, life)
    assert tables_of(tmp_path) == erased


async def test_usage_that_comes_while_a_vault_is_erased_is_erased_with_it(database: Database, tmp_path: Path) -> None:
    turn, life = await ended_turn(database)
    operation_id = await delete(database)
    for _ in range(4):
        await database.write(erase_vault_step, SERVER, operation_id=operation_id, now=CLOCK.now())
    await database.write(set_title, ACME, turn=turn, life=life, title="Late", model="m", usage=Usage(7), now=1)
    await erase(database, operation_id)
    assert not {"usage", "daily_usage", "subject_usage", "sessions"} & tables_of(tmp_path).keys()


async def test_usage_of_a_vault_does_not_count_towards_the_next_one_with_its_id(
    database: Database, tmp_path: Path
) -> None:
    turn, life = await ended_turn(database)
    await erase(database, await delete(database))
    await database.write(release_vault, SERVER, now=CLOCK.now())
    await new_session(database, hash_key=CLOCK.new_key())
    begun = tables_of(tmp_path)
    await count_late(database, turn, life)
    assert tables_of(tmp_path) == begun
    assert not {"usage", "daily_usage", "subject_usage"} & begun.keys()


@pytest.mark.parametrize("leaves", [True, False])
async def test_no_session_of_a_vault_that_is_suspended_or_deleted_wants_a_title(
    database: Database, leaves: bool
) -> None:
    turn, _ = await ended_turn(database)
    assert await database.read(wants_title, ACME, turn=turn, now=CLOCK.now())
    if leaves:
        await delete(database)
    else:
        await database.write(suspend_vault, SERVER, reason="unpaid", now=CLOCK.now())
    assert not await database.read(wants_title, ACME, turn=turn, now=CLOCK.now())


async def test_entries_of_before_a_deletion_are_erased_whatever_their_times_are(
    database: Database, tmp_path: Path
) -> None:
    for late in (0, 10**9):
        await new_session(database, now=CLOCK.now() + late)
    await erase(database, await delete(database))
    # The deletion.
    assert tables_of(tmp_path)["changes"] == 1


async def test_what_ends_in_a_deleted_vault_leaves_no_entry(database: Database, tmp_path: Path) -> None:
    turn = await new_turn(database, (await new_session(database)).session_id)
    operation_id = await delete(database)
    await finish(database, turn)
    for scope in (ACME, SERVER):
        event: dict[str, Any] = {
            "resource_id": "token",
            "verb": ChangeVerb.REFUSED,
            "details": None,
            "now": CLOCK.now(),
        }
        await database.write(record_event, scope, resource=ChangedResource.CALL, **event)
    await erase(database, operation_id)
    assert tables_of(tmp_path)["changes"] == 1


async def test_what_operators_do_to_a_deleted_vault_stays_in_its_log(database: Database, tmp_path: Path) -> None:
    await new_session(database)
    operation_id = await delete(database)
    await database.write(update_vault_limits, ACME.of_vault("acme"), budget=Budget(tokens_per_day=1), now=2)
    await erase(database, operation_id)
    assert tables_of(tmp_path)["changes"] == 2


async def stage_session(tx: Transaction) -> None:
    await tx.run(STAGE_SESSION)


async def test_nothing_of_an_import_is_revealed_in_a_deleted_vault(database: Database, tmp_path: Path) -> None:
    await database.write(begin_import, ACME, import_id="imp_1", hash_key=CLOCK.new_key(), now=1)
    await database.write(stage_session, ACME)
    await database.write(complete_import, ACME, import_id="imp_1", counts={}, now=1)
    operation_id = await delete(database)
    assert await database.write(end_import_step, SERVER, now=2) is None
    assert tables_of(tmp_path)["staged_records"] == 1
    await erase(database, operation_id)
    assert not {"staged_records", "imports"} & tables_of(tmp_path).keys()
