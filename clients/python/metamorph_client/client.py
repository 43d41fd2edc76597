"""The client for programs that use asyncio."""

import copy
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Self, cast

import grpc

from metamorph_client.attachments import Source, downloaded, uploaded
from metamorph_client.calls import IdentifyingChannel
from metamorph_client.channel import TLS, open_channel
from metamorph_client.chat.v1.attachment_pb2 import Attachment
from metamorph_client.chat.v1.chat_service_pb2 import (
    CancelTurnRequest,
    CreateSessionRequest,
    RegenerateReplyRequest,
    SendMessageRequest,
)
from metamorph_client.chat.v1.generation_pb2 import GenerationOptions
from metamorph_client.chat.v1.session_pb2 import Session
from metamorph_client.chat.v1.turn_pb2 import Turn, TurnEvent, TurnFinished
from metamorph_client.connection import Connection
from metamorph_client.content import Content, blocks
from metamorph_client.errors import MetamorphError, TokenFailed
from metamorph_client.identity import Identity, Metadata, Token
from metamorph_client.lists import Lists
from metamorph_client.replies import Reply
from metamorph_client.resuming import Patience, Resuming
from metamorph_client.stubs import without_stubs
from metamorph_client.tools import Tool, ToolLoop


class MetamorphClient(Lists):
    """A client of one server. Use it as an async context manager, in one event loop.

    `target` is host:port or grpc://host:port for plaintext, or grpcs://host:port for TLS, which `tls` asks for too.
    `token` is sent as a Bearer token; a function, async or not, is asked for one at every call, so that it can return
    a fresh one. `vault` selects a vault in dev mode. Unary calls that state no deadline have `timeout`, in seconds.
    What resumes gives up `give_up_after` seconds after the last progress, and calls `on_retry` with each error before
    it tries again.

    The generated stubs `chat`, `vault` and `admin` have every method of the server. Their calls identify the caller
    likewise, unless their own `metadata=` has a token or a vault, and raise MetamorphError like all others; so do those
    of other stubs on `channel`. Raises ValueError for a target, a token or files of TLS with which no call could be
    made, and RuntimeError outside an event loop, or in a process that was forked from one that had a client.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        token: Token = None,
        tls: bool | TLS = False,
        vault: str | None = None,
        timeout: float = 60.0,
        give_up_after: float = 120.0,
        on_retry: Callable[[MetamorphError], object] = lambda error: None,
    ) -> None:
        self._timeout = timeout
        self._give_up_after = give_up_after
        self._on_retry = on_retry
        self._connection = Connection(open_channel(target, tls))
        self._shares_connection = False
        self._identify(Identity(token, vault))

    def _identify(self, identity: Identity) -> None:
        self._identity = identity
        self.channel = cast(grpc.aio.Channel, IdentifyingChannel(self._connection, identity, self._timeout))
        without_stubs(self)

    def with_token(self, token: Token) -> Self:
        """Returns a client for another identity over the same connection: it sends this token, and no vault.

        It can be made for each request of a web server. Closing it closes nothing, and it is closed with this one.
        """
        other = copy.copy(self)
        other._shares_connection = True
        other._identify(Identity(token, None))
        return other

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection, and what goes on over it, with MetamorphError. Turns go on. Can be repeated."""
        if not self._shares_connection:
            await self._connection.close()

    async def metadata(self) -> Metadata:
        """Returns the metadata that identifies the caller, for stubs of another channel. This client's send it anyway.

        Raises TypeError for a token, or a vault, that is neither text nor None.
        """
        found = self._identity.metadata()
        try:
            return await found if isinstance(found, Awaitable) else found
        except TokenFailed as failed:
            raise failed.failure from failed.failure.__cause__

    async def create_session(
        self,
        *,
        title: str = "",
        model: str = "",
        system_prompt: str = "",
        metadata: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        recall_tokens: int = 0,
        memory_tool: bool = False,
        request_id: str = "",
    ) -> Session:
        """Creates a session. Raises MetamorphError."""
        session = Session(
            title=title,
            model=model,
            system_prompt=system_prompt,
            metadata=metadata,
            labels=labels,
            recall_tokens=recall_tokens,
            memory_tool=memory_tool,
        )
        request = CreateSessionRequest(session=session, request_id=request_id or str(uuid.uuid4()))
        return (await self.chat.CreateSession(request)).session

    async def start(
        self,
        session_id: str,
        content: Content,
        *,
        options: GenerationOptions | None = None,
        labels: Mapping[str, str] | None = None,
        parent_message_id: str | None = None,
        request_id: str = "",
    ) -> Reply:
        """Sends a message, and returns its reply once the message and the turn are stored.

        Raises MetamorphError if the server refuses it, so that nothing has started, or cannot be reached in time. A
        `request_id` is generated if there is none: a send whose response was lost is repeated and takes effect once.
        """
        request = _message(session_id, content, options, labels, parent_message_id, request_id)
        return await Reply.begin(self._sent(request), self.cancel)

    async def send(
        self,
        session_id: str,
        content: Content,
        *,
        options: GenerationOptions | None = None,
        labels: Mapping[str, str] | None = None,
        parent_message_id: str | None = None,
        request_id: str = "",
    ) -> AsyncGenerator[TurnEvent]:
        """Sends a message and yields the events of its turn, each once and in order, even if the connection is lost.

        Nothing is sent before the first event is asked for. Raises MetamorphError if the server refuses the call, or if
        for `give_up_after` seconds it cannot be reached or its streams end before the turn does, without a further
        event. The turn may be running even so, and can be followed with `follow`.
        """
        events = self._sent(_message(session_id, content, options, labels, parent_message_id, request_id))
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    async def regenerate(
        self,
        user_message_id: str,
        *,
        options: GenerationOptions | None = None,
        labels: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> Reply:
        """Returns another reply to a user's message, once its turn is stored. Raises the errors of `start`."""
        request = RegenerateReplyRequest(
            user_message_id=user_message_id,
            request_id=request_id or str(uuid.uuid4()),
            options=options,
            labels=labels,
        )
        events = Resuming(self.chat, self._patience(), start=lambda: self.chat.RegenerateReply(request))
        return await Reply.begin(events, self.cancel)

    async def follow(self, turn_id: str, after_sequence: int = 0) -> Reply:
        """Returns the reply of any turn, to be read after a sequence, once the server has found it.

        It has no events if the turn has ended at that sequence. Raises MetamorphError if the server refuses it, before
        anything is streamed, or cannot be reached in time.
        """
        events = Resuming(self.chat, self._patience(), turn_id=turn_id, after_sequence=after_sequence)
        return await Reply.begin(events, self.cancel)

    async def cancel(self, turn_id: str) -> Turn:
        """Stops a turn and returns it once it has ended. Does nothing to one that has ended. Raises MetamorphError."""
        return (await self.chat.CancelTurn(CancelTurnRequest(turn_id=turn_id))).turn

    async def run_tools(
        self,
        session_id: str,
        content: Content,
        tools: Iterable[Tool | Callable[..., Any]],
        *,
        max_rounds: int = 10,
        options: GenerationOptions | None = None,
        labels: Mapping[str, str] | None = None,
        parent_message_id: str | None = None,
    ) -> TurnFinished:
        """Sends a message, runs the tools that the model calls, answers it, and so on. Returns how the last turn ended.

        A function becomes a tool by its name, docstring and type hints. Calls of one reply run at the same time. A
        tool that raises is answered as an error, as is one that there is not. After `max_rounds` answers the turn is
        returned as it is: its `stop_reason` is TOOL_USE if the model would go on. Raises MetamorphError, TypeError for
        a function that cannot be a tool, and ValueError for two tools of one name.
        """
        loop = ToolLoop(tools)

        async def reply(to: Content, parent: str | None) -> TurnFinished:
            offered = loop.offered_by(options)
            started = await self.start(session_id, to, options=offered, labels=labels, parent_message_id=parent)
            return await started.final()

        finished = await reply(content, parent_message_id)
        for _ in range(max_rounds):
            results = await loop.results(finished)
            if not results:
                break
            finished = await reply(results, finished.message.message_id)
        return finished

    async def upload(self, source: Source, *, media_type: str) -> Attachment:
        """Stores an image or a document, of bytes, of a path, or of a stream: an iterable of bytes, async or not.

        Raises MetamorphError. Lost connections are survived, except by a stream, which cannot be read twice.
        """
        return await uploaded(self.chat, self._patience(), source, media_type)

    async def download(self, attachment_id: str) -> AsyncGenerator[bytes]:
        """Yields the bytes of an attachment. Lost connections are survived.

        Raises MetamorphError, in the end with DATA_LOSS if their size or SHA-256 is not the attachment's.
        """
        async for chunk in downloaded(self.chat, self._patience(), attachment_id):
            yield chunk

    def _sent(self, request: SendMessageRequest) -> Resuming:
        return Resuming(self.chat, self._patience(), start=lambda: self.chat.SendMessage(request))

    def _patience(self) -> Patience:
        return Patience(self._connection, self._give_up_after, self._on_retry)


def _message(  # noqa: PLR0917, as they are in `start` and `send`
    session_id: str,
    content: Content,
    options: GenerationOptions | None,
    labels: Mapping[str, str] | None,
    parent_message_id: str | None,
    request_id: str,
) -> SendMessageRequest:
    return SendMessageRequest(
        session_id=session_id,
        content=blocks(content),
        request_id=request_id or str(uuid.uuid4()),
        options=options,
        labels=labels,
        parent_message_id=parent_message_id,
    )
