"""A volume that is almost full, or full: growth is refused, all else works, and all is well again without a restart."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph.chat.v1 import chat_service_pb2 as pb
from metamorphd.errors import StorageFull
from metamorphd.housekeeping import Housekeeping
from metamorphd.store.messages import delete_message
from metamorphd.store.search.postings import WORDS_AT_ONCE
from metamorphd.store.search.query import phrases_of, search_messages
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.sqlite.space import Space

from tests.support.caller import Caller, calling
from tests.support.media import FILES
from tests.support.processes import Service, serving_process
from tests.support.refusal import refused
from tests.support.rows import ACME, CLOCK, new_session, stored_message
from tests.support.tokens import mint

MEGABYTES = 64


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """Yields a small volume of its own."""
    mounted = tmp_path / "volume"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(mounted)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a volume needs root")
    yield mounted
    subprocess.run(["umount", "-l", str(mounted)], check=True)


def fill(file: Path, *, leave: int = 0) -> None:
    """Writes a file until `leave` bytes are left on its volume."""
    volume = os.statvfs(file.parent)
    with file.open("wb") as out:
        os.posix_fallocate(out.fileno(), 0, volume.f_bavail * volume.f_frsize - leave)


async def health(server: Service) -> Any:
    async with httpx.AsyncClient() as http:
        return (await http.get(f"http://127.0.0.1:{server.http_port}/health")).json()


async def delete(caller: Caller, session_id: str) -> None:
    await caller.chat.DeleteSession(pb.DeleteSessionRequest(session_id=session_id), metadata=caller.metadata)


async def test_a_full_volume_refuses_growth_only_and_recovers(volume: Path) -> None:
    with serving_process(volume, STORAGE_FLOOR_BYTES="") as server:
        async with calling(server.target, mint()) as alice, calling(server.target, mint(vault_id="other")) as bob:
            kept, first, second = [await alice.create_session(title=title) for title in ("kept", "first", "second")]
            await alice.send(kept.session_id)
            fill(volume / "filler")
            for call in (
                bob.create_session(),
                alice.start(kept.session_id).rest(),
                alice.upload(FILES["image/png"]),
                alice.chat.UpdateSession(
                    pb.UpdateSessionRequest(session=first, update_mask=FieldMask(paths=["title"])),
                    metadata=alice.metadata,
                ),
            ):
                refusal = await refused(call)
                assert (refusal.code.name, refusal.reason) == ("RESOURCE_EXHAUSTED", "STORAGE_FULL")
                assert refusal.retry == 30
            assert (await health(server))["check"] == "disk"
            assert len(await alice.messages(kept.session_id)) == 2
            await delete(alice, first.session_id)
            server.process.kill()
            server.process.wait()
    with serving_process(volume, STORAGE_FLOOR_BYTES="") as server:
        async with calling(server.target, mint()) as alice:
            assert len(await alice.messages(kept.session_id)) == 2
            await delete(alice, second.session_id)
            assert [session.title for session in await alice.sessions()] == ["kept"]
            assert (await refused(alice.create_session())).reason == "STORAGE_FULL"
            (volume / "filler").unlink()
            await alice.send(kept.session_id)
            assert (await health(server))["status"] == "ok"


async def test_indexing_waits_for_space_and_deletion_does_not(volume: Path) -> None:
    async with SqliteDatabase(path=volume / "db", synchronous="FULL", floor_bytes=None) as database:
        keeping = Housekeeping(database=database, clock=CLOCK, event_retention_hours=1, request_retention_days=7)
        session = await new_session(database)
        text = " ".join(f"word{number}" for number in range(2 * WORDS_AT_ONCE))
        kept, deleted = [await stored_message(database, session.session_id, text) for _ in range(2)]

        async def found(word: str) -> list[str]:
            page = await database.read(
                search_messages, ACME, phrases=phrases_of(word), session_id=None, after=None, page_size=10
            )
            return [match.message_id for match in page.items]

        last = text.split()[-1]
        fill(volume / "filler")
        with pytest.raises(StorageFull):
            await keeping.sweep()
        await database.write(delete_message, ACME, message_id=deleted.message_id, now=CLOCK.now())
        assert (await found("word1"), await found(last)) == ([kept.message_id], [])
        (volume / "filler").unlink()
        await keeping.sweep()
        assert await found(last) == [kept.message_id]


def test_the_ballast_is_released_once_and_made_again_when_there_is_space(volume: Path) -> None:
    space = Space(volume / "db", floor_bytes=None)
    space.reserve(reusable_bytes=0)
    assert (volume / "db-ballast").stat().st_blocks * 512 == MEGABYTES * 1024 * 1024 // 16
    fill(volume / "filler")
    assert space.release()
    assert not space.reserved
    space.reserve(reusable_bytes=0)
    assert not space.reserved
    (volume / "filler").unlink()
    space.reserve(reusable_bytes=0)
    assert space.reserved
    assert (volume / "db-ballast").stat().st_mode & 0o777 == 0o600
