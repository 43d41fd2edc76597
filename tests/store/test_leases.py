"""Leases of running turns in the store."""

from dataclasses import replace

from metamorphd.models.caller import server_scope
from metamorphd.models.turn import Turn
from metamorphd.store.database import Database
from metamorphd.store.turns.leases import END_OF_TIME, list_orphaned_turns, renew_leases

from tests.support.rows import EVIL, TERMS, finish, new_message, new_session, new_turn

LEASE = 1_000
OWN, OTHER = (replace(TERMS, owner=owner, lease=LEASE) for owner in ("srv_own", "srv_other"))


async def started(database: Database, *, owner: str, now: int) -> Turn:
    """A running turn of an owner that was started at `now`."""
    session = await new_session(database)
    terms = {"srv_own": OWN, "srv_other": OTHER}[owner]
    return await new_turn(
        database, session.session_id, message=new_message(session.session_id, create_time=now), terms=terms
    )


async def orphans(database: Database, *, owner: str, now: int) -> list[str]:
    found = await database.read_system(list_orphaned_turns, server_scope(), owner=owner, now=now)
    return [turn_id for _, turn_id in found]


async def test_a_turn_is_orphaned_once_the_lease_of_its_owner_has_expired(database: Database) -> None:
    turn = await started(database, owner="srv_other", now=10)
    assert await orphans(database, owner="srv_own", now=10 + LEASE) == []
    assert await orphans(database, owner="srv_own", now=11 + LEASE) == [turn.turn_id]


async def test_a_server_alone_finds_every_turn_that_is_left_whatever_its_lease(database: Database) -> None:
    left = [await started(database, owner="srv_other", now=now) for now in (1, 10**15)]
    await started(database, owner="srv_own", now=1)
    found = await orphans(database, owner="srv_own", now=END_OF_TIME)
    assert sorted(found) == sorted(turn.turn_id for turn in left)


async def test_own_turns_are_never_orphaned(database: Database) -> None:
    await started(database, owner="srv_own", now=1)
    assert await orphans(database, owner="srv_own", now=END_OF_TIME) == []


async def test_renewing_extends_the_leases_of_one_owners_running_turns_only(database: Database) -> None:
    other = await started(database, owner="srv_other", now=1)
    own = [await started(database, owner="srv_own", now=1) for _ in range(3)]
    await finish(database, own[0])
    renewed = await database.write_system(renew_leases, server_scope(), owner="srv_own", expire_time=10**6)
    assert renewed == 2
    assert await orphans(database, owner="srv_new", now=10**6) == [other.turn_id]
    found = await orphans(database, owner="srv_new", now=10**6 + 1)
    assert sorted(found) == sorted(turn.turn_id for turn in (other, *own[1:]))


async def test_an_ended_turn_is_not_orphaned(database: Database) -> None:
    await finish(database, await started(database, owner="srv_other", now=1))
    assert await orphans(database, owner="srv_own", now=END_OF_TIME) == []


async def test_orphans_are_found_in_every_vault(database: Database) -> None:
    turns = [await started(database, owner="srv_other", now=1)]
    session = await new_session(database, EVIL)
    turns.append(await new_turn(database, session.session_id, scope=EVIL))
    found = await database.read_system(list_orphaned_turns, server_scope(), owner="srv_own", now=END_OF_TIME)
    assert {vault_id for vault_id, _ in found} == {"acme", "evil"}
