"""`metamorph keys`, run as a process."""

import json
from pathlib import Path

import pytest

from tests.support.command import run
from tests.support.secrets import put, value
from tests.support.serving import Serving, serving
from tests.support.tokens import SECRET, mint

OLD, NEW, LOST = "o" * 32, "n" * 32, "l" * 32


async def asked(server: Serving, *arguments: str, **environment: str) -> tuple[int | None, str, str]:
    return await run(
        "keys", *arguments, METAMORPH_TARGET=server.target, **({"EMBLEM_JWT_SECRET": SECRET} | environment)
    )


async def test_a_file_is_made_once_and_rotated_by_the_server(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    code, out, err = await run("keys", "create", str(path))
    assert (code, f"{path} has a key" in out, err) == (0, True, "")
    whole = path.read_text()
    code, out, err = await run("keys", "create", str(path))
    assert (code, out, "exists already" in err, path.read_text()) == (1, "", True, whole)
    code, _, err = await run("keys", "create", str(tmp_path / "missing" / "keys"))
    assert (code, "cannot be made" in err, "Traceback" in err) == (1, True, False)
    async with serving(tmp_path / "server", token_encryption_key_file=path) as server:
        caller = server.caller()
        await put(caller)
        code, out, _ = await asked(server, "status", "--json")
        before = json.loads(out)
        assert (code, before["left"], before["unavailable"]) == (0, 0, 0)
        code, out, err = await asked(server, "rotate", "--json")
        after = json.loads(out)
        assert (code, after["left"], after["key_id"] != before["key_id"], err) == (0, 0, True, "")
        assert await value(caller) == b"value"
        code, out, _ = await asked(server, "rotate")
        assert (code, "It wraps every data key" in out) == (0, True)
        assert len(path.read_text().splitlines()) == 3
        code, _, _ = await asked(server, "rotate", "--no-wait")
        assert code == 0
    assert not any(line.split()[1] in out for line in path.read_text().splitlines())


async def test_a_rotation_that_cannot_end_says_why(tmp_path: Path) -> None:
    async with serving(tmp_path, token_encryption_key=LOST) as server:
        await put(server.caller(vault="lost"))
    async with serving(tmp_path, token_encryption_key=OLD) as server:
        await put(server.caller())
    async with serving(tmp_path, token_encryption_key=NEW, token_encryption_key_previous=OLD) as server:
        code, out, _ = await asked(server, "rotate")
        assert (code, "1 of them need a key that the server does not have" in out) == (1, True)
        code, out, _ = await asked(server, "status")
        assert (code, "1 data keys are wrapped by other keys" in out) == (0, True)
        assert await value(server.caller()) == b"value"


@pytest.mark.parametrize("command", ["rotate", "status"])
async def test_what_prevents_it_is_said_with_what_to_do(tmp_path: Path, command: str) -> None:
    async with serving(tmp_path) as server:
        for arguments, ended, expected in (
            ([], 1, "its operator must set TOKEN_ENCRYPTION_KEY"),
            (["--token", mint()], 4, "the token must be an operator's"),
        ):
            code, out, err = await asked(server, command, *arguments)
            assert (code, out, expected in err, "Traceback" in err) == (ended, "", True, False)
