"""Exports, as callers see them."""

import asyncio
import hashlib
from base64 import b64decode
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from metamorph_client.chat.v1 import message_pb2
from metamorph_client.chat.v1.chat_service_pb2 import DeleteSessionRequest
from metamorph_client.vault.v1 import vault_service_pb2 as pb
from metamorph_client.vault.v1.change_pb2 import CHANGE_VERB_EXPORTED, CHANGE_VERB_READ
from metamorphd.store.export_kinds import KINDS
from metamorphd.store.exports import read_records
from metamorphd.transfers import exports, pages
from metamorphd.transfers.files import ExportFiles
from pyrage import decrypt, x25519

from tests.support.caller import Caller, text_block
from tests.support.exports import export, exported, import_, of_kind, records, whole
from tests.support.media import png
from tests.support.refusal import Refusal, refused
from tests.support.secrets import destroy, put
from tests.support.serving import Serving, serving
from tests.support.tokens import ALL
from tests.support.turns import regenerate
from tests.support.usage import OF_USER, allow

KEY = "k" * 32


@pytest.fixture
def overrides() -> dict[str, Any]:
    return {"token_encryption_key": KEY}


async def changes(caller: Caller, *verbs: Any) -> list[tuple[str, str]]:
    request = pb.WatchVaultRequest(after_revision=0, verbs=verbs)
    watching = caller.vault.WatchVault(request, metadata=caller.metadata)
    found: list[tuple[str, str]] = []
    async for response in watching:
        if not response.changes:
            watching.cancel()
            return found
        found += [(change.resource_id, change.actor) for change in response.changes]
    raise AssertionError("the log ended")


async def filled(caller: Caller) -> str:
    """Stores something of every kind, and returns the ID of the session."""
    session = await caller.create_session(title="Köln", system_prompt="Be brief.", metadata={"team": "web"})
    image = await caller.upload(png(3, 5))
    block = message_pb2.ImageBlock(attachment_id=image.attachment_id, media_type="image/png")
    await caller.send(session.session_id, content=[text_block("Hello"), message_pb2.ContentBlock(image=block)])
    await allow(caller, OF_USER, tokens_per_day=10**9)
    await put(caller, value=b"first", labels={"env": "test"})
    await put(caller, value=b"second")
    await destroy(caller, 1)
    return session.session_id


async def test_an_export_ends_with_the_counts_and_the_hash_of_what_precedes(alice: Caller) -> None:
    await filled(alice)
    data = await exported(alice)
    header, *body, trailer = records(data)
    assert (header["kind"], header["format"], header["version"]) == ("header", "metamorph-vault", 1)
    assert (header["vault_id"], header["secrets"]) == ("acme", "names")
    last = data.rstrip(b"\n").rfind(b"\n") + 1
    assert trailer["sha256"] == hashlib.sha256(data[:last]).hexdigest()
    assert trailer["counts"] == {kind: len(of_kind(data, kind)) for kind in {record["kind"] for record in body}}
    assert [record["kind"] for record in body] == [
        *(
            "vault",
            "subject_budget",
            "session",
            "message",
            "message",
            "turn",
            "attachment",
            "attachment_chunk",
            "usage",
            "subject_usage",
            "secret",
            "secret_version",
            "secret_version",
        ),
    ]


async def test_an_export_has_nothing_of_another_vault(alice: Caller, mallory: Caller) -> None:
    session = await mallory.create_session(title="Mallory's own")
    await mallory.send(session.session_id, "unheard-of")
    await put(mallory, name="hidden", value=b"value")
    await filled(alice)
    data = await exported(alice)
    for foreign in (b"Mallory", b"unheard-of", b"hidden", b"evil"):
        assert foreign not in data


async def test_values_of_secrets_are_for_their_recipient_only(alice: Caller) -> None:
    await filled(alice)
    assert b"second" not in await exported(alice)
    identity = x25519.Identity.generate()
    data = await exported(alice, secrets_recipient=str(identity.to_public()))
    destroyed, current = of_kind(data, "secret_version")
    assert "sealed_value" not in destroyed
    assert decrypt(b64decode(current["sealed_value"]), [identity]) == b"second"
    assert records(data)[0]["secrets"] == "sealed"
    assert await changes(alice, CHANGE_VERB_READ) == [("key", "alice")]
    assert await changes(alice, CHANGE_VERB_EXPORTED) == [("acme", "alice")] * 2


async def test_values_of_secrets_need_the_permission_to_read_them(running: Serving) -> None:
    identity = str(x25519.Identity.generate().to_public())
    admin = running.caller(permissions=[each for each in ALL if each != "secrets:read"])
    await exported(admin)
    refusal = await refused(export(admin, secrets_recipient=identity))
    assert (refusal.reason, refusal.info.metadata) == ("PERMISSION_MISSING", {"permission": "secrets:read"})
    damaged = identity[:-1] + ("p" if identity[-1] == "q" else "q")
    refusal = await refused(export(running.caller(), secrets_recipient=damaged))
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["secrets_recipient"])


async def test_a_deleted_session_and_an_upload_that_was_not_sent_are_not_in_an_export(alice: Caller) -> None:
    session_id = await filled(alice)
    await alice.upload(png(7, 7))
    await alice.chat.DeleteSession(DeleteSessionRequest(session_id=session_id), metadata=alice.metadata)
    data = await exported(alice)
    assert of_kind(data, "session", "message", "turn", "attachment") == []
    assert len(of_kind(data, "usage")) == 1


async def test_the_rest_of_an_export_has_the_same_bytes(alice: Caller) -> None:
    await filled(alice)
    first = [response async for response in export(alice)]
    whole = b"".join(response.data for response in first[1:])
    export_id = first[0].export.export_id
    # What is stored since is not in it.
    await filled(alice)
    for offset in (0, 1, len(whole) // 2, len(whole) - 1, len(whole)):
        assert await exported(alice, export_id=export_id, offset=offset) == whole[offset:]
    refusal = await refused(export(alice, export_id=export_id, offset=len(whole) + 1))
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["offset"])


async def test_an_export_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        alice = running.caller()
        await alice.create_session(title="kept")
        first = [response async for response in export(alice)]
    whole = b"".join(response.data for response in first[1:])
    async with serving(tmp_path) as running:
        export_id = first[0].export.export_id
        assert await exported(running.caller(), export_id=export_id, offset=10) == whole[10:]
        refusal = await refused(export(running.caller(vault="evil"), export_id=export_id))
        assert (refusal.code.name, refusal.reason) == ("NOT_FOUND", "EXPORT_NOT_FOUND")


async def test_a_new_export_replaces_the_vaults_other_one(alice: Caller, mallory: Caller) -> None:
    kept = (await anext(aiter(export(mallory)))).export.export_id
    first = (await anext(aiter(export(alice)))).export.export_id
    second = (await anext(aiter(export(alice)))).export.export_id
    await exported(alice, export_id=second)
    await exported(mallory, export_id=kept)
    for unknown in (first, kept, "../" + kept, "*"):
        refusal = await refused(export(alice, export_id=unknown))
        assert (refusal.reason, refusal.info.metadata) == ("EXPORT_NOT_FOUND", {"export_id": unknown})


async def test_the_server_goes_on_when_the_caller_is_gone(alice: Caller) -> None:
    await filled(alice)
    call = export(alice)
    export_id = (await anext(aiter(call))).export.export_id
    call.cancel()
    assert records(await exported(alice, export_id=export_id))[-1]["kind"] == "trailer"


async def test_a_file_that_cannot_grow_is_refused_and_leaves_nothing(
    alice: Caller, running: Serving, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(type(running.server._database), "fits", lambda *_: False)
    refusal = await refused(export(alice))
    assert (refusal.code.name, refusal.reason) == ("RESOURCE_EXHAUSTED", "STORAGE_FULL")
    assert list((tmp_path / "metamorph.db-exports").rglob("*.*")) == []


async def test_files_are_deleted_once_they_were_kept_for_long_enough(tmp_path: Path) -> None:
    async with serving(tmp_path, export_retention_hours=0.0001) as running:
        export_id = (await anext(aiter(export(running.caller())))).export.export_id
        for _ in range(300):
            if not list((tmp_path / "metamorph.db-exports").iterdir()):
                break
            await asyncio.sleep(0.05)
        refusal = await refused(export(running.caller(), export_id=export_id))
        assert refusal.reason == "EXPORT_NOT_FOUND"


async def test_of_exports_that_begin_at_once_one_is_left(alice: Caller) -> None:
    await filled(alice)

    async def begun() -> str:
        call = alice.vault.ExportVault(pb.ExportVaultRequest(), metadata=alice.metadata)
        try:
            first: Any = await call.read()
        finally:
            call.cancel()
        return str(first.export.export_id)

    ids = await asyncio.gather(*(begun() for _ in range(20)))
    left, refusals = [], set()
    for export_id in ids:
        call = alice.vault.ExportVault(pb.ExportVaultRequest(export_id=export_id), metadata=alice.metadata)
        try:
            left += [export_id async for part in call if part.HasField("export")]
        except grpc.aio.AioRpcError as error:
            refusals.add(Refusal(error).reason)
    assert (len(left), refusals) == (1, {"EXPORT_NOT_FOUND"})


async def test_many_pages_have_every_record_once(alice: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES", 300)
    monkeypatch.setattr(exports, "SENT_BYTES", 100)
    sessions = [await alice.create_session(title=f"number {number}") for number in range(70)]
    for session in sessions[::10]:
        await alice.send(session.session_id, "Hello")
        await alice.send(session.session_id, "Hello again")
    data = await exported(alice)
    # By key, which within a millisecond is not the order in which they were created.
    assert [record["session_id"] for record in of_kind(data, "session")] == sorted(each.session_id for each in sessions)
    messages = of_kind(data, "message")
    assert len({record["message_id"] for record in messages}) == len(messages) == 28
    assert len(of_kind(data, "turn")) == 14
    for before, after in pairwise(messages):
        if after["parent_message_id"] is not None:
            assert after["parent_message_id"] == before["message_id"]


async def between_turns(running: Serving, change: Callable[[], Awaitable[object]], patch: pytest.MonkeyPatch) -> None:
    """Has something change once, while the turns of a session are being exported."""
    database = running.server._database
    read, changed = database.read, list[object]()

    async def read_after(operation: Any, scope: Any, **arguments: Any) -> Any:
        if operation is read_records and arguments["position"].child == 1 and not changed:
            changed.append(await change())
        return await read(operation, scope, **arguments)

    patch.setattr(database, "read", read_after)
    patch.setattr(pages, "PAGE_BYTES", 300)


def repeated(data: bytes, count: int) -> bytes:
    """Returns an export of one exchange with as many alike."""
    lines = records(data)[:-1]
    place = next(number for number, line in enumerate(lines) if line["kind"] == "turn")
    own = ("message_id", "turn_id", "user_message_id", "reply_message_id", "parent_message_id")
    copies = [
        {name: f"{value}_{number}" if name in own and value else value for name, value in line.items()}
        for number in range(count)
        for line in lines[place - 2 : place + 1]
    ]
    copies.sort(key=lambda line: line["kind"])
    return whole(lines[: place + 1][:-3] + copies + lines[place + 1 :])


@pytest.mark.parametrize("what", ["sent", "regenerated"])
async def test_an_export_can_be_imported_whatever_happens_while_its_turns_are_read(
    alice: Caller, running: Serving, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    session = await alice.create_session()
    await alice.send(session.session_id, "Hello")
    bob = running.caller(vault="other")
    await import_(bob, repeated(await exported(alice), 40))
    first = (await bob.messages(session.session_id))[0].message_id

    async def change() -> None:
        if what == "sent":
            await bob.send(session.session_id, "Written since", parent_message_id="")
        else:
            await regenerate(bob, first).rest()

    await between_turns(running, change, monkeypatch)
    data = await exported(bob)
    turns = of_kind(data, "turn")
    states = [(turn["status"], turn["reply_message_id"] is None, turn["stop_reason"]) for turn in turns]
    interrupted = [("INTERRUPTED", True, None)] if what == "regenerated" else []
    assert sorted(states, key=str) == [("COMPLETED", False, "END_TURN")] * 40 + interrupted
    await import_(running.caller(vault="third"), data)


def test_the_files_of_a_server_that_was_killed_are_deleted(tmp_path: Path) -> None:
    files = ExportFiles(tmp_path)
    part = files.create("acme", "exp_1")
    complete = files.complete(files.create("evil", "exp_2"))
    files.prepare()
    assert (part.exists(), complete.exists(), complete.stat().st_mode & 0o777) == (False, True, 0o600)


def test_the_first_kind_is_the_vault_and_every_name_is_used_once() -> None:
    names = [each.name for kind in KINDS for each in (kind, *kind.children)]
    assert names[0] == "vault"
    assert len(set(names)) == len(names)
