"""The health of the server: gRPC's health protocol, and the check that the HTTP shim asks for."""

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
    """The server's health, overall and per service: serving between entering and leaving it as a context."""

    def __init__(self, *, database: Database, services: Sequence[str]) -> None:
        self._servicer = aio.HealthServicer()
        self._database = database
        self._services = ("", *services)
        self._state = "starting"

    async def serve_on(self, server: grpc.aio.Server) -> None:
        """Adds gRPC's own servicer, which answers NOT_SERVING for now. It has no List."""
        kinds = {
            "Check": (grpc.unary_unary_rpc_method_handler, self._servicer.Check),
            "Watch": (grpc.unary_stream_rpc_method_handler, self._servicer.Watch),
        }
        handlers = {
            name: parsing(
                kind(
                    behaviour,
                    request_deserializer=health_pb2.HealthCheckRequest.FromString,
                    response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
                )
            )
            for name, (kind, behaviour) in kinds.items()
        }
        server.add_registered_method_handlers(NAME, handlers)
        # grpc's servicer begins with SERVING.
        await self._set(NOT_SERVING)

    async def __aenter__(self) -> Self:
        self._state = "ready"
        await self._set(SERVING)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Answers NOT_SERVING from now on."""
        self._state = "draining"
        await self._servicer.enter_graceful_shutdown()

    async def failing(self) -> str | None:
        """Returns the check that fails now, `starting`, `draining` or `store`; None if all is well."""
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
