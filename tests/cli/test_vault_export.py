"""`metamorph vault export`, run as a process."""

import asyncio
import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from pyrage import decrypt, x25519

from tests.support.command import run
from tests.support.exports import exported, of_kind
from tests.support.proxy import CuttingProxy
from tests.support.secrets import put
from tests.support.serving import Serving
from tests.support.tokens import mint


@pytest.fixture
def overrides() -> dict[str, Any]:
    return {"token_encryption_key": "k" * 32}


def reach(running: Serving) -> list[str]:
    return ["vault", "export", "--target", running.target, "--token", mint()]


async def test_an_export_is_written_verified_and_private(running: Serving, tmp_path: Path) -> None:
    alice = running.caller()
    await alice.create_session(title="kept")
    await put(alice, value=b"value")
    identity = x25519.Identity.generate()
    file = tmp_path / "vault.ndjson"
    code, out, err = await run(*reach(running), str(file), "--json", "--secrets-for", str(identity.to_public()))
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert answer["counts"] == {"vault": 1, "session": 1, "secret": 1, "secret_version": 1}
    assert (answer["file"], file.stat().st_mode & 0o777) == (str(file), 0o600)
    (version,) = of_kind(file.read_bytes(), "secret_version")
    assert decrypt(b64decode(version["sealed_value"]), [identity]) == b"value"
    code, _, err = await run(*reach(running), str(file))
    assert (code, "exists already" in err) == (1, True)


async def test_an_export_into_no_directory_is_one_line(running: Serving, tmp_path: Path) -> None:
    file = tmp_path / "none" / "vault.ndjson"
    code, out, err = await run("vault", "export", str(file), "--target", running.target, "--token", mint())
    assert (code, out) == (1, "")
    assert err == f"Error: Could not open file '{file}.part': No such file or directory\n"


async def test_an_interrupted_export_goes_on(running: Serving, tmp_path: Path) -> None:
    alice = running.caller()
    await alice.create_session(title="kept")
    whole = await exported(alice)
    file, part = tmp_path / "vault.ndjson", tmp_path / "vault.ndjson.part"
    code, _, err = await run(*reach(running), str(file), "--resume")
    assert (code, "leave out --resume" in err) == (1, True)
    part.write_bytes(whole[:-50])
    code, out, _ = await run(*reach(running), str(file), "--resume")
    assert (code, file.read_bytes(), part.exists()) == (0, whole, False)
    assert "1 session" in out


async def test_an_export_that_the_server_no_longer_has_begins_anew(running: Serving, tmp_path: Path) -> None:
    file = tmp_path / "vault.ndjson"
    (tmp_path / "vault.ndjson.part").write_text('{"export_id": "exp_none"}\n')
    code, out, err = await run(*reach(running), str(file), "--resume")
    assert (code, out, "EXPORT_NOT_FOUND" in err, "leave out --resume" in err) == (1, "", True, True)


async def test_an_export_survives_a_lost_connection(running: Serving, tmp_path: Path) -> None:
    alice = running.caller()
    for number in range(60):
        await alice.create_session(title=f"number {number}", system_prompt="x" * 90_000)
    file, part = tmp_path / "vault.ndjson", tmp_path / "vault.ndjson.part"
    async with CuttingProxy(int(running.target.rpartition(":")[2])) as proxy:
        writing = asyncio.ensure_future(run("vault", "export", "--target", proxy.target, "--token", mint(), str(file)))
        while not part.exists() or not part.stat().st_size:  # noqa: ASYNC110, another process writes it
            await asyncio.sleep(0.001)
        proxy.cut()
        code, _, err = await writing
    assert (code, err) == (0, "")
    assert len(of_kind(file.read_bytes(), "session")) == 60


async def test_a_damaged_export_is_not_kept(running: Serving, tmp_path: Path) -> None:
    whole = await exported(running.caller())
    file, part = tmp_path / "vault.ndjson", tmp_path / "vault.ndjson.part"
    part.write_bytes(whole[:-20].replace(b'"kind":"vault"', b'"kind":"vaulT"'))
    code, _, err = await run(*reach(running), str(file), "--resume")
    assert (code, "arrived damaged" in err) == (1, True)
    assert (file.exists(), part.exists()) == (False, False)
