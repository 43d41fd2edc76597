"""A ChatService whose streams are scripted, also in ways that no correct server would end them."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Self

import grpc
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import turn_pb2
from metamorph_client.chat.v1.session_pb2 import Session
from metamorph_client.chat.v1.turn_pb2 import TurnEvent, TurnFinished, TurnStarted

TURN_ID = "turn_1"
# The script of a stream: events, and a code if it does not end OK, or OPEN if it does not end.
OPEN = None
Script = Sequence[TurnEvent | grpc.StatusCode | None]


def turn(*sequences: int) -> list[TurnEvent]:
    """Returns events of a turn of five, of which the first is TurnStarted and the last TurnFinished."""
    return [
        TurnEvent(
            turn_id=TURN_ID,
            sequence=sequence,
            turn_started=TurnStarted() if sequence == 1 else None,
            turn_finished=TurnFinished(status=turn_pb2.TURN_STATUS_COMPLETED) if sequence == 5 else None,
        )
        for sequence in sequences
    ]


class FakeChatService:
    """Serves the scripts, one for each stream, and for each GetSession and DeleteSession; the last one again and again.

    `calls` has the name and the request of each call, and `open_streams` is how many streams have not ended.
    """

    def __init__(self, *scripts: Script, status: turn_pb2.TurnStatus.ValueType = turn_pb2.TURN_STATUS_RUNNING) -> None:
        self._scripts = deque(scripts)
        self._status = status
        self.calls: list[tuple[str, Any]] = []
        self.open_streams = 0
        self.target = ""

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server()
        methods = {name: self._streaming(name) for name in ("SendMessage", "RegenerateReply", "StreamTurn")}
        methods["GetTurn"] = grpc.unary_unary_rpc_method_handler(
            self._get_turn, pb.GetTurnRequest.FromString, pb.GetTurnResponse.SerializeToString
        )
        methods["GetSession"] = grpc.unary_unary_rpc_method_handler(
            self._get_session, pb.GetSessionRequest.FromString, pb.GetSessionResponse.SerializeToString
        )
        methods["DeleteSession"] = grpc.unary_unary_rpc_method_handler(
            self._delete_session, pb.DeleteSessionRequest.FromString, pb.DeleteSessionResponse.SerializeToString
        )
        service = grpc.method_handlers_generic_handler("metamorph.chat.v1.ChatService", methods)
        self._server.add_generic_rpc_handlers((service,))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(grace=None)

    @property
    def streams(self) -> list[tuple[str, int]]:
        """The calls of streams, each with the sequence that it continues."""
        return [(name, getattr(request, "after_sequence", 0)) for name, request in self.calls if name != "GetTurn"]

    async def _get_turn(self, request: pb.GetTurnRequest, context: Any) -> pb.GetTurnResponse:
        self.calls.append(("GetTurn", request))
        return pb.GetTurnResponse(turn=turn_pb2.Turn(turn_id=request.turn_id, status=self._status, last_sequence=5))

    async def _get_session(self, request: pb.GetSessionRequest, context: Any) -> pb.GetSessionResponse:
        await self._play("GetSession", request, context)
        return pb.GetSessionResponse(session=Session(session_id=request.session_id))

    async def _delete_session(self, request: pb.DeleteSessionRequest, context: Any) -> pb.DeleteSessionResponse:
        await self._play("DeleteSession", request, context)
        return pb.DeleteSessionResponse()

    async def _play(self, name: str, request: Any, context: Any) -> None:
        self.calls.append((name, request))
        for step in self._next():
            await context.abort(step, "as scripted")

    def _next(self) -> Script:
        return self._scripts.popleft() if len(self._scripts) > 1 else self._scripts[0]

    def _streaming(self, name: str) -> "grpc.RpcMethodHandler[Any, Any]":
        request_class, response_class = getattr(pb, f"{name}Request"), getattr(pb, f"{name}Response")

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            self.calls.append((name, request))
            self.open_streams += 1
            try:
                for step in self._next():
                    if isinstance(step, grpc.StatusCode):
                        await context.abort(step, "as scripted")
                    elif step is OPEN:
                        await asyncio.get_running_loop().create_future()
                    else:
                        yield response_class(event=step)
            finally:
                self.open_streams -= 1

        return grpc.unary_stream_rpc_method_handler(stream, request_class.FromString, response_class.SerializeToString)
