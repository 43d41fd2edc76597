"""WatchVault, and the revisions that calls return and wait for, through a whole server."""

import asyncio
import itertools
import shutil
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.admin.v1 import admin_service_pb2 as admin
from metamorph_client.chat.v1 import chat_service_pb2 as chat
from metamorph_client.chat.v1 import session_pb2
from metamorph_client.vault.v1 import change_pb2, usage_pb2
from metamorph_client.vault.v1 import vault_service_pb2 as pb
from metamorph_client.vault.v1.change_pb2 import (
    CHANGE_VERB_CREATED,
    CHANGE_VERB_DELETED,
    CHANGED_RESOURCE_SESSION,
    CHANGED_RESOURCE_TURN,
    CHANGED_RESOURCE_VAULT,
)
from metamorphd.clock import Clock

from tests.support.caller import Caller, calling, text_block
from tests.support.processes import serving_process
from tests.support.refusal import refused
from tests.support.serving import Serving, serving

SECONDS = 30
DAY = 86_400_000_000


class Watch:
    """A call of WatchVault, which is read one response at a time."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self._responses = aiter(call)

    async def next(self) -> pb.WatchVaultResponse:
        async with asyncio.timeout(SECONDS):
            response: pb.WatchVaultResponse = await anext(self._responses)
            return response

    async def until(self, revision: int) -> list[change_pb2.Change]:
        """Returns the changes up to a revision, from as many responses as it takes."""
        found: list[change_pb2.Change] = []
        while True:
            response = await self.next()
            found += response.changes
            if response.revision >= revision:
                return found

    async def refused(self) -> Any:
        return await refused(self.next())


def watch(caller: Caller, after: int | None = 0, **fields: Any) -> Watch:
    if after is not None:
        fields["after_revision"] = after
    return Watch(caller.vault.WatchVault(pb.WatchVaultRequest(**fields), metadata=caller.metadata))


async def create(caller: Caller, count: int = 1) -> list[chat.CreateSessionResponse]:
    made = [caller.chat.CreateSession(chat.CreateSessionRequest(), metadata=caller.metadata) for _ in range(count)]
    return [await call for call in made]


async def revision(caller: Caller) -> int:
    return (await caller.vault.GetVault(pb.GetVaultRequest(), metadata=caller.metadata)).revision


def numbers(changes: list[change_pb2.Change]) -> list[int]:
    return [change.revision for change in changes]


async def test_a_watch_replays_all_changes_and_then_follows(alice: Caller) -> None:
    first = await alice.create_session()
    watched = watch(alice)
    replayed = await watched.next()
    assert [(change.revision, change.resource, change.verb) for change in replayed.changes] == [
        (1, CHANGED_RESOURCE_VAULT, CHANGE_VERB_CREATED),
        (2, CHANGED_RESOURCE_SESSION, CHANGE_VERB_CREATED),
    ]
    assert (replayed.changes[1].resource_id, replayed.changes[1].actor) == (first.session_id, "alice")
    assert abs(replayed.changes[1].change_time.ToMicroseconds() - first.create_time.ToMicroseconds()) == 0
    caught_up = await watched.next()
    assert (list(caught_up.changes), caught_up.revision) == ([], 2)
    call = alice.chat.DeleteSession(
        chat.DeleteSessionRequest(session_id=first.session_id),
        metadata=(*alice.metadata, ("x-request-id", "my-call")),
    )
    assert (await call).revision == 3
    (change,) = (await watched.next()).changes
    assert (change.revision, change.verb, change.resource_id, change.call_id) == (
        3,
        CHANGE_VERB_DELETED,
        first.session_id,
        "my-call",
    )


async def test_a_turn_is_seen_to_start_and_to_end_and_nothing_of_its_text(alice: Caller) -> None:
    session = await alice.create_session()
    watched = watch(alice, resources=[CHANGED_RESOURCE_TURN])
    responses = [
        response
        async for response in alice.chat.SendMessage(
            chat.SendMessageRequest(session_id=session.session_id, content=[text_block("Hello")]),
            metadata=alice.metadata,
        )
    ]
    started, finished = responses[0], responses[-1]
    changes = await watched.until(finished.revision)
    assert [change_pb2.ChangeVerb.Name(change.verb) for change in changes] == [
        "CHANGE_VERB_STARTED",
        "CHANGE_VERB_COMPLETED",
    ]
    assert {change.resource_id for change in changes} == {started.event.turn_id}
    assert changes[0].revision <= started.revision < changes[1].revision <= finished.revision
    assert {response.revision for response in responses[1:-1]} <= {0}


async def test_a_watch_without_a_revision_begins_with_the_present(alice: Caller) -> None:
    await alice.create_session()
    watched = watch(alice, None)
    assert ((await watched.next()).revision, await revision(alice)) == (2, 2)
    await alice.create_session()
    assert numbers(list((await watched.next()).changes)) == [3]


async def test_a_watch_resumes_after_any_revision(alice: Caller) -> None:
    newest = max(response.revision for response in await create(alice, 200))
    for after in (0, 1, 63, 64, 65, 130, newest - 1, newest):
        assert numbers(await watch(alice, after).until(newest)) == list(range(after + 1, newest + 1))


async def test_the_filters_are_combined_and_what_they_leave_out_counts_for_the_bookmark(alice: Caller) -> None:
    await create(alice, 100)
    (last,) = await create(alice)
    await alice.chat.DeleteSession(
        chat.DeleteSessionRequest(session_id=last.session.session_id), metadata=alice.metadata
    )
    await alice.create_session()
    newest = await revision(alice)
    verbs, resources = [CHANGE_VERB_DELETED, CHANGE_VERB_CREATED], [CHANGED_RESOURCE_SESSION]
    deletions = await watch(alice, resources=resources, verbs=verbs[:1]).until(newest)
    assert [change.resource_id for change in deletions] == [last.session.session_id]
    assert len(await watch(alice, resources=resources, verbs=verbs).until(newest)) == newest - 1
    assert await watch(alice, resources=[CHANGED_RESOURCE_TURN]).until(newest) == []


async def test_two_vaults_see_nothing_of_each_other(alice: Caller, mallory: Caller) -> None:
    await create(alice, 3)
    watched = watch(mallory)
    assert (await watched.next()).revision == 0
    await create(alice, 3)
    await mallory.create_session()
    changes = await watched.until(2)
    assert numbers(changes) == [1, 2]
    assert {change.actor for change in changes} == {"mallory"}
    assert (await refused(mallory.chat.GetSession(get_session("ses_x", 7), metadata=mallory.metadata))).reason == (
        "REVISION_NOT_REACHED"
    )


async def test_a_watch_needs_the_permission_to_read(running: Serving) -> None:
    refusal = await watch(running.caller(permissions=["write"])).refused()
    assert (refusal.code.name, refusal.reason) == ("PERMISSION_DENIED", "PERMISSION_MISSING")


async def test_a_revision_that_the_vault_does_not_have_is_refused(alice: Caller) -> None:
    await alice.create_session()
    refusal = await watch(alice, 3).refused()
    assert (refusal.code.name, refusal.reason, refusal.info.metadata["newest_revision"]) == (
        "OUT_OF_RANGE",
        "REVISION_AHEAD",
        "2",
    )


class Later(Clock):
    ahead = 0

    def now(self) -> int:
        return super().now() + self.ahead


async def test_a_revision_older_than_what_is_kept_is_refused_with_the_oldest_one(tmp_path: Path) -> None:
    clock = Later()
    async with serving(tmp_path, clock=clock) as running:
        await create(running.caller(), 5)
    clock.ahead = 8 * DAY
    async with serving(tmp_path, clock=clock) as running:
        alice = running.caller(exp=int(clock.now() / 1e6) + 3600)
        async with asyncio.timeout(SECONDS):
            while not await compacted(alice):
                await create(alice)
        refusal = await watch(alice, 1).refused()
        assert (refusal.code.name, refusal.reason) == ("OUT_OF_RANGE", "REVISION_COMPACTED")
        oldest, newest = int(refusal.info.metadata["oldest_revision"]), await revision(alice)
        assert oldest > 2
        assert numbers(await watch(alice, oldest - 1).until(newest)) == list(range(oldest, newest + 1))


async def compacted(caller: Caller) -> bool:
    watched = watch(caller, 1)
    try:
        await watched.next()
    except grpc.aio.AioRpcError:
        return True
    watched.call.cancel()
    return False


async def test_many_writers_and_a_watcher_that_sees_each_revision_once(running: Serving) -> None:
    watcher = running.caller()
    watched = watch(watcher)
    assert (await watched.next()).revision == 0
    writers = [running.caller(user=f"user-{number}") for number in range(64)]
    made = await asyncio.gather(*(create(writer, 5) for writer in writers))
    revisions = sorted(response.revision for response in itertools.chain(*made))
    newest = 1 + 64 * 5
    assert revisions == list(range(2, newest + 1))
    changes = await watched.until(newest)
    assert numbers(changes) == list(range(1, newest + 1))
    sessions = {response.session.session_id for response in itertools.chain(*made)}
    assert {change.resource_id for change in changes[1:]} == sessions


async def test_watchers_of_one_vault_are_all_sent_what_is_committed(alice: Caller) -> None:
    watches = [watch(alice) for _ in range(20)]
    for each in watches:
        await each.next()
    await create(alice, 10)
    for each in watches:
        assert numbers(await each.until(11)) == list(range(1, 12))


async def test_a_server_that_stops_ends_its_watchers_with_a_reason_to_resume(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        watched = watch(running.caller())
        await watched.next()
        stopping = asyncio.create_task(running.server.stop(grace_seconds=0))
        refusal = await watched.refused()
        await stopping
    assert (refusal.code.name, refusal.reason) == ("UNAVAILABLE", "SERVER_DRAINING")


async def test_nothing_is_missed_or_repeated_when_the_server_is_killed_under_its_watchers(tmp_path: Path) -> None:
    seen: list[int] = []
    acknowledged: list[int] = []
    for _ in range(4):
        with serving_process(tmp_path) as service:
            async with calling(service.target) as alice:
                writing = asyncio.create_task(keep_creating(alice, acknowledged))
                watched = watch(alice, seen[-1] if seen else 0)
                for _ in range(12):
                    seen += numbers(list((await watched.next()).changes))
                service.process.kill()
                await writing
    with serving_process(tmp_path) as service:
        async with calling(service.target) as alice:
            newest = await revision(alice)
            if seen[-1] < newest:
                seen += numbers(await watch(alice, seen[-1]).until(newest))
    assert seen == list(range(1, newest + 1))
    assert set(acknowledged) <= set(seen)
    assert len(acknowledged) > 20


async def keep_creating(caller: Caller, acknowledged: list[int]) -> None:
    while True:
        try:
            acknowledged += [response.revision for response in await create(caller)]
        except Exception:
            return


def get_session(session_id: str, at_least_revision: int) -> chat.GetSessionRequest:
    return chat.GetSessionRequest(session_id=session_id, at_least_revision=at_least_revision)


async def test_a_read_takes_the_revision_of_the_call_before_and_refuses_one_that_never_comes(alice: Caller) -> None:
    (made,) = await create(alice)
    read = await alice.chat.GetSession(get_session(made.session.session_id, made.revision), metadata=alice.metadata)
    assert read.session == made.session
    refusal = await refused(
        alice.chat.GetSession(get_session(made.session.session_id, made.revision + 1), metadata=alice.metadata)
    )
    assert (refusal.code.name, refusal.reason, refusal.info.metadata["newest_revision"]) == (
        "UNAVAILABLE",
        "REVISION_NOT_REACHED",
        str(made.revision),
    )
    assert refusal.retry == 1.0


async def test_a_read_waits_for_a_revision_that_comes(alice: Caller) -> None:
    (made,) = await create(alice)
    reading = asyncio.ensure_future(
        alice.chat.GetSession(get_session(made.session.session_id, made.revision + 1), metadata=alice.metadata)
    )
    await asyncio.sleep(0.2)
    assert not reading.done()
    await create(alice)
    assert (await reading).session == made.session


async def test_a_page_token_is_valid_whatever_revision_the_next_page_waits_for(alice: Caller) -> None:
    made = await create(alice, 3)
    first = await alice.chat.ListSessions(chat.ListSessionsRequest(page_size=2), metadata=alice.metadata)
    request = chat.ListSessionsRequest(
        page_size=2, page_token=first.next_page_token, at_least_revision=made[-1].revision
    )
    second = await alice.chat.ListSessions(request, metadata=alice.metadata)
    assert len(second.sessions) == 1


async def test_every_change_returns_its_revision(running: Serving) -> None:
    alice, operator = running.caller(), running.caller(operator=True)
    session = await alice.create_session()
    update = chat.UpdateSessionRequest(
        session=session_pb2.Session(session_id=session.session_id, title="x"), update_mask=FieldMask(paths=["title"])
    )
    assert (await alice.chat.UpdateSession(update, metadata=alice.metadata)).revision == 3
    vault = pb.UpdateVaultRequest(vault=pb.Vault(display_name="x"), update_mask=FieldMask(paths=["display_name"]))
    assert (await alice.vault.UpdateVault(vault, metadata=alice.metadata)).revision == 4
    limits = admin.UpdateVaultLimitsRequest(
        limits=admin.VaultLimits(vault_id="acme", budget=usage_pb2.Budget(tokens_per_day=10**9)),
        update_mask=FieldMask(paths=["budget"]),
    )
    assert (await operator.admin.UpdateVaultLimits(limits, metadata=operator.metadata)).revision == 5
    events = await alice.send(session.session_id)
    # The user's message, the turn, the reply, and the turn's end.
    assert await revision(alice) == 9
    delete = chat.DeleteMessageRequest(message_id=events[-1].turn_finished.message.message_id)
    assert [(await alice.chat.DeleteMessage(delete, metadata=alice.metadata)).revision for _ in range(2)] == [10, 10]
    cancel = chat.CancelTurnRequest(turn_id=events[0].turn_id)
    assert (await alice.chat.CancelTurn(cancel, metadata=alice.metadata)).revision == 10


async def test_whoever_passes_on_the_mark_notices_a_restore(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await create(server.caller(), 2)
        common = await watch(server.caller()).next()
    shutil.copytree(tmp_path, tmp_path / "backup", ignore=shutil.ignore_patterns("backup"))
    async with serving(tmp_path) as server:
        await create(server.caller(), 2)
        lost = await watch(server.caller(), common.revision, after_mark=common.mark).next()
    for file in tmp_path.glob("metamorph.db*"):
        if file.is_file():
            file.unlink()
    for file in (tmp_path / "backup").glob("metamorph.db*"):
        shutil.copy(file, tmp_path / file.name)
    async with serving(tmp_path) as server:
        alice = server.caller()
        refusal = await watch(alice, lost.revision, after_mark=lost.mark).refused()
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_AHEAD")
        await create(alice, 3)
        assert await revision(alice) > lost.revision
        refusal = await watch(alice, lost.revision, after_mark=lost.mark).refused()
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_REPLACED")
        assert refusal.info.metadata["revision"] == str(lost.revision)
        # What both histories have is the same.
        after = await watch(alice, common.revision, after_mark=common.mark).next()
        assert numbers(list(after.changes)) == [4, 5, 6]
        # Whoever does not, misses what has taken its place.
        assert numbers(list((await watch(alice, lost.revision).next()).changes)) == [6]
