"""`metamorph check` of a running server, run as a process."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from metamorph_client.admin.v1.admin_service_pb2 import CreateBackupRequest
from metamorph_client.chat.v1.chat_service_pb2 import ListSessionsRequest
from metamorphd.clock import Clock
from metamorphd.keys.audit import make_chain
from metamorphd.keys.environment import wrapping_key

from tests.support.certificates import Authority
from tests.support.command import run
from tests.support.fakes.leaking_server import LeakingServer
from tests.support.fakes.otlp_receiver import OtlpReceiver, traced
from tests.support.ports import free_port
from tests.support.secrets import put
from tests.support.serving import Serving, serving
from tests.support.tokens import SECRET, mint

Findings = list[dict[str, Any]]
# What the machine that runs the tests has, which other tests are about.
MACHINE = {"volume", "memory", "disk"}


class Shifted(Clock):
    """A clock that is ahead by some seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def now(self) -> int:
        return super().now() + int(self._seconds * 1e6)


async def checked(server: Serving, *arguments: str, **environment: str) -> tuple[int | None, Findings]:
    """Returns the exit code and the findings, after checking that all that are not good have a remedy."""
    code, out, err = await run(
        "check",
        "--json",
        *arguments,
        **({"METAMORPH_TARGET": server.target, "EMBLEM_JWT_SECRET": SECRET} | environment),
        **({} if "--http" in arguments else {"PORT": server.http.rpartition(":")[2]}),
    )
    assert err == ""
    findings: Findings = json.loads(out)["findings"]
    assert all(finding["remedy"] for finding in findings if finding["status"] != "ok")
    assert SECRET not in out
    assert "ey" + "J" not in out
    return code, findings


def wrong(findings: Findings) -> list[tuple[str, str]]:
    return [
        (finding["name"], finding["status"])
        for finding in findings
        if finding["status"] != "ok" and finding["name"] not in MACHINE
    ]


def of(findings: Findings, name: str) -> dict[str, Any]:
    (found,) = [finding for finding in findings if finding["name"] == name]
    return found


async def test_a_good_server_passes_every_point_of_the_guides_checklist(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        code, findings = await checked(server)
        assert (code, wrong(findings)) == (0, [])
        names = {finding["name"] for finding in findings}
        assert {"health", "clock", "authentication", "isolation", "tls", "metrics", "https"} <= names
        assert {"database", "disk", "version", "backup", "signing-secret"} <= names
        left = server.caller(vault="metamorph-check-1")
        listed = await left.chat.ListSessions(ListSessionsRequest(), metadata=left.metadata)
        assert list(listed.sessions) == []


async def test_two_checks_at_once_and_one_that_was_cut_off_do_not_disturb_each_other(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        own = server.caller(vault="metamorph-check-1")
        for _ in range(40):
            await own.create_session(title="metamorph check")
        for code, findings in await asyncio.gather(*(checked(server) for _ in range(4))):
            assert (code, wrong(findings)) == (0, [])
        listed = await own.chat.ListSessions(ListSessionsRequest(), metadata=own.metadata)
        assert list(listed.sessions) == []


async def test_all_tokens_refused_by_a_skewed_clock_is_found_with_its_cause_and_cure(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for seconds, reason in ((3600, "TOKEN_EXPIRED"), (-3600, "TOKEN_INVALID")):
        async with serving(tmp_path, clock=Shifted(seconds), log_level="info") as server:
            code, findings = await checked(server)
        assert (code, of(findings, "clock")["status"]) == (1, "failed")
        assert "NTP" in of(findings, "clock")["remedy"]
        assert f"{reason}: " in of(findings, "operator")["what"]
        assert "clocks differ" in of(findings, "operator")["what"]
        logged = [json.loads(line) for line in capfd.readouterr().out.splitlines() if '"call"' in line]
        cures = {line["why"]: line["remedy"] for line in logged if line.get("why") in ("exp is past", "iat is ahead")}
        assert cures
        assert all("NTP" in cure for cure in cures.values())


async def test_a_full_volume_fails_and_what_could_not_be_tried_is_said(tmp_path: Path) -> None:
    async with serving(tmp_path, storage_floor_bytes=10**15) as server:
        code, findings = await checked(server)
    assert (code, of(findings, "database")["status"]) == (1, "failed")
    assert "almost full" in of(findings, "database")["what"]
    assert of(findings, "health")["status"] == "warning"
    assert (of(findings, "isolation")["status"], "STORAGE_FULL" in of(findings, "isolation")["what"]) == (
        "warning",
        True,
    )


@pytest.mark.parametrize(("seconds", "status"), [(3, "ok"), (15, "warning"), (-15, "warning")])
async def test_clocks_that_differ_little_are_no_failure(tmp_path: Path, seconds: int, status: str) -> None:
    async with serving(tmp_path, clock=Shifted(seconds)) as server:
        code, findings = await checked(server)
    assert (code, of(findings, "clock")["status"], of(findings, "isolation")["status"]) == (0, status, "ok")


async def test_another_secret_than_the_servers_is_named(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        code, findings = await checked(server, EMBLEM_JWT_SECRET="another-secret-0123456789-abcdef")
    assert (code, wrong(findings)) == (1, [("operator", "failed"), ("isolation", "warning")])
    assert "EMBLEM_JWT_SECRET" in of(findings, "operator")["remedy"]


async def test_without_a_secret_what_was_not_tried_is_said(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        code, findings = await checked(server, EMBLEM_JWT_SECRET="")
        assert (code, wrong(findings)) == (0, [("operator", "warning"), ("isolation", "warning")])
        code, findings = await checked(server, "--token", mint(operator=True), EMBLEM_JWT_SECRET="")
        assert (code, wrong(findings)) == (0, [("isolation", "warning")])
        code, findings = await checked(server, "--token", mint(), EMBLEM_JWT_SECRET="")
        assert (code, wrong(findings)) == (1, [("operator", "failed"), ("isolation", "warning")])
        assert "--operator" in of(findings, "operator")["remedy"]


async def test_dev_mode_is_tried_with_two_vaults_and_is_worth_a_warning(tmp_path: Path) -> None:
    async with serving(tmp_path, emblem_dev_mode=True, emblem_jwt_secret=None) as server:
        code, findings = await checked(server, EMBLEM_JWT_SECRET="")
    assert (code, wrong(findings)) == (0, [("authentication", "warning"), ("operator", "warning")])
    assert of(findings, "isolation")["status"] == "ok"


async def test_an_old_backup_fails_and_one_that_was_never_verified_again_is_worth_a_warning(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        operator = server.caller(operator=True)
        await operator.admin.CreateBackup(CreateBackupRequest(), metadata=operator.metadata)
        for _ in range(50):
            _, findings = await checked(server)
            if "hours old" in of(findings, "backup")["what"]:
                break
            await asyncio.sleep(0.1)
        assert (of(findings, "backup")["status"], of(findings, "backup-verified")["status"]) == ("ok", "ok")
    async with serving(tmp_path, clock=Shifted(8 * 86_400)) as server:
        # The token is issued in the server's time, because the one that is minted would have expired.
        token = mint(operator=True, exp=int(time.time()) + 9 * 86_400)
        code, findings = await checked(server, "--token", token)
    assert (code, of(findings, "backup")["status"], of(findings, "backup-verified")["status"]) == (
        1,
        "failed",
        "warning",
    )


OLD, NEW = "the-one-before-0123456789-abcdef", "the-one-after-0123456789-abcdefg"
# What a server is started with after it had OLD, and what is found of the keys then.
KEYS: list[tuple[dict[str, str], dict[str, str]]] = [
    (
        {"token_encryption_key": NEW, "token_encryption_key_previous": OLD, "audit_key": OLD},
        {"data-keys": "ok", "audit-log": "ok"},
    ),
    (
        {"token_encryption_key": NEW, "audit_key": NEW},
        {"data-keys": "failed", "audit-log": "warning"},
    ),
    ({}, {"data-keys": "failed", "audit-log": "failed"}),
]


@pytest.mark.parametrize(("settings", "expected"), KEYS)
async def test_a_key_that_the_database_needs_and_the_server_lacks_is_found(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], settings: dict[str, str], expected: dict[str, str]
) -> None:
    async with serving(tmp_path, token_encryption_key=OLD, audit_key=OLD) as server:
        await put(server.caller(permissions=["read", "write", "secrets:write"]))
    capfd.readouterr()
    async with serving(tmp_path, **settings) as server:
        code, findings = await checked(server)
    found = {finding["name"]: finding for finding in findings if finding["name"] in expected}
    assert {name: finding["status"] for name, finding in found.items()} == expected
    assert code == int("failed" in expected.values())
    if expected["data-keys"] == "failed":
        assert wrapping_key(OLD).key_id in found["data-keys"]["what"]
        assert "TOKEN_ENCRYPTION_KEY_PREVIOUS" in found["data-keys"]["remedy"]
        assert make_chain([OLD]).key_id in found["audit-log"]["what"]
        assert "AUDIT_KEY_PREVIOUS" in found["audit-log"]["remedy"]
        # The server says it when it starts, too.
        assert found["data-keys"]["what"] in capfd.readouterr().out


async def test_a_database_that_needs_no_key_has_no_finding_about_keys(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.caller().create_session()
        _, findings = await checked(server)
    assert {"data-keys", "audit-log"} & {finding["name"] for finding in findings} == set()


async def test_a_certificate_is_checked(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue()
    async with serving(tmp_path, grpc_tls_cert=str(certificate), grpc_tls_key=str(key)) as server:
        code, findings = await checked(server, "--ca", str(authority.certificate))
        assert of(findings, "isolation")["status"] == "ok"
        assert "certificate" in of(findings, "tls")["what"]
        code, findings = await checked(server)
        assert (code, wrong(findings)) == (1, [("tls", "failed")])
        assert "--ca" in of(findings, "tls")["remedy"]
        code, findings = await checked(server, "--ca", str(key))
        assert (code, wrong(findings)) == (1, [("server", "failed")])


async def test_a_server_that_asks_for_a_certificate_is_reached_with_one(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue()
    trusted = str(authority.certificate)
    tls = {"grpc_tls_cert": str(certificate), "grpc_tls_key": str(key), "grpc_tls_client_ca": trusted}
    own, own_key = (str(path) for path in authority.issue("operator"))
    async with serving(tmp_path, **tls) as server:
        reach = ("--ca", trusted, "--cert", own, "--key", own_key)
        _, findings = await checked(server, *reach)
        assert "certificate" in of(findings, "tls")["what"]
        assert of(findings, "isolation")["status"] == "ok"
        code, findings = await checked(server, *reach[:2])
        assert (code, {"authentication"} <= {name for name, _ in wrong(findings)}) == (1, True)
        code, findings = await checked(server, *reach[:3], own_key, "--key", own)
        assert (code, wrong(findings)) == (1, [("server", "failed")])


async def test_a_server_that_is_not_there_fails_in_a_moment_with_what_to_do() -> None:
    for target in (f"127.0.0.1:{free_port()}", "no-such-host.invalid:1", "nonsense", "127.0.0.1:99999999", ":1"):
        code, out, err = await run("check", "--target", target, "--json")
        assert (code, err) == (1, ""), target
        assert {finding["name"] for finding in json.loads(out)["findings"]} >= {"server"}


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", b"\xff" * 100_000, None])
async def test_a_hostile_server_is_a_finding_and_ends_in_time(answer: bytes | None) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(100)
            if answer is None:
                await ended.wait()
            writer.write(answer or b"")
        finally:
            writer.close()

    ended = asyncio.Event()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        code, out, err = await asyncio.wait_for(
            run("check", "--target", f"127.0.0.1:{port}", "--http", f"http://127.0.0.1:{port}", "--json"), 50
        )
        ended.set()
        assert (code, "Traceback" in err) == (1, False)
        assert all(finding["remedy"] for finding in json.loads(out)["findings"] if finding["status"] != "ok")


@pytest.mark.parametrize("leak", ["read", "deleted", "listed"])
async def test_a_server_that_does_not_isolate_vaults_or_check_tokens_fails(leak: str) -> None:
    async with LeakingServer(leak) as server:
        code, out, _ = await run("check", "--target", server.target, "--json", EMBLEM_JWT_SECRET=SECRET)
    findings = json.loads(out)["findings"]
    assert code == 1
    assert (of(findings, "isolation")["status"], f"can be {leak} by" in of(findings, "isolation")["what"]) == (
        "failed",
        True,
    )
    assert of(findings, "authentication")["status"] == "failed"
    # What fails in one part does not keep another from being tried.
    assert "UNIMPLEMENTED" in of(findings, "operator")["what"]


async def test_settings_and_a_server_are_not_checked_at_once(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.touch()
    code, _, err = await run("check", "--env-file", str(file), "--server")
    assert (code, "check the server by itself" in err) == (2, True)


async def test_a_receiver_of_traces_that_is_not_there_is_found(tmp_path: Path) -> None:
    async with OtlpReceiver() as receiver:
        settings = traced(receiver)
        async with serving(tmp_path, **settings) as server:
            _, findings = await checked(server)
            assert wrong(findings) == []
            assert {finding["what"] for finding in findings if finding["name"] == "telemetry"} == {
                "OTEL_EXPORTER_OTLP_ENDPOINT can be that of a receiver",
                "the OTLP receiver takes metrics",
                "the OTLP receiver takes traces",
            }
    async with serving(tmp_path, **settings) as server:
        _, findings = await checked(server)
    assert wrong(findings) == [("telemetry", "warning")] * 2
    assert {finding["what"].partition(":")[0] for finding in findings if finding["name"] == "telemetry"} == {
        "OTEL_EXPORTER_OTLP_ENDPOINT can be that of a receiver",
        "the OTLP receiver does not take metrics",
        "the OTLP receiver does not take traces",
    }
