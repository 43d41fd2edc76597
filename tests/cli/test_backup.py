"""`metamorph backup`, run as a process."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from metamorphd.backups.directory import name_at

from tests.support.certificates import Authority
from tests.support.command import run
from tests.support.serving import Serving, serving
from tests.support.slow import slow_backup
from tests.support.tokens import SECRET, mint


async def asked(server: Serving, *arguments: str, **environment: str) -> tuple[int | None, str, str]:
    return await run(
        "backup", *arguments, METAMORPH_TARGET=server.target, **({"EMBLEM_JWT_SECRET": SECRET} | environment)
    )


async def made(server: Serving) -> Any:
    code, out, err = await asked(server, "create", "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


async def test_a_backup_is_made_listed_verified_downloaded_and_deleted(tmp_path: Path) -> None:
    async with serving(tmp_path / "server") as server:
        await server.caller().create_session(title="Kept")
        backup = await made(server)
        assert (backup["state"], backup["row_counts"]["sessions"]) == ("BACKUP_STATE_READY", "1")
        code, out, _ = await asked(server, "list")
        assert (code, backup["name"] in out, "ready" in out) == (0, True, True)
        code, out, _ = await asked(server, "verify", "--json")
        assert (code, json.loads(out)["name"]) == (0, backup["name"])
        code, out, err = await asked(server, "download", "--output", str(tmp_path / "copy.db"))
        assert (code, backup["sha256"] in out, err) == (0, True, "")
        stored = tmp_path / "server" / "backups" / backup["name"]
        assert (tmp_path / "copy.db").read_bytes() == stored.read_bytes()
        assert (tmp_path / "copy.db").stat().st_mode & 0o077 == 0
        code, _, err = await asked(server, "download", "--output", str(tmp_path / "copy.db"))
        assert (code, "exists already" in err) == (1, True)
        code, out, _ = await asked(server, "delete", backup["name"], "--json")
        assert json.loads(out) == {"deleted": backup["name"]}
        code, out, _ = await asked(server, "list")
        assert (code, "There are no backups" in out) == (0, True)


async def test_a_backup_that_takes_long_is_waited_for_within_the_rate_limit(tmp_path: Path) -> None:
    async with serving(tmp_path, rate_limit_requests=8, rate_limit_window_seconds=4) as server:
        name = "metamorph-20250125.db"
        end = slow_backup(tmp_path / "backups" / name)
        asking = asyncio.create_task(asked(server, "verify", name))
        await asyncio.sleep(6)
        ended = asking.done()
        end()
        code, out, err = await asking
        assert (ended, code, "damaged" in out, err) == (False, 1, True, "")


async def test_a_download_goes_on_where_it_ended(tmp_path: Path) -> None:
    async with serving(tmp_path / "server") as server:
        backup = await made(server)
        whole = (tmp_path / "server" / "backups" / backup["name"]).read_bytes()
        partial = tmp_path / f"copy.db.{backup['sha256'][:16]}.part"
        partial.write_bytes(whole[:100_000])
        code, _, _ = await asked(server, "download", backup["name"], "-o", str(tmp_path / "copy.db"))
        assert (code, (tmp_path / "copy.db").read_bytes() == whole, partial.exists()) == (0, True, False)
        (tmp_path / "copy.db").unlink()
        partial.write_bytes(bytes(100_000))
        code, _, err = await asked(server, "download", backup["name"], "-o", str(tmp_path / "copy.db"))
        assert (code, "arrived damaged" in err, partial.exists()) == (1, True, False)


async def test_what_prevents_it_is_said_with_what_to_do(tmp_path: Path) -> None:
    async with serving(tmp_path / "server") as server:
        for arguments, environment, ended, expected in (
            (["create"], {"EMBLEM_JWT_SECRET": ""}, 1, "EMBLEM_JWT_SECRET is not set"),
            (["create"], {"EMBLEM_JWT_SECRET": "x" * 32}, 4, "set EMBLEM_JWT_SECRET as the server has it"),
            (["create", "--token", mint()], {}, 4, "the token must be an operator's"),
            (["verify"], {}, 1, "there is no good backup"),
            (["delete", "metamorph-20250125_120000.db"], {}, 1, "`metamorph backup list` lists them"),
        ):
            code, out, err = await asked(server, *arguments, **environment)
            assert (code, out, expected in err, "Traceback" in err) == (ended, "", True, False), err
    code, _, err = await asked(server, "list")
    assert (code, "is the server running?" in err) == (3, True)


async def test_a_restore_brings_back_what_was_there(tmp_path: Path) -> None:
    directory, environment = tmp_path / "server", {"DATABASE_PATH": str(tmp_path / "server" / "metamorph.db")}
    async with serving(directory) as server:
        kept = await server.caller().create_session(title="Kept")
        backup = await made(server)
        await server.caller().create_session(title="Lost")
        code, _, err = await run("backup", "restore", backup["name"], "--yes", **environment)
        assert (code, "is in use by another server" in err) == (1, True)
    code, _, err = await run("backup", "restore", backup["name"], typed="n\n", **environment)
    assert (code, "1 sessions" in err, "Aborted" in err) == (1, True, True)
    code, out, _ = await run("backup", "restore", backup["name"], "--yes", "--json", **environment)
    restored = json.loads(out)
    assert (code, restored["lost"]["sessions"]) == (0, 1)
    async with serving(directory) as server:
        sessions = await server.caller().sessions()
        assert [session.session_id for session in sessions] == [kept.session_id]
    # The one before is there as it was.
    (directory / "metamorph.db").unlink()
    Path(restored["aside"]).rename(directory / "metamorph.db")
    async with serving(directory) as server:
        assert len(await server.caller().sessions()) == 2


@pytest.mark.parametrize("damage", ["flipped", "cut", "text"])
async def test_a_damaged_backup_is_not_restored(tmp_path: Path, damage: str) -> None:
    directory, environment = tmp_path / "server", {"DATABASE_PATH": str(tmp_path / "server" / "metamorph.db")}
    async with serving(directory) as server:
        await server.caller().create_session(title="Kept")
        backup = await made(server)
        await server.caller().create_session(title="Kept too")
    file = directory / "backups" / backup["name"]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes({"flipped": content, "cut": content[:-4096], "text": b"Hello"}[damage])
    elsewhere = tmp_path / "elsewhere" / "metamorph.db"
    code, _, err = await run("backup", "restore", str(file), "--yes", "--to", str(elsewhere))
    assert (code, "is damaged" in err, elsewhere.exists()) == (1, True, False)
    code, _, err = await run("backup", "restore", backup["name"], "--yes", **environment)
    assert (code, "is damaged" in err) == (1, True)
    assert sorted(path.name for path in directory.glob("metamorph.db*")) == [
        "metamorph.db",
        "metamorph.db-check",
        "metamorph.db.lock",
    ]
    async with serving(directory) as server:
        assert len(await server.caller().sessions()) == 2


async def test_a_backup_is_restored_to_another_file(tmp_path: Path) -> None:
    async with serving(tmp_path / "server") as server:
        await server.caller().create_session(title="Kept")
        backup = await made(server)
    source = tmp_path / "server" / "backups" / backup["name"]
    # Without its manifest, as after a download.
    (tmp_path / "elsewhere").mkdir()
    copied = tmp_path / "elsewhere" / "copy.db"
    copied.write_bytes(source.read_bytes())
    code, out, _ = await run("backup", "restore", str(copied), "--yes", "--to", str(tmp_path / "new" / "metamorph.db"))
    assert (code, "The one before" in out) == (0, False)
    async with serving(tmp_path / "new") as server:
        assert len(await server.caller().sessions()) == 1


async def test_a_server_with_tls_is_reached_with_the_files_that_options_or_the_environment_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue()
    own, own_key = (str(path) for path in authority.issue("operator"))
    trusted = str(authority.certificate)
    tls = {"grpc_tls_cert": str(certificate), "grpc_tls_key": str(key), "grpc_tls_client_ca": trusted}
    async with serving(tmp_path / "server", **tls) as server:
        code, out, err = await asked(server, "list", "--ca", trusted, "--cert", own, "--key", own_key)
        assert (code, "There are no backups" in out, err) == (0, True, "")
        files = {"METAMORPH_CA": trusted, "METAMORPH_CERT": own, "METAMORPH_KEY": own_key}
        assert (await asked(server, "create", **files))[0] == 0
        code, _, err = await asked(server, "list", "--tls")
        assert (code, "name the authority" in err, err.count("\n")) == (3, True, 1)
        code, _, err = await asked(server, "list", "--ca", trusted, "--cert", own)
        assert (code, "METAMORPH_CERT and METAMORPH_KEY" in err, err.count("\n")) == (2, True, 1)
        code, _, err = await asked(server, "list", METAMORPH_TLS="perhaps")
        assert (code, "METAMORPH_TLS: " in err, err.count("\n")) == (2, True, 1)


async def test_a_directory_is_no_database_to_restore_to(tmp_path: Path) -> None:
    code, _, err = await run("backup", "restore", "anything.db", "--yes", "--to", str(tmp_path))
    assert (code, "is a directory" in err) == (2, True)


def days_ago(days: float) -> str:
    return name_at(int((time.time() - days * 86_400) * 1e6))


async def test_old_backups_are_deleted_by_the_retention_of_the_server(tmp_path: Path) -> None:
    async with serving(tmp_path / "server", backup_retention_days=3, backup_interval_hours=0) as server:
        backup = await made(server)
        directory = tmp_path / "server" / "backups"
        kept, old = days_ago(2), [days_ago(4), days_ago(40)]
        # Made by the guide's script.
        for name in (kept, *old):
            (directory / name).write_bytes(b"SQLite format 3\0")
        code, out, err = await asked(server, "prune", "--dry-run", "--json")
        assert (code, err) == (0, "")
        assert json.loads(out) == {"deleted": [], "expired": old}
        code, out, _ = await asked(server, "prune", "--dry-run")
        assert out.splitlines() == [f"{name} would be deleted." for name in old]
        assert len(list(directory.glob("*.db"))) == 4
        code, out, _ = await asked(server, "prune")
        assert (code, out.splitlines()) == (0, [f"{name} is deleted." for name in old])
        assert {path.name for path in directory.glob("*.db")} == {backup["name"], kept}
        code, out, _ = await asked(server, "prune", "--json")
        assert (code, json.loads(out)["deleted"]) == (0, [])


async def test_the_newest_good_backup_stays_however_old_it_is(tmp_path: Path) -> None:
    async with serving(tmp_path / "server", backup_retention_days=1e-6, backup_interval_hours=0) as server:
        good = await made(server)
        directory = tmp_path / "server" / "backups"
        old, future = days_ago(40), days_ago(-1)
        for name in (old, future):
            (directory / name).write_bytes(b"SQLite format 3\0")
        code, out, _ = await asked(server, "prune", "--json")
        assert (code, json.loads(out)["deleted"]) == (0, [old])
        code, out, _ = await asked(server, "prune")
        assert (code, "but the newest good one" in out) == (0, True)
        assert {path.name for path in directory.glob("*.db")} == {good["name"], future}
