"""Labels of sessions and turns, and usage by user and by label, in a whole server."""

from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import session_pb2, turn_pb2
from metamorph_client.vault.v1 import usage_pb2
from metamorph_client.vault.v1 import vault_service_pb2 as vault_pb

from tests.support.caller import Caller, Events
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.refusal import refused
from tests.support.serving import Serving, replies_from
from tests.support.usage import MODEL, usage

DAY, MODEL_, SESSION = usage_pb2.USAGE_GROUPING_DAY, usage_pb2.USAGE_GROUPING_MODEL, usage_pb2.USAGE_GROUPING_SESSION
USER, LABEL = usage_pb2.USAGE_GROUPING_USER, usage_pb2.USAGE_GROUPING_LABEL


@pytest.fixture
def overrides(api: FakeMessagesApi) -> dict[str, Any]:
    return replies_from(api) | {"compaction_trigger_tokens": 0}


async def update(caller: Caller, session: session_pb2.Session, *paths: str) -> session_pb2.Session:
    request = pb.UpdateSessionRequest(session=session, update_mask=FieldMask(paths=paths))
    return (await caller.chat.UpdateSession(request, metadata=caller.metadata)).session


async def turn(caller: Caller, turn_id: str) -> turn_pb2.Turn:
    return (await caller.chat.GetTurn(pb.GetTurnRequest(turn_id=turn_id), metadata=caller.metadata)).turn


async def send(caller: Caller, session_id: str, **labels: str) -> turn_pb2.Turn:
    return await turn(caller, (await caller.send(session_id, labels=labels))[-1].turn_id)


async def regenerate(caller: Caller, user_message_id: str, **labels: str) -> turn_pb2.Turn:
    request = pb.RegenerateReplyRequest(user_message_id=user_message_id, labels=labels)
    events = await Events(caller.chat.RegenerateReply(request, metadata=caller.metadata)).rest()
    return await turn(caller, events[-1].turn_id)


async def by(caller: Caller, *grouping: Any, **query: Any) -> dict[str, int]:
    """Returns the turns by user and label, as far as grouped by them."""
    return {row.user_id + row.label: row.turns for row in (await usage(caller, *grouping, **query)).rows}


async def test_a_session_has_the_labels_that_it_was_given_last(alice: Caller) -> None:
    labels = {"team": "web", "env": ""}
    session = await alice.create_session(labels=labels, title="One")
    assert session.labels == labels
    assert [dict(each.labels) for each in await alice.sessions()] == [labels]
    # Another field is changed, and the labels are not.
    session.ClearField("labels")
    assert (await update(alice, session, "title")).labels == labels
    session.etag = ""
    assert (await update(alice, session, "labels")).labels == {}
    assert (await alice.create_session()).labels == {}


@pytest.mark.parametrize(
    "labels", [{str(number): "" for number in range(9)}, {"": "a"}, {"-a": ""}, {"a": "b c"}, {"a": "b=c"}, {"é": ""}]
)
async def test_labels_that_are_too_many_or_not_words_are_refused(alice: Caller, labels: dict[str, str]) -> None:
    request = pb.CreateSessionRequest(session=session_pb2.Session(labels=labels))
    assert (await refused(alice.chat.CreateSession(request, metadata=alice.metadata))).reason == "REQUEST_INVALID"
    session = await alice.create_session()
    assert (await refused(alice.start(session.session_id, labels=labels).call)).reason == "REQUEST_INVALID"


async def test_a_turn_has_the_labels_of_its_session_and_of_its_request(alice: Caller) -> None:
    session = await alice.create_session(labels={"team": "web"})
    first = await send(alice, session.session_id, feature="search", team="web")
    assert first.labels == {"team": "web", "feature": "search"}
    session.labels.clear()
    session.labels["team"] = "core"
    await update(alice, session, "labels")
    # What has started keeps its labels.
    assert (await turn(alice, first.turn_id)).labels == first.labels
    listed = await alice.chat.ListTurns(pb.ListTurnsRequest(session_id=session.session_id), metadata=alice.metadata)
    assert [each.labels for each in listed.turns] == [first.labels]
    again = await regenerate(alice, first.user_message_id, retry="1")
    assert again.labels == {"team": "core", "retry": "1"}
    assert await by(alice, LABEL) == {"feature=search": 1, "retry=1": 1, "team=core": 1, "team=web": 1}


async def test_a_request_does_not_replace_a_label_of_its_session(alice: Caller) -> None:
    session = await alice.create_session(labels={"team": "web"})
    refusal = await refused(alice.start(session.session_id, labels={"team": "core", "a": ""}).call)
    assert (refusal.code.name, refusal.reason, refusal.fields) == (
        *("INVALID_ARGUMENT", "REQUEST_INVALID"),
        ['labels["team"]'],
    )
    many = {f"k{number}": "" for number in range(8)}
    refusal = await refused(alice.start(session.session_id, labels=many).call)
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["labels"])
    assert await alice.messages(session.session_id) == []
    first = await send(alice, session.session_id)
    regenerating = pb.RegenerateReplyRequest(user_message_id=first.user_message_id, labels={"team": "core"})
    refusal = await refused(alice.chat.RegenerateReply(regenerating, metadata=alice.metadata))
    assert refusal.fields == ['labels["team"]']
    del many["k7"]
    assert len((await send(alice, session.session_id, **many)).labels) == 8


async def test_usage_is_grouped_by_user_and_by_label(running: Serving, alice: Caller) -> None:
    bob = running.caller(user="bob é")
    session = await alice.create_session(labels={"team": "web"})
    await send(alice, session.session_id)
    await send(bob, session.session_id, feature="search")
    await send(bob, (await bob.create_session()).session_id)
    assert await by(alice, USER) == {"alice": 1, "bob é": 2}
    assert await by(alice, LABEL) == {"feature=search": 1, "team=web": 2}
    answer = await usage(alice, DAY, MODEL_, USER)
    assert [(bool(row.day), row.model, row.user_id, row.turns) for row in answer.rows] == [
        (True, MODEL, "alice", 1),
        (True, MODEL, "bob é", 2),
    ]
    assert sum(row.usage.cost_usd_nanos for row in answer.rows) == answer.total.usage.cost_usd_nanos > 0
    # A turn without labels is in no row, and in the total once, as is one with two.
    assert (await usage(alice, LABEL)).total.turns == 3
    assert (await usage(alice, user_id="bob é")).total.turns == 2
    assert await by(alice, LABEL, label="team=web") == {"team=web": 2}
    assert (await usage(alice, label="team=web")).total.turns == 2
    assert (await usage(alice, DAY, label="team=")).rows == []
    mallory = running.caller(vault="evil", user="alice")
    assert await by(mallory, USER) == await by(mallory, USER, user_id="alice") == {}
    delete = pb.DeleteSessionRequest(session_id=session.session_id)
    await alice.chat.DeleteSession(delete, metadata=alice.metadata)
    assert await by(alice, LABEL) == {"feature=search": 1, "team=web": 2}


async def test_usage_by_label_is_paged(alice: Caller) -> None:
    session = await alice.create_session()
    for number in range(5):
        await send(alice, session.session_id, **{f"n{number}": "", "all": ""})
    seen: list[str] = []
    token = ""
    while True:
        page = await usage(alice, LABEL, page_size=2, page_token=token)
        seen += [row.label for row in page.rows]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["all=", *(f"n{number}=" for number in range(5))]


@pytest.mark.parametrize(
    ("grouping", "query"),
    [
        ([USER, LABEL], {}),
        ([SESSION, USER], {}),
        ([SESSION], {"user_id": "alice"}),
        ([LABEL], {"session_id": "ses_1"}),
        ([], {"user_id": "alice", "label": "a="}),
    ],
)
async def test_usage_is_not_kept_by_two_of_session_user_and_label(
    alice: Caller, grouping: list[Any], query: dict[str, Any]
) -> None:
    request = vault_pb.GetUsageRequest(group_by=grouping, **query)
    refusal = await refused(alice.vault.GetUsage(request, metadata=alice.metadata))
    assert (refusal.code.name, refusal.reason, refusal.fields) == ("INVALID_ARGUMENT", "REQUEST_INVALID", ["group_by"])


async def test_labels_count_towards_what_a_vault_stores(alice: Caller) -> None:
    async def stored() -> int:
        return (await usage(alice)).storage.stored_bytes

    session = await alice.create_session()
    before = await stored()
    session.labels["team"] = "web"
    await update(alice, session, "labels")
    assert await stored() == before + len('{"team":"web"}')
    await send(alice, session.session_id)
    with_turn = await stored()
    await send(alice, (await alice.create_session()).session_id)
    # The second pair of messages is as long, and its session is empty but for its metadata.
    assert with_turn - before - 2 * len('{"team":"web"}') == await stored() - with_turn - len("{}")
