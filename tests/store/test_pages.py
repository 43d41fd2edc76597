"""A page of a list is at most 3 MiB as a response, for any rows."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.message import Message
from metamorph_client.admin.v1 import admin_service_pb2
from metamorph_client.chat.v1 import chat_service_pb2
from metamorph_client.vault.v1 import vault_service_pb2
from metamorphd.models.content import BLOCK_BYTES, CONTENT_BYTES
from metamorphd.models.page import Page
from metamorphd.models.turn import StopDetails, StopReason, TurnError, TurnStatus
from metamorphd.models.usage import Usage, UsageRow
from metamorphd.services.convert.message import message_to_proto
from metamorphd.services.convert.revocation import revocation_to_proto
from metamorphd.services.convert.turn import turn_to_proto
from metamorphd.services.convert.usage import usage_row_to_proto
from metamorphd.services.paging import LARGEST_PAGE_SIZE, PAGE_BYTES
from metamorphd.store.database import Database
from metamorphd.store.messages import list_messages
from metamorphd.store.revocations import list_revocations, revoke_token
from metamorphd.store.turns.read import list_turns

from tests.support.rows import CLOCK, TERMS, finish, new_message, new_session, new_turn, scope_of, stored_message

LARGEST_ANSWER = 3 * 1024 * 1024
# Of a message without its content.
MESSAGE_BYTES = 2048
# Takes four bytes in UTF-8.
WIDE = "\U0001f30a"
USER = WIDE * 256
OPERATOR = scope_of("acme", USER)


async def pages(read: Callable[[Any], Awaitable[Page[Any]]]) -> list[Page[Any]]:
    """Returns all pages of a list, each as large as possible."""
    found = [await read(None)]
    while found[-1].next_after is not None:
        found.append(await read(found[-1].next_after))
    return found


def sizes(found: list[Page[Any]], answer: Callable[[Page[Any]], Message]) -> list[int]:
    return [answer(page).ByteSize() for page in found]


async def test_revocations(database: Database) -> None:
    ids = [CLOCK.new_id("rev") for _ in range(LARGEST_PAGE_SIZE)]
    await asyncio.gather(
        *(
            database.write(
                revoke_token,
                OPERATOR,
                revocation_id=revocation_id,
                token_id=f"{number:04}" + WIDE * 252,
                note=WIDE * 500,
                now=CLOCK.now(),
            )
            for number, revocation_id in enumerate(ids)
        )
    )
    query: dict[str, Any] = {"target_vault_id": None, "page_size": LARGEST_PAGE_SIZE, "max_size": PAGE_BYTES}
    found = await pages(lambda after: database.read_system(list_revocations, OPERATOR, after=after, **query))
    assert [row.revocation_id for page in found for row in page.items] == sorted(ids, reverse=True)
    sent = sizes(
        found,
        lambda page: admin_service_pb2.ListRevocationsResponse(revocations=map(revocation_to_proto, page.items)),
    )
    assert len(sent) > 1
    assert max(sent) <= LARGEST_ANSWER
    assert sum(sent) > LARGEST_ANSWER


async def test_turns(database: Database) -> None:
    session = await new_session(database)
    error = TurnError("UPSTREAM_REJECTED", "x" * 200, {"type": WIDE * 512})
    many = replace(TERMS, max_running_turns=LARGEST_PAGE_SIZE)
    messages = [new_message(session.session_id, creator=USER) for _ in range(LARGEST_PAGE_SIZE)]
    turns = await asyncio.gather(
        *(new_turn(database, session.session_id, message=message, parent="", terms=many) for message in messages)
    )
    # A refusal has details, and no error.
    details = StopDetails(WIDE * 1024, WIDE * 1024)
    ends: list[dict[str, Any]] = [
        {"status": TurnStatus.FAILED, "error": error},
        {"stop_reason": StopReason.REFUSAL, "stop_details": details},
    ]
    await asyncio.gather(*(finish(database, turn, **ends[number % 2]) for number, turn in enumerate(turns)))
    query: dict[str, Any] = {
        "session_id": session.session_id,
        "status": None,
        "page_size": LARGEST_PAGE_SIZE,
        "max_size": PAGE_BYTES,
    }
    found = await pages(lambda after: database.read(list_turns, scope_of("acme"), after=after, **query))
    assert [turn.turn_id for page in found for turn in page.items] == sorted(
        (turn.turn_id for turn in turns), reverse=True
    )
    sent = sizes(found, lambda page: chat_service_pb2.ListTurnsResponse(turns=map(turn_to_proto, page.items)))
    assert len(sent) > 1
    assert max(sent) <= LARGEST_ANSWER
    assert sum(sent) > LARGEST_ANSWER


@pytest.mark.parametrize("all_branches", [True, False])
async def test_messages(database: Database, all_branches: bool) -> None:
    session = await new_session(database)
    lengths = {"first": CONTENT_BYTES // 3, "largest": CONTENT_BYTES - BLOCK_BYTES, "last": 1}
    parent = None
    for name, length in lengths.items():
        fields: dict[str, Any] = {"message_id": name, "parent_message_id": parent, "creator": USER}
        await stored_message(database, session.session_id, "x" * length, **fields)
        parent = name
    query: dict[str, Any] = {
        "session_id": session.session_id,
        "leaf_message_id": None,
        "all_branches": all_branches,
        "newest_first": False,
        "page_size": LARGEST_PAGE_SIZE,
        "max_size": PAGE_BYTES,
    }
    found = await pages(lambda after: database.read(list_messages, scope_of("acme"), after=after, **query))
    assert [message.message_id for page in found for message in page.items] == list(lengths)
    sent = sizes(found, lambda page: chat_service_pb2.ListMessagesResponse(messages=map(message_to_proto, page.items)))
    assert max(sent) <= LARGEST_ANSWER + MESSAGE_BYTES


def test_usage() -> None:
    """Usage rows are so small that no page needs a size limit."""
    most = 2**63 - 1
    row = UsageRow("2026-12-31", "m" * 128, "", Usage(most, most, most, most, most), most, user_id=USER)
    rows = map(usage_row_to_proto, [row] * LARGEST_PAGE_SIZE)
    assert vault_service_pb2.GetUsageResponse(rows=rows).ByteSize() < PAGE_BYTES
