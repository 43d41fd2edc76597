"""AdminService: convert, call, convert."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from metamorph.admin.v1 import admin_service_pb2 as pb
from metamorph.admin.v1 import admin_service_pb2_grpc

from metamorphd.chat.engine import TurnEngine
from metamorphd.clock import Clock
from metamorphd.services.encoding import duration, timestamp
from metamorphd.store.database import Database

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Build:
    """What was started: the version, the settings as they may be shown, and where replies come from."""

    version: str
    settings: Mapping[str, str]
    model_source: str
    start_time: int


class AdminService(admin_service_pb2_grpc.AdminServiceServicer):
    """The operator's view of the server."""

    def __init__(self, *, database: Database, engine: TurnEngine, clock: Clock, build: Build) -> None:
        self._database = database
        self._engine = engine
        self._clock = clock
        self._build = build

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:
        engine_version, schema_version = await self._database.versions()
        return pb.GetServerInfoResponse(
            version=self._build.version,
            store=pb.StoreInfo(
                engine=self._database.engine, engine_version=engine_version, schema_version=schema_version
            ),
            start_time=timestamp(self._build.start_time),
            uptime=duration(self._clock.now() - self._build.start_time),
            model_source=self._build.model_source,
            settings=self._build.settings,
            running_turns=self._engine.running_turns,
        )
