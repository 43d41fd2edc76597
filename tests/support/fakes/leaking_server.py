"""A server on loopback that speaks the protocol and protects nothing: what `metamorph check` is there to find."""

from typing import Any, Self

import grpc
from metamorph_client.chat.v1 import chat_service_pb2 as chat
from metamorph_client.chat.v1.session_pb2 import Session
from metamorph_client.vault.v1 import vault_service_pb2 as vault


class LeakingServer:
    """Accepts every token, but a call without one is refused. Sessions are everybody's in the ways that `leaks` name.

    AdminService is not there.
    """

    def __init__(self, *leaks: str) -> None:
        self._leaks = leaks
        self._sessions: dict[str, str] = {}
        self.target = ""

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server()
        for module, service, methods in (
            (vault, "metamorph.vault.v1.VaultService", [self.WhoAmI]),
            (
                chat,
                "metamorph.chat.v1.ChatService",
                [self.CreateSession, self.GetSession, self.DeleteSession, self.ListSessions],
            ),
        ):
            handlers = {
                method.__name__: grpc.unary_unary_rpc_method_handler(
                    method,
                    request_deserializer=getattr(module, f"{method.__name__}Request").FromString,
                    response_serializer=getattr(module, f"{method.__name__}Response").SerializeToString,
                )
                for method in methods
            }
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)

    async def WhoAmI(self, request: Any, context: Any) -> Any:  # noqa: N802
        if not _token(context):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "")
        return vault.WhoAmIResponse()

    async def CreateSession(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._sessions["ses_1"] = _token(context)
        return chat.CreateSessionResponse(session=Session(session_id="ses_1"))

    async def GetSession(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._refuse(context, "read")
        return chat.GetSessionResponse()

    async def DeleteSession(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._refuse(context, "deleted")
        return chat.DeleteSessionResponse()

    async def ListSessions(self, request: Any, context: Any) -> Any:  # noqa: N802
        token = _token(context)
        seen = [name for name, owner in self._sessions.items() if owner == token or "listed" in self._leaks]
        return chat.ListSessionsResponse(sessions=[Session(session_id=name) for name in seen])

    async def _refuse(self, context: Any, leak: str) -> None:
        if leak not in self._leaks and self._sessions["ses_1"] != _token(context):
            await context.abort(grpc.StatusCode.NOT_FOUND, "")


def _token(context: Any) -> str:
    return str(dict(context.invocation_metadata()).get("authorization", ""))
