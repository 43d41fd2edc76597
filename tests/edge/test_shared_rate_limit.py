"""Rate limits that replicas share through Redis, tested with a real redis-server."""

import asyncio
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest
from metamorphd.edge import shared_rate_limit
from metamorphd.edge.shared_rate_limit import SharedLimits

from tests.support.caller import Caller
from tests.support.ports import free_port
from tests.support.programs import require
from tests.support.refusal import refused
from tests.support.serving import serving

PASSWORD = "canary-in-redis"


class Redis:
    """A redis-server on loopback that a test can start and stop."""

    def __init__(self, directory: Path, program: str) -> None:
        self._directory = directory
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.uri = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--requirepass", PASSWORD],
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
        )
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("redis-server did not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    # Redis may answer slowly on a busy machine, which these tests do not measure.
    monkeypatch.setattr(shared_rate_limit, "TIMEOUT_SECONDS", 10.0)
    running = Redis(tmp_path, require("redis-server", hint="apt-get install redis-server"))
    running.start()
    yield running
    running.stop()


@asynccontextmanager
async def closing(limits: SharedLimits) -> AsyncIterator[SharedLimits]:
    try:
        yield limits
    finally:
        await limits.__aexit__()


async def ask(caller: Caller) -> None:
    await caller.vault.WhoAmI(WhoAmIRequest(), metadata=caller.metadata)


async def test_two_servers_share_one_allowance(redis: Redis, tmp_path: Path) -> None:
    limits = {"rate_limit_requests": 6, "rate_limit_window_seconds": 100, "rate_limit_storage": redis.uri}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with serving(tmp_path / "a", **limits) as first, serving(tmp_path / "b", **limits) as second:
        for _ in range(3):
            await ask(first.caller())
            await ask(second.caller())
        for running in (first, second):
            refusal = await refused(ask(running.caller()))
            assert (refusal.code.name, refusal.reason) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED")
            assert refusal.retry is not None
            assert 0 < refusal.retry <= 100
        await ask(first.caller(user="bob"))
        await ask(second.caller(vault="evil"))


async def test_concurrent_calls_never_exceed_the_allowance(redis: Redis) -> None:
    async with closing(SharedLimits(redis.uri)) as limits:
        limit = limits.limit("test", requests=50, window_seconds=100)
        waits = await asyncio.gather(*(limit.take(("acme", "alice")) for _ in range(200)))
        assert sum(wait == 0 for wait in waits) == 50
        assert await limits.limit("other", requests=50, window_seconds=100).take(("acme", "alice")) == 0


async def test_each_server_counts_locally_while_redis_is_down(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_rate_limit, "RETRY_SECONDS", 0.0)
    async with closing(SharedLimits(redis.uri)) as limits:
        limit = limits.limit("test", requests=3, window_seconds=100)
        assert await limit.take(("acme", "alice")) == 0
        redis.stop()
        waits = [await limit.take(("acme", "alice")) for _ in range(5)]
        assert [wait == 0 for wait in waits] == [True, True, True, False, False]
        redis.start()
        assert await limit.take(("acme", "alice")) == 0


async def test_the_password_is_not_printed(redis: Redis, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with serving(tmp_path, rate_limit_requests=5, rate_limit_storage=redis.uri) as running:
        await ask(running.caller())
        redis.stop()
        await ask(running.caller())
        assert running.server._settings.shown()["RATE_LIMIT_STORAGE"] == "set"
    assert PASSWORD not in "".join(capfd.readouterr())
