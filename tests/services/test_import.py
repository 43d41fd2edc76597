"""Imports, as callers see them."""

import asyncio
import contextlib
import functools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from metamorph_client.admin.v1.admin_service_pb2 import ListVaultsRequest
from metamorph_client.chat.v1 import message_pb2
from metamorph_client.chat.v1.chat_service_pb2 import DeleteMessageRequest, DeleteSessionRequest, SearchMessagesRequest
from metamorph_client.vault.v1 import vault_service_pb2 as pb
from metamorph_client.vault.v1.change_pb2 import CHANGE_VERB_IMPORTED, CHANGED_RESOURCE_SESSION
from metamorph_client.vault.v1.usage_pb2 import (
    USAGE_GROUPING_LABEL,
    USAGE_GROUPING_MODEL,
    USAGE_GROUPING_SESSION,
    USAGE_GROUPING_USER,
)
from metamorphd import operations
from metamorphd.durable import Appending
from metamorphd.errors import OperationTimeout
from metamorphd.models.caller import Scope
from metamorphd.store.imports import LIMITS
from metamorphd.store.operations import begin_operation
from metamorphd.transfers import imports, pages, patience, staging
from metamorphd.transfers.planning import LEFT_OUT
from metamorphd.transfers.staging import Staging

from tests.support.caller import Caller, text_block
from tests.support.exports import Record, comparable, exported, import_, of_kind, records, whole
from tests.support.media import png
from tests.support.memories import made
from tests.support.operating import operator_of, resume, suspend
from tests.support.refusal import refused
from tests.support.rows import row_counts
from tests.support.secrets import put
from tests.support.serving import Serving, serving
from tests.support.turns import regenerate

KEY = "k" * 32
WORDS = ("apple", "brücke", "camel", "durian", "élan", "falcon", "日本語", "grape", "heron", "iris")


@pytest.fixture
def overrides() -> dict[str, Any]:
    return {"token_encryption_key": KEY}


async def filled(caller: Caller, seed: int = 1, sessions: int = 4) -> None:
    """Stores something of every kind, with branches, at random."""
    chance = random.Random(seed)  # noqa: S311, no secret
    image = await caller.upload(png(3, 5))
    large = await caller.upload(b"a line of text\n" * 150_000, "text/plain")
    for number in range(sessions):
        session = await caller.create_session(
            title=chance.choice(WORDS), metadata={"team": chance.choice(WORDS)}, archived=number % 3 == 2
        )
        parents: list[str] = []
        for _ in range(chance.randrange(1, 4)):
            content = [text_block(" ".join(chance.choices(WORDS, k=chance.randrange(1, 30))))]
            if chance.random() < 0.5:
                block = message_pb2.ImageBlock(attachment_id=image.attachment_id, media_type="image/png")
                content.append(message_pb2.ContentBlock(image=block))
            if chance.random() < 0.3:
                document = message_pb2.DocumentBlock(attachment_id=large.attachment_id, media_type="text/plain")
                content.append(message_pb2.ContentBlock(document=document))
            fields = {"parent_message_id": chance.choice(parents)} if parents and chance.random() < 0.5 else {}
            events = await caller.send(session.session_id, content=content, **fields)
            user, reply = events[0].turn_started.user_message_id, events[-1].turn_finished.message.message_id
            parents.append(reply)
            if chance.random() < 0.3:
                await regenerate(caller, user).rest()
        if number == 1:
            await caller.chat.DeleteMessage(DeleteMessageRequest(message_id=parents[0]), metadata=caller.metadata)
        await made(caller, f"{chance.choice(WORDS)} number {number}", session_id=session.session_id)
    await put(caller, value=b"value")


async def found(caller: Caller, query: str) -> set[str]:
    """Returns the IDs of the messages that have a word."""
    request = SearchMessagesRequest(query=query, page_size=100)
    answer = await caller.chat.SearchMessages(request, metadata=caller.metadata)
    return {match.message_id for match in answer.results}


@pytest.mark.parametrize("seed", [1, 2])
async def test_an_export_that_is_imported_is_exported_alike(alice: Caller, running: Serving, seed: int) -> None:
    await filled(alice, seed)
    data = await exported(alice)
    bob = running.caller(vault="other", user="bob")
    answer = await import_(bob, data)
    again = await exported(bob)
    left_out = ("secret", "secret_version")
    before = [record for record in comparable(data) if record["kind"] not in left_out]
    assert comparable(again) == before
    assert {record["kind"] for record in before} == {
        *("vault", "session", "message", "turn", "attachment", "attachment_chunk", "usage", "subject_usage", "memory"),
    }
    assert dict(answer.skipped_counts) == dict.fromkeys(left_out, 1)
    assert sum(answer.imported_counts.values()) == len(before)
    for session in await bob.sessions():
        ours = await alice.messages(session.session_id)
        assert await bob.messages(session.session_id) == ours


async def test_steps_that_a_slow_store_stops_are_done_again(
    alice: Caller, running: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(alice, sessions=2)
    before = await exported(alice)
    steps = Counter[str]()

    def stopped(operation: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(operation)
        async def every_other_time(*args: Any, **kwargs: Any) -> Any:
            result = await operation(*args, **kwargs)
            steps[operation.__name__] += 1
            if steps[operation.__name__] % 2:
                raise OperationTimeout(limit_milliseconds=250)
            return result

        return every_other_time

    for module, names in (
        (pages, ["read_records"]),
        (imports, ["begin_import", "complete_import", "end_import_step"]),
        (staging, ["find_sessions", "reserve_numbers", "stage_attachment", "stage_chunk", "stage_step", "add_lists"]),
    ):
        for name in names:
            monkeypatch.setattr(module, name, stopped(getattr(module, name)))
    monkeypatch.setattr(patience, "PAUSES_SECONDS", (0.001,))
    data = await exported(alice)
    assert comparable(data) == comparable(before)
    # Its file would have to arrive again.
    monkeypatch.setattr(operations, "begin_operation", stopped(begin_operation))
    bob = running.caller(vault="other", user="bob")
    answer = await import_(bob, data)
    left_out = ("secret", "secret_version")
    kept = [record for record in comparable(before) if record["kind"] not in left_out]
    assert comparable(await exported(bob)) == kept
    assert sum(answer.imported_counts.values()) == len(kept)
    assert len(steps) == 11


async def test_importing_again_changes_nothing_more(alice: Caller, running: Serving) -> None:
    await filled(alice, sessions=2)
    data = await exported(alice)
    bob = running.caller(vault="other", user="bob")
    await import_(bob, data)
    once = comparable(await exported(bob))
    answer = await import_(bob, data)
    assert comparable(await exported(bob)) == once
    assert (dict(answer.imported_counts), dict(answer.skipped_counts)) == ({}, counted(data))
    # Nor in the vault that it comes from, whose settings were never changed.
    before = comparable(await exported(alice))
    answer = await import_(alice, data)
    assert dict(answer.imported_counts) == {"vault": 1}
    assert comparable(await exported(alice)) == before


def counted(data: bytes) -> dict[str, int]:
    """Returns how many records of each kind an export has."""
    return dict(Counter(record["kind"] for record in comparable(data)))


async def test_only_what_was_stored_counts_as_imported(alice: Caller, running: Serving) -> None:
    await filled(alice, sessions=3)
    lines = records(await exported(alice))[:-1]
    lines += [
        {"kind": "subject_budget", "subject_kind": "user", "subject": subject, **dict.fromkeys(LIMITS)}
        for subject in ("ann", "ben")
    ]
    lines.append({"kind": "hologram"})
    data = whole(lines)
    part = [line for line in lines if line["kind"] not in (*LEFT_OUT, "hologram")]
    for kind in ("session", "memory", "attachment", "subject_budget"):
        part = without_last(part, kind)
    bob = running.caller(vault="other", user="bob")
    first = await import_(bob, whole(part))
    assert (dict(first.imported_counts), dict(first.skipped_counts)) == (counted(whole(part)), {})
    answer = await import_(bob, data)
    imported, skipped = Counter(answer.imported_counts), Counter(answer.skipped_counts)
    assert skipped == Counter(first.imported_counts) + Counter(secret=1, secret_version=1, unknown=1)
    assert imported + skipped == Counter(counted(data)) - Counter(hologram=1) + Counter(unknown=1)


def without_last(lines: list[Record], kind: str) -> list[Record]:
    """Returns records without the last one of a kind, and what belongs to it."""
    key = f"{kind}_id"
    last = [line for line in lines if line["kind"] == kind][-1]
    belongs = ("message", "turn", "attachment_chunk")
    return [
        line
        for line in lines
        if line is not last and not (line["kind"] in belongs and key in line and line[key] == last.get(key))
    ]


async def test_what_was_deleted_comes_back_and_what_is_there_stays(alice: Caller, running: Serving) -> None:
    kept, lost = [await alice.create_session(title=title) for title in ("kept", "lost")]
    await alice.send(lost.session_id, "Hello")
    data = await exported(alice)
    await alice.send(kept.session_id, "Written since")
    await alice.chat.DeleteSession(DeleteSessionRequest(session_id=lost.session_id), metadata=alice.metadata)
    await running.erased()
    await import_(alice, data)
    assert len(await alice.messages(kept.session_id)) == 2
    assert len(await alice.messages(lost.session_id)) == 2


async def test_imported_messages_are_found_and_answered(alice: Caller, running: Serving) -> None:
    session = await alice.create_session()
    # So many words that some are indexed later.
    await alice.send(session.session_id, "needle " + " ".join(f"word{number}" for number in range(1_500)))
    data = await exported(alice)
    bob = running.caller(vault="other", user="bob")
    await import_(bob, data)
    assert await found(bob, "needle") == await found(alice, "needle")
    for _ in range(200):
        if await found(bob, "word1499"):
            break
        await asyncio.sleep(0.05)
    assert await found(bob, "word1499") == await found(alice, "word1499") != set()
    await bob.send(session.session_id, "Go on")
    assert len(await bob.messages(session.session_id)) == 4
    assert await alice.messages(session.session_id) != await bob.messages(session.session_id)


def changed(export: bytes, kind: str, /, **fields: Any) -> bytes:
    """Returns an export whose first record of a kind has other fields, with a trailer that fits."""
    lines = records(export)[:-1]
    record = next(line for line in lines if line["kind"] == kind)
    record.update(fields)
    return whole(lines)


async def stored(running: Serving, tmp_path: Path) -> tuple[int, ...]:
    """Returns how many rows there are of what an import stores, once all is erased that is to be."""
    await running.erased()
    tables = ("sessions", "messages", "turns", "attachments", "attachment_chunks", "staged_records", "imports")
    return row_counts(tmp_path, *tables, "indexed_messages", "postings", "attachment_uses", "memories", "usage")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Returns an export of something."""

    async def made() -> bytes:
        async with serving(tmp_path_factory.mktemp("exported"), token_encryption_key=KEY) as running:
            alice = running.caller()
            await filled(alice, sessions=2)
            return await exported(alice)

    return asyncio.run(made())


REFUSED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda _: b"\n", "json"),
    "other text": (lambda _: b"Dear Sir or Madam\n", "json"),
    "another object": (lambda _: b'{"kind": "session"}\n', "not_an_export"),
    "another format": (lambda data: changed(data, "header", format="zip"), "not_an_export"),
    "a later version": (lambda data: changed(data, "header", version=2), "version"),
    "a cut file": (lambda data: data[: len(data) // 2], "truncated"),
    "no trailer": (lambda data: data[: data.rstrip().rfind(b"\n") + 1], "truncated"),
    "more": (lambda data: data + data, "after_end"),
    "a changed byte": (lambda data: data.replace(b'"title":"', b'"title":"x', 1), "checksum"),
    "a record less": (lambda data: data.replace(b'"usage":', b'"usages":', 1), "counts"),
    "deep JSON": (lambda data: data.splitlines(keepends=True)[0] + b'{"kind":' + b"[" * 50_000 + b"\n", "json"),
    "many values": (
        lambda data: data.splitlines(keepends=True)[0] + b"[" + b"[]," * 200_000 + b"[]]\n",
        "too_many_values",
    ),
    "a text of escapes that does not end": (
        lambda data: data.splitlines(keepends=True)[0] + b'["' + b"," * 200_000 + rb"\"" * 2_000_000 + b"\n",
        "json",
    ),
    "a long line": (lambda data: data.splitlines(keepends=True)[0] + bytes(21 * 2**20), "line_too_long"),
    "a wrong type": (lambda data: changed(data, "session", title=1), "field"),
    "a wrong role": (lambda data: changed(data, "message", role="SYSTEM"), "field"),
    "a block with more": (
        lambda data: changed(data, "message", content=[{"type": "text", "text": "", "x": 1}]),
        "field",
    ),
    "a missing field": (lambda data: changed(data, "message", creator=None), "field"),
    "options that are none": (lambda data: changed(data, "turn", options={"tools": [{}]}), "field"),
    "more tokens than there are": (lambda data: changed(data, "usage", input_tokens=2**62), "field"),
    "a day that is none": (lambda data: changed(data, "usage", day="2026-13-01"), "field"),
    "too many labels": (
        lambda data: changed(data, "session", labels={f"k{number}": "v" for number in range(9)}),
        "field",
    ),
    "a label that is none": (lambda data: changed(data, "session", labels={'"': "v"}), "field"),
    "metadata that is none": (lambda data: changed(data, "session", metadata={"": "v"}), "field"),
    "an error for ever": (
        lambda data: changed(data, "turn", error={"reason": "X", "message": "", "retry_delay": 1e300}),
        "field",
    ),
    "a budget of no label": (lambda data: with_more(data, [budget("label", "web")]), "field"),
    "a message of itself": (
        lambda data: changed(data, "message", parent_message_id="msg_self", message_id="msg_self"),
        "parent",
    ),
    "an unknown parent": (lambda data: changed(data, "message", parent_message_id="msg_unknown"), "parent"),
    "a turn of nothing": (lambda data: changed(data, "turn", user_message_id="msg_unknown"), "parent"),
    "other bytes": (lambda data: changed(data, "attachment_chunk", data="eHh4"), "attachment"),
    "no base64": (lambda data: changed(data, "attachment_chunk", data="*"), "field"),
    "another hash": (lambda data: changed(data, "attachment", sha256="0" * 64), "attachment"),
    "another session": (lambda data: changed(data, "message", session_id="ses_other"), "order"),
    "a message twice": (lambda data: twice(data, "message"), "id_taken"),
    "a session twice": (lambda data: twice(data, "session"), "id_taken"),
}


def with_more(data: bytes, more: list[Record]) -> bytes:
    """Returns an export that has more records."""
    return whole([*records(data)[:-1], *more])


def budget(kind: str, subject: str) -> Record:
    limits = ("tokens_per_month", "cost_usd_nanos_per_day", "cost_usd_nanos_per_month")
    own = {"kind": "subject_budget", "subject_kind": kind, "subject": subject, "tokens_per_day": 1}
    return {**own, **dict.fromkeys(limits)}


def twice(data: bytes, kind: str) -> bytes:
    lines = records(data)[:-1]
    place = next(number for number, line in enumerate(lines) if line["kind"] == kind)
    return whole([*lines[: place + 1], lines[place], *lines[place + 1 :]])


async def test_a_field_that_is_missing_is_null(running: Serving, export: bytes) -> None:
    bob, carol = running.caller(vault="other", user="bob"), running.caller(vault="third", user="carol")
    await import_(bob, export)
    lines = [{name: value for name, value in line.items() if value is not None} for line in records(export)[:-1]]
    assert any(len(line) < len(full) for line, full in zip(lines, records(export), strict=False))
    await import_(carol, whole(lines))
    assert comparable(await exported(carol)) == comparable(await exported(bob))


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_no_export_is_refused_and_leaves_nothing(
    running: Serving, tmp_path: Path, export: bytes, name: str
) -> None:
    change, fault = REFUSED[name]
    bob = running.caller(vault="other", user="bob")
    before = await stored(running, tmp_path)
    refusal = await refused(import_(bob, change(export)))
    assert (refusal.code.name, refusal.reason, refusal.info.metadata["fault"]) == (
        "INVALID_ARGUMENT",
        "IMPORT_INVALID",
        fault,
    )
    assert int(refusal.info.metadata["line"]) >= 1
    assert await stored(running, tmp_path) == before
    assert list((tmp_path / "metamorph.db-imports").iterdir()) == []
    assert comparable(await exported(bob))[1:] == []


async def test_whatever_usage_is_imported_can_be_added_up(running: Serving, export: bytes) -> None:
    bob, operator = running.caller(vault="other", user="bob"), operator_of(running)
    used = {**next(line for line in records(export) if line["kind"] == "usage"), "model": "m"}
    tokens = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cost_usd_nanos")
    many = [
        {**used, **dict.fromkeys(tokens, 10**14), "model": f"m{model}", "session_id": f"ses_{session}"}
        for model in range(40)
        for session in range(10)
    ]
    by_user = {**{name: value for name, value in many[-1].items() if name != "session_id"}, "kind": "subject_usage"}
    by_user |= {"subject_kind": "user", "subject": "bob"}
    answer = await import_(bob, whole([records(export)[0], *many, by_user]))
    assert (answer.imported_counts["usage"], answer.skipped_counts["usage"]) == (32, 368)
    assert answer.skipped_counts["subject_usage"] == 1
    request = pb.GetUsageRequest(group_by=[USAGE_GROUPING_MODEL], page_size=100)
    usage = await bob.vault.GetUsage(request, metadata=bob.metadata)
    assert (len(usage.rows), usage.total.usage.input_tokens) == (32, 32 * 10**14)
    listed = await operator.admin.ListVaults(ListVaultsRequest(), metadata=operator.metadata)
    assert [vault.today.tokens for vault in listed.vaults if vault.status.vault_id == "other"] == [4 * 32 * 10**14]


async def test_after_imports_sums_by_session_user_and_label_agree_with_the_total(running: Serving) -> None:
    ours, bob = running.caller(user="bob"), running.caller(vault="other", user="bob")
    for caller in (ours, bob):
        session = await caller.create_session(labels={"team": "a"})
        await caller.send(session.session_id)
    lines = records(await exported(ours))[:-1]
    used = [line for line in lines if line["kind"] in ("usage", "subject_usage")]
    before = (await usage_by(bob, USAGE_GROUPING_SESSION)).total
    assert (await import_(bob, whole(lines))).skipped_counts["usage"] == 1
    assert (await usage_by(bob, USAGE_GROUPING_SESSION)).total == before
    # A day that the vault has not used, of two sessions at once, and of a third one later.
    earlier = [{**line, "day": "2026-01-02"} for line in used]
    second, third = ({**earlier[0], "session_id": session_id} for session_id in ("ses_second", "ses_third"))
    subjects = [{**line, "turns": line["turns"] * 2, "input_tokens": line["input_tokens"] * 2} for line in earlier[1:]]
    both = [lines[0], earlier[0], second, *subjects]
    answer = await import_(bob, whole(both))
    assert dict(answer.imported_counts) == {"usage": 2, "subject_usage": 2}
    answer = await import_(bob, whole([*both, third]))
    assert dict(answer.skipped_counts) == {"usage": 3, "subject_usage": 2}
    for grouping in (USAGE_GROUPING_SESSION, USAGE_GROUPING_USER, USAGE_GROUPING_LABEL):
        usage = await usage_by(bob, grouping)
        assert usage.total.turns == before.turns + 2
        assert sum(row.turns for row in usage.rows) == usage.total.turns
        assert sum(row.usage.input_tokens for row in usage.rows) == usage.total.usage.input_tokens


async def usage_by(caller: Caller, grouping: Any) -> Any:
    """Returns the usage of a vault, and its total."""
    request = pb.GetUsageRequest(start_day="2026-01-01", group_by=[grouping], page_size=100)
    return await caller.vault.GetUsage(request, metadata=caller.metadata)


async def test_an_import_brings_no_more_budgets_than_can_be_set(running: Serving, export: bytes) -> None:
    bob = running.caller(vault="other", user="bob")
    budgets = [budget(kind, f"a={number}") for kind in ("user", "label") for number in range(101)]
    answer = await import_(bob, whole([records(export)[0], *budgets, budget("user", "")]))
    assert answer.skipped_counts["subject_budget"] == 2
    own = (await bob.vault.GetVault(pb.GetVaultRequest(), metadata=bob.metadata)).vault.subject_budgets
    assert (len(own.users), len(own.labels), own.default_user.tokens_per_day) == (100, 100, 1)


async def test_a_file_that_does_not_end_leaves_others_space(
    running: Serving, monkeypatch: pytest.MonkeyPatch, export: bytes
) -> None:
    arrived = list[bytes]()
    monkeypatch.setattr(imports, "AHEAD_BYTES", 1_000)
    monkeypatch.setattr(Appending, "append", lambda _, data: arrived.append(data))
    monkeypatch.setattr(
        type(running.server._database), "fits", lambda _, __, size: sum(map(len, arrived)) + size < 9_000
    )
    endless = export.splitlines(keepends=True)[0] * 1_000

    async def pieces() -> AsyncIterator[pb.ImportVaultRequest]:
        # A client of grpc.aio whose call ends while it writes says "Internal error from Core", not how the call ended.
        for start in range(0, len(endless), 500):
            yield pb.ImportVaultRequest(data=endless[start : start + 500])
            await asyncio.sleep(0.005)

    caller = running.caller(vault="other")
    refusal = await refused(caller.vault.ImportVault(pieces(), metadata=caller.metadata))
    assert refusal.reason == "STORAGE_FULL"
    assert sum(map(len, arrived)) <= 4_500


async def test_an_import_that_cannot_end_does_not_hold_up_others(
    running: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export: bytes
) -> None:
    end = imports.Imports._end

    async def never(_: Any, scope: Scope, *rest: Any) -> None:
        if scope.actor.user_id:
            raise asyncio.CancelledError
        if scope.vault_id == "a":
            raise RuntimeError
        await end(_, scope, *rest)

    monkeypatch.setattr(imports.Imports, "_end", never)
    for vault in ("a", "b"):
        with contextlib.suppress(grpc.aio.AioRpcError):
            await import_(running.caller(vault=vault), export)
    for _ in range(200):
        if row_counts(tmp_path, "imports") == (1,):
            break
        await asyncio.sleep(0.05)
    assert len(await running.caller(vault="b").sessions()) == 2
    assert await running.caller(vault="a").sessions() == []


async def test_an_id_that_another_session_has_is_refused(alice: Caller, running: Serving, export: bytes) -> None:
    await import_(alice, export)
    lines = records(export)[:-1]
    for line in lines:
        if "session_id" in line and line["kind"] != "memory":
            line["session_id"] = f"{line['session_id']}x"
    before = comparable(await exported(alice))
    refusal = await refused(import_(alice, whole(lines)))
    assert refusal.info.metadata["fault"] == "id_taken"
    await running.erased()
    assert comparable(await exported(alice)) == before


async def test_an_import_beyond_the_quota_leaves_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path, vault_storage_bytes=40_000) as running:
        alice, bob = running.caller(), running.caller(vault="other", user="bob")
        for number in range(3):
            await alice.create_session(title=str(number), system_prompt="x" * 12_000)
        data = await exported(alice)
        await bob.create_session(system_prompt="x" * 12_000)
        before = await stored(running, tmp_path)
        refusal = await refused(import_(bob, data))
        assert refusal.reason == "STORAGE_QUOTA_EXCEEDED"
        assert await stored(running, tmp_path) == before


@pytest.mark.parametrize(("module", "step"), [(staging, "stage_step"), (imports, "complete_import")])
async def test_what_a_killed_server_has_staged_is_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, step: str
) -> None:
    async with serving(tmp_path, token_encryption_key=KEY) as running:
        alice, bob = running.caller(), running.caller(vault="other", user="bob")
        await filled(alice, sessions=2)
        data = await exported(alice)
        before = await stored(running, tmp_path)

        async def never(*_: Any, **__: Any) -> None:
            raise asyncio.CancelledError

        with monkeypatch.context() as patch:
            # As if it had been killed there: nothing that follows is run, and nothing is cleaned up.
            patch.setattr(module, step, never)
            patch.setattr(imports.Imports, "_end", never)
            with contextlib.suppress(grpc.aio.AioRpcError):
                await import_(bob, data)
            during = row_counts(tmp_path, "staged_records", "imports")
            assert during[0] > 0
            assert comparable(await exported(bob))[1:] == []
    async with serving(tmp_path, token_encryption_key=KEY) as running:
        for _ in range(200):
            if row_counts(tmp_path, "imports") == (0,):
                break
            await asyncio.sleep(0.05)
        assert await stored(running, tmp_path) == before


async def test_an_import_that_was_complete_is_revealed_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, token_encryption_key=KEY) as running:
        alice, bob = running.caller(), running.caller(vault="other", user="bob")
        await filled(alice, sessions=5)
        data = await exported(alice)

        async def never(*_: Any, **__: Any) -> None:
            raise asyncio.CancelledError

        with monkeypatch.context() as patch:
            patch.setattr(imports.Imports, "_end", never)
            with contextlib.suppress(grpc.aio.AioRpcError):
                await import_(bob, data)
            assert row_counts(tmp_path, "imports") == (1,)
    async with serving(tmp_path, token_encryption_key=KEY) as running:
        bob = running.caller(vault="other", user="bob")
        for _ in range(200):
            if row_counts(tmp_path, "imports") == (0,):
                break
            await asyncio.sleep(0.05)
        left_out = ("secret", "secret_version")
        kept = [record for record in comparable(data) if record["kind"] not in left_out]
        assert comparable(await exported(bob)) == kept
        (_, ended) = (await bob.vault.ListOperations(pb.ListOperationsRequest(), metadata=bob.metadata)).operations
        assert (ended.done, ended.error.reason, ended.creator) == (True, "", "bob")
        assert dict(ended.result.counts) == Counter(record["kind"] for record in kept)


async def test_an_import_is_in_the_log_and_an_operation(alice: Caller, running: Serving, export: bytes) -> None:
    bob = running.caller(vault="other", user="bob")
    answer = await import_(bob, export)
    request = pb.GetOperationRequest(operation_id=answer.operation_id)
    operation = (await bob.vault.GetOperation(request, metadata=bob.metadata)).operation
    assert operation.done
    assert operation.result.counts["session"] == 2
    watching = bob.vault.WatchVault(pb.WatchVaultRequest(after_revision=0), metadata=bob.metadata)
    changes = [change async for response in until_bookmark(watching) for change in response.changes]
    assert [change.resource_id for change in changes if change.verb == CHANGE_VERB_IMPORTED] == ["other"]
    assert sum(change.resource == CHANGED_RESOURCE_SESSION for change in changes) == 2


async def test_who_imports_reads_that_it_was_cancelled(
    running: Serving, monkeypatch: pytest.MonkeyPatch, export: bytes
) -> None:
    bob = running.caller(vault="other", user="bob")

    async def endless(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Staging, "run", endless)
    importing = asyncio.create_task(import_(bob, export))
    found: list[Any] = []
    while not found:
        await asyncio.sleep(0.01)
        found = list((await bob.vault.ListOperations(pb.ListOperationsRequest(), metadata=bob.metadata)).operations)
    request = pb.CancelOperationRequest(operation_id=found[0].operation_id)
    await bob.vault.CancelOperation(request, metadata=bob.metadata)
    refusal = await refused(importing)
    assert (refusal.code.name, refusal.reason) == ("ABORTED", "OPERATION_CANCELLED")
    ended = await bob.vault.ListOperations(pb.ListOperationsRequest(), metadata=bob.metadata)
    assert [operation.error.reason for operation in ended.operations] == ["OPERATION_CANCELLED"]
    assert await bob.sessions() == []


async def test_an_import_that_is_decided_cannot_be_cancelled(
    running: Serving, monkeypatch: pytest.MonkeyPatch, export: bytes
) -> None:
    bob = running.caller(vault="other", user="bob")
    end, reasons = imports.Imports._end, list[str | None]()

    async def cancelled(*arguments: Any) -> Any:
        listed = await bob.vault.ListOperations(pb.ListOperationsRequest(), metadata=bob.metadata)
        request = pb.CancelOperationRequest(operation_id=listed.operations[0].operation_id)
        reasons.append((await refused(bob.vault.CancelOperation(request, metadata=bob.metadata))).reason)
        return await end(*arguments)

    monkeypatch.setattr(imports.Imports, "_end", cancelled)
    answer = await import_(bob, export)
    assert (reasons, answer.imported_counts["session"]) == (["OPERATION_NOT_CANCELLABLE"], 2)


@pytest.mark.parametrize("turn_id", ["", "turn_missing"])
async def test_a_message_that_was_imported_without_its_turn_is_answered_again(
    alice: Caller, running: Serving, turn_id: str
) -> None:
    session = await alice.create_session()
    await alice.send(session.session_id)
    lines = [line for line in records(await exported(alice))[:-1] if line["kind"] != "turn"]
    for line in lines:
        if line["kind"] == "message":
            line["turn_id"] = turn_id
    bob = running.caller(vault="other", user="bob")
    await import_(bob, whole(lines))
    asked, first = await bob.messages(session.session_id)
    events = await regenerate(bob, asked.message_id).rest()
    assert events[-1].turn_finished.message.parent_message_id == asked.message_id
    shown = await bob.messages(session.session_id, all_branches=True)
    assert (len(shown), first in shown) == (3, True)


async def test_an_import_that_is_decided_is_completed_in_a_suspended_vault(
    running: Serving, monkeypatch: pytest.MonkeyPatch, export: bytes
) -> None:
    bob, operator = running.caller(vault="other", user="bob"), operator_of(running)
    end = imports.Imports._end

    async def suspended(*arguments: Any) -> Any:
        await suspend(operator, "other")
        return await end(*arguments)

    monkeypatch.setattr(imports.Imports, "_end", suspended)
    assert (await refused(import_(bob, export))).reason == "VAULT_SUSPENDED"
    found: Any = None
    while found is None or not found.done:
        listed = await bob.vault.ListOperations(pb.ListOperationsRequest(), metadata=bob.metadata)
        found = listed.operations[0]
    assert (found.error.reason, found.result.counts["session"]) == ("", 2)
    await resume(operator, "other")
    assert len(await bob.sessions()) == 2


async def until_bookmark(watching: Any) -> AsyncIterator[pb.WatchVaultResponse]:
    async for response in watching:
        if not response.changes:
            watching.cancel()
            return
        yield response


async def test_large_files_take_up_no_memory_of_requests(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        alice, bob = running.caller(), running.caller(vault="other", user="bob")
        session = await alice.create_session()
        for number in range(3):
            file = await alice.upload(bytes([97 + number]) * 15_000_000, "text/plain")
            block = message_pb2.DocumentBlock(attachment_id=file.attachment_id, media_type="text/plain")
            await alice.send(session.session_id, content=[message_pb2.ContentBlock(document=block)])
        data = await exported(alice)
        assert len(data) > 50_000_000
        await import_(bob, data)
        assert of_kind(await exported(bob), "attachment") == of_kind(data, "attachment")
