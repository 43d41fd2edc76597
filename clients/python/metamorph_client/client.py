"""The hand-written part of the Python client: caller metadata, and replies that survive a lost connection."""

import asyncio
import importlib.resources
import inspect
import json
import random
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, cast

import grpc
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from metamorph_client.admin.v1.admin_service_pb2_grpc import AdminServiceStub
from metamorph_client.chat.v1.chat_service_pb2 import (
    CreateSessionRequest,
    CreateSessionResponse,
    GetTurnRequest,
    RegenerateReplyRequest,
    SendMessageRequest,
    StreamTurnRequest,
)
from metamorph_client.chat.v1.chat_service_pb2_grpc import ChatServiceStub
from metamorph_client.chat.v1.message_pb2 import ContentBlock, TextBlock
from metamorph_client.chat.v1.session_pb2 import Session
from metamorph_client.chat.v1.turn_pb2 import TURN_STATUS_RUNNING, TurnEvent
from metamorph_client.vault.v1.vault_service_pb2_grpc import VaultServiceStub

FIRST_BACKOFF = 0.1
LONGEST_BACKOFF = 5.0
STATUS_DETAILS = "grpc-status-details-bin"
# A stream that ends with one of these can be resumed, because the turn may still be running.
RESUMABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
# A new token helps with the first two, and waiting with the others.
RESUMABLE_REASONS = {"TOKEN_EXPIRED", "TOKEN_REVOKED", "RATE_LIMITED", "READER_TOO_SLOW", "STORE_BUSY"}
Metadata = tuple[tuple[str, str], ...]
IDENTITY_KEYS = {"authorization", "x-vault-id"}
_CHANNEL = json.loads(importlib.resources.files("metamorph_client").joinpath("channel.json").read_text())
# Pings detect a dead connection, and short backoffs reconnect within a second once the server is back.
OPTIONS: list[tuple[str, Any]] = [
    ("grpc.keepalive_time_ms", _CHANNEL["keepaliveTimeMs"]),
    ("grpc.keepalive_timeout_ms", _CHANNEL["keepaliveTimeoutMs"]),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.service_config", json.dumps(_CHANNEL["serviceConfig"])),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


@dataclass
class MetamorphError(Exception):
    """An error status from the server. `reason` is an ErrorReason without its prefix, or empty if there is none."""

    code: grpc.StatusCode
    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_delay: float | None = None

    def __str__(self) -> str:
        return f"{self.reason or self.code.name}: {self.message}"

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> Self:
        """Returns the error of a failed call, with its google.rpc details (AIP-193) unpacked."""
        info, retry = ErrorInfo(), RetryInfo()
        delay = None
        for key, value in error.trailing_metadata() or ():
            if key == STATUS_DETAILS and isinstance(value, bytes):
                for detail in Status.FromString(value).details:
                    detail.Unpack(info)
                    if detail.Unpack(retry):
                        delay = retry.retry_delay.ToTimedelta().total_seconds()
        return cls(error.code(), info.reason, error.details() or "", dict(info.metadata), delay)

    @classmethod
    def incomplete(cls, message: str) -> Self:
        """Returns the error of a stream that has ended OK, or goes on, without an event that it must have."""
        return cls(grpc.StatusCode.INTERNAL, "", message)

    @property
    def resumable(self) -> bool:
        """Returns whether the same call, or StreamTurn, may succeed later."""
        return self.code in RESUMABLE or self.reason in RESUMABLE_REASONS


class _IdentifyingChannel:
    """Makes the calls of stubs, and adds what identifies the caller, unless the call's own metadata identifies one.

    An interceptor of grpc.aio would handle one of the four kinds of calls, and run each call in a task of its own.
    """

    def __init__(self, channel: grpc.aio.Channel, identity: Callable[[], Metadata]) -> None:
        self._channel = channel
        self._identity = identity

    def unary_unary(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._identified(self._channel.unary_unary(*args, **kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._identified(self._channel.unary_stream(*args, **kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._identified(self._channel.stream_unary(*args, **kwargs))

    def stream_stream(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._identified(self._channel.stream_stream(*args, **kwargs))

    def _identified(self, start: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, metadata: Iterable[tuple[str, Any]] | None = None, **kwargs: Any) -> Any:
            given = tuple(metadata or ())
            # Not one of each: the server refuses a vault beside a token.
            own = () if any(key in IDENTITY_KEYS for key, _ in given) else self._identity()
            return start(*args, metadata=(*own, *given), **kwargs)

        return call


class MetamorphClient:
    """A client of one server. Use it as an async context manager.

    `token` is sent as a Bearer token; a callable is called for every call, so that it can return a fresh token. It must
    not be async: calls with a token that is no text raise TypeError. `vault` selects a vault in dev mode. `on_retry` is
    called with each error before a retry.
    Calls of the stubs `chat`, `vault` and `admin` identify the caller so, unless their own `metadata=` has a token or a
    vault.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        token: str | Callable[[], str] | None = None,
        vault: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        give_up_after: float = 120.0,
        on_retry: Callable[[MetamorphError], None] = lambda error: None,
    ) -> None:
        self._token = token
        self._vault = vault
        self._give_up_after = give_up_after
        self._on_retry = on_retry
        self._channel = (
            grpc.aio.insecure_channel(target, options=OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options=OPTIONS)
        )
        identifying = cast(grpc.aio.Channel, _IdentifyingChannel(self._channel, lambda: self.metadata))
        self.chat = ChatServiceStub(identifying)
        self.vault = VaultServiceStub(identifying)
        self.admin = AdminServiceStub(identifying)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    @property
    def metadata(self) -> Metadata:
        """Returns the metadata that identifies the caller, with a current token. The stubs send it by themselves.

        Raises TypeError for a token, or a vault, that is neither text nor None.
        """
        token = _text("token", self._token() if callable(self._token) else self._token)
        vault = _text("vault", self._vault)
        return (
            *([("authorization", f"Bearer {token}")] if token else []),
            *([("x-vault-id", vault)] if vault else []),
        )

    async def create_session(self, **fields: Any) -> Session:
        """Creates a session. `fields` are the fields of Session that a caller can set. Raises MetamorphError."""
        request = CreateSessionRequest(session=Session(**fields), request_id=str(uuid.uuid4()))
        try:
            response: CreateSessionResponse = await self.chat.CreateSession(request)
        except grpc.aio.AioRpcError as error:
            raise MetamorphError.of(error) from error
        return response.session

    async def send(
        self, session_id: str, content: str | Iterable[ContentBlock], **fields: Any
    ) -> AsyncGenerator[TurnEvent]:
        """Sends a message and yields the events of its turn, each once and in order, even if the connection is lost.

        `fields` are the fields of SendMessageRequest, such as `options=GenerationOptions(model=…)`. A `request_id` is
        generated if there is none, so that a send whose response was lost can be repeated. Raises MetamorphError if the
        server refuses the call, or if for `give_up_after` seconds it cannot be reached or its streams end before the
        turn does, without a further event. The turn may be running even so, and can be followed with `follow`.
        """
        blocks = [ContentBlock(text=TextBlock(text=content))] if isinstance(content, str) else list(content)
        request_id = fields.pop("request_id", None) or str(uuid.uuid4())
        request = SendMessageRequest(session_id=session_id, content=blocks, request_id=request_id, **fields)
        # The same request_id replays the turn from its first event.
        async for event in self._resuming(lambda: self.chat.SendMessage(request), "", 0):
            yield event

    async def regenerate(self, user_message_id: str, **fields: Any) -> AsyncGenerator[TurnEvent]:
        """Yields the events of another reply to a user's message. `fields` are the fields of RegenerateReplyRequest.

        Resumes and raises like `send`.
        """
        request_id = fields.pop("request_id", None) or str(uuid.uuid4())
        request = RegenerateReplyRequest(user_message_id=user_message_id, request_id=request_id, **fields)
        async for event in self._resuming(lambda: self.chat.RegenerateReply(request), "", 0):
            yield event

    async def follow(self, turn_id: str, after_sequence: int = 0) -> AsyncGenerator[TurnEvent]:
        """Yields a turn's events after a sequence, to its end. Raises the errors of `send`."""
        async for event in self._resuming(None, turn_id, after_sequence):
            yield event

    async def _resuming(
        self, start: Callable[[], Any] | None, turn_id: str, sequence: int
    ) -> AsyncGenerator[TurnEvent]:
        loop = asyncio.get_running_loop()
        attempts, failing_since = 0, None
        finished = False
        while True:
            call = start() if start is not None and not turn_id else self._stream_turn(turn_id, sequence)
            first = True
            try:
                async for response in call:
                    event = response.event
                    is_next, first = _is_next(event, sequence, first=first), False
                    if not is_next:
                        continue
                    turn_id, sequence = event.turn_id, event.sequence
                    attempts, failing_since = 0, None
                    finished = event.HasField("turn_finished")
                    yield event
                if finished or (start is None and await self._ended(turn_id, sequence)):
                    return
                raise MetamorphError.incomplete(f"the stream ended after event {sequence}, before TurnFinished")
            except (grpc.aio.AioRpcError, MetamorphError) as error:
                if finished:
                    return
                refusal = error if isinstance(error, MetamorphError) else MetamorphError.of(error)
                failing_since = failing_since or loop.time()
                delay = _backoff(attempts) if refusal.retry_delay is None else refusal.retry_delay
                if not refusal.resumable or loop.time() + delay - failing_since > self._give_up_after:
                    raise refusal from error
            finally:
                call.cancel()
            self._on_retry(refusal)
            await asyncio.sleep(delay)
            attempts += 1

    def _stream_turn(self, turn_id: str, sequence: int) -> Any:
        return self.chat.StreamTurn(StreamTurnRequest(turn_id=turn_id, after_sequence=sequence))

    async def _ended(self, turn_id: str, sequence: int) -> bool:
        """Returns whether a turn has no event after a sequence, and will have none.

        StreamTurn ends OK without an event then, and no other stream does.
        """
        turn = (await self.chat.GetTurn(GetTurnRequest(turn_id=turn_id))).turn
        return turn.status != TURN_STATUS_RUNNING and turn.last_sequence <= sequence


def _is_next(event: TurnEvent, sequence: int, *, first: bool) -> bool:
    """Returns whether an event continues a sequence, or False for a repeated one. Raises MetamorphError for a gap.

    TurnFinished may be the first of a stream whatever the sequence, because the others may have expired.
    """
    if event.sequence > sequence + 1 and not (first and event.HasField("turn_finished")):
        raise MetamorphError.incomplete(f"event {event.sequence} follows event {sequence}")
    return event.sequence > sequence


def _text(name: str, value: object) -> str:
    """Returns text, which is empty if there is none. Raises TypeError for others, of which no server knows anything."""
    if value is None or isinstance(value, str):
        return value or ""
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            # Or Python warns that nobody has awaited it.
            value.close()
        raise TypeError(f"the {name} must be text, or a function that returns text and is not async")
    raise TypeError(f"the {name} must be text, not {type(value).__name__}")


def _backoff(attempts: int) -> float:
    """Returns an exponential delay with full jitter, in seconds (AWS Architecture Blog, 2015)."""
    return random.SystemRandom().uniform(0, min(FIRST_BACKOFF * 2**attempts, LONGEST_BACKOFF))
