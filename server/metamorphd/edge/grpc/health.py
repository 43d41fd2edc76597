"""The server's health, for gRPC's health protocol and for the HTTP shim."""

from collections.abc import Sequence
from typing import Self

import grpc
import structlog
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

from metamorphd.edge.grpc.hardened_server import parsing
from metamorphd.store.database import Database

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

logger = structlog.get_logger(__name__)


class Health:
    """The server's health, overall and per service. It is SERVING while it is entered."""

    def __init__(self, *, database: Database, services: Sequence[str]) -> None:
        self._servicer = aio.HealthServicer()
        self._database = database
        self._services = ("", *services)
        self._state = "starting"

    async def serve_on(self, server: grpc.aio.Server) -> None:
        """Adds gRPC's own servicer, without List. It answers NOT_SERVING until this is entered."""
        kinds = {
            "Check": (grpc.unary_unary_rpc_method_handler, self._servicer.Check),
            "Watch": (grpc.unary_stream_rpc_method_handler, self._servicer.Watch),
        }
        handlers = {
            name: parsing(
                kind(
                    behavior,
                    request_deserializer=health_pb2.HealthCheckRequest.FromString,
                    response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
                )
            )
            for name, (kind, behavior) in kinds.items()
        }
        server.add_registered_method_handlers(NAME, handlers)
        # grpc's servicer starts as SERVING.
        await self._set(NOT_SERVING)

    async def __aenter__(self) -> Self:
        self._state = "ready"
        await self._set(SERVING)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Sets NOT_SERVING, permanently."""
        self._state = "draining"
        await self._servicer.enter_graceful_shutdown()

    async def failing(self) -> str | None:
        """Returns the check that currently fails, `starting`, `draining` or `store`, or None."""
        if self._state != "ready":
            return self._state
        try:
            await self._database.ping()
        except Exception:
            logger.exception("health check failed", check="store")
            return "store"
        return None

    async def _set(self, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        for service in self._services:
            await self._servicer.set(service, status)
