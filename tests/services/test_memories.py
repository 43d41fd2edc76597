"""Memories, as callers see them."""

import asyncio
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from metamorph_client.vault.v1 import vault_service_pb2 as pb
from metamorph_client.vault.v1.change_pb2 import CHANGED_RESOURCE_MEMORY, Change, ChangeVerb
from metamorph_client.vault.v1.memory_pb2 import (
    MEMORY_TYPE_EPISODIC,
    MEMORY_TYPE_IDENTITY,
    MEMORY_TYPE_SEMANTIC,
    MEMORY_TYPE_UNSPECIFIED,
)
from metamorph_client.vault.v1.vault_service_pb2 import MEMORY_ORDER_LEAST_RECENTLY_USED_FIRST

from tests.support.caller import Caller
from tests.support.memories import create, delete, get, listed, made, matches, page, searched, update
from tests.support.refusal import refused
from tests.support.serving import serving


def seconds_from_now(seconds: float) -> Timestamp:
    time_ = Timestamp()
    time_.FromMicroseconds(int((time.time() + seconds) * 1e6))
    return time_


async def changes_of(caller: Caller, memory_id: str) -> list[str]:
    """Returns the verbs of a memory's changes in the vault's log."""
    found: list[Change] = []
    watch = pb.WatchVaultRequest(after_revision=0, resources=[CHANGED_RESOURCE_MEMORY])
    async for response in caller.vault.WatchVault(watch, metadata=caller.metadata):
        if not response.changes:
            break
        found += response.changes
    return [ChangeVerb.Name(each.verb) for each in found if each.resource_id == memory_id]


async def test_a_memory_comes_back_as_it_was_given(alice: Caller) -> None:
    session = await alice.create_session()
    started, *_ = await alice.send(session.session_id)
    message_id = started.turn_started.user_message_id
    until = seconds_from_now(3600)
    answer = await create(
        alice,
        "Ada drinks tea.",
        type=MEMORY_TYPE_EPISODIC,
        importance=0.25,
        metadata={"topic": "tea"},
        session_id=session.session_id,
        message_id=message_id,
        expire_time=until,
    )
    memory = answer.memory
    assert answer.created
    assert (memory.type, memory.content, memory.importance) == (MEMORY_TYPE_EPISODIC, "Ada drinks tea.", 0.25)
    assert (dict(memory.metadata), memory.expire_time) == ({"topic": "tea"}, until)
    assert (memory.session_id, memory.message_id) == (session.session_id, message_id)
    assert (memory.creator, memory.superseded_by) == ("alice", "")
    assert memory.create_time == memory.update_time == memory.last_use_time
    assert (await get(alice, memory.memory_id)).memory == memory
    assert (await made(alice, "Another")).importance == 0.5
    assert await changes_of(alice, memory.memory_id) == ["CHANGE_VERB_CREATED"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Ada drinks tea", "  ada  DRINKS\ntea."),
        ("Łódź is in Poland", "lodz is in poland"),
        ("\uff54\uff45\uff41 is hot", "tea is hot"),
    ],
)
async def test_there_is_one_memory_of_what_is_only_written_otherwise(alice: Caller, first: str, second: str) -> None:
    before = (await create(alice, first)).memory
    again = await create(alice, second, metadata={"a": "b"})
    assert not again.created
    assert (again.memory.memory_id, again.memory.content) == (before.memory_id, first)
    assert dict(again.memory.metadata) == {}
    assert await listed(alice) == [first]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Ada writes C", "Ada writes C++"),
        ("It costs 5 €", "It costs 5 £"),
        ("Ada likes 🍕", "Ada likes 🍔"),
        ("It was -5 degrees", "It was 5 degrees"),
        ("か", "が"),
    ],
)
async def test_what_means_something_else_is_another_memory(alice: Caller, first: str, second: str) -> None:
    await create(alice, first)
    assert (await create(alice, second)).created
    assert await listed(alice) == [second, first]


async def test_a_type_has_memories_of_its_own(alice: Caller, mallory: Caller) -> None:
    assert (await create(alice, "Ada")).created
    assert (await create(alice, "Ada", type=MEMORY_TYPE_IDENTITY)).created
    assert (await create(mallory, "Ada")).created
    assert await listed(alice, type=MEMORY_TYPE_IDENTITY) == ["Ada"]
    assert len(await listed(alice)) == 2


async def test_a_repeat_raises_importance_and_a_replay_raises_nothing(alice: Caller) -> None:
    request_id = str(uuid.uuid4())
    first = await create(alice, "Tea", importance=0.5, request_id=request_id)
    repeat_id = str(uuid.uuid4())
    second = await create(alice, "tea", importance=0.2, request_id=repeat_id)
    assert (second.created, second.memory.importance) == (False, pytest.approx(0.55))
    third = await create(alice, "TEA", importance=0.9)
    assert third.memory.importance == pytest.approx(0.91)
    assert third.memory.etag != second.memory.etag
    replayed = await create(alice, "Tea", importance=0.5, request_id=request_id.upper())
    assert (replayed.created, replayed.memory) == (True, third.memory)
    replayed = await create(alice, "tea", importance=0.2, request_id=repeat_id)
    assert (replayed.created, replayed.memory) == (False, third.memory)
    refusal = await refused(create(alice, "Coffee", request_id=request_id))
    assert (refusal.code.name, refusal.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
    await delete(alice, first.memory.memory_id)
    refusal = await refused(create(alice, "Tea", importance=0.5, request_id=request_id))
    assert (refusal.code.name, refusal.reason) == ("NOT_FOUND", "MEMORY_NOT_FOUND")


async def test_of_those_who_create_the_same_at_once_one_creates_it(alice: Caller) -> None:
    answers = await asyncio.gather(*(create(alice, "The same") for _ in range(16)))
    assert sum(answer.created for answer in answers) == 1
    assert len({answer.memory.memory_id for answer in answers}) == 1
    assert await listed(alice) == ["The same"]


async def test_a_repeat_can_only_prolong_the_life_of_a_memory(alice: Caller) -> None:
    near, far = seconds_from_now(1000), seconds_from_now(2000)
    for given, kept in ((far, far), (near, far), (None, None), (near, None)):
        answer = await create(alice, "Holds for a while", expire_time=given)
        assert answer.memory.HasField("expire_time") == (kept is not None)
        assert kept is None or answer.memory.expire_time == kept


async def test_a_superseded_memory_is_history(alice: Caller) -> None:
    old = await made(alice, "Ada lives in Rome")
    other = await made(alice, "Ada likes Rome")
    assert await searched(alice, "Rome") == ["Ada likes Rome", "Ada lives in Rome"]
    new = await made(alice, "Ada lives in Oslo", supersedes=[old.memory_id])
    assert await searched(alice, "Rome") == ["Ada likes Rome"]
    assert await searched(alice, "Ada lives") == ["Ada lives in Oslo", "Ada likes Rome"]
    assert (await get(alice, old.memory_id)).memory.superseded_by == new.memory_id
    assert await listed(alice) == ["Ada lives in Oslo", "Ada likes Rome"]
    assert await listed(alice, superseded=True) == ["Ada lives in Rome"]
    assert await listed(alice, superseded=True, superseded_by=new.memory_id) == ["Ada lives in Rome"]
    assert await listed(alice, superseded=True, superseded_by=other.memory_id) == []
    assert await changes_of(alice, old.memory_id) == ["CHANGE_VERB_CREATED", "CHANGE_VERB_UPDATED"]
    # It becomes true again.
    back = await create(alice, "Ada lives in Rome", supersedes=[new.memory_id])
    assert (back.created, back.memory.memory_id, back.memory.superseded_by) == (False, old.memory_id, "")
    assert await searched(alice, "lives") == ["Ada lives in Rome"]
    assert await listed(alice, superseded=True) == ["Ada lives in Oslo"]


async def test_a_memory_that_supersedes_what_is_not_there_is_not_stored(alice: Caller, mallory: Caller) -> None:
    foreign = await made(mallory, "His")
    for memory_id in (foreign.memory_id, "mem_unknown"):
        refusal = await refused(create(alice, "Hers", supersedes=[memory_id]))
        assert (refusal.code.name, refusal.reason) == ("NOT_FOUND", "MEMORY_NOT_FOUND")
        assert refusal.info.metadata == {"memory_id": memory_id}
    assert await listed(alice) == []
    assert await listed(mallory) == ["His"]
    own = await made(alice, "Hers")
    assert (await made(alice, "Hers", supersedes=[own.memory_id])).superseded_by == ""


async def test_where_a_memory_comes_from_must_be_there(alice: Caller) -> None:
    session, another = await alice.create_session(), await alice.create_session()
    started, *_ = await alice.send(session.session_id)
    message_id = started.turn_started.user_message_id
    refusal = await refused(create(alice, "x", session_id=another.session_id, message_id=message_id))
    assert (refusal.code.name, refusal.reason) == ("NOT_FOUND", "MESSAGE_NOT_FOUND")
    assert (await made(alice, "x", message_id=message_id)).session_id == session.session_id


async def test_fields_are_changed_one_by_one(alice: Caller) -> None:
    memory = await made(alice, "Ada likes green tea", importance=0.1, expire_time=seconds_from_now(1000))
    changed = (await update(alice, memory.memory_id, importance=0.75)).memory
    assert (changed.importance, changed.content, changed.expire_time) == (
        0.75,
        "Ada likes green tea",
        memory.expire_time,
    )
    changed = (await update(alice, memory.memory_id, content="Ada likes black tea", metadata={"a": "b"})).memory
    assert (changed.importance, dict(changed.metadata)) == (0.75, {"a": "b"})
    assert [await searched(alice, word) for word in ("green", "black")] == [[], ["Ada likes black tea"]]
    changed = (await update(alice, memory.memory_id, "expire_time", "importance")).memory
    assert (changed.HasField("expire_time"), changed.importance) == (False, 0.5)
    changed = (await update(alice, memory.memory_id, type=MEMORY_TYPE_EPISODIC)).memory
    assert await searched(alice, "tea", type=MEMORY_TYPE_EPISODIC) == ["Ada likes black tea"]
    assert await searched(alice, "tea", type=MEMORY_TYPE_SEMANTIC) == []
    # What it said before can be created again.
    assert (await create(alice, "Ada likes green tea")).created


async def test_an_update_needs_the_newest_etag_and_valid_fields(alice: Caller) -> None:
    memory, other = await made(alice, "one"), await made(alice, "two")
    refusal = await refused(update(alice, memory.memory_id, etag="7", content="x"))
    assert (refusal.code.name, refusal.reason) == ("ABORTED", "ETAG_MISMATCH")
    assert (await update(alice, memory.memory_id, etag=memory.etag, content="one!")).memory.etag != memory.etag
    refusal = await refused(update(alice, memory.memory_id, content="Two."))
    assert (refusal.code.name, refusal.reason) == ("ALREADY_EXISTS", "MEMORY_EXISTS")
    assert refusal.info.metadata == {"memory_id": other.memory_id}
    assert (await refused(update(alice, memory.memory_id, "creator"))).reason == "UPDATE_MASK_INVALID"
    for path in ("type", "content"):
        refusal = await refused(update(alice, memory.memory_id, path))
        assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", [f"memory.{path}"])
    refusal = await refused(delete(alice, memory.memory_id, etag=memory.etag))
    assert refusal.reason == "ETAG_MISMATCH"


async def test_a_deleted_memory_is_gone_and_its_content_is_free(alice: Caller) -> None:
    memory = await made(alice, "Ada lives in Rome")
    await delete(alice, memory.memory_id)
    for call in (get(alice, memory.memory_id), update(alice, memory.memory_id, content="x")):
        refusal = await refused(call)
        assert (refusal.code.name, refusal.reason) == ("NOT_FOUND", "MEMORY_NOT_FOUND")
    assert (await refused(delete(alice, memory.memory_id))).reason == "MEMORY_NOT_FOUND"
    assert await listed(alice) == await searched(alice, "Rome") == []
    again = await create(alice, "Ada lives in Rome")
    assert (again.created, again.memory.memory_id == memory.memory_id) == (True, False)
    assert await changes_of(alice, memory.memory_id) == ["CHANGE_VERB_CREATED", "CHANGE_VERB_DELETED"]


async def test_an_expired_memory_is_not_found_and_its_content_is_free(alice: Caller) -> None:
    memory = await made(alice, "Holds for a second", expire_time=seconds_from_now(1))
    assert await searched(alice, "second") == ["Holds for a second"]
    await asyncio.sleep(1.1)
    assert (await refused(get(alice, memory.memory_id))).reason == "MEMORY_NOT_FOUND"
    assert await listed(alice) == await searched(alice, "second") == []
    refusal = await refused(create(alice, "later", supersedes=[memory.memory_id]))
    assert refusal.reason == "MEMORY_NOT_FOUND"
    assert (await create(alice, "Holds for a second")).created


@pytest.mark.parametrize(
    ("fields", "violated"),
    [
        ({"content": ""}, "memory"),
        ({"type": MEMORY_TYPE_UNSPECIFIED}, "memory"),
        ({"type": 9}, "memory.type"),
        ({"content": "x" * 8193}, "memory.content"),
        ({"importance": 1.01}, "memory.importance"),
        ({"importance": -0.01}, "memory.importance"),
        ({"importance": float("nan")}, "memory.importance"),
        ({"metadata": {"": "x"}}, "memory.metadata"),
        ({"expire_time": Timestamp(seconds=1)}, "memory.expire_time"),
    ],
)
async def test_what_is_no_memory_is_refused(alice: Caller, fields: dict[str, Any], violated: str) -> None:
    refusal = await refused(create(alice, **({"content": "x"} | fields)))
    assert refusal.reason == "REQUEST_INVALID"
    assert [field.startswith(violated) for field in refusal.fields] == [True]


async def test_memories_are_listed_newest_first_in_pages(alice: Caller) -> None:
    contents = [f"memory {number}" for number in range(7)]
    for content in contents:
        await create(alice, content)
    for size in (1, 2, 7, 50):
        assert await listed(alice, page_size=size) == contents[::-1]
    first = await page(alice, page_size=2)
    refusal = await refused(page(alice, page_token=first.next_page_token, type=MEMORY_TYPE_EPISODIC))
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")


async def test_large_memories_are_listed_in_smaller_pages_that_are_complete(alice: Caller) -> None:
    contents = [f"{number} ".ljust(8192, "漢") for number in range(80)]
    for content in contents:
        await create(alice, content)
    first = await page(alice, page_size=1000)
    assert 0 < len(first.memories) < 80
    assert await listed(alice, page_size=1000) == contents[::-1]
    found = await searched(alice, "漢", page_size=100)
    assert 0 < len(found) < 80


async def stored_uses(caller: Caller, *, unused: str) -> None:
    """Waits until what searches returned is stored, so that another memory is the one that was not used."""
    for _ in range(100):
        if (await listed(caller, order_by=MEMORY_ORDER_LEAST_RECENTLY_USED_FIRST))[0] == unused:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("not stored")


async def test_those_that_no_search_found_are_listed_first(alice: Caller) -> None:
    for content in ("red apple", "green apple", "red pear"):
        await create(alice, content)
    assert await searched(alice, "red") == ["red pear", "red apple"]
    await stored_uses(alice, unused="green apple")
    assert await listed(alice, order_by=MEMORY_ORDER_LEAST_RECENTLY_USED_FIRST, page_size=1) == [
        "green apple",
        "red apple",
        "red pear",
    ]
    (used,) = [memory for memory in (await page(alice)).memories if memory.content == "red pear"]
    assert used.last_use_time.ToMicroseconds() > used.create_time.ToMicroseconds()
    assert used.update_time == used.create_time


async def test_the_best_memory_is_first(alice: Caller) -> None:
    for content in ("tea in Rome", "coffee in Rome", "tea and coffee in Oslo", "nothing of it"):
        await create(alice, content)
    assert await searched(alice, "Where is coffee in Oslo?") == [
        "tea and coffee in Oslo",
        "coffee in Rome",
        "tea in Rome",
    ]
    assert await searched(alice, "Where is coffee in Oslo?", page_size=1) == ["tea and coffee in Oslo"]
    assert await searched(alice, "COFFEE rôme") == ["coffee in Rome", "tea and coffee in Oslo", "tea in Rome"]
    assert await searched(alice, "giraffe") == []
    refusal = await refused(searched(alice, "?!"))
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["query"])


async def test_of_equally_relevant_memories_the_important_one_is_first(alice: Caller) -> None:
    await create(alice, "tea in Rome", importance=0.9)
    await create(alice, "tea in Oslo", importance=0.1)
    found = await matches(alice, "tea")
    assert [match.memory.content for match in found] == ["tea in Rome", "tea in Oslo"]
    for match in found:
        assert match.relevance == pytest.approx(1)
        assert match.recency == pytest.approx(1, abs=1e-4)
        assert match.score == pytest.approx((1 + match.memory.importance + match.recency) / 3)


async def test_memories_without_spaces_between_words_are_found(alice: Caller) -> None:
    await create(alice, "アリスは緑茶が好きです")
    await create(alice, "アリスは珈琲が嫌いです")
    assert await searched(alice, "緑茶") == ["アリスは緑茶が好きです"]


async def test_one_vault_finds_nothing_of_another(alice: Caller, mallory: Caller) -> None:
    await create(mallory, "his secret")
    assert await searched(alice, "secret") == await listed(alice) == []


async def test_a_vault_has_so_many_memories_and_no_more(tmp_path: Path) -> None:
    async with serving(tmp_path, max_vault_memories=3) as running:
        caller = running.caller()
        first, *_ = [await made(caller, f"memory {number}") for number in range(3)]
        refusal = await refused(create(caller, "one more"))
        assert (refusal.code.name, refusal.reason) == ("RESOURCE_EXHAUSTED", "MEMORY_LIMIT_EXCEEDED")
        assert refusal.info.metadata == {"limit": "3"}
        # A repeat is none more, and what is superseded counts.
        assert not (await create(caller, "memory 1", supersedes=[first.memory_id])).created
        assert (await refused(create(caller, "one more"))).reason == "MEMORY_LIMIT_EXCEEDED"
        await delete(caller, first.memory_id)
        assert (await create(caller, "one more")).created


async def test_memories_count_towards_the_storage_of_the_vault(tmp_path: Path) -> None:
    async with serving(tmp_path, vault_storage_bytes=1000) as running:
        caller = running.caller()
        memory = await made(caller, "x" * 900)
        for call in (create(caller, "y" * 200), update(caller, memory.memory_id, content="z" * 1100)):
            refusal = await refused(call)
            assert (refusal.code.name, refusal.reason) == ("RESOURCE_EXHAUSTED", "STORAGE_QUOTA_EXCEEDED")
        await update(caller, memory.memory_id, content="short")
        assert (await create(caller, "y" * 200)).created
