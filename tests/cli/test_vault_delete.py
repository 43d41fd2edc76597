"""`metamorph vault delete`, run as a process."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from metamorphd.store.vault_erasure import find_vault_to_erase

from tests.support.command import METAMORPH, run
from tests.support.leaving import fill, release
from tests.support.operating import operator_of
from tests.support.refusal import refused
from tests.support.serving import Serving, serving
from tests.support.tokens import mint

OVERRIDES = {"token_encryption_key": "k" * 32}


def reach(running: Serving, vault: str = "acme") -> list[str]:
    return ["vault", "delete", vault, "--target", running.target, "--token", mint()]


async def test_a_vault_is_deleted_once_somebody_has_confirmed_it(tmp_path: Path) -> None:
    async with serving(tmp_path, **OVERRIDES) as running:
        alice = running.caller()
        await fill(alice)
        code, out, err = await run(*reach(running), typed="n\n")
        assert (code, out, "Delete acme?" in err) == (1, "", True)
        code, out, _ = await run(*reach(running), typed="")
        assert (code, out) == (1, "")
        assert len(await alice.sessions()) == 2
        code, out, _ = await run(*reach(running), typed="y\n")
        assert (code, out.splitlines()) == (
            0,
            ["acme is deleted: nobody can read it any more.", "No backup has it.", "acme is erased."],
        )
        assert (await refused(alice.sessions())).reason == "VAULT_DELETED"
        code, out, _ = await run(*reach(running), "--yes")
        assert (code, out.splitlines()) == (0, ["acme is deleted already.", "acme is erased."])
        await release(operator_of(running))
        assert await alice.sessions() == []


async def test_json_has_the_answer_and_the_operation_at_its_end(tmp_path: Path) -> None:
    async with serving(tmp_path, **OVERRIDES) as running:
        await fill(running.caller())
        code, _, err = await run(*reach(running), "--json")
        assert (code, "--json does not ask; add --yes" in err) == (2, True)
        code, out, err = await run(*reach(running), "--json", "--yes")
        answer = json.loads(out)
        assert (code, err, answer["vault_id"], answer["operation"]["done"]) == (0, "", "acme", True)
        assert "result" in answer["operation"]
        assert (answer["delete_time"].endswith("Z"), answer["backup_count"]) == (True, 0)


async def test_what_would_delete_another_vault_deletes_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path, **OVERRIDES) as running:
        alice = running.caller()
        await alice.create_session()
        code, out, err = await run(*reach(running, "team-b"), "--yes")
        assert (code, out, "your vault is acme, not team-b; nothing was deleted" in err) == (1, "", True)
        weak = ["vault", "delete", "acme", "--yes", "--target", running.target, "--token", mint(permissions=["delete"])]
        code, out, err = await run(*weak)
        assert (code, out, "admin" in err) == (4, "", True)
        assert len(await alice.sessions()) == 1
    code, _, err = await run(*reach(running), "--yes")
    assert (code, "is the server running?" in err) == (3, True)


async def test_the_server_goes_on_when_the_command_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, **OVERRIDES) as running:
        await fill(running.caller())
        database, hold = running.server._database, asyncio.Event()
        read_system = database.read_system

        async def read_later(called: Any, *arguments: Any, **named: Any) -> Any:
            if called is find_vault_to_erase:
                await hold.wait()
            return await read_system(called, *arguments, **named)

        monkeypatch.setattr(database, "read_system", read_later)
        process = await asyncio.create_subprocess_exec(
            *METAMORPH, *reach(running), "--yes", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert (await process.stdout.readline()).startswith(b"acme is deleted")
        await asyncio.sleep(1)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert (process.returncode, b"The server goes on erasing acme, as op_" in err) == (1, True)
        hold.set()
        code, out, _ = await run(*reach(running), "--yes")
        assert (code, out.splitlines()) == (0, ["acme is deleted already.", "acme is erased."])
