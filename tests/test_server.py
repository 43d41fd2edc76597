"""The composition root: whatever fails in its start or its stop, nothing stays open."""

import asyncio
import threading
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from metamorphd import server as root
from metamorphd import settings
from metamorphd.auth.http_client import HttpClient
from metamorphd.edge.grpc.health import Health
from metamorphd.edge.grpc.port import GrpcPort
from metamorphd.edge.guards import Authenticate, Authorize, Guard, LimitRate, Validate, ordered
from metamorphd.edge.http.server import HttpServer
from metamorphd.edge.rate_limit import MemoryLimits, RateLimit
from metamorphd.errors import StartupRefused
from metamorphd.housekeeping import Housekeeping
from metamorphd.llm.offline import Offline
from metamorphd.observe import CallLog
from metamorphd.server import Server
from metamorphd.store.database import Database

from tests.support.engines import ENGINES
from tests.support.tokens import SECRET

ENGINE = ENGINES[0]
PARTS = [HttpServer, CallLog, MemoryLimits, HttpClient, GrpcPort, ENGINE.database_class, Offline, Housekeeping, Health]


class Broken(Exception):
    """What a part raises here."""


def new_server(directory: Path) -> Server:
    loaded = settings.load(
        emblem_jwt_secret=SECRET,
        emblem_api_url="",
        listen_address="127.0.0.1",
        port=0,
        grpc_port=0,
        database_path=directory / "metamorph.db",
        shutdown_grace_seconds=0,
    )
    return Server(loaded)


async def left_open(directory: Path, http_port: int, grpc_port: int) -> list[str]:
    """What a server has left open: ports, the database, threads, tasks."""
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
    # A connection that was refused, or a poll of grpc's, may take a moment to end.
    await asyncio.sleep(0.05)
    ours = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    left += [repr(task) for task in ours if "metamorphd" in repr(task)]
    return left


def breaking(original: Any, *, before: bool) -> Any:
    """A method that raises Broken instead of the original, or after it."""

    async def broken(self: Any, *arguments: Any) -> Any:
        if not before:
            await original(self, *arguments)
        raise Broken

    return broken


async def test_the_parts_that_fail_here_are_all_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
async def test_a_part_that_does_not_open_leaves_nothing_open(
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
async def test_a_part_that_does_not_close_keeps_no_other_from_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: Any
) -> None:
    with monkeypatch.context() as patch:
        # Before it starts: the exit stack takes each part's exit when it enters it.
        patch.setattr(part, "__aexit__", breaking(part.__aexit__, before=False))
        server = new_server(tmp_path)
        await server.start()
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"http://127.0.0.1:{server.http_port}/health")).status_code == 200
        with pytest.raises(Broken):
            await server.stop()
    assert await left_open(tmp_path, server.http_port, server.grpc_port) == []


async def test_a_start_that_is_cancelled_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    """The guards of a server, in their order."""
    limit = RateLimit(requests=0, window_seconds=1)

    class Nobody:
        def verify(self, text: str) -> Any:
            raise NotImplementedError

    return [
        Authenticate(verifier=Nobody(), dev_mode=False, failures=limit),
        Authorize(),
        LimitRate(general=limit, resume=limit),
        Validate(),
    ]


def test_guards_come_in_their_order() -> None:
    right = guards()
    assert ordered(right) == (right[:3], right[3:])


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (0, 2, 1, 3), (3, 0, 1, 2), (0, 1, 3, 2), (1, 2, 3), (0, 1, 3)])
def test_a_server_whose_guards_are_out_of_order_refuses_to_start(order: tuple[int, ...]) -> None:
    right = guards()
    with pytest.raises(StartupRefused, match=r"must (follow|come before)"):
        ordered([right[place] for place in order])
