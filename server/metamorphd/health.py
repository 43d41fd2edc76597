"""Whether the server can serve: for gRPC's health protocol and for the HTTP shim."""

from collections.abc import Sequence

import structlog
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

from metamorphd.store.database import Database
from metamorphd.store.probe import probe

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

logger = structlog.get_logger(__name__)


class Health:
    """Overall and per service; not serving until `ready`, nor after `drain`. `servicer` is gRPC's own."""

    def __init__(self, *, database: Database, services: Sequence[str]) -> None:
        self.servicer = aio.HealthServicer()
        self._database = database
        self._services = ("", *services)
        self._state = "starting"

    async def start(self) -> None:
        """Tells NOT_SERVING; grpc's servicer would begin with SERVING."""
        await self._set(NOT_SERVING)

    async def ready(self) -> None:
        """Tells SERVING."""
        self._state = "ready"
        await self._set(SERVING)

    async def drain(self) -> None:
        """Tells NOT_SERVING, for good."""
        self._state = "draining"
        await self.servicer.enter_graceful_shutdown()

    async def failing(self) -> str | None:
        """The check that fails now: `starting`, `draining` or `store`; None if all is well."""
        if self._state != "ready":
            return self._state
        try:
            await self._database.read_system(probe)
        except Exception:
            logger.exception("health check failed", check="store")
            return "store"
        return None

    async def _set(self, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        for service in self._services:
            await self.servicer.set(service, status)
