"""Calls of any RPC, of all four kinds, made from its descriptor; answers are bytes."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from metamorph_client.api.v1 import options_pb2
from metamorph_client.api.v1.options_pb2 import Permission

TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Rpc:
    """A method of a service."""

    path: str
    request_type: type[Message]
    response_type: type[Message]
    client_streaming: bool
    server_streaming: bool
    operator: bool

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def reads(self) -> bool:
        """Whether it only reads, by its verb."""
        return self.name.startswith(("Get", "List", "Search", "Stream", "Watch", "WhoAm"))

    @property
    def endless(self) -> bool:
        """Whether its stream of answers never ends by itself."""
        return self.name.startswith("Watch")

    @property
    def deletes(self) -> bool:
        return self.name.startswith(("Delete", "Destroy"))


@dataclass
class Answer:
    """Everything that a caller can read: messages, metadata and status."""

    code: str = ""
    messages: list[bytes] = field(default_factory=list)
    said: list[bytes] = field(default_factory=list)

    @property
    def whole(self) -> bytes:
        return b"\n".join(self.messages + self.said)


def rpcs_of(services: Sequence[ServiceDescriptor]) -> list[Rpc]:
    """Returns every method."""
    return [_rpc(service, method) for service in services for method in service.methods]


def _rpc(service: ServiceDescriptor, method: MethodDescriptor) -> Rpc:
    return Rpc(
        path=f"/{service.full_name}/{method.name}",
        request_type=message_factory.GetMessageClass(method.input_type),
        response_type=message_factory.GetMessageClass(method.output_type),
        client_streaming=method.client_streaming,
        server_streaming=method.server_streaming,
        operator=Permission.PERMISSION_OPERATOR in method.GetOptions().Extensions[options_pb2.requires],
    )


def begin(channel: grpc.aio.Channel, rpc: Rpc, requests: Sequence[Message], metadata: Any) -> Any:
    """Begins a call."""
    kinds: dict[tuple[bool, bool], Any] = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    call = kinds[rpc.client_streaming, rpc.server_streaming](rpc.path)
    sent = [request.SerializeToString() for request in requests]
    return call(_each(sent) if rpc.client_streaming else sent[0], metadata=metadata, timeout=TIMEOUT_SECONDS)


async def _each(sent: list[bytes]) -> AsyncIterator[bytes]:
    for payload in sent:
        yield payload


# The message of grpc.aio's client when an answer comes while it is still sending: the server's status is lost.
LOST_STATUS = "Internal error from Core"
EARLY = "ANSWERED EARLY"


async def answer(call: Any, rpc: Rpc, *, at_most: int | None = None) -> Answer:
    """Reads the answer of a call, successful or not; leaves a stream after `at_most` messages."""
    received = Answer()
    try:
        if rpc.server_streaming:
            async for payload in call:
                received.messages.append(payload)
                if len(received.messages) == at_most:
                    call.cancel()
                    break
        else:
            received.messages.append(await call)
        received.code = (await call.code()).name
    except grpc.aio.AioRpcError as error:
        received.code = EARLY if error.details() == LOST_STATUS else error.code().name
    received.said.append((await call.details() or "").encode())
    for metadata in (await call.initial_metadata(), await call.trailing_metadata()):
        received.said += [b"%b: %b" % (key.encode(), _bytes(value)) for key, value in metadata or ()]
    return received


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
