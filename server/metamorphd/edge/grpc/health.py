"""The server's health, for gRPC's health protocol and for the HTTP shim."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

from metamorphd.edge.grpc.hardened_server import parsing
from metamorphd.errors import StorageFull
from metamorphd.store.database import Database

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
# Callers of gRPC's health protocol, which is pushed, learn of a change within so many seconds.
LOOK_SECONDS = 5.0


class Health:
    """The server's health, overall and per service. While it is entered, it is SERVING unless a check fails.

    `backups` returns the check of theirs with which the server is degraded, or None.
    """

    def __init__(self, *, database: Database, services: Sequence[str], backups: Callable[[], str | None]) -> None:
        self._servicer = aio.HealthServicer()
        self._database = database
        self._backups = backups
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
        self._looks = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Sets NOT_SERVING, permanently."""
        self._state = "draining"
        self._looks.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._looks
        await self._servicer.enter_graceful_shutdown()

    async def failing(self) -> str | None:
        """Returns the check that currently fails, or None: `starting`, `draining`, or one of the database's."""
        return await self._database.failing() if self._state == "ready" else self._state

    async def checks(self) -> Mapping[str, str]:
        """Returns `ok` or `failing` by the name of each check, and of `serving` the state."""
        checks = await self._database.checks()
        named = {name: "ok" if passes else "failing" for name, passes in checks.items()}
        return {"serving": "ok" if self._state == "ready" else self._state, **named}

    def degraded(self) -> str | None:
        """Returns `disk` if calls that store more are refused because the volume is almost full, or None.

        Also returns `backup`, if the newest backup or its copy is damaged or too old. The server stays SERVING: reads
        and deletions work.
        """
        try:
            self._database.require_space()
        except StorageFull:
            return "disk"
        return self._backups() if self._state == "ready" else None

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._set(SERVING if await self._database.failing() is None else NOT_SERVING)

    async def _set(self, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        for service in self._services:
            await self._servicer.set(service, status)
