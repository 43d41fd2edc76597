"""A caller of a server: the generated stubs, with shortcuts for frequent calls."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from metamorph_client.admin.v1 import admin_service_pb2_grpc
from metamorph_client.chat.v1 import (
    attachment_pb2,
    chat_service_pb2_grpc,
    generation_pb2,
    message_pb2,
    session_pb2,
    turn_pb2,
)
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.vault.v1 import vault_service_pb2_grpc

from tests.support.tokens import mint


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
        """Sends a message and returns every event of its turn."""
        return await self.start(session_id, text, **fields).rest()

    def start(self, session_id: str, text: str = "Hello", **fields: Any) -> "Events":
        """Sends a message and returns the events of its turn as a stream. Also takes the `timeout` of the call."""
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
        """Uploads an attachment in pieces."""
        requests = iter(upload_requests(data, media_type))
        return (await self.chat.UploadAttachment(requests, metadata=self.metadata)).attachment

    async def download(self, attachment_id: str) -> tuple[attachment_pb2.Attachment, list[bytes]]:
        """Returns an attachment and its bytes in the pieces received."""
        request = pb.DownloadAttachmentRequest(attachment_id=attachment_id)
        responses = [response async for response in self.chat.DownloadAttachment(request, metadata=self.metadata)]
        return responses[0].attachment, [response.chunk for response in responses[1:]]


@asynccontextmanager
async def calling(target: str, token: str | None = None, *metadata: tuple[str, str]) -> AsyncIterator[Caller]:
    """Yields a caller connected to an address, with alice's token by default."""
    async with grpc.aio.insecure_channel(target) as channel:
        yield Caller(channel, [("authorization", f"Bearer {mint() if token is None else token}"), *metadata])


class Events:
    """Reads the events of a stream one by one, or all that remain."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self._responses = aiter(call)

    async def next(self) -> turn_pb2.TurnEvent:
        event: turn_pb2.TurnEvent = (await anext(self._responses)).event
        return event

    async def rest(self) -> list[turn_pb2.TurnEvent]:
        return [response.event async for response in self._responses]


def send_request(session_id: str, text: str = "Hello", **fields: Any) -> pb.SendMessageRequest:
    """Returns a request with one text block unless `content` is given. Also takes fields of GenerationOptions."""
    return pb.SendMessageRequest(session_id=session_id, **({"content": [text_block(text)]} | with_options(fields)))


def with_options(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Moves fields of GenerationOptions to `options`, where plain lists become list messages."""
    names = generation_pb2.GenerationOptions.DESCRIPTOR.fields_by_name
    options = {name: fields[name] for name in names if name in fields}
    for name, kind in (("tools", generation_pb2.ToolList), ("stop_sequences", generation_pb2.StopSequenceList)):
        if isinstance(options.get(name), list):
            options[name] = kind(values=options[name])
    stated = {"options": generation_pb2.GenerationOptions(**options)} if options else {}
    return {name: value for name, value in fields.items() if name not in options} | stated


def upload_requests(
    data: bytes, media_type: str = "image/png", piece: int = 300_000
) -> list[pb.UploadAttachmentRequest]:
    """Returns the requests of an upload: a header, then the bytes in pieces."""
    header = pb.UploadAttachmentRequest(header=pb.UploadHeader(media_type=media_type))
    starts = range(0, len(data), piece)
    return [header, *(pb.UploadAttachmentRequest(chunk=data[start : start + piece]) for start in starts)]


def text_block(text: str) -> message_pb2.ContentBlock:
    """Returns a text block."""
    return message_pb2.ContentBlock(text=message_pb2.TextBlock(text=text))


def text_of(message: message_pb2.Message) -> str:
    """Returns the text of a message's text blocks."""
    return "".join(block.text.text for block in message.content)
