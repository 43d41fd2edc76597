"""A read-only server that follows a replica."""

import asyncio
import re
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.descriptor_pb2 import MethodOptions
from metamorph_client.admin.v1 import admin_service_pb2 as admin_pb
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.vault.v1.vault_service_pb2 import WatchVaultRequest
from metamorphd.clock import Clock
from metamorphd.edge.methods import Method
from metamorphd.errors import StartupRefused

from tests.support.caller import Caller
from tests.support.copies import SetClock
from tests.support.litestream import Target, replicate_once
from tests.support.refusal import Refusal, refused
from tests.support.rpcs import METHODS, call, fill
from tests.support.serving import Serving, serving

PRIMARY = "primary.internal:50051"
# A copy is followed by a pause of four times as long as it took.
FOLLOW_SECONDS = 45.0
WRITING = [method for method in METHODS.values() if method.idempotency != MethodOptions.NO_SIDE_EFFECTS]
READING = [method for method in METHODS.values() if method.idempotency == MethodOptions.NO_SIDE_EFFECTS]


def database_of(directory: Path) -> Path:
    return directory / "metamorph.db"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)


def reading(directory: Path, target: Target, **overrides: Any) -> Any:
    """Serves read-only, following the target each second."""
    given = {
        "read_only": True,
        "primary_address": PRIMARY,
        "replica_url": target.url,
        "replica_interval_seconds": 1,
        **{name.lower(): value for name, value in target.environment.items()},
    }
    return serving(directory, **(given | overrides))


@pytest.fixture
def litestream_on_path(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", target.whole["PATH"])


async def until(true: Callable[[], Awaitable[Any]]) -> None:
    deadline = time.monotonic() + FOLLOW_SECONDS
    while not await true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def health(server: Serving) -> dict[str, Any]:
    async with httpx.AsyncClient() as http:
        answer: dict[str, Any] = (await http.get(f"{server.http}/health")).json()
        return answer


def filled(method: Method, session_id: str) -> Any:
    request = method.request_type()
    fill(request, session_id)
    return request


async def titled(reader: Caller, expected: list[str]) -> bool:
    return sorted(each.title for each in await reader.sessions()) == expected


async def is_refused(reader: Caller, reason: str) -> bool:
    try:
        await reader.sessions()
    except grpc.aio.AioRpcError as error:
        return Refusal(error).reason == reason
    return False


@pytest.mark.usefixtures("litestream_on_path")
async def test_a_read_only_server_follows_and_refuses_every_method_that_writes(tmp_path: Path, target: Target) -> None:
    async with serving(tmp_path / "primary") as primary:
        writer = primary.caller()
        session_id = (await writer.create_session(title="before")).session_id
        events = await writer.send(session_id, "Hello")
        replicate_once(database_of(tmp_path / "primary"), target)
        async with reading(tmp_path / "replica-server", target) as replica:
            reader, operator = replica.caller(jti="lost"), replica.caller(operator=True)
            for method in WRITING:
                refusal = await refused(call(operator, method, filled(method, session_id)))
                assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "READ_ONLY"), method
                assert refusal.info.metadata["primary"] == PRIMARY
                assert PRIMARY in refusal.message
            # What was written before is there, turns are replayed, and later writes follow.
            assert [each.title for each in await reader.sessions()] == ["before"]
            assert len(await reader.messages(session_id)) == 2
            replayed = pb.StreamTurnRequest(turn_id=events[0].turn_id)
            streamed = [each.event async for each in reader.chat.StreamTurn(replayed, metadata=reader.metadata)]
            assert streamed == events
            await writer.create_session(title="after")
            replicate_once(database_of(tmp_path / "primary"), target)
            await until(lambda: titled(reader, ["after", "before"]))
            # So do revocations.
            revoked = admin_pb.RevokeTokensRequest(vault_id="acme", token_id="lost")
            chief = primary.caller(operator=True)
            await chief.admin.RevokeTokens(revoked, metadata=chief.metadata)
            replicate_once(database_of(tmp_path / "primary"), target)
            await until(lambda: is_refused(reader, "TOKEN_REVOKED"))
            assert (await health(replica))["replica_age_seconds"] < FOLLOW_SECONDS


@pytest.mark.parametrize("target", ["file"], indirect=True)
@pytest.mark.usefixtures("litestream_on_path")
async def test_a_watch_goes_on_with_each_copy_and_a_read_asks_for_a_revision(tmp_path: Path, target: Target) -> None:
    async with serving(tmp_path / "primary") as primary:
        writer = primary.caller()
        await writer.create_session(title="before")
        replicate_once(database_of(tmp_path / "primary"), target)
        async with reading(tmp_path / "replica-server", target) as replica:
            reader = replica.caller()
            watched = aiter(reader.vault.WatchVault(WatchVaultRequest(after_revision=0), metadata=reader.metadata))
            assert [len((await anext(watched)).changes) for _ in range(2)] == [2, 0]
            request = pb.CreateSessionRequest()
            made = await writer.chat.CreateSession(request, metadata=writer.metadata)
            got = pb.GetSessionRequest(session_id=made.session.session_id, at_least_revision=made.revision)
            refusal = await refused(reader.chat.GetSession(got, metadata=reader.metadata))
            assert (refusal.reason, refusal.info.metadata["newest_revision"]) == ("REVISION_NOT_REACHED", "2")
            replicate_once(database_of(tmp_path / "primary"), target)
            async with asyncio.timeout(FOLLOW_SECONDS):
                (change,) = (await anext(watched)).changes
            assert (change.revision, change.resource_id) == (made.revision, made.session.session_id)
            assert (await reader.chat.GetSession(got, metadata=reader.metadata)).session == made.session


@pytest.fixture
async def primary_of(tmp_path: Path, target: Target) -> tuple[Path, str]:
    """Returns the database of a primary that has stopped, whose replica is complete, and a session in it."""
    async with serving(tmp_path / "primary") as primary:
        session = await primary.caller().create_session(title="before")
    replicate_once(database_of(tmp_path / "primary"), target)
    return database_of(tmp_path / "primary"), session.session_id


@pytest.mark.parametrize("target", ["file"], indirect=True)
@pytest.mark.usefixtures("litestream_on_path")
async def test_every_method_that_only_reads_is_served(
    tmp_path: Path, target: Target, primary_of: tuple[Path, str]
) -> None:
    _, session_id = primary_of
    async with reading(tmp_path / "replica-server", target, token_encryption_key="k" * 32) as replica:
        caller = replica.caller(operator=True)
        answers: dict[str, str] = {}
        for method in READING:
            try:
                calling = call(caller, method, filled(method, session_id))
                await (anext(aiter(calling)) if method.streams_responses else calling)
            except grpc.aio.AioRpcError as error:
                answers[method.name] = Refusal(error).reason
        # What a request without an ID, or with that of nothing, is answered by a primary, too.
        assert set(answers.values()) <= {"REQUEST_INVALID", "BACKUP_NOT_FOUND", "READ_ONLY"}, answers
        # The vault was never stored, since the primary was not asked for it; asking for it stores it.
        assert [name for name, reason in answers.items() if reason == "READ_ONLY"] == []
        got = pb.GetSessionRequest(session_id=session_id)
        assert (await caller.chat.GetSession(got, metadata=caller.metadata)).session.title == "before"


@pytest.mark.parametrize("target", ["file"], indirect=True)
@pytest.mark.usefixtures("litestream_on_path")
async def test_without_its_primary_a_replica_goes_on_and_says_how_old_it_is(
    tmp_path: Path, target: Target, primary_of: tuple[Path, str]
) -> None:
    clock = SetClock()
    clock.time = Clock().now()
    async with reading(tmp_path / "replica-server", target, clock=clock) as replica:
        reader, operator = replica.caller(), replica.caller(operator=True)
        assert (await health(replica))["status"] == "ok"
        clock.time += 100_000_000
        answer = await health(replica)
        assert (answer["status"], answer["check"]) == ("degraded", "replica")
        assert 100 <= answer["replica_age_seconds"] < 130
        async with httpx.AsyncClient() as http:
            page = (await http.get(f"{replica.http}/metrics")).text
        # It makes no backups, so none is missing.
        assert "metamorph_backup" not in page
        (line,) = re.findall(r"^metamorph_replica_age_seconds (.+)$", page, re.MULTILINE)
        assert float(line) >= 100
        asked = await operator.admin.GetServerInfo(admin_pb.GetServerInfoRequest(), metadata=operator.metadata)
        (finding,) = [each for each in asked.findings if each.name == "replica"]
        assert re.fullmatch(r"the copy of the primary's database is \d+ seconds old", finding.what)
        assert finding.remedy
        # Nor does it need the replica, for what it has, also after a restart.
        shutil.rmtree(target.files)
        await asyncio.sleep(1.5)
        assert await titled(reader, ["before"])
    async with reading(tmp_path / "replica-server", target) as again:
        assert await titled(again.caller(), ["before"])
    copies = [path.name for path in (tmp_path / "replica-server").glob("metamorph.db*")]
    assert len([name for name in copies if re.fullmatch(r"metamorph\.db-replica-\d+", name)]) == 1, copies


@pytest.mark.parametrize("target", ["file"], indirect=True)
@pytest.mark.usefixtures("litestream_on_path")
async def test_of_a_damaged_replica_no_copy_is_served(
    tmp_path: Path, target: Target, primary_of: tuple[Path, str], capfd: pytest.CaptureFixture[str]
) -> None:
    database, _ = primary_of
    async with reading(tmp_path / "replica-server", target) as replica:
        async with serving(tmp_path / "primary") as primary:
            await primary.caller().create_session(title="after")
        replicate_once(database, target)
        for file in target.files.rglob("*.ltx"):
            content = bytearray(file.read_bytes())
            content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
            file.write_bytes(content)
        logged = ""
        while "the replica cannot be followed" not in logged:
            await asyncio.sleep(0.2)
            logged += "".join(capfd.readouterr())
        assert await titled(replica.caller(), ["before"]) or await titled(replica.caller(), ["after", "before"])


@pytest.mark.usefixtures("litestream_on_path")
async def test_a_server_with_nothing_to_follow_does_not_start(tmp_path: Path, target: Target) -> None:
    with pytest.raises(StartupRefused, match=r"REPLICA_URL cannot be read \(.*\); start the primary"):
        async with reading(tmp_path, target):
            pass


@pytest.mark.parametrize("target", ["file"], indirect=True)
async def test_a_server_without_litestream_does_not_start(
    tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StartupRefused, match="the litestream command cannot be run"):
        async with reading(tmp_path, target):
            pass
