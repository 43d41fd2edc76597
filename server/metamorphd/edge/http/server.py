"""The HTTP shim: `/health` for Railway, `/metrics` for Prometheus."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Self, cast

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
from metamorphd.edge.connections import ConnectionLimits
from metamorphd.edge.http.protocol import IDLE_SECONDS, LARGEST_HEADERS, Connections, Protocol
from metamorphd.errors import StartupRefused

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


class _SecurityHeaders:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def application(
    *,
    failing: Callable[[], Awaitable[str | None]],
    degraded: Callable[[], str | None],
    registry: CollectorRegistry,
    clock: Clock | None = None,
) -> Starlette:
    """Returns the HTTP application. `failing` returns the name of a check that currently fails, or None.

    `degraded` does the same for checks with which the server still serves most calls, so that a deployment succeeds.
    """

    served = clock or Clock()

    async def health(request: Request) -> Response:
        check = await failing()
        timestamp = (
            datetime.fromtimestamp(served.now() / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )
        if check is None and (limited := degraded()):
            return JSONResponse({"status": "degraded", "timestamp": timestamp, "check": limited})
        if check is None:
            return JSONResponse({"status": "ok", "timestamp": timestamp})
        return JSONResponse({"status": "unavailable", "timestamp": timestamp, "check": check}, status_code=503)

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[Route("/health", health), Route("/metrics", metrics)], middleware=[Middleware(_SecurityHeaders)]
    )


class _Uvicorn(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The composition root handles signals, because it drains gRPC first.
        yield


class HttpServer:
    """Serves an application while it is entered. `port` is the actual port, also if 0 was requested."""

    def __init__(self, app: Starlette, *, address: str, port: int, limits: ConnectionLimits) -> None:
        self.port = port
        self._address = address
        connections = Connections(limits)

        # uvicorn's stubs want a class, and it calls it.
        def protocol(config: uvicorn.Config, server_state: Any, app_state: Any, _loop: Any = None) -> Protocol:
            return Protocol(config, server_state, app_state, connections=connections)

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
        listener = _listen(self._address, self.port)
        self.port = listener.getsockname()[1]
        self._task = asyncio.create_task(self._uvicorn.serve(sockets=[listener]))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Answers the requests in progress, then closes."""
        self._uvicorn.should_exit = True
        await self._task


def _listen(address: str, port: int) -> socket.socket:
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
        raise StartupRefused(f"cannot listen on port {port} for HTTP ({exc.strerror}); set PORT to a free one") from exc
