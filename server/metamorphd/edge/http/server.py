"""The HTTP shim: `/health` for Railway, `/metrics` for Prometheus."""

import asyncio
import math
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Protocol, Self, cast

import grpc
import uvicorn
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metamorphd.clock import Clock
from metamorphd.edge.http.access import Access
from metamorphd.edge.http.protocol import IDLE_SECONDS, LARGEST_HEADERS, Connections, HttpConnection
from metamorphd.errors import DomainError, StartupRefused

# The deployment guide's headers, and those of helmet 8 that matter for a server without pages.
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "strict-transport-security": "max-age=31536000; includeSubDomains",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "x-xss-protection": "1; mode=block",
    "cache-control": "no-store",
}
_HEADERS = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


# As in google/rpc/code.proto.
STATUSES = {
    grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}
# Time for requests in progress when the server stops. Nobody has to read an answer.
LAST_ANSWER_SECONDS = 1.0
LOOK_SECONDS = 0.01
DATE_SECONDS = 1.0
# A page is read again for so many times as long as it takes to render.
KEPT = 10


class _SecurityHeaders:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Checks(Protocol):
    """The server's health. See `metamorphd.edge.grpc.health.Health`."""

    async def failing(self) -> str | None: ...

    def degraded(self) -> str | None: ...

    async def checks(self) -> Mapping[str, str]: ...


class Page:
    """The page of metrics. Rendering it stops all calls, so it takes a limited share of the time."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._page = b""
        self._until = 0.0

    def read(self) -> bytes:
        """Returns the page, at most `KEPT` times as old as it takes to render."""
        began = time.monotonic()
        if began >= self._until:
            self._page = generate_latest(self._registry)
            now = time.monotonic()
            self._until = now + (now - began) * KEPT
        return self._page


def health_route(
    health: Checks, access: Access, clock: Clock, *, about: Callable[[], Mapping[str, object]] = dict
) -> Route:
    """Returns the route of `/health`, with what `about` returns. With `?verbose`, operators see every check."""

    async def answer(request: Request) -> Response:
        details: dict[str, object] = {**about()}
        if "verbose" in request.query_params and access.authenticates:
            await access.operator(request)
            details["checks"] = await health.checks()
        check = await health.failing()
        limited = health.degraded() if check is None else None
        status = "unavailable" if check else "degraded" if limited else "ok"
        now = datetime.fromtimestamp(clock.now() / 1e6, UTC)
        timestamp = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        named = {"check": check or limited} if check or limited else {}
        return JSONResponse(
            {"status": status, "timestamp": timestamp, **named, **details}, status_code=503 if check else 200
        )

    return Route("/health", answer)


def metrics_route(registry: CollectorRegistry, access: Access) -> Route:
    """Returns the route of `/metrics`."""
    page = Page(registry)

    async def answer(request: Request) -> Response:
        await access.metrics(request)
        return Response(page.read(), media_type=CONTENT_TYPE_LATEST)

    return Route("/metrics", answer)


async def _refuse(_request: Request, exc: Exception) -> Response:
    if not isinstance(exc, DomainError):
        raise exc
    headers = {}
    status = STATUSES.get(exc.code, HTTPStatus.INTERNAL_SERVER_ERROR)
    if status is HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if exc.retry_delay is not None:
        headers["retry-after"] = str(math.ceil(exc.retry_delay))
    return JSONResponse({"status": "refused", "reason": exc.reason_name()}, status_code=status, headers=headers)


def application(*routes: Route) -> Starlette:
    """Returns an HTTP application. Domain errors become statuses."""
    return Starlette(
        routes=routes, middleware=[Middleware(_SecurityHeaders)], exception_handlers={DomainError: _refuse}
    )


class _Uvicorn(uvicorn.Server):
    """Ends as soon as its requests are answered. uvicorn looks ten times a second whether to end, then waits again."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Ends the server."""
        self._leaving.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The composition root handles signals, because it drains gRPC first.
        yield

    async def main_loop(self) -> None:
        while not self._leaving.is_set():
            # Sets the date of answers.
            await self.on_tick(0)
            with suppress(TimeoutError):
                async with asyncio.timeout(DATE_SECONDS):
                    await self._leaving.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in self.servers:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110, uvicorn has no event for it
            await asyncio.sleep(LOOK_SECONDS)


class HttpServer:
    """Serves an application while it is entered. `port` is the actual port, also if 0 was requested.

    `setting` is where the operator can choose another one.
    """

    def __init__(
        self, app: Starlette, *, address: str, port: int, connections: Connections, setting: str = "PORT"
    ) -> None:
        self.port = port
        self._address = address
        self._setting = setting

        # uvicorn's stubs want a class, and it calls it.
        def protocol(config: uvicorn.Config, server_state: Any, app_state: Any, _loop: Any = None) -> HttpConnection:
            return HttpConnection(config, server_state, app_state, connections=connections)

        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                app,
                http=cast(type[asyncio.Protocol], protocol),
                access_log=False,
                server_header=False,
                log_config=None,
                lifespan="off",
                ws="none",
                timeout_keep_alive=IDLE_SECONDS,
                h11_max_incomplete_event_size=LARGEST_HEADERS,
            )
        )

    async def __aenter__(self) -> Self:
        """Listens. Raises StartupRefused."""
        listener = _listen(self._address, self.port, setting=self._setting)
        self.port = listener.getsockname()[1]
        self._task = asyncio.create_task(self._uvicorn.serve(sockets=[listener]))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Answers the requests in progress, for LAST_ANSWER_SECONDS at most, then closes."""
        self._uvicorn.leave()
        await asyncio.wait({self._task}, timeout=LAST_ANSWER_SECONDS)
        for connection in list(self._uvicorn.server_state.connections):
            if isinstance(connection, HttpConnection):
                connection.transport.abort()
        await self._task


def _listen(address: str, port: int, *, setting: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        if address == "::":
            dual = socket.has_dualstack_ipv6()
            return socket.create_server(
                (address if dual else "", port),
                family=socket.AF_INET6 if dual else socket.AF_INET,
                dualstack_ipv6=dual,
            )
        return socket.create_server((address, port), family=family)
    except OSError as exc:
        raise StartupRefused(
            f"cannot listen on port {port} for HTTP ({exc.strerror}); set {setting} to a free one"
        ) from exc
