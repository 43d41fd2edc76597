"""The audit of a vault, through a whole server."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from metamorph_client.admin.v1 import admin_service_pb2 as admin
from metamorph_client.vault.v1 import vault_service_pb2 as pb
from metamorph_client.vault.v1.audit_pb2 import AuditEvent
from metamorph_client.vault.v1.change_pb2 import (
    CHANGE_VERB_CREATED,
    CHANGE_VERB_READ,
    CHANGE_VERB_REFUSED,
    CHANGED_RESOURCE_CALL,
    CHANGED_RESOURCE_REVOCATION,
    CHANGED_RESOURCE_SECRET,
    CHANGED_RESOURCE_SESSION,
    CHANGED_RESOURCE_VAULT,
    CHANGED_RESOURCE_VAULT_LIMITS,
    ChangedResource,
    ChangeVerb,
)
from metamorphd.edge import repeated
from metamorphd.errors import StoreBusy
from metamorphd.models.caller import Scope
from metamorphd.store.audit import record_event
from metamorphd.store.secrets import read_secret
from pyrage import x25519

from tests.support.caller import Caller
from tests.support.engines import Engine
from tests.support.exports import export, exported
from tests.support.refusal import refused
from tests.support.secrets import destroy, get, put, value
from tests.support.serving import Serving, serving
from tests.support.tokens import ALL

KEYS = {"token_encryption_key": "k" * 32, "audit_key": "a" * 32}
GET_SECRET = "metamorph.vault.v1.VaultService/GetSecret"
EXPORT_VAULT = "metamorph.vault.v1.VaultService/ExportVault"


@pytest.fixture
def overrides() -> dict[str, Any]:
    return KEYS


async def page(caller: Caller, **query: Any) -> pb.ListAuditEventsResponse:
    answer: pb.ListAuditEventsResponse = await caller.vault.ListAuditEvents(
        pb.ListAuditEventsRequest(**query), metadata=caller.metadata
    )
    return answer


async def audit(caller: Caller, **query: Any) -> list[AuditEvent]:
    """Returns a page of the audit, oldest first."""
    return list((await page(caller, **query)).audit_events)[::-1]


def about(events: list[AuditEvent]) -> list[tuple[str, str, str]]:
    return [
        (
            ChangedResource.Name(event.resource).removeprefix("CHANGED_RESOURCE_"),
            event.resource_id,
            ChangeVerb.Name(event.verb).removeprefix("CHANGE_VERB_"),
        )
        for event in events
    ]


async def test_what_is_changed_read_and_refused_is_listed_newest_first(running: Serving, alice: Caller) -> None:
    session = await alice.create_session()
    await put(alice, value=b"canary")
    assert await value(alice) == b"canary"
    bob = running.caller(user="bob", permissions=["read"])
    assert (await refused(get(bob))).reason == "PERMISSION_MISSING"
    found = list((await page(alice)).audit_events)[::-1]
    assert about(found) == [
        ("VAULT", "acme", "CREATED"),
        ("SESSION", session.session_id, "CREATED"),
        ("SECRET", "key", "CREATED"),
        ("SECRET", "key", "READ"),
        ("CALL", GET_SECRET, "REFUSED"),
    ]
    assert [event.revision for event in found] == [1, 2, 3, 4, 5]
    assert [event.actor for event in found] == ["alice"] * 4 + ["bob"]
    assert dict(found[-1].details) == {"permission": "secrets:read"}
    assert all(event.call_id and event.event_time.seconds and len(event.mac) == 32 for event in found)
    assert {event.key_id for event in found} == {found[0].key_id} != {""}


async def test_values_are_never_listed_and_only_equal_ones_look_alike(alice: Caller, mallory: Caller) -> None:
    for given in (b"canary", b"other", b"canary"):
        await put(alice, value=given)
    await put(mallory, value=b"canary")
    await destroy(alice, 2)
    found = await audit(alice, resources=[CHANGED_RESOURCE_SECRET])
    first, other, again, destroyed = (dict(event.details) for event in found)
    assert [each["version"] for each in (first, other, again, destroyed)] == ["1", "2", "3", "2"]
    assert first["value_hmac"] == again["value_hmac"] != other["value_hmac"]
    (others,) = await audit(mallory, resources=[CHANGED_RESOURCE_SECRET])
    assert others.details["value_hmac"] != first["value_hmac"]
    assert not any(b"canary" in event.SerializeToString() for event in found)


async def test_filters_and_pages(running: Serving, alice: Caller) -> None:
    session = await alice.create_session()
    await put(alice)
    await get(alice)
    bob = running.caller(user="bob", permissions=["read"])
    await refused(get(bob))
    revisions = [event.revision for event in await audit(alice)]
    assert about(await audit(alice, actor="bob")) == [("CALL", GET_SECRET, "REFUSED")]
    assert about(await audit(alice, resource_id=session.session_id)) == [("SESSION", session.session_id, "CREATED")]
    assert about(await audit(alice, verbs=[CHANGE_VERB_READ])) == [("SECRET", "key", "READ")]
    kinds = await audit(alice, resources=[CHANGED_RESOURCE_VAULT, CHANGED_RESOURCE_SESSION], actor="alice")
    assert [event.verb for event in kinds] == [CHANGE_VERB_CREATED] * 2
    middle = (await audit(alice))[2].event_time
    later = await audit(alice, start_time=middle)
    earlier = await audit(alice, end_time=middle)
    assert [event.revision for event in earlier + later] == revisions
    assert await audit(alice, actor="") == []
    paged: list[int] = []
    query: dict[str, Any] = {"page_size": 2}
    while not paged or query["page_token"]:
        answer = await page(alice, **query)
        paged += [event.revision for event in answer.audit_events]
        query["page_token"] = answer.next_page_token
    assert paged == revisions[::-1]
    token = (await page(alice, page_size=2)).next_page_token
    assert (await refused(page(alice, page_token=token, actor="bob"))).reason == "PAGE_TOKEN_INVALID"
    assert (await refused(page(alice, start_time=Timestamp(seconds=-1)))).reason == "REQUEST_INVALID"


async def test_a_vault_sees_its_own_audit_only_and_needs_admin(
    running: Serving, alice: Caller, mallory: Caller
) -> None:
    await alice.create_session()
    assert await audit(mallory) == []
    others = running.caller(permissions=[claim for claim in ALL if claim != "admin"])
    assert (await refused(page(others))).info.metadata == {"permission": "admin"}


async def test_the_operators_calls_on_a_vault_are_listed_without_a_name(running: Serving, alice: Caller) -> None:
    operator = running.caller(vault="acme", user="root", operator=True)
    limits = admin.VaultLimits(vault_id="acme", storage_bytes=1)
    request = admin.UpdateVaultLimitsRequest(limits=limits, update_mask=FieldMask(paths=["storage_bytes"]))
    await operator.admin.UpdateVaultLimits(request, metadata=operator.metadata)
    revoked = admin.RevokeTokensRequest(vault_id="acme", token_id="jti-1")
    await operator.admin.RevokeTokens(revoked, metadata=operator.metadata)
    found = await audit(alice)
    assert [event.resource for event in found[-2:]] == [CHANGED_RESOURCE_VAULT_LIMITS, CHANGED_RESOURCE_REVOCATION]
    assert [(event.actor, event.operator) for event in found[-2:]] == [("", True)] * 2
    assert dict(found[-1].details) == {"token_id": "jti-1"}


async def test_what_operators_do_to_the_server_is_in_its_own_log_with_their_names(running: Serving) -> None:
    operator = running.caller(vault="operators", user="root", operator=True)
    await operator.admin.RotateDataKeys(admin.RotateDataKeysRequest(), metadata=operator.metadata)
    missing = admin.DeleteBackupRequest(name="metamorph-20260101_000000.db")
    await refused(operator.admin.DeleteBackup(missing, metadata=operator.metadata))
    first = await operator.admin.ListServerAuditEvents(
        admin.ListServerAuditEventsRequest(page_size=1), metadata=operator.metadata
    )
    later = await operator.admin.ListServerAuditEvents(
        admin.ListServerAuditEventsRequest(page_size=1, page_token=first.next_page_token), metadata=operator.metadata
    )
    found = [*later.audit_events, *first.audit_events]
    # The second one was asked for, and there was no such backup.
    assert about(found) == [("DATA_KEYS", "", "UPDATED"), ("BACKUP", missing.name, "DELETED")]
    assert [(event.actor, event.operator) for event in found] == [("root", True)] * 2
    assert await audit(running.caller(vault="operators", user="root")) == []


async def test_watchers_are_shown_changes_only_and_bookmarks_pass_what_is_left_out(
    running: Serving, alice: Caller
) -> None:
    await alice.create_session()
    bob = running.caller(user="bob", permissions=["read"])
    for _ in range(3):
        await refused(get(bob))
    await put(alice)
    call = bob.vault.WatchVault(pb.WatchVaultRequest(after_revision=0), metadata=bob.metadata)
    async with asyncio.timeout(10):
        first = await anext(aiter(call))
    assert [change.revision for change in first.changes] == [1, 2, 6]
    assert first.revision == 6
    call.cancel()


class Unwritable:
    """Makes some operations of a server's database fail, once `broken` is set."""

    def __init__(self, database: Any, *operations: Any) -> None:
        self.broken = False
        self._operations = operations
        self._write = database.write
        database.write = self.write

    async def write(self, operation: Any, scope: Scope, /, *args: Any, **kwargs: Any) -> Any:
        # What `revised` makes has the operation's name.
        if self.broken and operation.__name__ in {each.__name__ for each in self._operations} | {"run"}:
            raise StoreBusy(retry_delay=1.0)
        return await self._write(operation, scope, *args, **kwargs)


async def test_what_cannot_be_recorded_is_not_answered(engine: Engine, tmp_path: Path) -> None:
    database = engine.database(tmp_path)
    unwritable = Unwritable(database, record_event, read_secret)
    async with serving(tmp_path, database=database, **KEYS) as running:
        alice, bob = running.caller(), running.caller(user="bob", permissions=["read"])
        await put(alice)
        unwritable.broken = True
        assert (await refused(get(alice))).reason == "STORE_BUSY"
        assert (await refused(get(bob))).reason == "STORE_BUSY"
        unwritable.broken = False
        assert await value(alice) == b"value"
        assert (await refused(get(bob))).reason == "PERMISSION_MISSING"


async def test_who_reads_an_export_is_recorded_and_who_may_not_have_the_values_in_it(
    running: Serving, alice: Caller
) -> None:
    export_id = (await anext(aiter(export(alice)))).export.export_id
    eve = running.caller(user="eve", permissions=["admin"])
    whole = await exported(eve, export_id=export_id)
    assert (await refused(export(eve, export_id="exp_unknown"))).reason == "EXPORT_NOT_FOUND"
    recipient = str(x25519.Identity.generate().to_public())
    assert (await refused(export(eve, secrets_recipient=recipient))).reason == "PERMISSION_MISSING"
    assert await exported(alice, export_id=export_id, offset=7) == whole[7:]
    found = await audit(alice, resources=[CHANGED_RESOURCE_CALL])
    assert [(event.actor, *about([event])[0], dict(event.details)) for event in found] == [
        ("eve", "CALL", EXPORT_VAULT, "READ", {"export_id": export_id}),
        ("eve", "CALL", EXPORT_VAULT, "REFUSED", {"permission": "secrets:read"}),
        ("alice", "CALL", EXPORT_VAULT, "READ", {"export_id": export_id}),
    ]


async def test_nobody_reads_an_export_that_cannot_be_recorded(engine: Engine, tmp_path: Path) -> None:
    database = engine.database(tmp_path)
    unwritable = Unwritable(database, record_event)
    async with serving(tmp_path, database=database, **KEYS) as running:
        alice, eve = running.caller(), running.caller(user="eve", permissions=["admin"])
        export_id = (await anext(aiter(export(alice)))).export.export_id
        unwritable.broken = True
        recipient = str(x25519.Identity.generate().to_public())
        for fields in ({"export_id": export_id}, {"secrets_recipient": recipient}):
            call = export(eve, **fields)
            assert (await refused(call)).reason == "STORE_BUSY"
        unwritable.broken = False
        assert await exported(eve, export_id=export_id)


async def test_a_caller_who_is_refused_in_a_loop_fills_no_vault_and_is_counted(
    running: Serving, alice: Caller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(repeated, "EACH", 5)
    async with serving(tmp_path / "other", **KEYS) as limited:
        bob = limited.caller(user="bob", permissions=["read"])
        for _ in range(40):
            assert (await refused(get(bob))).reason == "PERMISSION_MISSING"
        carol = limited.caller(user="carol", permissions=["read"])
        await refused(get(carol))
        auditor = limited.caller()
        found = await audit(auditor, resources=[CHANGED_RESOURCE_CALL])
        assert [event.actor for event in found] == ["bob"] * 5 + ["carol"]
    # What was only counted is recorded at the end at the latest.
    async with serving(tmp_path / "other", **KEYS) as again:
        last = (await audit(again.caller(), verbs=[CHANGE_VERB_REFUSED]))[-1]
        assert (last.actor, last.resource_id, dict(last.details)) == ("bob", "", {"count": "35"})
