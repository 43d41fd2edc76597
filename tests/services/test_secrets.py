"""Secrets, as callers see them."""

import asyncio
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from metamorph_client.vault.v1 import vault_service_pb2 as pb
from metamorph_client.vault.v1.change_pb2 import CHANGED_RESOURCE_SECRET, Change, ChangeVerb

from tests.support.caller import Caller
from tests.support.refusal import refused
from tests.support.secrets import delete, destroy, get, listed, put, value, versions
from tests.support.serving import Serving, serving
from tests.support.tokens import ALL

KEY, OTHER_KEY = "k" * 32, "o" * 32


@pytest.fixture
def overrides() -> dict[str, Any]:
    return {"token_encryption_key": KEY}


async def stored_bytes(caller: Caller) -> int:
    return (await caller.vault.GetUsage(pb.GetUsageRequest(), metadata=caller.metadata)).storage.stored_bytes


async def test_every_version_of_a_secret_can_be_read(alice: Caller) -> None:
    for number in (1, 2, 3):
        made = (await put(alice, value=b"value %d" % number, labels={"env": str(number)})).secret_version
        assert (made.name, made.version, made.value, made.creator) == ("key", number, b"", "alice")
        assert made.HasField("create_time")
        assert not made.HasField("destroy_time")
    assert [await value(alice, version=number) for number in (0, 1, 2, 3)] == [
        b"value 3",
        b"value 1",
        b"value 2",
        b"value 3",
    ]
    (secret,) = await listed(alice)
    assert (secret.name, secret.version, dict(secret.labels), secret.creator) == ("key", 3, {"env": "3"}, "alice")
    assert secret.create_time.ToMicroseconds() < secret.update_time.ToMicroseconds()
    assert [(each.version, each.value) for each in await versions(alice)] == [(3, b""), (2, b""), (1, b"")]


async def test_values_of_every_size_come_back_as_they_were(alice: Caller) -> None:
    for size in (1, 4096, 65_536):
        given = bytes(number % 251 for number in range(size))
        await put(alice, value=given)
        assert await value(alice) == given
    for given in (b"", bytes(65_537)):
        refusal = await refused(put(alice, value=given))
        assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["value"])


async def test_two_vaults_may_use_the_same_secret_name(alice: Caller, mallory: Caller) -> None:
    await put(alice, value=b"hers")
    refusal = await refused(get(mallory))
    assert (refusal.code.name, refusal.reason) == ("NOT_FOUND", "SECRET_NOT_FOUND")
    assert refusal.info.metadata == {"name": "key"}
    await put(mallory, value=b"his")
    assert (await value(alice), await value(mallory)) == (b"hers", b"his")
    await delete(mallory)
    assert await value(alice) == b"hers"


async def test_a_version_is_put_only_on_the_one_that_is_expected(alice: Caller) -> None:
    refusal = await refused(put(alice, expected_version=1))
    assert (refusal.code.name, refusal.reason, refusal.info.metadata) == (
        "ABORTED",
        "SECRET_VERSION_MISMATCH",
        {"version": "0"},
    )
    await put(alice, expected_version=0)
    refusal = await refused(put(alice, expected_version=0))
    assert refusal.info.metadata == {"version": "1"}
    assert (await put(alice, expected_version=1)).secret_version.version == 2
    assert len(await versions(alice)) == 2
    refusal = await refused(delete(alice, expected_version=1))
    assert (refusal.reason, refusal.info.metadata) == ("SECRET_VERSION_MISMATCH", {"version": "2"})
    await delete(alice, expected_version=2)
    assert await listed(alice) == []


async def test_of_those_who_put_at_once_one_has_each_version(alice: Caller) -> None:
    answers = await asyncio.gather(*(put(alice, value=b"%d" % number) for number in range(16)))
    assert sorted(answer.secret_version.version for answer in answers) == list(range(1, 17))
    for number, answer in enumerate(answers):
        assert await value(alice, version=answer.secret_version.version) == b"%d" % number
    others = [put(alice, "once", expected_version=0) for _ in range(16)]
    ended = await asyncio.gather(*others, return_exceptions=True)
    assert sum(isinstance(each, pb.PutSecretResponse) for each in ended) == 1


async def test_a_repeated_request_stores_one_version(alice: Caller) -> None:
    request_id = str(uuid.uuid4())
    first = await put(alice, expected_version=0, request_id=request_id)
    await put(alice, value=b"newer")
    repeated = await put(alice, expected_version=0, request_id=request_id.upper())
    assert repeated.secret_version == first.secret_version
    assert len(await versions(alice)) == 2
    refusal = await refused(put(alice, value=b"other", expected_version=0, request_id=request_id))
    assert (refusal.code.name, refusal.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
    await delete(alice)
    refusal = await refused(put(alice, expected_version=0, request_id=request_id))
    assert (refusal.code.name, refusal.reason) == ("NOT_FOUND", "SECRET_VERSION_NOT_FOUND")
    await put(alice)
    refusal = await refused(put(alice, expected_version=0, request_id=request_id))
    assert (refusal.code.name, refusal.reason) == ("NOT_FOUND", "SECRET_VERSION_NOT_FOUND")


async def test_a_destroyed_version_stays_listed_and_others_are_read(alice: Caller) -> None:
    for number in (1, 2):
        await put(alice, value=b"value %d" % number)
    before = await stored_bytes(alice)
    first = (await destroy(alice, 1)).secret_version
    assert (first.version, first.HasField("destroy_time"), first.value) == (1, True, b"")
    assert (await destroy(alice, 1)).secret_version == first
    assert await stored_bytes(alice) < before
    refusal = await refused(get(alice, version=1))
    assert (refusal.code.name, refusal.reason, refusal.info.metadata) == (
        "FAILED_PRECONDITION",
        "SECRET_VERSION_DESTROYED",
        {"name": "key", "version": "1"},
    )
    assert await value(alice) == b"value 2"
    assert [each.HasField("destroy_time") for each in await versions(alice)] == [False, True]
    await destroy(alice, 2)
    assert (await refused(get(alice))).reason == "SECRET_VERSION_DESTROYED"
    assert (await put(alice)).secret_version.version == 3
    for call in (destroy(alice, 9), get(alice, version=9)):
        refusal = await refused(call)
        assert (refusal.reason, refusal.info.metadata) == ("SECRET_VERSION_NOT_FOUND", {"name": "key", "version": "9"})


async def test_the_newest_20_versions_are_kept(alice: Caller) -> None:
    for number in range(1, 24):
        await put(alice, value=b"%d" % number)
    assert [each.version for each in await versions(alice)] == list(range(23, 3, -1))
    assert (await refused(get(alice, version=3))).reason == "SECRET_VERSION_NOT_FOUND"
    assert await value(alice, version=4) == b"4"


async def test_a_deleted_secret_is_gone_and_its_name_is_free(alice: Caller) -> None:
    empty = await stored_bytes(alice)
    await put(alice, labels={"a": "b"})
    await put(alice, value=b"x" * 1000, labels={"a": "bbb"})
    assert await stored_bytes(alice) > empty + 1000
    await delete(alice)
    assert await stored_bytes(alice) == empty
    request = pb.ListSecretVersionsRequest(name="key")
    for call in (
        get(alice),
        delete(alice),
        destroy(alice, 1),
        alice.vault.ListSecretVersions(request, metadata=alice.metadata),
    ):
        refusal = await refused(call)
        assert (refusal.code.name, refusal.reason) == ("NOT_FOUND", "SECRET_NOT_FOUND")
    assert (await put(alice, value=b"again", expected_version=0)).secret_version.version == 1
    assert await value(alice) == b"again"


async def test_an_expired_secret_is_not_found_and_its_name_is_free(running: Serving, alice: Caller) -> None:
    refusal = await refused(put(alice, expire_time=Timestamp(seconds=int(time.time()) - 1)))
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["expire_time"])
    soon = Timestamp()
    soon.FromMicroseconds(time.time_ns() // 1000 + 700_000)
    await put(alice, "stays")
    await put(alice, expire_time=soon)
    assert [secret.HasField("expire_time") for secret in await listed(alice)] == [True, False]
    assert await value(alice) == b"value"
    await asyncio.sleep(0.8)
    assert (await refused(get(alice))).reason == "SECRET_NOT_FOUND"
    assert [secret.name for secret in await listed(alice)] == ["stays"]
    assert (await put(alice, expected_version=0)).secret_version.version == 1
    assert await value(alice) == b"value"


async def test_secrets_and_versions_are_listed_in_pages(alice: Caller) -> None:
    names = [f"n/{number:02}" for number in range(7)]
    for name in reversed(names):
        await put(alice, name)
    for _ in range(4):
        await put(alice, "n/00")
    request, found = pb.ListSecretsRequest(page_size=3), []
    while True:
        page = await alice.vault.ListSecrets(request, metadata=alice.metadata)
        found.append([secret.name for secret in page.secrets])
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert found == [names[:3], names[3:6], names[6:]]
    of_one, numbers = pb.ListSecretVersionsRequest(name="n/00", page_size=2), []
    while True:
        listing = await alice.vault.ListSecretVersions(of_one, metadata=alice.metadata)
        numbers.append([each.version for each in listing.secret_versions])
        of_one.page_token = listing.next_page_token
        if not listing.next_page_token:
            break
    assert numbers == [[5, 4], [3, 2], [1]]
    of_one.page_token, of_one.name = request.page_token or "x", "n/01"
    refusal = await refused(alice.vault.ListSecretVersions(of_one, metadata=alice.metadata))
    assert refusal.reason == "PAGE_TOKEN_INVALID"


@pytest.mark.parametrize("name", ["", "/a", ".a", "a b", "a\n", "ä", "a" * 129])
async def test_a_name_that_breaks_its_rule_is_refused(alice: Caller, name: str) -> None:
    for call in (put(alice, name), get(alice, name), destroy(alice, 1, name), delete(alice, name)):
        refusal = await refused(call)
        assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["name"])


async def test_secrets_count_towards_the_vault_s_storage(tmp_path: Path) -> None:
    async with serving(tmp_path, token_encryption_key=KEY, vault_storage_bytes=1000) as server:
        caller = server.caller()
        await put(caller, value=b"x" * 500)
        refusal = await refused(put(caller, value=b"x" * 500))
        assert (refusal.code.name, refusal.reason) == ("RESOURCE_EXHAUSTED", "STORAGE_QUOTA_EXCEEDED")
        await destroy(caller, 1)
        await put(caller, value=b"y" * 500)


async def test_without_a_key_no_secret_is_stored_or_read(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        caller = server.caller()
        for call in (
            put(caller),
            get(caller),
            destroy(caller, 1),
            delete(caller),
            caller.vault.ListSecrets(pb.ListSecretsRequest(), metadata=caller.metadata),
            caller.vault.ListSecretVersions(pb.ListSecretVersionsRequest(name="key"), metadata=caller.metadata),
        ):
            refusal = await refused(call)
            assert (refusal.code.name, refusal.reason) == ("FAILED_PRECONDITION", "ENCRYPTION_NOT_CONFIGURED")


async def test_a_key_that_is_not_there_any_more_is_named(tmp_path: Path) -> None:
    async with serving(tmp_path, token_encryption_key=KEY) as server:
        await put(server.caller())
    async with serving(tmp_path, token_encryption_key=OTHER_KEY) as server:
        caller = server.caller()
        for call in (get(caller), put(caller)):
            refusal = await refused(call)
            assert (refusal.code.name, refusal.reason) == ("FAILED_PRECONDITION", "KEY_UNAVAILABLE")
            assert len(refusal.info.metadata["key_id"]) == 16
        # Without it, a secret can still be taken away, and another vault has a data key of its own.
        assert [secret.name for secret in await listed(caller)] == ["key"]
        await delete(caller)
        await put(server.caller(vault="other"))
    previous = f"x{OTHER_KEY}, {OTHER_KEY}"
    async with serving(tmp_path, token_encryption_key=KEY, token_encryption_key_previous=previous) as server:
        assert await value(server.caller(vault="other")) == b"value"


async def test_reading_a_value_takes_a_permission_of_its_own(running: Serving, alice: Caller) -> None:
    await put(alice)
    reader = running.caller(permissions=[claim for claim in ALL if claim != "secrets:read"])
    refusal = await refused(get(reader))
    assert (refusal.reason, refusal.info.metadata) == ("PERMISSION_MISSING", {"permission": "secrets:read"})
    assert len(await listed(reader)) == 1
    only = running.caller(permissions=["secrets:read"])
    assert await value(only) == b"value"
    for call in (put(only), destroy(only, 1), delete(only)):
        assert (await refused(call)).info.metadata == {"permission": "secrets:write"}


async def test_each_change_and_each_read_is_in_the_log_and_says_its_revision(alice: Caller) -> None:
    since = (await alice.vault.GetVault(pb.GetVaultRequest(), metadata=alice.metadata)).revision
    answers = [
        await put(alice),
        await put(alice),
        await get(alice),
        await destroy(alice, 1),
        # Nothing changes.
        await destroy(alice, 1),
        await delete(alice),
    ]
    assert (await refused(get(alice))).reason == "SECRET_NOT_FOUND"
    assert [answer.revision - since for answer in answers] == [1, 2, 3, 4, 4, 5]
    watched = alice.vault.WatchVault(pb.WatchVaultRequest(after_revision=since), metadata=alice.metadata)
    changes: list[Change] = []
    async for response in watched:
        changes += response.changes
        if len(changes) >= 5:
            break
    watched.cancel()
    assert {(change.resource, change.resource_id, change.actor) for change in changes} == {
        (CHANGED_RESOURCE_SECRET, "key", "alice")
    }
    assert [ChangeVerb.Name(change.verb).removeprefix("CHANGE_VERB_") for change in changes] == [
        "CREATED",
        "UPDATED",
        "READ",
        "DESTROYED",
        "DELETED",
    ]
