"""Sessions and messages, through a whole server."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1.session_pb2 import Session

from tests.support.caller import Caller, send_request, text_of
from tests.support.refusal import refused
from tests.support.serving import serving


def get(caller: Caller, session_id: str) -> Any:
    return caller.chat.GetSession(pb.GetSessionRequest(session_id=session_id), metadata=caller.metadata)


def update(caller: Caller, session: Session, *paths: str) -> Any:
    request = pb.UpdateSessionRequest(session=session, update_mask=FieldMask(paths=paths))
    return caller.chat.UpdateSession(request, metadata=caller.metadata)


def delete(caller: Caller, session_id: str, etag: str = "") -> Any:
    request = pb.DeleteSessionRequest(session_id=session_id, etag=etag)
    return caller.chat.DeleteSession(request, metadata=caller.metadata)


def sessions(caller: Caller, **query: Any) -> Any:
    return caller.chat.ListSessions(pb.ListSessionsRequest(**query), metadata=caller.metadata)


async def test_a_session_is_returned_as_created(alice: Caller) -> None:
    created = await alice.create_session(
        title="Plans", model="claude-x", system_prompt="Be brief.", metadata={"team": "a"}, archived=True
    )
    assert (created.title, created.creator, dict(created.metadata)) == ("Plans", "alice", {"team": "a"})
    assert created.create_time == created.update_time
    assert not created.HasField("last_message_time")
    assert (await get(alice, created.session_id)).session == created


async def test_output_only_fields_of_a_new_session_are_ignored(alice: Caller) -> None:
    created = await alice.create_session(session_id="ses_mine", creator="mallory", message_count=7, etag="9")
    assert created.session_id != "ses_mine"
    assert (created.creator, created.message_count, created.etag) == ("alice", 0, "1")


async def test_a_repeated_create_returns_the_same_session(alice: Caller, mallory: Caller) -> None:
    request = pb.CreateSessionRequest(session=Session(title="a"), request_id=str(uuid.uuid4()))
    made = [await alice.chat.CreateSession(request, metadata=alice.metadata) for _ in range(2)]
    assert made[0] == made[1]
    assert (await mallory.chat.CreateSession(request, metadata=mallory.metadata)) != made[0]
    request.session.title = "b"
    refusal = await refused(alice.chat.CreateSession(request, metadata=alice.metadata))
    assert (refusal.code.name, refusal.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
    assert refusal.info.metadata == {"request_id": request.request_id}


async def test_a_session_of_another_vault_is_not_found(alice: Caller, mallory: Caller) -> None:
    session = await alice.create_session()
    (await alice.send(session.session_id))
    for call in (
        get(mallory, session.session_id),
        update(mallory, Session(session_id=session.session_id, title="x"), "title"),
        delete(mallory, session.session_id),
        mallory.chat.SendMessage(send_request(session.session_id), metadata=mallory.metadata),
        mallory.messages(session.session_id),
    ):
        refusal = await refused(call)
        assert (refusal.code.name, refusal.reason) == ("NOT_FOUND", "SESSION_NOT_FOUND")
        assert refusal.message == f"no session {session.session_id}"
    assert list((await sessions(mallory)).sessions) == []
    assert (await get(alice, session.session_id)).session.message_count == 2


async def test_sessions_are_paged_newest_activity_first(alice: Caller) -> None:
    made = [(await alice.create_session()).session_id for _ in range(7)]
    await alice.send(made[0])
    seen: list[str] = []
    token = ""
    while True:
        page = await sessions(alice, page_size=3, page_token=token)
        seen += [session.session_id for session in page.sessions]
        token = page.next_page_token
        if not token:
            break
    assert seen == [made[0], *made[:0:-1]]


async def test_the_page_size_may_change_between_pages_but_the_query_may_not(alice: Caller, mallory: Caller) -> None:
    for _ in range(5):
        await alice.create_session()
    page = await sessions(alice, page_size=2, archived=False)
    token = page.next_page_token
    assert len((await sessions(alice, page_size=50, page_token=token, archived=False)).sessions) == 3
    for caller, query in (
        (alice, {"page_token": token}),
        (alice, {"page_token": token, "archived": True}),
        (mallory, {"page_token": token, "archived": False}),
        (alice, {"page_token": token[:-2], "archived": False}),
        (alice, {"page_token": "x" + token[1:], "archived": False}),
        (alice, {"page_token": "not base64!", "archived": False}),
        (alice, {"page_token": "AAAA", "archived": False}),
    ):
        refusal = await refused(sessions(caller, **query))
        assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")


async def test_a_page_token_for_messages_is_refused_for_sessions(alice: Caller) -> None:
    session = await alice.create_session()
    await alice.send(session.session_id)
    request = pb.ListMessagesRequest(session_id=session.session_id, page_size=1)
    token = (await alice.chat.ListMessages(request, metadata=alice.metadata)).next_page_token
    assert token
    assert (await refused(sessions(alice, page_token=token))).reason == "PAGE_TOKEN_INVALID"


async def test_sessions_are_filtered(alice: Caller) -> None:
    plain = await alice.create_session()
    marked = await alice.create_session(metadata={"env": "prod"}, archived=True)
    ids = [session.session_id for session in (await sessions(alice, metadata={"env": "prod"})).sessions]
    assert ids == [marked.session_id]
    ids = [session.session_id for session in (await sessions(alice, archived=False, creator="alice")).sessions]
    assert ids == [plain.session_id]
    assert list((await sessions(alice, creator="")).sessions) == []


async def test_an_update_sets_the_fields_in_the_mask(alice: Caller) -> None:
    session = await alice.create_session(title="a", model="m", metadata={"k": "v"})
    wanted = Session(session_id=session.session_id, title="b", model="ignored", etag=session.etag)
    changed = (await update(alice, wanted, "title", "metadata")).session
    assert (changed.title, changed.model, dict(changed.metadata)) == ("b", "m", {})
    assert changed.etag != session.etag
    assert (await get(alice, session.session_id)).session == changed


@pytest.mark.parametrize("paths", [(), ("",), ("session_id",), ("create_time",), ("title", "etag"), ("nothing",)])
async def test_an_empty_mask_or_one_with_an_immutable_field_is_refused(alice: Caller, paths: tuple[str, ...]) -> None:
    session = await alice.create_session(title="a")
    refusal = await refused(update(alice, Session(session_id=session.session_id, title="b"), *paths))
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "UPDATE_MASK_INVALID")
    assert refusal.info.metadata == {"path": paths[-1] if paths else ""}
    assert (await get(alice, session.session_id)).session == session


async def test_a_stale_etag_is_refused_and_changes_nothing(alice: Caller) -> None:
    session = await alice.create_session(title="a")
    changed = (await update(alice, Session(session_id=session.session_id, title="b"), "title")).session
    stale = Session(session_id=session.session_id, title="c", etag=session.etag)
    for call in (update(alice, stale, "title"), delete(alice, session.session_id, session.etag)):
        refusal = await refused(call)
        assert (refusal.code.name, refusal.reason) == ("ABORTED", "ETAG_MISMATCH")
    assert (await get(alice, session.session_id)).session == changed
    await delete(alice, session.session_id, changed.etag)
    assert (await refused(get(alice, session.session_id))).reason == "SESSION_NOT_FOUND"
    assert (await refused(delete(alice, session.session_id))).reason == "SESSION_NOT_FOUND"


async def test_messages_are_read_individually_by_branch_and_all_together(alice: Caller) -> None:
    session = (await alice.create_session()).session_id
    first = (await alice.send(session, "one"))[-1].turn_finished.message
    await alice.send(session, "edited", parent_message_id="")
    texts = [text_of(message) for message in await alice.messages(session)]
    assert texts[0] == "edited"
    branch = await alice.messages(session, leaf_message_id=first.message_id)
    assert [message.message_id for message in branch][1:] == [first.message_id]
    newest = await alice.messages(session, all_branches=True, order_by=pb.MESSAGE_ORDER_NEWEST_FIRST)
    assert len(newest) == 4
    assert newest[-1] == branch[0]
    request = pb.GetMessageRequest(message_id=first.message_id)
    assert (await alice.chat.GetMessage(request, metadata=alice.metadata)).message == first


async def test_a_leaf_and_all_branches_are_mutually_exclusive(alice: Caller) -> None:
    session = (await alice.create_session()).session_id
    refusal = await refused(alice.messages(session, leaf_message_id="msg_1", all_branches=True))
    assert refusal.reason == "REQUEST_INVALID"


async def test_unknown_parents_leaves_and_messages_are_not_found(alice: Caller) -> None:
    session = (await alice.create_session()).session_id
    other = (await alice.create_session()).session_id
    elsewhere = (await alice.send(other))[-1].turn_finished.message.message_id
    for call in (
        alice.send(session, parent_message_id="msg_none"),
        alice.send(session, parent_message_id=elsewhere),
        alice.messages(session, leaf_message_id=elsewhere),
        alice.chat.GetMessage(pb.GetMessageRequest(message_id="msg_none"), metadata=alice.metadata),
    ):
        refusal = await refused(call)
        assert (refusal.code.name, refusal.reason) == ("NOT_FOUND", "MESSAGE_NOT_FOUND")
    assert await alice.messages(session) == []


async def test_a_page_never_exceeds_the_message_size_that_a_client_accepts(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        alice = running.caller()
        session = (await alice.create_session()).session_id
        for _ in range(4):
            await alice.send(session, "x" * 1_000_000, max_output_tokens=1)
        seen, token = 0, ""
        while True:
            request = pb.ListMessagesRequest(session_id=session, page_size=1000, page_token=token)
            page = await alice.chat.ListMessages(request, metadata=alice.metadata)
            assert page.ByteSize() < 3 * 1024 * 1024
            seen, token = seen + len(page.messages), page.next_page_token
            if not token:
                break
        assert seen == 8
