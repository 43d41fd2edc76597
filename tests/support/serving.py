"""A whole server as production boots it, on loopback, and a caller of it."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import jwt
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RequestInfo, RetryInfo
from grpc_health.v1 import health_pb2_grpc
from grpc_status import rpc_status
from metamorph.admin.v1 import admin_service_pb2_grpc
from metamorph.chat.v1 import attachment_pb2, chat_service_pb2_grpc, message_pb2, session_pb2, turn_pb2
from metamorph.chat.v1 import chat_service_pb2 as pb
from metamorph.vault.v1 import vault_service_pb2_grpc
from metamorphd import settings
from metamorphd.clock import Clock
from metamorphd.server import Server

ROOT = Path(__file__).parents[2]
SECRET = "a-secret-that-signs-the-tests-tokens"
ALL = ("read", "write", "delete", "admin")


def mint(
    vault: str = "acme", user: str = "alice", permissions: Sequence[str] = ALL, *, secret: str = SECRET, **claims: Any
) -> str:
    """A token; `claims` are added, and removed where they are None."""
    body = {"vault_id": vault, "sub": user, "permissions": list(permissions), "exp": int(time.time()) + 3600, **claims}
    return jwt.encode({name: value for name, value in body.items() if value is not None}, secret, algorithm="HS256")


class Caller:
    """The generated stubs over one channel, with one caller's metadata."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        self.channel = channel
        self.metadata = tuple(metadata)
        self.chat = chat_service_pb2_grpc.ChatServiceStub(channel)
        self.vault = vault_service_pb2_grpc.VaultServiceStub(channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)

    async def create_session(self, **fields: Any) -> session_pb2.Session:
        request = pb.CreateSessionRequest(session=session_pb2.Session(**fields))
        return (await self.chat.CreateSession(request, metadata=self.metadata)).session

    async def send(self, session_id: str, text: str = "Hello", **fields: Any) -> list[turn_pb2.TurnEvent]:
        """Sends a message; every event of its turn."""
        return await self.start(session_id, text, **fields).rest()

    def start(self, session_id: str, text: str = "Hello", **fields: Any) -> "Events":
        """Sends a message; its turn's events as they come. Takes `timeout` for the call."""
        timeout = fields.pop("timeout", None)
        request = send_request(session_id, text, **fields)
        return Events(self.chat.SendMessage(request, metadata=self.metadata, timeout=timeout))

    async def sessions(self, **query: Any) -> list[session_pb2.Session]:
        request = pb.ListSessionsRequest(**query)
        return list((await self.chat.ListSessions(request, metadata=self.metadata)).sessions)

    async def messages(self, session_id: str, **fields: Any) -> list[message_pb2.Message]:
        request = pb.ListMessagesRequest(session_id=session_id, **fields)
        return list((await self.chat.ListMessages(request, metadata=self.metadata)).messages)

    async def upload(self, data: bytes, media_type: str = "image/png") -> attachment_pb2.Attachment:
        """Uploads an attachment, in pieces."""
        requests = iter(upload_requests(data, media_type))
        return (await self.chat.UploadAttachment(requests, metadata=self.metadata)).attachment

    async def download(self, attachment_id: str) -> tuple[attachment_pb2.Attachment, list[bytes]]:
        """An attachment, and its bytes as they come."""
        request = pb.DownloadAttachmentRequest(attachment_id=attachment_id)
        responses = [response async for response in self.chat.DownloadAttachment(request, metadata=self.metadata)]
        return responses[0].attachment, [response.chunk for response in responses[1:]]


class Events:
    """A stream's events, one at a time or all that are left."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self._responses = aiter(call)

    async def next(self) -> turn_pb2.TurnEvent:
        event: turn_pb2.TurnEvent = (await anext(self._responses)).event
        return event

    async def rest(self) -> list[turn_pb2.TurnEvent]:
        return [response.event async for response in self._responses]


def send_request(session_id: str, text: str = "Hello", **fields: Any) -> pb.SendMessageRequest:
    """A message of one text block, unless `content` is given."""
    return pb.SendMessageRequest(session_id=session_id, **({"content": [text_block(text)]} | fields))


def upload_requests(
    data: bytes, media_type: str = "image/png", piece: int = 300_000
) -> list[pb.UploadAttachmentRequest]:
    """An upload: its header, then its bytes in pieces."""
    header = pb.UploadAttachmentRequest(header=pb.UploadHeader(media_type=media_type))
    starts = range(0, len(data), piece)
    return [header, *(pb.UploadAttachmentRequest(chunk=data[start : start + piece]) for start in starts)]


def text_block(text: str) -> message_pb2.ContentBlock:
    """A text block."""
    return message_pb2.ContentBlock(text=message_pb2.TextBlock(text=text))


def text_of(message: message_pb2.Message) -> str:
    """The text of a message's blocks."""
    return "".join(block.text.text for block in message.content)


class Serving:
    """A running server and channels to it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.target = f"127.0.0.1:{server.grpc_port}"
        self.http = f"http://127.0.0.1:{server.http_port}"
        self._channels: list[grpc.aio.Channel] = []

    def caller(self, token: str | None = None, *metadata: tuple[str, str | bytes], **claims: Any) -> Caller:
        """A caller with its own channel: by `token`, minted from `claims` if it is None, or none if it is empty."""
        bearer = mint(**claims) if token is None else token
        channel = grpc.aio.insecure_channel(self.target)
        self._channels.append(channel)
        return Caller(channel, [*([("authorization", f"Bearer {bearer}")] if bearer else []), *metadata])

    async def hang_up(self) -> None:
        for channel in self._channels:
            await channel.close()


@asynccontextmanager
async def serving(directory: Path, **overrides: Any) -> AsyncIterator[Serving]:
    """Serves with settings for a test: ports of its own, no rate limit, offline replies, data in `directory`.

    Takes a `clock` too.
    """
    clock: Clock | None = overrides.pop("clock", None)
    base: dict[str, Any] = {
        "emblem_jwt_secret": SECRET,
        "listen_address": "127.0.0.1",
        "port": 0,
        "grpc_port": 0,
        "rate_limit_requests": 0,
        "auth_failure_requests": 0,
        "emblem_api_url": "",
        "database_path": directory / "metamorph.db",
    }
    server = Server(settings.load(**(base | overrides)), clock=clock)
    await server.start()
    running = Serving(server)
    try:
        yield running
    finally:
        await running.hang_up()
        await server.stop(grace_seconds=0)


class Refusal:
    """A refused call, its details unpacked."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code = error.code()
        self.message = error.details() or ""
        self.info, self.retry, self.request, self.fields = ErrorInfo(), None, RequestInfo(), []
        self.quotas = QuotaFailure()
        status = rpc_status.from_call(error)
        for detail in status.details if status else []:
            if detail.Unpack(self.info) or detail.Unpack(self.request) or detail.Unpack(self.quotas):
                continue
            retry, bad_request = RetryInfo(), BadRequest()
            if detail.Unpack(retry):
                self.retry = retry.retry_delay.ToTimedelta().total_seconds()
            elif detail.Unpack(bad_request):
                self.fields = [violation.field for violation in bad_request.field_violations]

    @property
    def reason(self) -> str:
        """ErrorInfo.reason."""
        return str(self.info.reason)


async def refused(call: Any) -> Refusal:
    """The refusal of a call that must be refused: a unary call, or a stream, which is read until then."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return Refusal(error)
    raise AssertionError("the call was not refused")
