"""The servers that ours is compared with: a bare echo, and the same servicer without the chain.

`python -m bench.bare echo|unguarded|unchained` prints its port and serves until it is ended. The first two use the
server of grpc.aio as it comes, the third uses ours, so that the chain alone makes the difference.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc
import uvloop
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from metamorph_client.chat.v1 import chat_service_pb2
from metamorph_client.chat.v1.chat_service_pb2 import (
    CreateSessionRequest,
    CreateSessionResponse,
    GetSessionRequest,
    GetSessionResponse,
)
from metamorph_client.chat.v1.session_pb2 import Session
from metamorphd.catalog import load_catalog
from metamorphd.chat.engine import TurnEngine
from metamorphd.chat.prompts import Prompts
from metamorphd.chat.recall import Recall
from metamorphd.chat.titles import Titles
from metamorphd.chat.turn_metrics import TurnMetrics
from metamorphd.clock import Clock
from metamorphd.edge.grpc.hardened_server import hardened_server
from metamorphd.edge.grpc.port import OPTIONS
from metamorphd.edge.methods import methods_of
from metamorphd.in_flight import BytesInFlight
from metamorphd.llm.offline import Offline
from metamorphd.memories.memories import Memories
from metamorphd.memories.tool import MemoryTool
from metamorphd.models.caller import server_scope
from metamorphd.services.chat.service import ChatService
from metamorphd.services.chat.uploads import Uploads
from metamorphd.services.convert.time import timestamp
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.turns.terms import Terms

CHAT = "/metamorph.chat.v1.ChatService/"


async def _servicer(directory: Path) -> ChatService:
    clock = Clock()
    catalog = load_catalog(None, now=clock.now())
    database = SqliteDatabase(path=directory / "bare.db", synchronous="FULL")
    await database.__aenter__()
    terms = Terms(
        catalog=catalog,
        default_model=catalog.models[0].model,
        max_output_tokens=100,
        max_running_turns=1000,
        compact_above=0,
        owner="srv_test",
        lease=30_000_000,
    )
    memory = BytesInFlight(total=1 << 27, per_vault=1 << 27)
    metrics = TurnMetrics()
    engine = TurnEngine(
        database=database,
        model=Offline(),
        clock=clock,
        terms=terms,
        titles=Titles(
            database=database, model=Offline(), catalog=catalog, clock=clock, metrics=metrics, title_model=""
        ),
        prompts=Prompts(database=database, terms=terms, memory=memory),
        recall=Recall(database=database, memories=Memories(database=database, clock=clock, half_life_days=90)),
        memory_tool=MemoryTool(database=database, clock=clock, most_memories=1, storage_limit=0),
        metrics=metrics,
        time_limit=60,
    )
    return ChatService(
        database=database,
        engine=engine,
        clock=clock,
        uploads=Uploads(limit=1_000_000),
        catalog=catalog,
        default_model=catalog.models[0].model,
        max_content_bytes=1_000_000,
        storage_limit=0,
    )


class _Echo(grpc.GenericRpcHandler):
    """Answers GetSession and CreateSession with a response that was made before, of the size of a real one."""

    def __init__(self) -> None:
        now = timestamp(Clock().now())
        session = Session(session_id=Clock().new_id("ses"), creator="bench", create_time=now, update_time=now, etag="1")
        self._handlers = {
            CHAT + "GetSession": _answering(GetSessionRequest, GetSessionResponse(session=session)),
            CHAT + "CreateSession": _answering(CreateSessionRequest, CreateSessionResponse(session=session)),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(handler_call_details.method)


def _answering(request_type: type[Message], response: Message) -> Any:
    async def answer(_request: Message, _context: Any) -> Message:
        return response

    return grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=request_type.FromString,
        response_serializer=type(response).SerializeToString,
    )


def _register(server: grpc.aio.Server, servicer: ChatService) -> None:
    """Adds the unary methods of a servicer as grpc's own generated code would, for one caller."""
    scope = server_scope("bench")
    service = chat_service_pb2.DESCRIPTOR.services_by_name["ChatService"]
    handlers = {}
    for method in methods_of([service]).values():
        if not method.streams_requests and not method.streams_responses:
            answer = getattr(servicer, method.name)

            async def behaviour(request: Any, context: Any, answer: Any = answer) -> Any:
                return await answer(request, scope)

            handlers[method.name] = grpc.unary_unary_rpc_method_handler(
                behaviour,
                request_deserializer=method.request_type.FromString,
                response_serializer=GetMessageClass(service.methods_by_name[method.name].output_type).SerializeToString,
            )
    server.add_registered_method_handlers(service.full_name, handlers)


async def _serve(kind: str, directory: Path) -> None:
    server = hardened_server(options=OPTIONS) if kind == "unchained" else grpc.aio.server(options=OPTIONS)
    if kind == "echo":
        server.add_generic_rpc_handlers([_Echo()])
    else:
        _register(server, await _servicer(directory))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        uvloop.run(_serve(sys.argv[1], Path(name)))
