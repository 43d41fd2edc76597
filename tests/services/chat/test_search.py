"""SearchMessages, through a whole server."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import message_pb2

from tests.support.caller import Caller
from tests.support.refusal import refused
from tests.support.serving import serving


async def search(caller: Caller, query: str, **fields: Any) -> pb.SearchMessagesResponse:
    request = pb.SearchMessagesRequest(query=query, **fields)
    response: pb.SearchMessagesResponse = await caller.chat.SearchMessages(request, metadata=caller.metadata)
    return response


async def send(caller: Caller, session_id: str, text: str) -> str:
    """Sends a message whose reply is one word, and returns its id."""
    events = await caller.send(session_id, text, max_output_tokens=1, parent_message_id="")
    return events[0].turn_started.user_message_id


async def found(caller: Caller, query: str, **fields: Any) -> list[str]:
    return [result.message_id for result in (await search(caller, query, **fields)).results]


async def eventually(look: Callable[[], Awaitable[list[str]]], count: int) -> list[str]:
    """Returns what is found once that has `count` messages."""
    async with asyncio.timeout(20):
        result = await look()
        while len(result) != count:
            await asyncio.sleep(0.1)
            result = await look()
    return result


async def test_all_words_must_match_in_any_order_and_case(alice: Caller) -> None:
    session = (await alice.create_session()).session_id
    cafe = await send(alice, session, "Das Café am Ufer serves coffee")
    other = await send(alice, session, "coffee, but elsewhere")
    assert await found(alice, "COFFEE cafe") == [cafe]
    assert set(await found(alice, "coffee")) == {cafe, other}
    assert await found(alice, "coffee tea") == []
    assert await found(alice, '"am ufer"') == [cafe]
    assert await found(alice, '"ufer am"') == []


async def test_query_operators_have_no_effect(alice: Caller) -> None:
    session = (await alice.create_session()).session_id
    plain = await send(alice, session, "rock NOT roll OR near text vault_id acme")
    assert await found(alice, "rock NOT roll") == [plain]
    assert await found(alice, "roll OR AND") == []
    assert await found(alice, 'rock\0roll "\0near') == [plain]
    for query in (
        'rock" OR "x',
        "text : rock",
        "rock*",
        "^rock",
        "vault_id:acme",
        "NEAR(rock roll)",
        "rock) OR (x",
        "-rock",
    ):
        assert set(await found(alice, query)) <= {plain}


async def test_a_snippet_highlights_only_the_matches(alice: Caller) -> None:
    session = (await alice.create_session()).session_id
    await send(alice, session, "Salt and pepper and Café")
    (best,) = (await search(alice, '"salt and" cafe')).results
    assert [best.snippet[part.start : part.end] for part in best.highlights] == ["Salt and", "Café"]
    (best,) = (await search(alice, "pepper cafe")).results
    assert [best.snippet[part.start : part.end] for part in best.highlights] == ["pepper", "Café"]


async def test_a_query_with_too_many_words_is_refused_rather_than_truncated(alice: Caller) -> None:
    session = (await alice.create_session()).session_id
    words = [f"word{number}" for number in range(17)]
    message_id = await send(alice, session, " ".join(words[:16]))
    # A repeated word counts once.
    assert await found(alice, " ".join(words[:16] + words[:1])) == [message_id]
    refusal = await refused(search(alice, " ".join(words)))
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["query"])


@pytest.mark.parametrize("query", ["***", '""', '" "', "¿?", "\x02\x03"])
async def test_a_query_without_a_word_is_refused(alice: Caller, query: str) -> None:
    refusal = await refused(search(alice, query))
    assert (refusal.code.name, refusal.reason, refusal.fields) == ("INVALID_ARGUMENT", "REQUEST_INVALID", ["query"])


async def test_the_newest_match_is_first_and_has_a_snippet(alice: Caller) -> None:
    session = (await alice.create_session()).session_id
    older = await send(alice, session, "owl " + "and something else " * 50)
    newer = await send(alice, session, "The \x02owl\x03, an 🦉 owl")
    response = await search(alice, "owl")
    assert [result.message_id for result in response.results] == [newer, older]
    newest = response.results[0]
    assert (newest.session_id, newest.role) == (session, message_pb2.ROLE_USER)
    assert [newest.snippet[part.start : part.end] for part in newest.highlights] == ["owl", "owl"]
    assert newest.snippet == "The \x02owl\x03, an 🦉 owl"
    assert response.results[1].snippet.endswith("…")


async def test_a_long_word_is_truncated(alice: Caller) -> None:
    session = (await alice.create_session()).session_id
    for number in range(6):
        await send(alice, session, "x" * 30_000 + f" needle{number} needle " + "ab" * 400_000)
    # A long message is indexed in steps.
    await eventually(lambda: found(alice, "needle"), 6)
    response = await search(alice, "needle")
    assert (len(response.results), response.ByteSize() < 20_000) == (6, True)
    best = response.results[0]
    assert [best.snippet[part.start : part.end] for part in best.highlights] == ["needle"]
    assert (best.snippet[0], best.snippet[-1]) == ("…", "…")
    # Only the beginning of a message is searchable, which bounds the cost of a search.
    often = await send(alice, session, "owl " * 16_000 + "pelican " + "owl " * 50_000 + "heron")
    assert await eventually(lambda: found(alice, "pelican owl"), 1) == [often]
    assert await found(alice, "heron") == []


async def test_deleted_text_is_gone_from_every_file(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        alice = running.caller()
        session = (await alice.create_session()).session_id
        message_id = await send(alice, session, "my key is zzsecretcredentialzz, keep it")
        await alice.chat.DeleteMessage(pb.DeleteMessageRequest(message_id=message_id), metadata=alice.metadata)
        await running.erased()
    files = [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()]
    assert files
    assert not any(b"zzsecretcredentialzz" in data for data in files)


async def test_replies_are_found_and_pages_continue(alice: Caller) -> None:
    session = (await alice.create_session()).session_id
    ids = [await send(alice, session, f"pelican {number}") for number in range(5)]
    first = await search(alice, "pelican", page_size=3)
    rest = await search(alice, "pelican", page_size=3, page_token=first.next_page_token)
    assert [result.message_id for result in (*first.results, *rest.results)] == ids[::-1]
    assert rest.next_page_token == ""
    assert (await refused(search(alice, "owl", page_token=first.next_page_token))).reason == "PAGE_TOKEN_INVALID"
    replies = (await search(alice, "This")).results
    assert {result.role for result in replies} == {message_pb2.ROLE_ASSISTANT}


async def test_a_search_stays_in_its_session_and_its_vault(alice: Caller, mallory: Caller) -> None:
    one, two = (await alice.create_session()).session_id, (await alice.create_session()).session_id
    here, there = await send(alice, one, "heron"), await send(alice, two, "heron")
    theirs = await send(mallory, (await mallory.create_session()).session_id, "heron")
    assert await found(alice, "heron", session_id=one) == [here]
    assert set(await found(alice, "heron")) == {here, there}
    assert await found(mallory, "heron") == [theirs]
    await alice.chat.DeleteSession(pb.DeleteSessionRequest(session_id=one), metadata=alice.metadata)
    assert await found(alice, "heron") == [there]
    assert (await refused(search(alice, "heron", session_id=one))).reason == "SESSION_NOT_FOUND"


async def test_vaults_with_similar_names_stay_separate(running: Any) -> None:
    dotted, dashed = running.caller(vault="team.a"), running.caller(vault="team-a")
    here = await send(dotted, (await dotted.create_session()).session_id, "egret")
    await send(dashed, (await dashed.create_session()).session_id, "egret")
    assert await found(dotted, "egret") == [here]
