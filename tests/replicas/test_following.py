"""A read-only server whose replica is slow, or does not answer at all."""

import asyncio
import itertools
import os
import shlex
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2
from metamorphd.clock import Clock
from metamorphd.errors import ReplicaFailed, StartupRefused
from metamorphd.replicas import litestream as room
from metamorphd.replicas.following import PAUSES
from metamorphd.replicas.litestream import Litestream
from metamorphd.server import Server
from metamorphd.settings import loading

from tests.support.buckets import bucket_server
from tests.support.copies import SetClock
from tests.support.litestream import Target, in_bucket, in_directory, litestream, replicate_once
from tests.support.proxy import CuttingProxy
from tests.support.serving import Serving, serving
from tests.support.tokens import SECRET

COPY_SECONDS = 1.0
LOWEST = 19
STALLED_SECONDS = 2.0
UNTIL_SECONDS = 90.0


def following(target: Target) -> dict[str, Any]:
    """Returns the settings of a server that follows a target each second."""
    return {
        "read_only": True,
        "primary_address": "primary.internal:50051",
        "replica_url": target.url,
        "replica_interval_seconds": 1,
        **{name.lower(): value for name, value in target.environment.items()},
    }


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("PATH", in_directory(Path()).whole["PATH"])


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "STALLED_SECONDS", STALLED_SECONDS)


def priorities(name: str) -> set[int]:
    """Returns the priorities of the Litestream commands of that name that run."""
    found = set()
    for child in psutil.Process().children():
        # It may end meanwhile.
        with suppress(psutil.Error):
            if name in child.cmdline():
                found.add(child.nice())
    return found


async def until(true: Callable[[], Awaitable[Any]]) -> None:
    deadline = time.monotonic() + UNTIL_SECONDS
    while not await true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def titles(server: Serving) -> list[str]:
    return sorted(each.title for each in await server.caller().sessions())


def behind(proxy: CuttingProxy, target: Target) -> Target:
    """Returns a target in a bucket as it is reached through a proxy."""
    return replace(target, url=target.url.replace(f"127.0.0.1:{proxy.port_behind}", proxy.target))


@pytest.mark.usefixtures("impatient")
async def test_a_command_whose_bucket_accepts_and_never_answers_is_ended(tmp_path: Path) -> None:
    async with CuttingProxy(0) as bucket:
        bucket.silent = True
        url = f"s3://bucket/replica?endpoint=http://{bucket.target}&region=us-east-1"
        target = Target(url, tmp_path, {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"})
        source = Litestream(url=target.url, environment=target.whole)
        for asking in (source.newest, lambda: source.restore(tmp_path / "copy")):
            began = time.monotonic()
            with pytest.raises(ReplicaFailed, match="has sent nothing for 2 seconds"):
                await asking()
            assert STALLED_SECONDS <= time.monotonic() - began < STALLED_SECONDS + 5
            assert bucket.connected.is_set()
            assert priorities("restore") == set()


@pytest.mark.usefixtures("impatient")
async def test_a_restore_takes_as_long_as_it_needs_while_its_file_grows(tmp_path: Path) -> None:
    program = tmp_path / "litestream"
    target = in_directory(tmp_path / "replica")
    slow = f"#!/bin/sh\nfor each in $(seq 12); do echo more >> {tmp_path / 'copy.tmp'}; sleep 0.4; done\n"
    program.write_text(slow)
    program.chmod(0o755)
    source = Litestream(url=target.url, environment=target.whole | {"PATH": f"{tmp_path}:{target.whole['PATH']}"})
    began = time.monotonic()
    await source.restore(tmp_path / "copy")
    assert time.monotonic() - began > 2 * STALLED_SECONDS


async def test_a_server_follows_again_once_its_bucket_answers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with bucket_server(tmp_path / "bucket") as store:
        target = in_bucket(store)
        async with (
            serving(tmp_path / "primary") as primary,
            CuttingProxy(int(store.endpoint.rpartition(":")[2])) as proxy,
        ):
            await primary.caller().create_session(title="before")
            replicate_once(tmp_path / "primary" / "metamorph.db", target)
            async with serving(tmp_path / "reader", **following(behind(proxy, target))) as reader:
                proxy.silent = True
                monkeypatch.setattr(room, "STALLED_SECONDS", STALLED_SECONDS)
                await primary.caller().create_session(title="after")
                replicate_once(tmp_path / "primary" / "metamorph.db", target)
                logged = ""

                async def is_logged() -> bool:
                    nonlocal logged
                    logged += "".join(capfd.readouterr())
                    return "the replica has sent nothing for 2 seconds" in logged

                await until(is_logged)
                assert await titles(reader) == ["before"]
                proxy.silent = False
                monkeypatch.setattr(room, "STALLED_SECONDS", 60.0)
                await until(lambda: has_titles(reader, ["after", "before"]))


async def has_titles(server: Serving, expected: list[str]) -> bool:
    return await titles(server) == expected


@pytest.fixture
def restores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Makes every restore take a second longer, and returns a file with the time at which each began, in seconds."""
    began, program = tmp_path / "restores", tmp_path / "bin" / "litestream"
    program.parent.mkdir()
    real = shlex.quote(litestream())
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *-dry-run*) ;; *) date +%s.%N >> {began}; sleep {COPY_SECONDS};; esac\n'
        f'exec {real} "$@"\n'
    )
    program.chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", f"{program.parent}:{in_directory(tmp_path).whole['PATH']}")
        yield began


async def restores_at_lowest() -> bool:
    return priorities("restore") == {LOWEST}


async def restored(restores: Path, count: int) -> bool:
    """Returns whether so many restores have begun."""
    return len(restores.read_text().splitlines()) >= count


async def test_a_copy_that_takes_long_is_followed_by_a_longer_pause(tmp_path: Path, restores: Path) -> None:
    target = in_directory(tmp_path / "replica")
    async with serving(tmp_path / "primary") as primary:
        writer = primary.caller()

        async def write_on() -> None:
            while True:
                await writer.create_session(title="more")
                await asyncio.to_thread(replicate_once, tmp_path / "primary" / "metamorph.db", target)

        await writer.create_session(title="first")
        replicate_once(tmp_path / "primary" / "metamorph.db", target)
        async with serving(tmp_path / "reader", **following(target)):
            writing = asyncio.create_task(write_on())
            await until(lambda: restored(restores, 2))
            # Whoever calls goes before both parts of it.
            await until(restores_at_lowest)
            checking = [each for each in threading.enumerate() if each.name.startswith("replica")]
            assert [os.getpriority(os.PRIO_PROCESS, each.native_id or 0) for each in checking] == [LOWEST]
            writing.cancel()
            await asyncio.wait({writing})
    times = [float(line) for line in restores.read_text().splitlines()]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert gaps
    assert min(gaps) >= (1 + PAUSES) * COPY_SECONDS


async def test_a_copy_that_takes_long_may_be_older(tmp_path: Path, restores: Path) -> None:
    target, clock = in_directory(tmp_path / "replica"), SetClock()
    async with serving(tmp_path / "primary") as primary:
        await primary.caller().create_session(title="first")
    replicate_once(tmp_path / "primary" / "metamorph.db", target)
    clock.time = Clock().now()
    async with serving(tmp_path / "reader", clock=clock, **following(target)) as reader:
        assert len(restores.read_text().splitlines()) == 1
        statuses = []
        async with httpx.AsyncClient() as http:
            # Three intervals, or pauses of four seconds, and a minute.
            for seconds in (66, 30):
                clock.time += seconds * 1_000_000
                statuses.append((await http.get(f"{reader.http}/health")).json()["status"])
    assert statuses == ["ok", "degraded"]


async def test_a_server_without_any_copy_is_not_healthy_whoever_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "STALLED_SECONDS", 3.0)
    async with CuttingProxy(0) as bucket:
        bucket.silent = True
        url = f"s3://bucket/replica?endpoint=http://{bucket.target}&region=us-east-1"
        given = following(Target(url, tmp_path)) | {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
        loaded = loading.load(
            emblem_jwt_secret=SECRET,
            listen_address="127.0.0.1",
            port=0,
            grpc_port=0,
            database_path=tmp_path / "metamorph.db",
            log_level="warning",
            **given,
        )
        server = Server(loaded)
        starting = asyncio.create_task(server.start())
        await bucket.connected.wait()
        running = Serving(server)
        health = running.caller("").health
        request = health_pb2.HealthCheckRequest()
        watching = health.Watch(request)
        async with httpx.AsyncClient(base_url=running.http) as http:
            answer = await http.get("/health")
            page = (await http.get("/metrics")).text
        # No age that would be that of 1970.
        about = answer.json()
        assert (answer.status_code, about.pop("check"), about.keys()) == (503, "starting", {"status", "timestamp"})
        assert "metamorph_replica_age_seconds NaN" in page
        not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await health.Check(request)).status == not_serving
        assert (await anext(aiter(watching))).status == not_serving
        watching.cancel()
        await running.hang_up()
        with pytest.raises(StartupRefused, match="has sent nothing for 3 seconds"):
            await starting
