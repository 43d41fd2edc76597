"""Links between messages: ancestors, pages of branches, and the part of a branch that a prompt needs."""

import itertools
import random
from collections.abc import Sequence

import pytest
from metamorphd.models.content import CompactionBlock, TextBlock, ToolResultBlock, text_of
from metamorphd.models.message import Role
from metamorphd.store.branches import get_branch
from metamorphd.store.database import Database, Transaction
from metamorphd.store.links import find_ancestor
from metamorphd.store.messages import create_message, delete_message, list_messages

from tests.support.rows import ACME, CLOCK, new_message, new_session, stored_message

MESSAGES = 300
ALL = 1_000_000


async def grow(tx: Transaction, *, session_id: str, parents: dict[str, str | None]) -> None:
    for message_id, parent in parents.items():
        message = new_message(session_id, message_id, message_id=message_id, parent_message_id=parent)
        await create_message(tx, message=message)


async def random_tree(database: Database, seed: int) -> tuple[str, dict[str, str | None]]:
    """Stores a session with long branches and many forks. Returns it and each message's parent."""
    chance = random.Random(seed)  # noqa: S311
    session_id = (await new_session(database)).session_id
    ids = [CLOCK.new_id("msg") for _ in range(MESSAGES)]
    parents: dict[str, str | None] = {}
    for place, message_id in enumerate(ids):
        forked = place and chance.random() < 0.1
        parents[message_id] = ids[chance.randrange(place)] if forked else ids[place - 1] if place else None
    # An operation has a quarter of a second.
    for first in range(0, MESSAGES, 20):
        some = dict(itertools.islice(parents.items(), first, first + 20))
        await database.write(grow, ACME, session_id=session_id, parents=some)
    return session_id, parents


def path(parents: dict[str, str | None], leaf: str) -> list[str]:
    """Returns the messages from the root to a leaf."""
    found: list[str] = []
    message_id: str | None = leaf
    while message_id is not None:
        found.append(message_id)
        message_id = parents[message_id]
    return found[::-1]


@pytest.mark.parametrize("seed", [1, 2])
async def test_an_ancestor_is_found_at_any_depth(database: Database, seed: int) -> None:
    session_id, parents = await random_tree(database, seed)
    for leaf in list(parents)[::7]:
        branch = path(parents, leaf)
        for depth in range(1, len(branch) + 1, 5):
            found = await database.read(find_ancestor, ACME, session_id=session_id, message_id=leaf, depth=depth)
            assert found == (branch[depth - 1], depth)
        beyond = await database.read(find_ancestor, ACME, session_id=session_id, message_id=leaf, depth=10_000)
        assert beyond == (leaf, len(branch))


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("page_size", [1, 7, 50, 1000])
async def test_pages_of_a_branch_are_its_messages_in_order(
    database: Database, newest_first: bool, page_size: int
) -> None:
    session_id, parents = await random_tree(database, 3)
    for leaf in list(parents)[-1::-60]:
        shown: list[str] = []
        after = None
        while after is not None or not shown:
            page = await database.read(
                list_messages,
                ACME,
                session_id=session_id,
                leaf_message_id=leaf,
                all_branches=False,
                newest_first=newest_first,
                after=after,
                page_size=page_size,
                max_size=ALL,
            )
            assert len(page.items) <= page_size
            shown += [message.message_id for message in page.items]
            after = page.next_after
            if after is None:
                break
        assert shown == path(parents, leaf)[:: -1 if newest_first else 1]


async def conversation(database: Database, *texts: str) -> tuple[str, list[str]]:
    """Stores messages by the user and the model in turns; a text that begins with `#` is a summary."""
    session_id = (await new_session(database)).session_id
    ids: list[str] = []
    for place, text in enumerate(texts):
        block = CompactionBlock(text) if text.startswith("#") else TextBlock(text)
        message = await stored_message(
            database,
            session_id,
            role=(Role.USER, Role.ASSISTANT)[place % 2],
            content=(block,),
            parent_message_id=ids[-1] if ids else None,
        )
        ids.append(message.message_id)
    return session_id, ids


async def read(database: Database, session_id: str, leaf: str, max_bytes: int = ALL) -> Sequence[str]:
    branch = await database.read(get_branch, ACME, session_id=session_id, leaf_message_id=leaf, max_bytes=max_bytes)
    return [text_of(message.content) for message in branch.messages or ()]


async def test_a_prompts_branch_begins_with_the_message_that_opens_the_last_summary(database: Database) -> None:
    session_id, ids = await conversation(database, "a", "#b", "c", "d", "e", "#f", "g", "h", "i")
    assert await read(database, session_id, ids[-1]) == ["e", "", "g", "h", "i"]
    assert await read(database, session_id, ids[4]) == ["a", "", "c", "d", "e"]


async def test_results_of_tools_do_not_open_a_summary(database: Database) -> None:
    session_id, ids = await conversation(database, "a", "b")
    result = ToolResultBlock("tool_1", (TextBlock("42"),), is_error=False)
    answer = await stored_message(database, session_id, content=(result,), parent_message_id=ids[-1])
    summary = await stored_message(
        database,
        session_id,
        role=Role.ASSISTANT,
        content=(CompactionBlock("#"),),
        parent_message_id=answer.message_id,
    )
    assert await read(database, session_id, summary.message_id) == ["a", "b", "", ""]


async def test_a_prompts_branch_ends_at_the_models_context(database: Database) -> None:
    session_id, ids = await conversation(database, *("x" * 1000 for _ in range(10)))
    assert len(await read(database, session_id, ids[-1], max_bytes=3100)) == 4
    assert len(await read(database, session_id, ids[-1], max_bytes=1)) == 1


async def test_a_deleted_message_keeps_its_place(database: Database) -> None:
    session_id, ids = await conversation(database, "a", "#b", "c", "d")
    await database.write(delete_message, ACME, message_id=ids[1], now=1)
    assert await read(database, session_id, ids[-1]) == ["a", "", "c", "d"]
    assert len(await read(database, session_id, ids[-1], max_bytes=1)) == 1
