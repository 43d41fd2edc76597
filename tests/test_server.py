"""The composition root: a failure while starting or stopping leaves nothing open."""

import asyncio
import importlib
import os
import signal
import threading
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from metamorphd import process
from metamorphd import server as root
from metamorphd.auth.http_client import HttpClient
from metamorphd.auth.tokens import TokenVerifier
from metamorphd.backups.backups import Backups
from metamorphd.edge.grpc.health import Health
from metamorphd.edge.grpc.port import GrpcPort
from metamorphd.edge.guards import Authenticate, Authorize, Guard, LimitRate, LimitSize, Validate, ordered
from metamorphd.edge.http.server import HttpServer
from metamorphd.edge.rate_limit import MemoryLimits, RateLimit
from metamorphd.errors import ServerFailed, StartupRefused
from metamorphd.housekeeping import Housekeeping
from metamorphd.llm.measured import MeasuredModel
from metamorphd.observe import CallLog
from metamorphd.server import Server
from metamorphd.settings import loading
from metamorphd.settings.server import Settings
from metamorphd.store.database import Database
from metamorphd.telemetry.interface import NoTelemetry
from metamorphd.transfers.exports import Exports
from metamorphd.transfers.imports import Imports
from metamorphd.watching import Watching

from tests.support.engines import ENGINES
from tests.support.tokens import SECRET

ENGINE = ENGINES[0]
PARTS = [
    HttpServer,
    CallLog,
    NoTelemetry,
    MemoryLimits,
    HttpClient,
    TokenVerifier,
    GrpcPort,
    ENGINE.database_class,
    MeasuredModel,
    Housekeeping,
    Backups,
    Exports,
    Imports,
    Watching,
    Health,
]


class Broken(Exception):
    """Raised by the part that is made to fail."""


def loaded(directory: Path, **overrides: Any) -> Settings:
    return loading.load(
        emblem_jwt_secret=SECRET,
        emblem_api_url="http://127.0.0.1:9",
        listen_address="127.0.0.1",
        port=0,
        grpc_port=0,
        database_path=directory / "metamorph.db",
        shutdown_grace_seconds=0,
        storage_floor_bytes=0,
        **overrides,
    )


def new_server(directory: Path) -> Server:
    return Server(loaded(directory))


async def left_open(directory: Path, http_port: int, grpc_port: int) -> list[str]:
    """Returns everything that a server has left open: ports, the database, threads, tasks."""
    left = []
    for port in (http_port, grpc_port):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            continue
        left.append(f"port {port}")
        writer.close()
    try:
        async with ENGINE.database(directory):
            pass
    except StartupRefused as exc:
        left.append(str(exc))
    left += [thread.name for thread in threading.enumerate() if thread.name.startswith(ENGINE.name)]
    # A refused connection or a grpc poller may take a moment to end.
    await asyncio.sleep(0.05)
    ours = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    left += [repr(task) for task in ours if "metamorphd" in repr(task)]
    return left


def breaking(original: Any, *, before: bool) -> Any:
    """Returns a method that raises Broken before or after the original."""

    async def broken(self: Any, *arguments: Any) -> Any:
        if not before:
            await original(self, *arguments)
        raise Broken

    return broken


async def test_these_tests_cover_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = []
    enter = AsyncExitStack.enter_async_context

    async def noting(self: AsyncExitStack, part: Any) -> Any:
        entered.append(type(part))
        return await enter(self, part)

    monkeypatch.setattr(AsyncExitStack, "enter_async_context", noting)
    server = new_server(tmp_path)
    await server.start()
    await server.stop()
    assert {part for part in entered if part.__module__.startswith("metamorphd.")} == set(PARTS)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
async def test_a_part_that_fails_to_open_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: Any
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(part, "__aenter__", breaking(part.__aenter__, before=True))
        server = new_server(tmp_path)
        with pytest.raises(Broken):
            await server.start()
    assert await left_open(tmp_path, server.http_port, server.grpc_port) == []


@pytest.mark.parametrize("step", ["load_revocations", "Streams", "register"])
async def test_a_start_that_fails_between_two_parts_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise Broken

    monkeypatch.setattr(root, step, broken)
    server = new_server(tmp_path)
    with pytest.raises(Broken):
        await server.start()
    assert await left_open(tmp_path, server.http_port, server.grpc_port) == []


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
async def test_all_other_parts_are_closed_when_one_fails_to_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: Any
) -> None:
    with monkeypatch.context() as patch:
        # Patched before the start, because the exit stack looks up __aexit__ when it enters a part.
        patch.setattr(part, "__aexit__", breaking(part.__aexit__, before=False))
        server = new_server(tmp_path)
        await server.start()
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"http://127.0.0.1:{server.http_port}/health")).status_code == 200
        with pytest.raises(Broken):
            await server.stop()
    assert await left_open(tmp_path, server.http_port, server.grpc_port) == []


async def test_a_cancelled_start_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opening = asyncio.Event()
    enter = ENGINE.database_class.__aenter__

    async def noting(self: Database) -> Database:
        opening.set()
        return await enter(self)

    monkeypatch.setattr(ENGINE.database_class, "__aenter__", noting)
    server = new_server(tmp_path)
    starting = asyncio.create_task(server.start())
    await opening.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert await left_open(tmp_path, server.http_port, server.grpc_port) == []


def guards() -> list[Guard]:
    """Returns the guards of a server, in order."""
    limit = RateLimit(requests=0, window_seconds=1)

    class NoVerifier:
        def verify(self, text: str) -> Any:
            raise NotImplementedError

    return [
        Authenticate(verifier=NoVerifier(), dev_mode=False, failures=limit),
        Authorize(),
        LimitRate(general=limit, resume=limit),
        LimitSize(),
        Validate(),
    ]


def test_guards_run_in_order() -> None:
    right = guards()
    assert ordered(right) == (right[:3], right[3:])


@pytest.mark.parametrize(
    "order",
    [(1, 0, 2, 3, 4), (0, 2, 1, 3, 4), (4, 0, 1, 2, 3), (0, 1, 3, 2, 4), (0, 1, 2, 4, 3), (1, 2, 3, 4), (0, 1, 2, 4)],
)
def test_a_server_with_guards_out_of_order_refuses_to_start(order: tuple[int, ...]) -> None:
    right = guards()
    with pytest.raises(StartupRefused, match=r"must (follow|come before)"):
        ordered([right[place] for place in order])


async def test_a_server_without_the_models_library_ends_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It serves before the library is there, but a server whose every reply fails must not look healthy."""
    imported = importlib.import_module

    def without_sdk(name: str) -> Any:
        if name == "anthropic":
            raise ImportError(name)
        return imported(name)

    monkeypatch.setattr(importlib, "import_module", without_sdk)
    ports = []

    def announce(server: Server) -> None:
        ports.append((server.http_port, server.grpc_port))

    with pytest.raises(ServerFailed):
        async with asyncio.timeout(20):
            await process.serve(loaded(tmp_path, anthropic_api_key="sk-test"), announce=announce)
    assert await left_open(tmp_path, *ports[0]) == []


async def test_a_server_that_is_stopped_by_a_signal_leaves_nothing_open(tmp_path: Path) -> None:
    ports = []

    def announce(server: Server) -> None:
        ports.append((server.http_port, server.grpc_port))
        asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)

    async with asyncio.timeout(20):
        await process.serve(loaded(tmp_path), announce=announce)
    assert await left_open(tmp_path, *ports[0]) == []
