"""`metamorph audit`, run as a process."""

import json
from pathlib import Path
from typing import Any

from metamorph.admin.v1.admin_service_pb2 import CreateBackupRequest, GetBackupRequest
from metamorph.admin.v1.backup_pb2 import BackupState
from metamorphd.store.database import Transaction

from tests.support.command import run
from tests.support.engines import Engine
from tests.support.rows import scope_of
from tests.support.serving import Serving, serving
from tests.support.tokens import SECRET, mint

KEYS: dict[str, Any] = {"audit_key": "a" * 32}


async def asked(server: Serving, *arguments: str) -> tuple[int | None, str, str]:
    return await run("audit", "verify", *arguments, METAMORPH_TARGET=server.target, EMBLEM_JWT_SECRET=SECRET)


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
        assert (code, "4 entries of 1 logs" in out, "0 faults" in out, err) == (0, True, True, "")
        assert "4 entries are later than those heads: what was cut off after them cannot be found" in out
        code, out, _ = await asked(server, "--json")
        (line,) = map(json.loads, out.splitlines())
        assert (code, line["entries"], line["faults"], line["heads"][0][:2]) == (0, 4, [], ["acme", 4])
        anchors.write_text(f"another line\n2026-11-27 app | {out}")
        code, out, _ = await asked(server, "--anchors", str(anchors))
        assert (code, "1 heads were looked for" in out, "cannot be found" in out) == (0, True, False)
    await altered(engine, tmp_path, "UPDATE changes SET verb = 'read' WHERE vault_id = :vault_id AND revision = 2")
    async with serving(tmp_path, **KEYS) as server:
        code, out, _ = await asked(server)
        assert (code, "CHANGED: vault acme, entry 2" in out, "1 faults" in out) == (1, True, True)
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
        operator = server.caller(operator=True)
        made = await operator.admin.CreateBackup(CreateBackupRequest(), metadata=operator.metadata)
        request = GetBackupRequest(name=made.backup.name)
        state = made.backup.state
        while state == BackupState.BACKUP_STATE_CREATING:
            state = (await operator.admin.GetBackup(request, metadata=operator.metadata)).backup.state
        assert state == BackupState.BACKUP_STATE_READY
        backup = tmp_path / "backups" / made.backup.name
        code, out, err = await run("audit", "heads", str(backup))
        *heads, last = map(json.loads, out.splitlines())
        assert (code, err, [line["heads"][0][:2] for line in heads]) == (0, "", [["", 1], ["acme", 2]])
        manifest = json.loads(Path(f"{backup}.json").read_text())
        assert last == {"log_count": manifest["log_count"], "log_heads": manifest["log_heads"]}
        anchors = tmp_path / "anchors"
        anchors.write_text(out)
        assert (await asked(server, "--anchors", str(anchors)))[0] == 0
    await altered(engine, tmp_path, "DELETE FROM changes WHERE vault_id = :vault_id")
    async with serving(tmp_path, **KEYS) as server:
        code, out, _ = await asked(server, "--anchors", str(anchors))
        assert (code, "TRUNCATED: vault acme, entry 2" in out) == (1, True)


async def test_what_prevents_it_is_said_with_what_to_do(tmp_path: Path) -> None:
    empty, broken = tmp_path / "empty", tmp_path / "broken"
    empty.write_text("no heads\n")
    broken.write_text('{"heads": [["acme", 1]]}\n')
    async with serving(tmp_path / "server") as server:
        for arguments, expected in (
            (["--token", mint()], "the token must be an operator's"),
            (["--anchors", str(empty)], "has no heads"),
            (["--anchors", str(broken)], "line 1 of"),
        ):
            code, out, err = await asked(server, *arguments)
            assert (code, out, expected in err, "Traceback" in err) == (1, "", True, False)
