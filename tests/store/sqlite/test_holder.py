"""A database that another program has locked: who it is, and what to do."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from metamorph_client.admin.v1.admin_service_pb2 import FINDING_STATUS_FAILED, GetServerInfoRequest
from metamorphd.errors import StartupRefused
from metamorphd.store.sqlite import writer
from metamorphd.store.sqlite.holder import holder_of

from tests.support.refusal import refused
from tests.support.serving import serving

PROGRAM = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA locking_mode = " + sys.argv[2])
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
input()
"""


@contextmanager
def another_program(path: Path, *, mode: str = "NORMAL") -> Iterator[int]:
    """Holds the lock of writing in another process, and yields its number."""
    command = [sys.executable, "-c", PROGRAM, str(path), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        try:
            yield process.pid
        finally:
            process.kill()


async def test_the_program_that_keeps_a_server_from_writing_is_named_with_the_cure(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PROOF_SECONDS", 0.0)
    async with serving(tmp_path) as server:
        operator = server.caller(operator=True)
        with another_program(tmp_path / "metamorph.db") as number:
            info = await operator.admin.GetServerInfo(GetServerInfoRequest(), metadata=operator.metadata)
            (found,) = [each for each in info.findings if each.name == "database"]
            assert (found.status, f"process {number}" in found.what) == (FINDING_STATUS_FAILED, True)
            assert "end that program" in found.remedy
            async with httpx.AsyncClient() as http:
                assert (await http.get(f"{server.http}/health", timeout=10)).json()["check"] == "write"
            refusal = await refused(operator.create_session())
            assert refusal.reason == "STORE_BUSY"
        await asyncio.sleep(0.1)
        await operator.create_session()
        info = await operator.admin.GetServerInfo(GetServerInfoRequest(), metadata=operator.metadata)
        assert not [each for each in info.findings if each.status == FINDING_STATUS_FAILED]
    logged = capfd.readouterr().out
    assert "because another program has locked it" in logged
    # As text or as JSON, whichever the process logs.
    assert re.search(rf"""locked_by['"]?[=:]['"]process {number}\b""", logged)
    assert re.search(r"""remedy['"]?[=:]['"]end that program""", logged)


async def test_a_server_does_not_start_while_another_program_holds_the_database(tmp_path: Path) -> None:
    async with serving(tmp_path):
        pass
    with another_program(tmp_path / "metamorph.db", mode="EXCLUSIVE") as number:
        with pytest.raises(StartupRefused, match="is locked by") as refusal:
            async with serving(tmp_path):
                pass
        assert f"process {number}" in str(refusal.value)
    async with serving(tmp_path):
        pass


async def test_the_servers_own_locks_do_not_count(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await asyncio.gather(*(server.caller().create_session() for _ in range(20)))
        assert holder_of(tmp_path / "metamorph.db") is None
    assert holder_of(tmp_path / "none.db") is None
