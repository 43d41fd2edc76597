"""Calls that are measured at two sizes: one after the other, by one caller, each timed by itself."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import grpc
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1.chat_service_pb2_grpc import ChatServiceStub
from metamorph_client.chat.v1.generation_pb2 import GenerationOptions
from metamorph_client.chat.v1.message_pb2 import ContentBlock, TextBlock
from metamorph_client.chat.v1.turn_pb2 import TURN_STATUS_RUNNING
from metamorph_client.vault.v1.vault_service_pb2 import GetVaultRequest, WatchVaultRequest
from metamorph_client.vault.v1.vault_service_pb2_grpc import VaultServiceStub

from bench.processes import token
from tests.support.generated.corpus import COMMON_WORDS, RARE_WORD
from tests.support.generated.layout import Layout, SessionPlan

SEED = 7
SHORT_MESSAGES = 10
SESSIONS = 500
LARGEST_PAGE = 1000
TIMEOUT_SECONDS = 60.0
NOBODY = "nobody"
OLDEST, NEWEST = pb.MESSAGE_ORDER_OLDEST_FIRST, pb.MESSAGE_ORDER_NEWEST_FIRST


class Caller:
    """Calls a server on a generated file, in the vault that holds a quarter and in the one with the deep sessions."""

    def __init__(self, layout: Layout, channel: grpc.Channel) -> None:
        self.layout = layout
        # Untyped, because the generated stubs are those of grpc.aio.
        self.chat: Any = ChatServiceStub(channel)
        self.vault: Any = VaultServiceStub(channel)
        self.quarter = _metadata(layout.large.vault_id)
        self.deep = _metadata(layout.deep.vault_id)

    @cached_property
    def deep_session(self) -> str:
        """The session of 20,000 messages that stays."""
        return next(self.layout.deep.sessions()).session_id

    @cached_property
    def short_sessions(self) -> list[str]:
        """Sessions of few messages, all over the vault that holds a quarter."""
        ordinary = [plan for plan in self.layout.large.sessions() if plan.size <= SHORT_MESSAGES]
        chosen = random.Random(SEED).sample(ordinary, min(SESSIONS, len(ordinary)))  # noqa: S311, not a secret
        return [plan.session_id for plan in chosen]

    def short_session(self, number: int) -> str:
        return self.short_sessions[number % len(self.short_sessions)]

    def erasable(self) -> Iterator[str]:
        """Yields the sessions to be deleted that are still there."""
        for plan in islice(self.layout.deep.sessions(), 1, 1 + self.layout.erasable):
            if self._exists(plan):
                yield plan.session_id

    def _exists(self, plan: SessionPlan) -> bool:
        try:
            self.chat.GetSession(pb.GetSessionRequest(session_id=plan.session_id), metadata=self.deep)
        except grpc.RpcError as error:
            if _code(error) is grpc.StatusCode.NOT_FOUND:
                return False
            raise
        return True

    @cached_property
    def to_erase(self) -> list[str]:
        return list(self.erasable())

    def deep_page(self, order: "pb.MessageOrder.ValueType", *, all_branches: bool) -> str:
        """Returns the token of a page in the middle of the deep session."""
        page_token, read = "", 0
        while read < self.layout.deep_messages // 2:
            request = pb.ListMessagesRequest(
                session_id=self.deep_session,
                page_size=LARGEST_PAGE,
                page_token=page_token,
                order_by=order,
                all_branches=all_branches,
            )
            page = self.chat.ListMessages(request, metadata=self.deep)
            page_token, read = page.next_page_token, read + len(page.messages)
        return page_token


# One call by its number, from 0. Returns its seconds.
Call = Callable[[int], float]


@dataclass(frozen=True)
class Operation:
    """An operation that is measured: its name, how its calls are made ready, and the most of them in a round.

    `most_ms` is a bound of the p50 of the larger size, beside that of the ratio.
    """

    name: str
    # Given what calls the server: `Caller`, or another part's.
    ready: Callable[[Any], Call]
    most: int = 60
    most_ms: float | None = None


def _metadata(vault: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token(vault)}"),)


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    code: grpc.StatusCode = error.code()
    return code


def timed(call: Callable[..., Any], request: Any, metadata: Any) -> float:
    began = time.perf_counter()
    call(request, metadata=metadata, timeout=TIMEOUT_SECONDS)
    return time.perf_counter() - began


def _get(caller: Caller) -> Call:
    return lambda number: timed(
        caller.chat.GetSession, pb.GetSessionRequest(session_id=caller.short_session(number)), caller.quarter
    )


def _sessions(**filters: Any) -> Callable[[Caller], Call]:
    request = pb.ListSessionsRequest(**filters)
    return lambda caller: lambda _: timed(caller.chat.ListSessions, request, caller.quarter)


def _running_turns(caller: Caller) -> Call:
    request = pb.ListTurnsRequest(session_id=caller.deep_session, status=TURN_STATUS_RUNNING)
    return lambda _: timed(caller.chat.ListTurns, request, caller.deep)


def _short_messages(caller: Caller) -> Call:
    return lambda number: timed(
        caller.chat.ListMessages, pb.ListMessagesRequest(session_id=caller.short_session(number)), caller.quarter
    )


def _messages(
    order: "pb.MessageOrder.ValueType", *, all_branches: bool = False, deep: bool = False
) -> Callable[[Caller], Call]:
    def ready(caller: Caller) -> Call:
        request = pb.ListMessagesRequest(
            session_id=caller.deep_session,
            order_by=order,
            all_branches=all_branches,
            page_token=caller.deep_page(order, all_branches=all_branches) if deep else "",
        )
        return lambda _: timed(caller.chat.ListMessages, request, caller.deep)

    return ready


def _send(*, deep: bool, whole: bool) -> Callable[[Caller], Call]:
    def ready(caller: Caller) -> Call:
        def send(number: int) -> float:
            request = pb.SendMessageRequest(
                session_id=caller.deep_session if deep else caller.short_session(number),
                content=[ContentBlock(text=TextBlock(text=f"{COMMON_WORDS[0]} and what more?"))],
                options=GenerationOptions(max_output_tokens=1),
            )
            began = time.perf_counter()
            events = caller.chat.SendMessage(
                request, metadata=caller.deep if deep else caller.quarter, timeout=TIMEOUT_SECONDS
            )
            next(events)
            first = time.perf_counter() - began
            # To its end in any case: the next message of a session has to wait for it.
            for _ in events:
                pass
            return time.perf_counter() - began if whole else first

        return send

    return ready


def _search(query: str, *, within: bool = False) -> Callable[[Caller], Call]:
    def ready(caller: Caller) -> Call:
        request = pb.SearchMessagesRequest(query=query, session_id=caller.deep_session if within else None)
        return lambda _: timed(caller.chat.SearchMessages, request, caller.deep if within else caller.quarter)

    return ready


def _watch(caller: Caller) -> Call:
    newest = caller.vault.GetVault(GetVaultRequest(), metadata=caller.quarter).revision

    def watch(number: int) -> float:
        request = WatchVaultRequest(after_revision=newest // 2 + number)
        began = time.perf_counter()
        changes = caller.vault.WatchVault(request, metadata=caller.quarter, timeout=TIMEOUT_SECONDS)
        next(changes)
        first = time.perf_counter() - began
        changes.cancel()
        return first

    return watch


def _delete(caller: Caller) -> Call:
    to_erase = caller.to_erase
    return lambda number: timed(
        caller.chat.DeleteSession, pb.DeleteSessionRequest(session_id=to_erase[number]), caller.deep
    )


COMMON, BOTH_COMMON = COMMON_WORDS[0], " ".join(COMMON_WORDS)
OPERATIONS = (
    Operation("GetSession", _get),
    Operation("ListSessions", _sessions()),
    Operation("ListSessions, a creator who created none", _sessions(creator=NOBODY)),
    Operation("ListSessions, metadata that none has", _sessions(metadata={"project": NOBODY})),
    Operation("ListSessions, archived by a creator of none", _sessions(archived=True, creator=NOBODY)),
    Operation("ListTurns that run, of 10,000 turns", _running_turns),
    Operation("ListMessages of a short session", _short_messages),
    Operation("ListMessages of 20,000, branch, oldest first", _messages(OLDEST)),
    Operation("ListMessages of 20,000, branch, newest first", _messages(NEWEST)),
    Operation("ListMessages of 20,000, branch, from its middle, oldest first", _messages(OLDEST, deep=True)),
    Operation("ListMessages of 20,000, branch, from its middle, newest first", _messages(NEWEST, deep=True)),
    Operation("ListMessages of 20,000, all branches", _messages(OLDEST, all_branches=True)),
    Operation("ListMessages of 20,000, all branches, from the middle", _messages(OLDEST, all_branches=True, deep=True)),
    Operation("SendMessage to a short session, first event", _send(deep=False, whole=False), most=20),
    Operation("SendMessage to a short session, its end", _send(deep=False, whole=True), most=20),
    Operation("SendMessage to a session of 20,000, first event", _send(deep=True, whole=False), most=20),
    Operation("SendMessage to a session of 20,000, its end", _send(deep=True, whole=True), most=20),
    Operation("SearchMessages, a rare word", _search(RARE_WORD)),
    Operation("SearchMessages, a common word", _search(COMMON), most_ms=100),
    Operation("SearchMessages, two common words", _search(BOTH_COMMON), most_ms=100),
    Operation("SearchMessages within 20,000, a rare word", _search(RARE_WORD, within=True)),
    Operation("SearchMessages within 20,000, two common words", _search(BOTH_COMMON, within=True), most_ms=100),
    Operation("WatchVault from the middle of a log, first answer", _watch),
    # Once a round.
    Operation("DeleteSession of 20,000", _delete, most=1),
)
