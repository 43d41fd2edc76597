"""Sessions that nobody has used for as long as their vault's retention are deleted, and no others."""

from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.vault.v1 import vault_service_pb2 as pb
from metamorphd import housekeeping
from metamorphd.clock import Clock
from metamorphd.housekeeping import Housekeeping
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.models.vault import VaultChanges
from metamorphd.store.changes import list_changes
from metamorphd.store.database import Database
from metamorphd.store.session_lists import list_sessions
from metamorphd.store.vault_states import suspend_vault
from metamorphd.store.vaults import update_vault

from tests.support.caller import Caller
from tests.support.refusal import refused
from tests.support.rows import ACME, EVIL, KEY, new_session, stored_message

DAY = 24 * 3_600_000_000


@dataclass
class At(Clock):
    """A clock that stands still, at a day."""

    day: float

    def __post_init__(self) -> None:
        super().__init__()

    def now(self) -> int:
        return int(self.day * DAY)


async def kept(database: Database, scope: Any = ACME) -> list[str]:
    """Returns the titles of a vault's sessions, the least recently used first."""
    query: dict[str, Any] = {"archived": None, "creator": None, "metadata": {}, "after": None}
    page = await database.read(list_sessions, scope, **query, page_size=100, max_size=2**20)
    return [session.title for session in page.items][::-1]


async def retain(database: Database, days: int, scope: Any = ACME) -> None:
    changes = VaultChanges(retention_days=days)
    await database.write(update_vault, scope, changes=changes, etag="", hash_key=KEY, now=1)


async def sweep(database: Database, day: float) -> None:
    await Housekeeping(database=database, clock=At(day), event_retention_hours=24, request_retention_days=7).sweep()


async def test_sessions_are_kept_for_ever_unless_a_vault_says_otherwise(database: Database) -> None:
    await new_session(database, title="old", now=0)
    await new_session(database, EVIL, title="old", now=0)
    await retain(database, 30)
    await sweep(database, 29.9)
    assert await kept(database) == ["old"]
    await sweep(database, 30.1)
    assert (await kept(database), await kept(database, EVIL)) == ([], ["old"])
    await retain(database, 0, EVIL)
    await sweep(database, 10_000)
    assert await kept(database, EVIL) == ["old"]


async def test_it_is_the_last_use_that_counts(database: Database) -> None:
    used = await new_session(database, title="used", now=0)
    await new_session(database, title="unused", now=0)
    await stored_message(database, used.session_id, create_time=20 * DAY)
    await retain(database, 30)
    await sweep(database, 45)
    assert await kept(database) == ["used"]
    await sweep(database, 51)
    assert await kept(database) == []


async def test_more_of_them_than_a_step_deletes_are_deleted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "PAUSE_SECONDS", 0)
    for number in range(2 * housekeeping.EXPIRED_SESSIONS + 1):
        await new_session(database, title=str(number), now=number)
    await new_session(database, title="newest", now=40 * DAY)
    await retain(database, 30)
    await sweep(database, 41)
    assert await kept(database) == ["newest"]


async def test_each_is_a_change_of_the_server(database: Database) -> None:
    session = await new_session(database, title="old", now=0)
    await retain(database, 1)
    await sweep(database, 2)
    last = (await database.read(list_changes, ACME, after_revision=0, limit=100)).changes[-1]
    assert (last.resource, last.resource_id, last.verb, last.actor) == (
        ChangedResource.SESSION,
        session.session_id,
        ChangeVerb.DELETED,
        "",
    )


async def test_nothing_of_a_suspended_vault_is_deleted(database: Database) -> None:
    await new_session(database, title="old", now=0)
    await retain(database, 1)
    await database.write(suspend_vault, ACME, reason="unpaid", now=1)
    await sweep(database, 2)
    assert await kept(database) == ["old"]


async def test_a_vault_shows_its_retention_and_refuses_one_that_makes_no_sense(alice: Caller) -> None:
    mask = FieldMask(paths=["retention_days"])
    for days in (30, 0):
        request = pb.UpdateVaultRequest(vault=pb.Vault(retention_days=days), update_mask=mask)
        assert (await alice.vault.UpdateVault(request, metadata=alice.metadata)).vault.retention_days == days
        got = await alice.vault.GetVault(pb.GetVaultRequest(), metadata=alice.metadata)
        assert got.vault.retention_days == days
    for days in (-1, 36_501):
        request = pb.UpdateVaultRequest(vault=pb.Vault(retention_days=days), update_mask=mask)
        refusal = await refused(alice.vault.UpdateVault(request, metadata=alice.metadata))
        assert refusal.reason == "REQUEST_INVALID"
