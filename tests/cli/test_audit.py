"""`metamorph audit`, run as a process."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from metamorph_client.admin.v1.admin_service_pb2 import CreateBackupRequest, GetBackupRequest, GetServerInfoRequest
from metamorph_client.admin.v1.backup_pb2 import BackupState
from metamorphd.store.database import Transaction
from starlette.responses import Response
from structlog.testing import capture_logs

from tests.support.command import run
from tests.support.engines import Engine
from tests.support.fakes.timestamp_authority import TimestampAuthority
from tests.support.rows import scope_of
from tests.support.serving import Serving, serving
from tests.support.tokens import SECRET, mint

KEYS: dict[str, Any] = {"audit_key": "a" * 32}


async def asked(server: Serving, *arguments: str) -> tuple[int | None, str, str]:
    return await run("audit", "verify", *arguments, METAMORPH_TARGET=server.target, EMBLEM_JWT_SECRET=SECRET)


async def backed_up(server: Serving, directory: Path) -> Path:
    """Returns the file of a new backup."""
    operator = server.caller(operator=True)
    made = await operator.admin.CreateBackup(CreateBackupRequest(), metadata=operator.metadata)
    request = GetBackupRequest(name=made.backup.name)
    state = made.backup.state
    while state == BackupState.BACKUP_STATE_CREATING:
        state = (await operator.admin.GetBackup(request, metadata=operator.metadata)).backup.state
    assert state == BackupState.BACKUP_STATE_READY
    return directory / "backups" / str(made.backup.name)


@asynccontextmanager
async def stamped(directory: Path, authority: TimestampAuthority) -> AsyncIterator[tuple[Serving, Path]]:
    """Yields a server whose heads are stamped, with three entries, and a file of its log lines."""
    async with serving(directory, **KEYS) as server:
        for _ in range(2):
            await server.caller().create_session()
    settings = {"audit_tsa_url": authority.url, "audit_tsa_certificates": authority.roots, "log_level": "info"}
    with capture_logs() as lines:
        async with serving(directory, **KEYS, **settings) as server:
            async with asyncio.timeout(20):
                while not any(line["event"] == "audit timestamp" for line in lines):  # noqa: ASYNC110, it has no event
                    await asyncio.sleep(0.05)
            anchors = directory / "log"
            anchors.write_text("".join(f"app | {json.dumps(line, default=str)}\n" for line in lines))
            yield server, anchors


async def altered(engine: Engine, directory: Path, sql: str) -> None:
    async def operation(tx: Transaction) -> None:
        await tx.run(sql)

    async with engine.database(directory) as database:
        await database.write(operation, scope_of("acme"))


async def test_logs_are_verified_and_what_is_wrong_is_named(engine: Engine, tmp_path: Path) -> None:
    anchors = tmp_path / "anchors"
    async with serving(tmp_path, **KEYS) as server:
        for _ in range(3):
            await server.caller().create_session()
        code, out, err = await asked(server)
        assert (code, "Verified: 4 entries of 1 log.\n" in out, "0 faults" in out, err) == (0, True, True, "")
        assert "4 entries are later than those heads: what was cut off after them cannot be found" in out
        code, out, _ = await asked(server, "--json")
        (line,) = map(json.loads, out.splitlines())
        assert (code, line["entries"], line["faults"], line["heads"][0][:2]) == (0, 4, [], ["acme", 4])
        anchors.write_text(f"another line\n2026-11-27 app | {out}")
        code, out, _ = await asked(server, "--anchors", str(anchors))
        assert (code, "1 head was looked for" in out, "cannot be found" in out) == (0, True, False)
    await altered(engine, tmp_path, "UPDATE changes SET verb = 'read' WHERE vault_id = :vault_id AND revision = 2")
    async with serving(tmp_path, **KEYS) as server:
        code, out, _ = await asked(server)
        assert (code, "CHANGED: vault acme, entry 2" in out, "1 fault." in out) == (1, True, True)
    await altered(engine, tmp_path, "DELETE FROM changes WHERE vault_id = :vault_id AND revision > 1")
    async with serving(tmp_path, **KEYS) as server:
        assert (await asked(server))[0] == 0
        code, out, _ = await asked(server, "--anchors", str(anchors))
        assert (code, "TRUNCATED: vault acme, entry 4" in out) == (1, True)


async def test_the_heads_of_a_backup_are_anchors_and_its_manifest_has_their_digest(
    engine: Engine, tmp_path: Path
) -> None:
    async with serving(tmp_path, **KEYS) as server:
        await server.caller().create_session()
        backup = await backed_up(server, tmp_path)
        code, out, err = await run("audit", "heads", str(backup))
        *heads, last = map(json.loads, out.splitlines())
        assert (code, err, [line["heads"][0][:2] for line in heads]) == (0, "", [["", 1], ["acme", 2]])
        manifest = json.loads(Path(f"{backup}.json").read_text())
        expected = {"backup": backup.name, "log_count": manifest["log_count"], "log_heads": manifest["log_heads"]}
        assert last == expected
        anchors = tmp_path / "anchors"
        anchors.write_text(out)
        assert (await asked(server, "--anchors", str(anchors)))[0] == 0
    await altered(engine, tmp_path, "DELETE FROM changes WHERE vault_id = :vault_id")
    async with serving(tmp_path, **KEYS) as server:
        code, out, _ = await asked(server, "--anchors", str(anchors))
        assert (code, "TRUNCATED: vault acme, entry 2" in out) == (1, True)


async def test_time_stamps_of_heads_in_the_log_stream_are_verified(tmp_path: Path) -> None:
    async with TimestampAuthority(tmp_path) as tsa, stamped(tmp_path, tsa) as (server, anchors):
        given = ("--anchors", str(anchors))
        code, out, _ = await asked(server, *given)
        assert (code, "1 time stamp was not verified: name the authority's" in out) == (0, True)
        trusted = (*given, "--certificates", str(tsa.roots))
        await server.caller().create_session()
        code, out, err = await asked(server, *trusted)
        assert (code, "1 of 1 time stamps are good; the newest is of 20" in out, err) == (0, True, "")
        assert "1 entry is later than the heads that were stamped" in out
        code, out, _ = await asked(server, *trusted, "--json")
        (stamp,) = json.loads(out.splitlines()[-1])["timestamps"]
        assert (code, stamp["heads"], stamp["fault"], stamp["time"][:2]) == (0, 1, "", "20")
        other = TimestampAuthority(tmp_path, "other")
        code, out, _ = await asked(server, *given, "--certificates", str(other.roots))
        assert (code, bool(re.search(r"TIMESTAMP: line \d, the time stamp is not good: ", out)), "1 fault." in out) == (
            1,
            True,
            True,
        )
        text = anchors.read_text()
        anchors.write_text(text.replace('"acme", 3', '"acme", 2'))
        code, out, _ = await asked(server, *trusted)
        assert (code, ", heads that were stamped on 20" in out) == (1, True)
        anchors.write_text("".join(line for line in text.splitlines(keepends=True) if '"heads"' not in line))
        code, _, err = await asked(server, *trusted)
        assert (code, "has no heads" in err) == (1, True)


async def test_a_log_that_somebody_with_the_key_wrote_anew_is_not_that_of_its_stamped_heads(
    engine: Engine, tmp_path: Path
) -> None:
    async with TimestampAuthority(tmp_path) as tsa:
        async with stamped(tmp_path, tsa) as (_, anchors):
            pass
        await altered(engine, tmp_path, "DELETE FROM changes WHERE vault_id = :vault_id AND revision > 1")
        async with serving(tmp_path, **KEYS) as server:
            for _ in range(3):
                await server.caller().create_session()
            code, out, _ = await asked(server, "--anchors", str(anchors), "--certificates", str(tsa.roots))
            assert (code, "REPLACED: vault acme, entry 3" in out, "1 fault." in out) == (1, True, True)


async def test_a_backup_has_a_time_stamp_of_all_heads_in_it(tmp_path: Path) -> None:
    async with TimestampAuthority(tmp_path) as tsa, stamped(tmp_path, tsa) as (server, anchors):
        await server.caller(vault="other").create_session()
        backup = await backed_up(server, tmp_path)
        _, out, _ = await run("audit", "heads", str(backup))
        anchors.write_text(out)
        trusted = ("--anchors", str(anchors), "--certificates", str(tsa.roots))
        code, shown, err = await asked(server, *trusted)
        assert (code, "1 of 1 time stamps are good" in shown, "later than" in shown, err) == (0, True, False, "")
        *heads, last = out.splitlines()
        for kept in (heads[1:], [heads[1], heads[0], *heads[2:]]):
            anchors.write_text("\n".join([*kept, last]))
            code, shown, _ = await asked(server, *trusted)
            assert (code, "heads that were stamped on 20" in shown) == (1, True)
        token = bytearray(base64.b64decode(json.loads(last)["stamp"]))
        token[-1] ^= 1
        forged = json.dumps(json.loads(last) | {"stamp": base64.b64encode(token).decode()})
        anchors.write_text("\n".join([*heads, forged]))
        code, shown, _ = await asked(server, *trusted)
        assert (code, "the time stamp is not good" in shown) == (1, True)


async def test_an_authority_that_does_not_answer_delays_neither_calls_nor_backups(tmp_path: Path) -> None:
    async with TimestampAuthority(tmp_path) as tsa:

        async def answer(_: bytes) -> Response:
            await asyncio.sleep(0.5)
            return Response(status_code=503)

        tsa.answer = answer
        async with serving(tmp_path, **KEYS) as server:
            await server.caller().create_session()
        settings = {"audit_tsa_url": tsa.url, "audit_tsa_certificates": tsa.roots}
        async with serving(tmp_path, **KEYS, **settings) as server, asyncio.timeout(60):
            while not tsa.queries:  # noqa: ASYNC110, it has no event
                await asyncio.sleep(0.01)
            begun = asyncio.get_running_loop().time()
            await server.caller().create_session()
            assert asyncio.get_running_loop().time() - begun < 0.4
            backup = await backed_up(server, tmp_path)
            assert json.loads(Path(f"{backup}.json").read_text())["log_heads_timestamp"] == ""
            operator = server.caller(operator=True)
            info = await operator.admin.GetServerInfo(GetServerInfoRequest(), metadata=operator.metadata)
            (finding,) = [each for each in info.findings if each.name == "audit-timestamps"]
            assert "gives no time stamps: status 503" in finding.what


async def test_what_prevents_it_is_said_with_what_to_do(tmp_path: Path) -> None:
    empty, broken, heads = tmp_path / "empty", tmp_path / "broken", tmp_path / "heads"
    heads.write_text(json.dumps({"heads": [["acme", 1, "a" * 64]]}))
    empty.write_text("no heads\n")
    broken.write_text('{"heads": [["acme", 1]]}\n')
    async with serving(tmp_path / "server") as server:
        for arguments, ended, expected in (
            (["--token", mint()], 4, "the token must be an operator's"),
            (["--anchors", str(empty)], 1, "has no heads"),
            (["--anchors", str(broken)], 1, "line 1 of"),
            (["--anchors", str(heads), "--certificates", str(empty)], 1, "has no certificates that can be read"),
        ):
            code, out, err = await asked(server, *arguments)
            assert (code, out, expected in err, "Traceback" in err) == (ended, "", True, False)
