"""Large files are made durable in parts, so that nothing else waits for gigabytes of them."""

import os
from collections import Counter
from pathlib import Path

import pytest
from metamorphd import durable
from metamorphd.durable import Appending

from tests.support.exports import exported, import_
from tests.support.serving import Serving


def test_a_file_is_durable_every_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    monkeypatch.setattr(durable, "SYNC_BYTES", 10)
    with open(tmp_path / "file", "wb", buffering=0) as file:
        appending = Appending(file)
        for piece in (b"four", b"four", b"four", b"", b"twelve bytes", b"four"):
            appending.append(piece)
    assert synced == [12, 24]
    assert (tmp_path / "file").read_bytes() == b"fourfourfourtwelve bytesfour"


async def test_exports_and_what_is_to_be_imported_are_durable_in_parts(
    running: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = Counter[str]()
    monkeypatch.setattr(
        os, "fdatasync", lambda descriptor: synced.update([Path(f"/proc/self/fd/{descriptor}").readlink().name[:3]])
    )
    monkeypatch.setattr(durable, "SYNC_BYTES", 100)
    alice, admin = running.caller(), running.caller(permissions=["admin"])
    await alice.create_session(title="a" * 100)
    await import_(running.caller(vault="other", permissions=["admin"]), await exported(admin))
    assert synced.keys() == {"exp", "imp"}
