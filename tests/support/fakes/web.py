"""A fake web server on loopback whose responses a test chooses: the Emblem API or an identity provider."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Answer = Callable[[Request], Awaitable[Response]]


class _Uvicorn(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class FakeWeb:
    """Answers every request with `answer`, over TLS if given a certificate and key, and records the requests."""

    def __init__(self, answer: Answer, *, tls: tuple[Path, Path] | None = None) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self._tls = tls
        self.url = ""

    async def __aenter__(self) -> Self:
        async def route(request: Request) -> Response:
            await request.body()
            self.requests.append(request)
            return await self.answer(request)

        app = Starlette(routes=[Route("/{path:path}", route, methods=["GET", "POST"])])
        options: dict[str, Any] = {"access_log": False, "log_config": None, "lifespan": "off", "ws": "none"}
        if self._tls is not None:
            options |= {"ssl_certfile": self._tls[0], "ssl_keyfile": self._tls[1]}
        self._server = _Uvicorn(uvicorn.Config(app, timeout_graceful_shutdown=1, **options))
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started:  # noqa: ASYNC110, uvicorn has no event for it
            await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        await self._task


def answering(content: object, status: int = 200, *, after: float = 0.0, **headers: str) -> Answer:
    """Returns an Answer that always sends this response after `after` seconds."""

    async def answer(_: Request) -> Response:
        await asyncio.sleep(after)
        if isinstance(content, bytes):
            return Response(content, status_code=status, headers=headers)
        return JSONResponse(content, status_code=status, headers=headers)

    return answer
