"""`metamorph check` of settings, run as a process."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import run
from tests.support.paths import ROOT
from tests.support.processes import serving_process
from tests.support.tokens import SECRET

Found = dict[tuple[str, str], str]


async def checked(*arguments: str, **environment: str) -> tuple[int | None, list[dict[str, Any]]]:
    """Returns the exit code and the findings, after checking that all that are not good have a remedy."""
    code, out, err = await run("check", "--json", *arguments, **environment)
    assert "Traceback" not in err
    report = json.loads(out)
    findings: list[dict[str, Any]] = report["findings"]
    assert all(finding["remedy"] for finding in findings if finding["status"] != "ok")
    assert (report["status"] == "failed") == (code == 1)
    return code, findings


def wrong(findings: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(finding["name"], finding["status"]) for finding in findings if finding["status"] != "ok"]


async def of_file(tmp_path: Path, text: str, **environment: str) -> tuple[int | None, list[dict[str, Any]]]:
    file = tmp_path / "deployed.env"
    file.write_text(text)
    file.chmod(0o600)
    return await checked("--env-file", str(file), **environment)


GOOD = f"EMBLEM_JWT_SECRET={SECRET}\nLISTEN_ADDRESS=127.0.0.1\n"


async def test_a_good_file_passes_and_a_finding_says_so(tmp_path: Path) -> None:
    code, findings = await of_file(tmp_path, GOOD)
    assert (code, wrong(findings)) == (0, [])
    assert {"env-file", "names", "node-env", "signing-secret"} <= {finding["name"] for finding in findings}


async def test_a_misspelt_name_fails_and_the_meant_one_is_named(tmp_path: Path) -> None:
    code, findings = await of_file(tmp_path, GOOD + "RATE_LIMT_REQUESTS=5\n")
    assert (code, wrong(findings)) == (1, [("names", "failed")])
    assert "rename it to RATE_LIMIT_REQUESTS" in json.dumps(findings)


async def test_a_misspelt_name_in_the_environment_is_found_among_other_programs(tmp_path: Path) -> None:
    good = {"EMBLEM_JWT_SECRET": SECRET, "LISTEN_ADDRESS": "127.0.0.1"}
    code, findings = await checked(**good, REPORT="1", POSTGRES_PORT="1", ANTHROPIC_AUTH_TOKEN="1", NODE_VERSION="20")
    assert (code, wrong(findings)) == (0, [])
    code, findings = await checked(**good, EMBLEM_JWT_SECERT="canary")
    assert (code, wrong(findings), "canary" in str(findings)) == (1, [("names", "failed")], False)


@pytest.mark.parametrize(
    ("line", "name", "status"),
    [
        ("COMPLETELY_OTHER=1", "names", "warning"),
        ("x" * 50_000 + "=1", "names", "warning"),
        ("no setting canary", "env-file", "failed"),
        ("PORT", "env-file", "warning"),
        ("PORT=3001\nport=3002", "env-file", "warning"),
        ("PORT=canary", "settings", "failed"),
        ("EMBLEM_JWT_SECRET_DATE=canary", "settings", "failed"),
        ("GRPC_TLS_KEY=canary", "settings", "failed"),
    ],
)
async def test_what_a_line_does_not_say_is_found(tmp_path: Path, line: str, name: str, status: str) -> None:
    code, findings = await of_file(tmp_path, f"{GOOD}{line}\n")
    assert wrong(findings) == [(name, status)]
    assert code == (1 if status == "failed" else 0)
    assert "canary" not in json.dumps(findings)


async def test_every_reason_not_to_start_is_found_at_once(tmp_path: Path) -> None:
    code, findings = await of_file(tmp_path, "NODE_ENV=production\nEMBLEM_DEV_MODE=true\nGRPC_TLS_KEY=canary\n")
    assert code == 1
    assert [name for name, _ in wrong(findings)].count("settings") >= 3
    for named in ("ANTHROPIC_API_KEY", "EMBLEM_DEV_MODE", "GRPC_TLS_CERT"):
        assert named in json.dumps(findings)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00canary", b"\x00" * 9, b"A" * 2_000_000], ids=len)
async def test_a_file_that_is_no_text_of_settings_fails(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "other"
    file.write_bytes(content)
    file.chmod(0o600)
    code, findings = await checked("--env-file", str(file))
    assert (code, ("env-file", "failed") in wrong(findings), "canary" in str(findings)) == (1, True, False)


async def test_many_names_take_no_longer_than_a_moment_and_not_all_are_listed(tmp_path: Path) -> None:
    names = "".join(f"RATE_LIMT_REQ{number}=1\n" for number in range(3000))
    started = time.monotonic()
    code, findings = await of_file(tmp_path, GOOD + names)
    assert (code in (0, 1), len(findings) < 120) == (True, True)
    many = {f"SERVICE_{number}_PORT_50051_TCP": "1" for number in range(2000)}
    code, findings = await checked(EMBLEM_JWT_SECRET=SECRET, LISTEN_ADDRESS="127.0.0.1", **many)
    assert (code, wrong(findings)) == (0, [])
    assert time.monotonic() - started < 30


async def test_a_database_path_that_no_system_has_is_no_crash(tmp_path: Path) -> None:
    code, findings = await of_file(tmp_path, f"{GOOD}DATABASE_PATH=/{'x' * 5000}/metamorph.db\n")
    assert (code, wrong(findings)) == (0, [])


def test_a_server_logs_a_misspelt_name_when_it_starts(tmp_path: Path) -> None:
    with serving_process(tmp_path, RATE_LIMT_REQUESTS="5") as server:
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (line,) = [line for line in lines if line.get("check") == "names"]
    assert (line["level"], line["remedy"]) == ("warning", "rename it to RATE_LIMIT_REQUESTS")


async def test_a_server_with_a_file_of_settings_that_is_no_text_does_not_start(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"EMBLEM_JWT_SECRET=\xffcanary\n")
    code, out, err = await run("serve", EMBLEM_JWT_SECRET=SECRET)
    assert (code, "the .env file cannot be read" in err, "canary" in out + err, "Traceback" in err) == (
        1,
        True,
        False,
        False,
    )


async def test_a_file_of_secrets_that_others_can_read_is_found(tmp_path: Path) -> None:
    file = tmp_path / "deployed.env"
    file.write_text(GOOD)
    file.chmod(0o644)
    _, findings = await checked("--env-file", str(file))
    assert wrong(findings) == [("env-file", "warning")]


async def test_a_value_that_the_environment_overrides_is_not_passed_off_as_checked(tmp_path: Path) -> None:
    _, findings = await of_file(tmp_path, GOOD, EMBLEM_JWT_SECRET="another-secret-0123456789-abcdef")
    assert wrong(findings) == [("env-file", "warning")]


async def test_warnings_fail_only_if_asked(tmp_path: Path) -> None:
    file = tmp_path / "deployed.env"
    file.write_text(GOOD + "TURN_TIMEOUT_SECONDS=600000\n")
    file.chmod(0o600)
    code, out, _ = await run("check", "--env-file", str(file))
    assert (code, "1 warning, 0 failed" in out) == (0, True)
    code, out, _ = await run("check", "--env-file", str(file), "--strict")
    assert (code, "not in milliseconds" in out, SECRET in out) == (1, True, False)


async def test_an_untouched_copy_of_the_example_does_not_serve(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text((ROOT / ".env.example").read_text())
    code, out, err = await run("serve")
    assert (code, "EMBLEM_JWT_SECRET is not set" in err, "serving" in out) == (1, True, False)
    code, findings = await checked()
    assert (code, ("settings", "failed") in wrong(findings)) == (1, True)


async def test_a_pipe_in_the_place_of_a_file_is_not_passed_off_as_checked(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code, findings = await checked("--env-file", str(pipe), EMBLEM_JWT_SECRET=SECRET)
    assert (code, ("env-file", "failed") in wrong(findings)) == (1, True)
