"""A conversation in the terminal: a session, and what is sent in it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client import MetamorphClient, MetamorphError
from metamorph_client.chat.v1.chat_service_pb2 import (
    MESSAGE_ORDER_NEWEST_FIRST,
    CreateSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    ListMessagesRequest,
    ListSessionsRequest,
    UpdateSessionRequest,
)
from metamorph_client.chat.v1.generation_pb2 import GenerationOptions
from metamorph_client.chat.v1.message_pb2 import ROLE_USER, Usage
from metamorph_client.chat.v1.session_pb2 import Session
from metamorph_client.chat.v1.turn_pb2 import TURN_STATUS_COMPLETED, TurnEvent
from metamorph_client.vault.v1.vault_service_pb2 import GetUsageRequest

from metamorphd.cli.outcomes import notes_on
from metamorphd.cli.stopping import Left, Stopping
from metamorphd.cli.terminal import Terminal

TITLE_CHARACTERS = 80
LISTED_SESSIONS = 15
# The newest message of a user is one of the last two, unless others send in the session too.
LATEST_MESSAGES = 10


class Conversation:
    """A session, and the terminal that it is shown on. A new one is made for its first message.

    Its methods raise MetamorphError.
    """

    def __init__(self, client: MetamorphClient, terminal: Terminal, *, model: str) -> None:
        self._client = client
        self._terminal = terminal
        self.model = model
        self.session_id = ""
        # A session that was made for a message that was refused, and could not be deleted. It is for the next message.
        self.unused = ""

    async def open(self, session_id: str) -> Session:
        """Goes on in a session, which must exist. Returns it."""
        session = (await self._client.chat.GetSession(GetSessionRequest(session_id=session_id))).session
        self.session_id = session.session_id
        return session

    def begin(self) -> None:
        """Has the next message begin another session."""
        self.session_id = ""

    async def send(self, text: str) -> bool:
        """Sends a message and prints the reply, which Ctrl-C stops. Returns whether it is complete.

        A session that was made for a message is deleted if the message is refused, or else kept for the next message.
        Raises Left for a second Ctrl-C.
        """
        made = not self.session_id
        if made:
            async with self._terminal.waiting():
                self.session_id = await self._made(title=" ".join(text.split())[:TITLE_CHARACTERS])
        try:
            return await self._show(self._client.send(self.session_id, text, options=self._options()))
        except MetamorphError:
            if made:
                await self._withdraw()
            raise

    async def regenerate(self) -> bool | None:
        """Prints another reply to the latest message, like `send`. Returns None if there is no message."""
        if not self.session_id:
            return None
        request = ListMessagesRequest(
            session_id=self.session_id, order_by=MESSAGE_ORDER_NEWEST_FIRST, page_size=LATEST_MESSAGES
        )
        async with self._terminal.waiting():
            latest = (await self._client.chat.ListMessages(request)).messages
        sent = next((message.message_id for message in latest if message.role == ROLE_USER), None)
        return None if sent is None else await self._show(self._regenerated(sent))

    async def sessions(self) -> list[Session]:
        """Returns the sessions that were used last, the latest first."""
        return list((await self._client.chat.ListSessions(ListSessionsRequest(page_size=LISTED_SESSIONS))).sessions)

    async def usage(self) -> tuple[Usage, Usage]:
        """Returns what this session and what the vault has used this month."""
        vault = (await self._client.vault.GetUsage(GetUsageRequest())).total.usage
        if not self.session_id:
            return Usage(), vault
        request = GetUsageRequest(session_id=self.session_id)
        return (await self._client.vault.GetUsage(request)).total.usage, vault

    async def _regenerated(self, message_id: str) -> AsyncGenerator[TurnEvent]:
        async with aclosing(await self._client.regenerate(message_id, options=self._options())) as reply:
            async for event in reply:
                yield event

    def _options(self) -> GenerationOptions:
        return GenerationOptions(model=self.model)

    async def _show(self, events: AsyncGenerator[TurnEvent]) -> bool:
        stopping = Stopping(self._client, self._terminal)

        async def received() -> AsyncIterator[TurnEvent]:
            async with aclosing(events):
                async for event in events:
                    stopping.is_of(event.turn_id)
                    yield event

        try:
            with stopping:
                finished = await self._terminal.show(received())
        except asyncio.CancelledError:
            if stopping.turn_id:
                what = (
                    f"Left turn {stopping.turn_id}. If it did not stop, session {self.session_id} will have its reply."
                )
                self._terminal.note(what)
            raise Left from None
        if finished is None:
            return False
        for note in notes_on(finished):
            self._terminal.note(note)
        return finished.status == TURN_STATUS_COMPLETED

    async def _made(self, *, title: str) -> str:
        """Returns the ID of a session without messages: a new one, unless one was kept."""
        session = Session(session_id=self.unused, title=title)
        if not self.unused:
            return (await self._client.chat.CreateSession(CreateSessionRequest(session=session))).session.session_id
        # Not tried again if somebody has deleted it.
        self.unused = ""
        await self._client.chat.UpdateSession(
            UpdateSessionRequest(session=session, update_mask=FieldMask(paths=["title"]))
        )
        return session.session_id

    async def _withdraw(self) -> None:
        """Deletes the session unless a message was stored, such as one whose response was lost."""
        made = GetSessionRequest(session_id=self.session_id)
        try:
            if (await self._client.chat.GetSession(made)).session.message_count:
                return
        except MetamorphError as exc:
            # Without the permission, it is not known to be empty, and can take the next message all the same.
            if exc.code is not grpc.StatusCode.PERMISSION_DENIED:
                return
        self.unused, self.session_id = self.session_id, ""
        with suppress(MetamorphError):
            await self._client.chat.DeleteSession(DeleteSessionRequest(session_id=self.unused))
            self.unused = ""
