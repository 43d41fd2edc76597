"""A chatting client that survives crashes, by means of the Python client."""

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from metamorph_client import MetamorphClient, MetamorphError
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import message_pb2, session_pb2, turn_pb2

from harness.torture.ledger import ENDLESS, GARBLED, GIVEN_UP, LOST, REPEATED, UNREPLAYABLE, Ledger, SentTurn
from tests.support.tokens import mint

SESSIONS = 3
TURNS_OF_SESSION = 10
VAULTS = 4
NEVER = 1_000_000
AGAIN_SECONDS = 0.05


class Chatter:
    """One client: a few sessions, one turn after another, each also read from another connection."""

    def __init__(self, number: int, *, target: str, seed: int, ledger: Ledger) -> None:
        self._random = random.Random(f"{seed} {number}")  # noqa: S311, repeatable
        self._ledger = ledger
        token = mint(vault=f"vault-{number % VAULTS}", user=f"user-{number}")
        self._client, self._other = (
            MetamorphClient(target, token=token, on_retry=self._retried) for _ in ("its own", "another's")
        )
        self._sessions: dict[str, int] = {}
        self._turns: list[SentTurn] = []
        self.stopping = False

    async def run(self) -> None:
        """Chats until `stopping`."""
        while not self.stopping:
            sent = SentTurn(self._uuid(), await self._session())
            self._ledger.turns.append(sent)
            self._turns.append(sent)
            async with asyncio.TaskGroup() as followers:
                carried = await self._carried_through(sent, self._turn(sent, followers))
            if carried:
                self._ledger.ended(sent)
                await self._carried_through(sent, self._again(sent))

    async def close(self) -> None:
        """Hangs up."""
        await self._client.close()
        await self._other.close()

    def _retried(self, refusal: MetamorphError) -> None:
        self._ledger.retries[refusal.reason or refusal.code.name] += 1

    async def _session(self) -> str:
        while len(self._sessions) < SESSIONS:
            self._sessions[await self._create_session()] = TURNS_OF_SESSION
        session_id = self._random.choice(list(self._sessions))
        self._sessions[session_id] -= 1
        if not self._sessions[session_id]:
            del self._sessions[session_id]
        return session_id

    async def _create_session(self) -> str:
        request = pb.CreateSessionRequest(request_id=self._uuid(), session=session_pb2.Session(title="torture"))
        made = await _until_answered(lambda: self._client.chat.CreateSession(request))
        return str(made.session.session_id)

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    async def _carried_through(self, sent: SentTurn, calls: Coroutine[Any, Any, None]) -> bool:
        try:
            await calls
        except MetamorphError as refusal:
            self._refused(sent, refusal)
            await asyncio.sleep(0.1)
            return False
        finally:
            sent.ended.set()
        return True

    def _refused(self, sent: SentTurn, refusal: MetamorphError) -> None:
        kinds = {"TURN_NOT_FOUND": LOST, "SESSION_NOT_FOUND": LOST, "SEQUENCE_AHEAD": UNREPLAYABLE}
        kind = kinds.get(refusal.reason, GIVEN_UP) if sent.events else GIVEN_UP
        self._ledger.fault(kind, f"{sent.turn_id}: {refusal}")

    async def _turn(self, sent: SentTurn, followers: asyncio.TaskGroup) -> None:
        leaves_after = self._random.choice([1, 3, NEVER, NEVER, NEVER])
        cancelled_after = self._random.choice([2, 5, *[NEVER] * 8])
        sending = self._client.send(sent.session_id, sent.text, request_id=sent.text)
        async for event in sending:
            sent.saw(event)
            if len(sent.events) == cancelled_after:
                followers.create_task(self._cancel(sent))
            if self._random.random() < 1 / len(sent.events):
                followers.create_task(self._follow(sent, self._random.randint(0, len(sent.events))))
            if len(sent.events) == leaves_after:
                break
        await sending.aclose()
        if not sent.status:
            async for event in await self._other.follow(sent.turn_id, len(sent.events)):
                sent.saw(event)

    async def _cancel(self, sent: SentTurn) -> None:
        """Cancels a turn; the status in the answer must be final."""
        request = pb.CancelTurnRequest(turn_id=sent.turn_id)
        try:
            answer = await _until_answered(lambda: self._other.chat.CancelTurn(request))
        except MetamorphError as refusal:
            self._refused(sent, refusal)
        else:
            await sent.ended.wait()
            if answer.turn.status != sent.status:
                self._ledger.fault(ENDLESS, f"{sent.turn_id}: {answer.turn.status} once cancelled, then {sent.status}")

    async def _again(self, sent: SentTurn) -> None:
        await self._follow(sent, self._random.choice([0, self._random.randint(0, len(sent.events))]))
        if self._random.random() < 0.2:
            events = [event async for event in self._other.send(sent.session_id, sent.text, request_id=sent.text)]
            if events and events[0].turn_id != sent.turn_id:
                self._ledger.fault(REPEATED, f"{sent.text}: {sent.turn_id}, {events[0].turn_id}")
            else:
                self._ledger.replayed(sent, 0, events)

    async def _follow(self, sent: SentTurn, after: int) -> None:
        """Reads a turn from another connection, and compares it once its end was seen."""
        try:
            events = [event async for event in await self._other.follow(sent.turn_id, after)]
        except MetamorphError as refusal:
            self._refused(sent, refusal)
        else:
            await sent.ended.wait()
            self._ledger.replayed(sent, after, events)

    async def check(self) -> list[tuple[float, float]]:
        """Reads everything again from a server that stays up. Returns the (create, finish) times of its turns."""
        spans = []
        for sent in self._turns:
            if not sent.turn_id:
                self._ledger.fault(GIVEN_UP, f"{sent.text} was never acknowledged")
                continue
            try:
                turn = await self._get_turn(sent.turn_id)
            except MetamorphError as error:
                self._refused(sent, error)
                continue
            if turn.status != sent.status or turn.last_sequence != len(sent.events):
                self._ledger.fault(ENDLESS, f"{sent.turn_id}: {turn.status}, {turn.last_sequence} events")
                continue
            spans.append((turn.create_time.ToNanoseconds() / 1e9, turn.finish_time.ToNanoseconds() / 1e9))
            await self._follow(sent, 0)
        for session_id in {sent.session_id: None for sent in self._turns}:
            await self._check_session(session_id)
        return spans

    async def _get_turn(self, turn_id: str) -> turn_pb2.Turn:
        request = pb.GetTurnRequest(turn_id=turn_id)
        return (await self._client.chat.GetTurn(request)).turn

    async def _list_messages(self, session_id: str) -> list[message_pb2.Message]:
        request = pb.ListMessagesRequest(session_id=session_id, all_branches=True, page_size=1000)
        return list((await self._client.chat.ListMessages(request)).messages)

    async def _check_session(self, session_id: str) -> None:
        try:
            listed = await self._list_messages(session_id)
        except MetamorphError as error:
            self._ledger.fault(LOST, f"{session_id}: {error}")
            return
        messages = {message.message_id: message for message in listed}
        for sent in self._turns:
            if sent.session_id != session_id or not sent.turn_id:
                continue
            if sent.user_message_id not in messages:
                self._ledger.fault(LOST, f"{sent.user_message_id} of {sent.turn_id}")
            same = sum(message.content[0].text.text == sent.text for message in listed)
            if same > 1:
                self._ledger.fault(REPEATED, f"{sent.text}: {same}")
            finished = turn_pb2.TurnEvent.FromString(sent.events[-1]).turn_finished
            if sent.reply_message_id and messages.get(sent.reply_message_id) != finished.message:
                self._ledger.fault(GARBLED, f"{sent.reply_message_id} as it is listed")


async def _until_answered(call: Callable[[], Awaitable[Any]]) -> Any:
    """Repeats a call while that is safe. Raises MetamorphError for any other error."""
    while True:
        try:
            return await call()
        except MetamorphError as error:
            if not error.resumable:
                raise
        await asyncio.sleep(AGAIN_SECONDS)
