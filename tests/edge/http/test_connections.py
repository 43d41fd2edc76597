"""Connections: callers that open many, send slowly or do not read keep nobody out."""

import asyncio
import resource
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest
from metamorphd.clock import Clock
from metamorphd.edge.connections import ConnectionLimits, connection_limits
from metamorphd.edge.http import protocol
from metamorphd.edge.http.access import Access
from metamorphd.edge.http.server import HttpServer, application, health_route

from tests.support.caller import calling
from tests.support.processes import serving_process
from tests.support.tokens import mint

LIMITS = ConnectionLimits(grpc=8, http=8)
HEALTH = b"GET /health HTTP/1.1\r\nhost: a\r\n"
DESCRIPTORS = 256


class Healthy:
    """A server all of whose checks pass."""

    async def failing(self) -> str | None:
        return None

    def degraded(self) -> str | None:
        return None

    async def checks(self) -> dict[str, str]:
        return {}


def serve_health(health: Healthy, limits: ConnectionLimits = LIMITS) -> HttpServer:
    access = Access(metrics_token=None, public=True, everybody=False)
    app = application(health_route(health, access, Clock()))
    return HttpServer(app, address="127.0.0.1", port=0, connections=protocol.Connections(limits))


@asynccontextmanager
async def listening(limits: ConnectionLimits = LIMITS) -> AsyncIterator[int]:
    async with serve_health(Healthy(), limits) as http:
        yield http.port


async def connect(port: int, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    await writer.drain()
    return reader, writer


async def received(reader: asyncio.StreamReader) -> bytes:
    """Returns all bytes until the server closes the connection."""
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionError:
        return b""


async def status_of(port: int) -> int:
    async with httpx.AsyncClient() as http:
        return (await http.get(f"http://127.0.0.1:{port}/health")).status_code


@pytest.mark.parametrize("sent", [b"", HEALTH, HEALTH + b"content-length: 100\r\n\r\nhalf"])
async def test_a_request_that_is_not_complete_in_time_ends_its_connection(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(protocol, "REQUEST_SECONDS", 0.2)
    async with listening() as port:
        reader, writer = await connect(port, sent)
        ended = asyncio.create_task(received(reader))
        # Bytes that keep coming do not extend the time.
        while not ended.done():
            writer.write(b"x")
            await asyncio.sleep(0.02)
        assert (b"200 OK" in ended.result()) == (b"half" in sent)
        writer.close()


async def test_a_connection_beyond_its_networks_share_replaces_the_oldest_that_waits() -> None:
    async with listening() as port:
        waiting = [await connect(port, HEALTH) for _ in range(4)]
        assert await status_of(port) == 200
        assert await received(waiting[0][0]) == b""
        for reader, writer in waiting[1:]:
            writer.write(b"connection: close\r\n\r\n")
            assert b"200 OK" in await received(reader)
        for _, writer in waiting:
            writer.close()


async def test_a_connection_that_is_being_answered_is_not_replaced() -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    class Slow(Healthy):
        async def failing(self) -> str | None:
            asked.set()
            await answer.wait()
            return None

    async with serve_health(Slow()) as http:
        answered, writer = await connect(http.port, HEALTH + b"connection: close\r\n\r\n")
        await asked.wait()
        others = [await connect(http.port) for _ in range(4)]
        # The oldest of those that wait.
        assert await received(others[0][0]) == b""
        answer.set()
        assert b"200 OK" in await received(answered)
        for _, each in [*others, (answered, writer)]:
            each.close()


async def test_requests_may_be_pipelined_and_of_http_1_0() -> None:
    async with listening() as port:
        reader, writer = await connect(port, (HEALTH + b"\r\n") * 2 + HEALTH + b"connection: close\r\n\r\n")
        assert (await received(reader)).count(b"200 OK") == 3
        writer.close()
        reader, writer = await connect(port, b"GET /health HTTP/1.0\r\n\r\n")
        assert (await received(reader)).count(b"200 OK") == 1
        writer.close()


async def test_headers_that_are_too_large_are_refused() -> None:
    async with listening() as port:
        reader, writer = await connect(port, HEALTH + b"a: " + b"b" * 40_000)
        assert b"400 Bad Request" in await received(reader)
        writer.close()


def test_a_quarter_of_the_descriptors_is_left_for_everything_else() -> None:
    limits = connection_limits()
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert limits.grpc + limits.http <= descriptors * 3 // 4


async def test_more_connections_than_descriptors_keep_nobody_out(tmp_path: Path) -> None:
    with serving_process(tmp_path, wrapper=["prlimit", f"--nofile=64:{DESCRIPTORS}"]) as server:
        assert psutil.Process(server.process.pid).rlimit(resource.RLIMIT_NOFILE) == (DESCRIPTORS, DESCRIPTORS)
        async with calling(server.target, mint()) as alice:
            await alice.vault.WhoAmI(WhoAmIRequest(), metadata=alice.metadata)
            opened = [await connect(server.http_port, HEALTH) for _ in range(2 * DESCRIPTORS)]
            began = time.monotonic()
            assert await status_of(server.http_port) == 200
            await alice.vault.WhoAmI(WhoAmIRequest(), metadata=alice.metadata)
            async with calling(server.target, mint()) as bob:
                await bob.vault.WhoAmI(WhoAmIRequest(), metadata=bob.metadata)
            opened += [await connect(server.port) for _ in range(2 * DESCRIPTORS)]
            assert await status_of(server.http_port) == 200
            await alice.vault.WhoAmI(WhoAmIRequest(), metadata=alice.metadata)
            assert time.monotonic() - began < 5
            for _, writer in opened:
                writer.close()
