"""The pipeline driven through a minimal in-memory edge, without gRPC."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1.session_pb2 import Session
from metamorphd import server as root
from metamorphd.edge.call import Metadata
from metamorphd.edge.grpc import adapter
from metamorphd.edge.methods import SERVICES, methods_of
from metamorphd.edge.pipeline import Handler, Pipeline
from metamorphd.edge.refusals import Refusals

from tests.support.caller import send_request, upload_requests
from tests.support.media import FILES
from tests.support.serving import serving
from tests.support.tokens import mint

CHAT = "/metamorph.chat.v1.ChatService/"
PNG = FILES["image/png"] + b"x" * 1000


class Ended(Exception):
    """Raised when this edge aborts a call."""


class MemoryExchange:
    """An exchange whose requests are all available from the start."""

    end = None

    def __init__(self, *requests: Message, token: str = "", call_id: str = "call-7") -> None:
        self.status: Status | None = None
        self.responses: list[bytes] = []
        self.initial: Metadata = ()
        self.trailing: Metadata = ()
        self._requests = [request.SerializeToString() for request in requests]
        self._metadata = (("authorization", f"Bearer {token or mint()}"), ("x-request-id", call_id))

    def metadata(self) -> Metadata:
        return self._metadata

    def peer(self) -> str:
        return "ipv4:127.0.0.1:4711"

    async def read(self) -> bytes | None:
        return self._requests.pop(0) if self._requests else self.end

    async def write(self, response: bytes) -> None:
        self.responses.append(response)

    async def send_initial_metadata(self, metadata: Metadata) -> None:
        self.initial = metadata

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self.trailing = metadata

    async def abort(self, status: Status) -> NoReturn:
        self.status = status
        raise Ended


@pytest.fixture
async def handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mapping[str, Handler]]:
    """Yields the handlers of a whole server by path, as an edge receives them."""
    given: dict[str, Handler] = {}
    register = adapter.register

    def registering(server: Any, handlers: Mapping[str, Handler]) -> None:
        given.update(handlers)
        register(server, handlers)

    monkeypatch.setattr(root, "register", registering)
    async with serving(tmp_path):
        yield given


async def call(handlers: Mapping[str, Handler], method: str, *requests: Message, **fields: str) -> MemoryExchange:
    """Runs a call to its end. The responses include that of a unary call."""
    exchange = MemoryExchange(*requests, **fields)
    try:
        response = await handlers[CHAT + method].run(exchange)
    except Ended:
        return exchange
    if response is not None:
        exchange.responses.append(response)
    return exchange


async def create(handlers: Mapping[str, Handler]) -> str:
    created = await call(handlers, "CreateSession", pb.CreateSessionRequest(session=Session(title="By hand")))
    return pb.CreateSessionResponse.FromString(created.responses[0]).session.session_id


async def test_every_method_has_a_handler(handlers: Mapping[str, Handler]) -> None:
    assert {path: handler.method.path for path, handler in handlers.items()} == {
        path: path for path in methods_of(SERVICES)
    }


async def test_a_unary_call_returns_its_response_and_its_call_id(handlers: Mapping[str, Handler]) -> None:
    session_id = await create(handlers)
    read = await call(handlers, "GetSession", pb.GetSessionRequest(session_id=session_id))
    assert pb.GetSessionResponse.FromString(read.responses[0]).session.title == "By hand"
    assert (read.initial, read.trailing, read.status) == ((("x-request-id", "call-7"),),) * 2 + (None,)


async def test_a_stream_of_responses_is_written_to_its_end(handlers: Mapping[str, Handler]) -> None:
    sent = await call(handlers, "SendMessage", send_request(await create(handlers)))
    events = [pb.SendMessageResponse.FromString(response).event for response in sent.responses]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].HasField("turn_finished")


async def test_a_stream_of_requests_is_read_to_its_end(handlers: Mapping[str, Handler]) -> None:
    uploaded = await call(handlers, "UploadAttachment", *upload_requests(PNG, piece=100))
    assert pb.UploadAttachmentResponse.FromString(uploaded.responses[0]).attachment.size_bytes == len(PNG)


@pytest.mark.parametrize(
    ("method", "requests", "token", "refusal"),
    [
        ("GetSession", [pb.GetSessionRequest(session_id="none")], "", ("NOT_FOUND", "SESSION_NOT_FOUND")),
        ("GetSession", [pb.GetSessionRequest()], "", ("INVALID_ARGUMENT", "REQUEST_INVALID")),
        ("GetSession", [], "", ("INVALID_ARGUMENT", "REQUEST_MALFORMED")),
        ("SendMessage", [send_request("none")], "no-token", ("UNAUTHENTICATED", "TOKEN_INVALID")),
        ("StreamTurn", [pb.StreamTurnRequest(turn_id="none")], "", ("NOT_FOUND", "TURN_NOT_FOUND")),
        ("UploadAttachment", [], "", ("INVALID_ARGUMENT", "REQUEST_INVALID")),
    ],
)
async def test_a_refusal_ends_the_exchange_with_a_status(
    handlers: Mapping[str, Handler], method: str, requests: list[Message], token: str, refusal: tuple[str, str]
) -> None:
    refused = await call(handlers, method, *requests, token=token)
    assert refused.status is not None
    info = ErrorInfo()
    assert refused.status.details[0].Unpack(info)
    code, reason = refusal
    assert (refused.status.code, info.reason) == (StatusCode[code].value[0], reason)
    assert refused.responses == []


class Silent(MemoryExchange):
    """An exchange whose request never comes."""

    async def read(self) -> bytes | None:
        await asyncio.Event().wait()
        return None


async def test_it_is_idle_when_the_last_of_its_calls_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipelines: list[Pipeline] = []
    given: dict[str, Handler] = {}

    class Noted(Pipeline):
        def handlers(self, *args: Any) -> dict[str, Handler]:
            pipelines.append(self)
            given.update(made := super().handlers(*args))
            return made

    monkeypatch.setattr(root, "Pipeline", Noted)
    async with serving(tmp_path):
        pipeline = pipelines[0]
        await pipeline.idle(seconds=60)
        calls = [asyncio.create_task(call_once(given, Silent())) for _ in range(2)]
        await asyncio.sleep(0.05)
        idle = asyncio.create_task(pipeline.idle(seconds=3600))
        for running in calls:
            await asyncio.sleep(0.01)
            assert not idle.done()
            running.cancel()
            await asyncio.wait([running])
        await asyncio.wait_for(idle, 60)
        # Nobody has waited out the time.
        await asyncio.wait_for(pipeline.idle(seconds=3600), 60)


async def test_a_cancelled_call_ends(handlers: Mapping[str, Handler]) -> None:
    exchange = Silent()
    running = asyncio.create_task(call_once(handlers, exchange))
    await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert exchange.status is None


async def test_a_call_that_is_cancelled_while_its_refusal_is_recorded_ends_as_one(
    handlers: Mapping[str, Handler], monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = asyncio.Event()

    async def record(*_: object, **__: object) -> None:
        recording.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Refusals, "record", record)
    exchange = MemoryExchange(token=mint(permissions=["write"]))
    running = asyncio.create_task(call_once(handlers, exchange))
    await recording.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert exchange.status is None


async def call_once(handlers: Mapping[str, Handler], exchange: MemoryExchange) -> Any:
    return await handlers[CHAT + "GetSession"].run(exchange)
