"""Sessions in the store."""

from typing import Any

import pytest
from metamorphd.errors import EtagMismatch, RequestIdReused, SessionNotFound
from metamorphd.models.caller import Scope
from metamorphd.models.page import Page
from metamorphd.models.session import Session, SessionChanges
from metamorphd.store import session_lists
from metamorphd.store.database import Database
from metamorphd.store.idempotency import IdempotencyKey
from metamorphd.store.session_lists import list_sessions
from metamorphd.store.sessions import delete_session, get_session, update_session

from tests.support.rows import ACME, EVIL, new_session, scope_of, stored_message


async def page(
    database: Database,
    *,
    scope: Scope = ACME,
    after: tuple[int | str, ...] | None = None,
    page_size: int = 50,
    max_size: int = 1_000_000,
    archived: bool | None = None,
    creator: str | None = None,
    metadata: dict[str, str] | None = None,
) -> Page[Session]:
    return await database.read(
        list_sessions,
        scope,
        after=after,
        page_size=page_size,
        max_size=max_size,
        archived=archived,
        creator=creator,
        metadata=metadata or {},
    )


async def ids(database: Database, **query: Any) -> list[str]:
    return [session.session_id for session in (await page(database, **query)).items]


async def test_a_session_is_read_as_created(database: Database) -> None:
    created = await new_session(
        database,
        title="Tïtle",
        model="claude-x",
        system_prompt="Be brief.",
        metadata={"b": '"quoted"', "a": ""},
        archived=True,
        now=1_700_000_000_000_001,
    )
    assert created.metadata == {"a": "", "b": '"quoted"'}
    assert (created.create_time, created.update_time, created.last_message_time) == (1_700_000_000_000_001,) * 2 + (
        None,
    )
    assert (created.message_count, created.current_leaf_message_id, created.running_turn_ids) == (0, None, ())
    assert await database.read(get_session, ACME, session_id=created.session_id) == created


async def test_a_session_of_another_vault_is_not_found(database: Database) -> None:
    session = await new_session(database)
    with pytest.raises(SessionNotFound):
        await database.read(get_session, EVIL, session_id=session.session_id)
    with pytest.raises(SessionNotFound):
        await database.write(delete_session, EVIL, session_id=session.session_id, etag="", now=9)
    with pytest.raises(SessionNotFound):
        await database.write(
            update_session, EVIL, session_id=session.session_id, changes=SessionChanges(title="x"), etag="", now=1
        )
    assert await database.read(get_session, ACME, session_id=session.session_id) == session


async def test_two_vaults_may_use_the_same_session_id(database: Database) -> None:
    await new_session(database, ACME, session_id="ses_1", title="a")
    await new_session(database, EVIL, session_id="ses_1", title="b")
    assert (await database.read(get_session, ACME, session_id="ses_1")).title == "a"
    await database.write(delete_session, EVIL, session_id="ses_1", etag="", now=9)
    assert (await database.read(get_session, ACME, session_id="ses_1")).title == "a"


async def test_a_repeated_request_returns_the_current_session(database: Database) -> None:
    key = IdempotencyKey("CreateSession", "one", b"body")
    first = await new_session(database, request=key)
    await database.write(
        update_session, ACME, session_id=first.session_id, changes=SessionChanges(title="later"), etag="", now=2
    )
    again = await new_session(database, request=key)
    assert (again.session_id, again.title) == (first.session_id, "later")
    assert len(await ids(database)) == 1


async def test_request_ids_are_separate_for_each_vault_and_rpc(database: Database) -> None:
    made = [
        await new_session(database, ACME, request=IdempotencyKey("CreateSession", "one", b"body")),
        await new_session(database, ACME, request=IdempotencyKey("Another", "one", b"other")),
        await new_session(database, EVIL, request=IdempotencyKey("CreateSession", "one", b"other")),
    ]
    assert len({session.session_id for session in made}) == 3


async def test_a_request_id_with_another_body_is_refused(database: Database) -> None:
    await new_session(database, request=IdempotencyKey("CreateSession", "one", b"body"))
    with pytest.raises(RequestIdReused):
        await new_session(database, request=IdempotencyKey("CreateSession", "one", b"another"))
    assert len(await ids(database)) == 1


async def test_a_repeated_request_for_a_deleted_session_is_not_found(database: Database) -> None:
    key = IdempotencyKey("CreateSession", "one", b"body")
    session = await new_session(database, request=key)
    await database.write(delete_session, ACME, session_id=session.session_id, etag="", now=9)
    with pytest.raises(SessionNotFound):
        await new_session(database, request=key)
    assert await ids(database) == []


async def test_sessions_are_listed_newest_activity_first(database: Database) -> None:
    for number in range(3):
        await new_session(database, session_id=f"ses_{number}", now=number)
    await stored_message(database, "ses_0", create_time=10)
    assert await ids(database) == ["ses_0", "ses_2", "ses_1"]


async def test_pages_have_no_gaps_or_repeats_even_with_equal_times(database: Database) -> None:
    for number in range(25):
        await new_session(database, session_id=f"ses_{number:02}", now=number // 5)
    whole = await ids(database)
    assert len(whole) == 25
    joined: list[str] = []
    after: tuple[int | str, ...] | None = None
    for expected in (10, 10, 5):
        part = await page(database, after=after, page_size=10)
        assert len(part.items) == expected
        joined += [session.session_id for session in part.items]
        after = part.next_after
    assert after is None
    assert joined == whole


async def test_a_full_last_page_has_no_next_page(database: Database) -> None:
    for _ in range(10):
        await new_session(database)
    assert (await page(database, page_size=10)).next_after is None
    assert (await page(database, page_size=9)).next_after is not None


async def test_pages_are_limited_by_size_and_never_empty(database: Database) -> None:
    for _ in range(5):
        await new_session(database, system_prompt="x" * 1000)
    small = await page(database, max_size=1)
    assert len(small.items) == 1
    assert small.next_after is not None
    assert len((await page(database, max_size=3500)).items) == 3


async def test_sessions_are_filtered_by_archived_creator_and_metadata(database: Database) -> None:
    await new_session(database, session_id="plain", now=1)
    await new_session(database, session_id="archived", archived=True, now=2)
    await new_session(database, scope_of("acme", "bob"), session_id="bob", now=3)
    await new_session(database, session_id="pairs", metadata={"env": "prod", "team": "a,b"}, now=4)
    assert await ids(database, archived=True) == ["archived"]
    assert await ids(database, archived=False) == ["pairs", "bob", "plain"]
    assert await ids(database, creator="bob") == ["bob"]
    assert await ids(database, metadata={"env": "prod"}) == ["pairs"]
    assert await ids(database, metadata={"team": "a,b", "env": "prod"}) == ["pairs"]
    assert await ids(database, metadata={"env": "prod", "team": "a"}) == []
    assert await ids(database, metadata={"env": "pro"}) == []


async def test_a_changed_pair_is_found_instead_of_the_old_one(database: Database) -> None:
    session = await new_session(database, session_id="s", metadata={"env": "prod", "team": "a"})
    changes = SessionChanges(metadata={"env": "test"})
    await database.write(update_session, ACME, session_id=session.session_id, changes=changes, etag="", now=2)
    assert await ids(database, metadata={"env": "test"}) == ["s"]
    assert await ids(database, metadata={"env": "prod"}) == []
    assert await ids(database, metadata={"team": "a"}) == []


@pytest.mark.parametrize(
    ("common", "query"),
    [
        ({"creator": "alice"}, {"creator": "alice", "archived": True}),
        ({"metadata": {"env": "prod", "team": "a"}}, {"metadata": {"env": "prod", "team": "b"}}),
    ],
    ids=["creator", "pairs"],
)
async def test_a_page_of_few_matches_is_cut_short_and_goes_on(
    database: Database, monkeypatch: pytest.MonkeyPatch, common: dict[str, Any], query: dict[str, Any]
) -> None:
    monkeypatch.setattr(session_lists, "MOST_VISITED", 5)
    wanted = {"archived": True} | ({"metadata": query["metadata"]} if "metadata" in query else {})
    fields = {name: value for name, value in common.items() if name != "creator"}
    for number in range(23):
        match = number in (0, 11)
        await new_session(database, session_id=f"s{number}", now=number, **(fields | wanted if match else fields))
    # So that no pair is rare.
    for number in range(23, 30):
        await new_session(database, session_id=f"s{number}", now=number, metadata={"team": "b"})
    shown: list[str] = []
    pages = 0
    after = None
    while after is not None or not pages:
        found = await page(database, after=after, **query)
        shown += [session.session_id for session in found.items]
        after, pages = found.next_after, pages + 1
    assert shown == ["s11", "s0"]
    assert pages > 3


async def test_a_value_that_looks_like_a_pair_matches_no_filter(database: Database) -> None:
    await new_session(database, metadata={"note": '"env":"prod"', "back": 'x\\","env":"prod'})
    assert await ids(database, metadata={"env": "prod"}) == []


async def test_an_update_sets_only_the_given_fields_and_changes_the_etag(database: Database) -> None:
    session = await new_session(database, title="a", model="m", metadata={"k": "v"}, now=1)
    changed = await database.write(
        update_session,
        ACME,
        session_id=session.session_id,
        changes=SessionChanges(title="b", metadata={}, archived=True),
        etag="1",
        now=2,
    )
    assert (changed.title, changed.model, changed.metadata, changed.archived) == ("b", "m", {}, True)
    assert (changed.revision, changed.create_time, changed.update_time) == (2, 1, 2)


async def test_a_stale_etag_changes_nothing(database: Database) -> None:
    session = await new_session(database, title="a")
    name = session.session_id
    with pytest.raises(EtagMismatch):
        await database.write(update_session, ACME, session_id=name, changes=SessionChanges(title="b"), etag="0", now=2)
    with pytest.raises(EtagMismatch):
        await database.write(delete_session, ACME, session_id=name, etag="2", now=9)
    assert await database.read(get_session, ACME, session_id=name) == session


async def test_messages_do_not_change_the_etag(database: Database) -> None:
    session = await new_session(database)
    await stored_message(database, session.session_id)
    assert (await database.read(get_session, ACME, session_id=session.session_id)).revision == session.revision
