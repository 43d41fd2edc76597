"""The ports that the server listens on: gRPC, and HTTP for health and metrics."""

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

from prometheus_client import CollectorRegistry

from metamorphd.clock import Clock
from metamorphd.edge.connections import ConnectionLimits
from metamorphd.edge.grpc.port import GrpcPort
from metamorphd.edge.grpc.tls import Tls
from metamorphd.edge.http.access import Access
from metamorphd.edge.http.protocol import Connections
from metamorphd.edge.http.server import Checks, HttpServer, application, health_route, metrics_route
from metamorphd.settings.server import Settings


def make_grpc_port(settings: Settings, limits: ConnectionLimits) -> GrpcPort:
    """Returns the gRPC port, with TLS if there is a certificate."""
    return GrpcPort(address=settings.listen_address, port=settings.grpc_port, tls=_tls(settings), limits=limits)


def _tls(settings: Settings) -> Tls | None:
    if settings.grpc_tls_cert is None or settings.grpc_tls_key is None:
        return None
    return Tls(settings.grpc_tls_cert, settings.grpc_tls_key.get_secret_value(), settings.grpc_tls_client_ca)


async def open_http(
    settings: Settings,
    parts: AsyncExitStack,
    *,
    health: Checks,
    about: Callable[[], Mapping[str, object]],
    access: Access,
    registry: CollectorRegistry,
    clock: Clock,
    limits: ConnectionLimits,
) -> tuple[HttpServer, HttpServer]:
    """Listens for HTTP. Returns the server of `/health` and that of `/metrics`, which may be the same.

    `about` is as for `health_route`. Raises StartupRefused.
    """
    connections = Connections(limits)
    routes = [health_route(health, access, clock, about=about), metrics_route(registry, access)]
    own = [] if settings.metrics_listener is None else [routes.pop()]
    http = HttpServer(
        application(*routes), address=settings.listen_address, port=settings.port, connections=connections
    )
    await parts.enter_async_context(http)
    if settings.metrics_listener is None:
        return http, http
    address, port = settings.metrics_listener
    metrics = HttpServer(
        application(*own), address=address, port=port, connections=connections, setting="METRICS_ADDRESS"
    )
    await parts.enter_async_context(metrics)
    return http, metrics
