"""A vault that is deleted is hidden at once, erased soon after, and free once an operator releases it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from metamorph_client.admin.v1 import admin_service_pb2 as admin
from metamorph_client.admin.v1 import backup_pb2 as admin_backup
from metamorph_client.chat.v1 import chat_service_pb2 as chat
from metamorph_client.vault.v1 import vault_service_pb2 as pb
from metamorph_client.vault.v1.operation_pb2 import OperationKind
from metamorphd.backups.directory import DAY
from metamorphd.clock import Clock, rfc3339
from metamorphd.housekeeping import Housekeeping
from metamorphd.store import vault_erasure

from tests.support.caller import Caller
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.leaving import delete, erased, fill, operation, release, tables_of
from tests.support.operating import operator_of
from tests.support.refusal import refused
from tests.support.secrets import get, put
from tests.support.serving import Serving, asking, serving

# What stays until an operator releases the vault, and what stays for good.
UNTIL_RELEASED = {"operations": 1, "vault_states": 1}
FOR_GOOD = {"erased_vaults": 1}
# The log is shortened to the deletion.
LOG = {"changes": 1, "log_beginnings": 1}
RELEASED = FOR_GOOD | LOG | {"changes": 2}


@pytest.fixture
def overrides() -> dict[str, Any]:
    return {"token_encryption_key": "k" * 32}


@pytest.fixture
def hiding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(_: Housekeeping) -> None:
        """Leaves what is deleted as it is: hidden."""

    monkeypatch.setattr(Housekeeping, "_erase_vaults", nothing)


@pytest.mark.usefixtures("hiding_only")
async def test_a_deleted_vault_is_hidden_at_once_and_others_are_not(
    running: Serving, alice: Caller, mallory: Caller, tmp_path: Path
) -> None:
    await fill(alice)
    await fill(mallory)
    answer = await delete(alice)
    assert answer.operation.kind == OperationKind.OPERATION_KIND_ERASE_VAULT
    assert (answer.operation.vault_id, answer.operation.creator, answer.operation.done) == ("acme", "alice", False)
    assert answer.operation.progress.total_count > 0
    for call in (
        alice.sessions(),
        get(alice),
        alice.vault.GetVault(pb.GetVaultRequest(), metadata=alice.metadata),
        alice.create_session(),
        delete(alice),
    ):
        refusal = await refused(call)
        assert (refusal.code.name, refusal.reason) == ("FAILED_PRECONDITION", "VAULT_DELETED")
    assert (await operation(alice, answer.operation.operation_id)).done is False
    assert len(await mallory.sessions()) == 2
    assert (await get(mallory)).secret_version.value == b"canary"
    # Everything is still there, but the key.
    left = tables_of(tmp_path)
    assert left.keys() >= {"messages", "secrets", "secret_versions"}
    assert "data_keys" not in left


async def test_without_its_id_nothing_is_deleted(alice: Caller) -> None:
    await alice.create_session()
    for confirmation in ("evil", "ACME", "acme "):
        refusal = await refused(delete(alice, confirmation))
        assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "CONFIRMATION_MISMATCH")
        assert refusal.info.metadata == {"vault_id": "acme"}
    assert len(await alice.sessions()) == 1


async def test_all_that_a_vault_had_is_erased_but_a_record_of_it(
    running: Serving, alice: Caller, mallory: Caller, tmp_path: Path
) -> None:
    await fill(alice)
    await fill(mallory)
    before = tables_of(tmp_path, "evil")
    had = tables_of(tmp_path)
    # All that a caller can fill, and the search index; deleted resources wait a moment for their own erasing.
    unfilled = {"vault_states", "vault_limits", "operations", "erased_vaults", "revocations", "erasures"}
    assert set(before) == set(had)
    assert len(had) > 15
    assert not set(had) & unfilled
    answer = await delete(alice)
    done = await erased(alice, answer.operation.operation_id)
    assert (done.WhichOneof("outcome"), done.progress.unit) == ("result", "bytes")
    assert done.progress.done_count == done.progress.total_count > 0
    assert tables_of(tmp_path) == UNTIL_RELEASED | FOR_GOOD | LOG
    assert tables_of(tmp_path, "evil") == before


async def test_a_vault_is_erased_in_steps_that_another_vault_does_not_notice(
    running: Serving, alice: Caller, mallory: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STEP_ROWS", "STEP_SIZED_ROWS", "STEP_VALUES"):
        monkeypatch.setattr(vault_erasure, name, 1)
    await fill(alice, sessions=3)
    answer = await delete(alice)
    seen = set[int]()
    while not (found := await operation(alice, answer.operation.operation_id)).done:
        seen.add(found.progress.done_count)
        await mallory.create_session()
    assert len(seen) > 2
    assert tables_of(tmp_path) == UNTIL_RELEASED | FOR_GOOD | LOG


async def test_streams_of_a_deleted_vault_end_and_its_turns_are_cancelled(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.default = Reply(tuple("word " for _ in range(200)), delay=0.2)
    async with asking(api, tmp_path) as running:
        alice = running.caller()
        session = await alice.create_session()
        events = alice.start(session.session_id)
        await events.next()
        watched = aiter(alice.vault.WatchVault(pb.WatchVaultRequest(after_revision=0), metadata=alice.metadata))
        await anext(watched)

        async def rest(stream: Any) -> None:
            async for _ in stream:
                pass

        streams = [asyncio.create_task(refused_with(each)) for each in (events.rest(), rest(watched))]
        answer = await delete(alice)
        async with asyncio.timeout(10):
            assert [await each for each in streams] == ["VAULT_DELETED"] * 2
        await erased(alice, answer.operation.operation_id)
        assert running.server._engine.running_turns == 0
        assert tables_of(tmp_path) == UNTIL_RELEASED | FOR_GOOD | LOG


async def refused_with(call: Any) -> str:
    return (await refused(call)).reason


async def test_an_erased_vault_is_released_for_a_new_one(running: Serving, alice: Caller, tmp_path: Path) -> None:
    operator = running.caller(operator=True, vault="operations")
    assert (await refused(release(operator))).reason == "VAULT_NOT_DELETED"
    await fill(alice)
    answer = await delete(alice)
    await erased(alice, answer.operation.operation_id)
    assert (await refused(alice.sessions())).reason == "VAULT_DELETED"
    await release(operator)
    assert tables_of(tmp_path) == RELEASED
    assert await alice.sessions() == []
    await put(alice, value=b"new")
    assert (await get(alice)).secret_version.value == b"new"
    listed = await alice.vault.ListOperations(pb.ListOperationsRequest(), metadata=alice.metadata)
    assert not listed.operations
    assert (await refused(release(operator))).reason == "VAULT_NOT_DELETED"


async def test_operators_who_release_a_vault_at_once_erase_nothing_of_the_new_one(
    running: Serving, alice: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await erased(alice, (await delete(alice)).operation.operation_id)
    database, first = running.server._database, asyncio.Event()
    write = database.write

    async def write_late(called: Any, *arguments: Any, **named: Any) -> Any:
        if called is vault_erasure.erase_vault_step and not first.is_set():
            first.set()
            # The other one is faster, and so is the vault's next user.
            await release(operator_of(running))
            await alice.create_session(title="new")
        return await write(called, *arguments, **named)

    monkeypatch.setattr(database, "write", write_late)
    assert (await refused(release(operator_of(running)))).reason == "VAULT_NOT_DELETED"
    assert [session.title for session in await alice.sessions()] == ["new"]


@pytest.mark.usefixtures("hiding_only")
async def test_a_vault_that_is_not_erased_yet_is_not_released(running: Serving, alice: Caller) -> None:
    await fill(alice)
    answer = await delete(alice)
    operator = running.caller(operator=True, vault="operations")
    refusal = await refused(release(operator))
    assert (refusal.reason, refusal.info.metadata["operation_id"]) == (
        "VAULT_BEING_ERASED",
        answer.operation.operation_id,
    )
    cancel = pb.CancelOperationRequest(operation_id=answer.operation.operation_id)
    assert await refused_with(alice.vault.CancelOperation(cancel, metadata=alice.metadata)) == "VAULT_DELETED"
    of_operator = admin.CancelAnyOperationRequest(vault_id="acme", operation_id=answer.operation.operation_id)
    refusal = await refused(operator.admin.CancelAnyOperation(of_operator, metadata=operator.metadata))
    assert refusal.reason == "OPERATION_NOT_CANCELLABLE"


async def test_the_file_of_an_export_is_deleted_with_the_vault(running: Serving, alice: Caller, tmp_path: Path) -> None:
    await fill(alice)
    async for _ in alice.vault.ExportVault(pb.ExportVaultRequest(), metadata=alice.metadata):
        pass
    exported = [path for path in tmp_path.rglob("*.ndjson") if path.is_file()]
    assert len(exported) == 1
    await delete(alice)
    assert not exported[0].exists()


async def test_the_limits_and_revocations_of_an_operator_outlive_a_vault(
    running: Serving, alice: Caller, tmp_path: Path
) -> None:
    operator = running.caller(operator=True, vault="operations")
    limits = admin.UpdateVaultLimitsRequest(limits=admin.VaultLimits(vault_id="acme", storage_bytes=10**6))
    limits.update_mask.paths.append("storage_bytes")
    await operator.admin.UpdateVaultLimits(limits, metadata=operator.metadata)
    revoked = admin.RevokeTokensRequest(vault_id="acme", token_id="old")
    await operator.admin.RevokeTokens(revoked, metadata=operator.metadata)
    answer = await delete(alice)
    await erased(alice, answer.operation.operation_id)
    await release(operator)
    assert tables_of(tmp_path).items() >= (FOR_GOOD | {"vault_limits": 1, "revocations": 1}).items()


async def backed_up(operator: Caller) -> None:
    """Makes a backup, and returns once it is complete."""
    made = (await operator.admin.CreateBackup(admin.CreateBackupRequest(), metadata=operator.metadata)).backup
    while made.state == admin_backup.BACKUP_STATE_CREATING:
        request = admin.GetBackupRequest(name=made.name)
        made = (await operator.admin.GetBackup(request, metadata=operator.metadata)).backup
        await asyncio.sleep(0.02)


async def test_the_answer_says_until_when_backups_have_the_vault(running: Serving, alice: Caller) -> None:
    await fill(running.caller(vault="first"))
    none = await delete(running.caller(vault="first"), "first")
    assert (none.backup_count, none.HasField("backups_expire_time")) == (0, False)
    await fill(alice)
    await backed_up(operator_of(running))
    answer = await delete(alice)
    days = (answer.backups_expire_time.ToMicroseconds() - answer.delete_time.ToMicroseconds()) / 86_400e6
    assert answer.backup_count == 1
    # BACKUP_RETENTION_DAYS, and an hour until they are looked for.
    assert 6.9 < days < 7.1


async def test_the_answer_leaves_out_the_backups_that_are_older_than_the_vault(
    running: Serving, alice: Caller, mallory: Caller, tmp_path: Path
) -> None:
    await fill(mallory)
    await backed_up(operator_of(running))
    # Those of other programs have no manifest, and perhaps no time of day.
    for day in (Clock().now() - 2 * DAY, Clock().now()):
        (tmp_path / "backups" / f"metamorph-{rfc3339(day)[:10].replace('-', '')}.db").touch()
    await fill(alice)
    assert (await delete(alice)).backup_count == 1
    assert (await delete(mallory, "evil")).backup_count == 2


async def test_a_later_life_of_a_vault_is_in_no_backup_of_an_earlier_one(running: Serving, alice: Caller) -> None:
    operator = operator_of(running)
    await fill(alice)
    await backed_up(operator)
    answer = await delete(alice)
    await erased(alice, answer.operation.operation_id)
    await release(operator)
    await fill(alice)
    assert (answer.backup_count, (await delete(alice)).backup_count) == (1, 0)


@pytest.fixture
async def manual(tmp_path: Path) -> AsyncIterator[Serving]:
    """Yields a server that makes backups only when it is asked to."""
    async with serving(tmp_path, backup_interval_hours=0) as started:
        yield started


async def test_the_newest_backup_stays_where_no_others_are_made(manual: Serving) -> None:
    alice = manual.caller()
    await alice.create_session()
    await backed_up(operator_of(manual))
    answer = await delete(alice)
    assert (answer.backup_count, answer.HasField("backups_expire_time")) == (1, False)


async def test_a_vault_that_was_never_used_can_be_deleted(running: Serving, tmp_path: Path) -> None:
    nobody = running.caller(vault="nobody")
    answer = await delete(nobody, "nobody")
    await erased(nobody, answer.operation.operation_id)
    refusal = await refused(nobody.chat.ListSessions(chat.ListSessionsRequest(), metadata=nobody.metadata))
    assert refusal.reason == "VAULT_DELETED"
    assert tables_of(tmp_path, "nobody") == UNTIL_RELEASED | FOR_GOOD | LOG
