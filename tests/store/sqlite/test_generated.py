"""Generated files hold what the store's operations write for the same vaults."""

from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
from metamorphd.clock import day_of
from metamorphd.models.caller import server_scope
from metamorphd.models.content import text_of
from metamorphd.models.generation import GenerationOptions
from metamorphd.models.message import Message, Role
from metamorphd.models.page import Page
from metamorphd.models.turn import StopReason, TextDelta, TurnStatus
from metamorphd.models.usage import SubjectKind
from metamorphd.store.messages import list_messages
from metamorphd.store.search.postings import GROUPS, unpack
from metamorphd.store.search.query import search_messages
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.turns.create import create_turn
from metamorphd.store.turns.events import prune_events
from metamorphd.store.turns.finish import finish_turn
from metamorphd.store.usage_lists import list_usage
from rich.progress import Progress

from tests.support.generated import postings
from tests.support.generated.corpus import COMMON_WORDS, RARE_WORD
from tests.support.generated.generate import generate
from tests.support.generated.layout import DEEP_VAULT, LARGE_VAULT, Layout, SessionPlan, time_of
from tests.support.generated.links import parent_of
from tests.support.generated.stock import OWNER, USAGE, attachment_of, content_of, hash_key, metadata, title, upload
from tests.support.rows import TERMS, new_session, scope_of

LAYOUT = Layout(messages=160, vaults=3, erasable=1, deep_messages=110)
LATER = time_of(1_000_000)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("generated") / "metamorph.db"
    generate(path, LAYOUT, Progress(disable=True))
    return path


@pytest.fixture
async def database(generated: Path) -> AsyncIterator[SqliteDatabase]:
    async with SqliteDatabase(path=generated, synchronous="NORMAL") as database:
        yield database


async def store(database: SqliteDatabase, plan: SessionPlan) -> None:
    """Stores a session by the operations that calls run."""
    scope = scope_of(plan.vault.vault_id, plan.creator)
    await new_session(
        database,
        scope,
        session_id=plan.session_id,
        title=title(plan),
        metadata=metadata(plan),
        labels={},
        archived=plan.archived,
        hash_key=hash_key(plan.vault),
        now=time_of(plan.first),
    )
    for place in range(0, plan.size, 2):
        parent = parent_of(place)
        turn = await database.write(
            create_turn,
            scope,
            message=Message(
                plan.message_id(place),
                plan.session_id,
                None,
                Role.USER,
                content_of(plan, place),
                plan.turn_id(place),
                plan.creator,
                "",
                None,
                time_of(plan.first + place),
            ),
            uploads=() if attachment_of(plan, place) is None else (upload(plan, place),),
            parent="" if parent is None else plan.message_id(parent),
            options=GenerationOptions(),
            labels={},
            terms=replace(TERMS, owner=OWNER),
            request=None,
        )
        await database.write(
            finish_turn,
            scope,
            turn=turn,
            events=[TextDelta(turn.turn_id, 2, 0, text_of(content_of(plan, place + 1)))],
            closed={},
            status=TurnStatus.COMPLETED,
            stop_reason=StopReason.END_TURN,
            usage=USAGE,
            model_calls=1,
            error=None,
            reply_message_id=plan.message_id(place + 1),
            now=time_of(plan.first + place + 1),
        )


def rows(path: Path) -> dict[str, list[str]]:
    """Returns the rows of every table, in an order of their own, but for the identity, which no two files share."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    listed = "SELECT name FROM pragma_table_list WHERE type IN ('table', 'virtual') AND name NOT LIKE 'sqlite_%'"
    names = [str(name) for (name,) in connection.execute(listed)]
    names.remove("identity")
    found = {name: sorted(map(repr, connection.execute(f"SELECT * FROM {name}"))) for name in names}  # noqa: S608
    connection.close()
    return found


async def test_every_row_is_as_the_operations_write_it(generated: Path, tmp_path: Path) -> None:
    path = tmp_path / "metamorph.db"
    async with SqliteDatabase(path=path, synchronous="NORMAL") as database:
        for vault in LAYOUT.plans():
            for plan in vault.sessions():
                await store(database, plan)
        while await database.write_system(prune_events, server_scope(), before=LATER, limit=10_000):
            pass
    expected, found = rows(path), rows(generated)
    assert {table for table, stored in expected.items() if stored} >= {"messages", "turns", "usage", "attachment_uses"}
    for table, stored in expected.items():
        assert found[table] == stored, table


def test_groups_have_the_blocks_that_have_a_term(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postings, "GROUP", 2)
    generated = postings.Postings("large", bytes(32), 5_000)
    groups: dict[tuple[int, bytes], tuple[int, ...]] = {}
    expected: defaultdict[tuple[int, bytes], tuple[int, ...]] = defaultdict(tuple)
    for number in range(1, 5_001):
        for _, block, term, offsets in generated.add(number, f"ses_{number // 1_500}", f"n{number}"):
            assert isinstance(block, int)
            assert isinstance(term, bytes)
            assert isinstance(offsets, bytes)
            if block > GROUPS // 2:
                groups[block - GROUPS, term] = unpack(offsets)
            else:
                expected[block // 2, term] += (block % 2,)
    assert {group for group, _ in groups} == {0, 1, 2}
    assert groups == expected


async def test_a_branch_leaves_out_what_its_forks_left(database: SqliteDatabase) -> None:
    deep = next(LAYOUT.deep.sessions())
    assert deep.vault.vault_id == DEEP_VAULT
    page: Page[Message] = await database.read(
        list_messages,
        scope_of(DEEP_VAULT),
        session_id=deep.session_id,
        leaf_message_id=None,
        all_branches=False,
        newest_first=False,
        after=None,
        page_size=200,
        max_size=1_000_000,
    )
    # The last five turns before the fiftieth.
    left_out = {deep.message_id(place) for place in range(88, 98)}
    whole = {deep.message_id(place) for place in range(deep.size)}
    assert {message.message_id for message in page.items} == whole - left_out


async def test_words_are_as_common_as_they_are_called(database: SqliteDatabase) -> None:
    found = {}
    for word in (*COMMON_WORDS, RARE_WORD):
        page = await database.read(
            search_messages, scope_of(LARGE_VAULT), phrases=((word,),), session_id=None, after=None, page_size=100
        )
        found[word] = len(page.items) / LAYOUT.large.messages
    assert found[COMMON_WORDS[0]] > 0.9
    assert 0.7 < found[COMMON_WORDS[1]] < found[COMMON_WORDS[0]]
    assert 0 < found[RARE_WORD] <= 6 / LAYOUT.large.messages


async def test_usage_is_that_of_every_turn(database: SqliteDatabase) -> None:
    day = day_of(time_of(0))
    page, total = await database.read(
        list_usage,
        scope_of(LARGE_VAULT),
        start_day=day,
        end_day=day,
        model=None,
        kind=SubjectKind.SESSION,
        subject=None,
        by_day=False,
        by_model=False,
        by_subject=True,
        after=None,
        page_size=100,
    )
    assert len(page.items) == len(list(LAYOUT.large.sessions()))
    assert total.turns == LAYOUT.large.messages // 2
    assert total.usage.output_tokens == USAGE.output_tokens * total.turns
