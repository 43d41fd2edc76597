"""A whole server on loopback, started as in production."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from metamorph_client.admin.v1.admin_service_pb2 import GetServerInfoRequest
from metamorphd.clock import Clock
from metamorphd.log_output import STANDARD_OUTPUT
from metamorphd.server import Server
from metamorphd.settings import loading
from metamorphd.store.database import Database

from tests.support.caller import Caller
from tests.support.engines import ENGINES
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.tokens import SECRET, mint


class Serving:
    """A running server and the channels to it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.target = f"127.0.0.1:{server.grpc_port}"
        self.http = f"http://127.0.0.1:{server.http_port}"
        self._channels: list[grpc.aio.Channel] = []

    def caller(self, token: str | None = None, *metadata: tuple[str, str | bytes], **claims: Any) -> Caller:
        """Returns a caller with its own channel. A token of None is minted from `claims`; an empty one is not sent."""
        bearer = mint(**claims) if token is None else token
        channel = grpc.aio.insecure_channel(self.target)
        self._channels.append(channel)
        return Caller(channel, [*([("authorization", f"Bearer {bearer}")] if bearer else []), *metadata])

    async def erased(self) -> None:
        """Returns once everything that was deleted is erased."""
        operator = self.caller(operator=True)
        while True:
            info = await operator.admin.GetServerInfo(GetServerInfoRequest(), metadata=operator.metadata)
            if not info.erasure_backlog.resource_count:
                return
            await asyncio.sleep(0.02)

    async def hang_up(self) -> None:
        for channel in self._channels:
            await channel.close()


@asynccontextmanager
async def serving(directory: Path, **overrides: Any) -> AsyncIterator[Serving]:
    """Serves with settings for a test: free ports, no rate limit, offline replies, data in `directory`.

    Also takes a `clock` and a `database`.
    """
    clock: Clock | None = overrides.pop("clock", None)
    database: Database | None = overrides.pop("database", None)
    base: dict[str, Any] = {
        "emblem_jwt_secret": SECRET,
        "listen_address": "127.0.0.1",
        "port": 0,
        "grpc_port": 0,
        "rate_limit_requests": 0,
        "auth_failure_requests": 0,
        "emblem_api_url": "",
        "database_path": directory / "metamorph.db",
        "log_level": "warning",
        # A ballast for each test would fill the disk.
        "storage_floor_bytes": 0,
    }
    if not {"database_path", "replica_url"} & overrides.keys():
        ENGINES[0].create(directory)
    server = Server(loading.load(**(base | overrides)), clock=clock, database=database)
    await server.start()
    # The first server of a process imports the model's library, for a second or more.
    await server.opened()
    running = Serving(server)
    try:
        yield running
    finally:
        await running.hang_up()
        await server.stop(grace_seconds=0)
        # A thread writes log lines.
        STANDARD_OUTPUT.close()


def replies_from(api: FakeMessagesApi) -> dict[str, Any]:
    """Returns the settings of a server with replies from `api` and long timeouts, since the machine may be busy."""
    return {
        "anthropic_api_key": "sk-test",
        "anthropic_base_url": api.base_url,
        "anthropic_max_retries": 0,
        "anthropic_stall_seconds": 30,
    }


def asking(api: FakeMessagesApi, directory: Path, **overrides: Any) -> Any:
    """Serves with replies from `api`."""
    return serving(directory, **(replies_from(api) | overrides))
