"""A volume that is almost full, or full: growth is refused, all else works, and all is well again without a restart."""

import asyncio
import os
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1.message_pb2 import ContentBlock, ImageBlock
from metamorphd.errors import StorageFull
from metamorphd.housekeeping import Housekeeping
from metamorphd.store.messages import delete_message
from metamorphd.store.search.postings import WORDS_AT_ONCE
from metamorphd.store.search.query import phrases_of, search_messages
from metamorphd.store.sqlite.database import SqliteDatabase
from metamorphd.store.sqlite.space import Space

from tests.store.sqlite.conftest import MEGABYTES
from tests.support.caller import Caller, calling
from tests.support.media import FILES
from tests.support.processes import Service, serving_process
from tests.support.refusal import Refusal, refused
from tests.support.rows import ACME, CLOCK, new_session, stored_message
from tests.support.tokens import mint

IMAGE_BYTES = 2_000_000


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


async def store_images(caller: Caller, session_id: str) -> int:
    """Sends messages with an image each until one finds no room, and returns how many were stored."""
    stored = 0
    while stored < MEGABYTES:
        image = ImageBlock(data=FILES["image/png"] + os.urandom(IMAGE_BYTES), media_type="image/png")
        # Beside each other, so that none waits for another one's reply.
        call = caller.start(session_id, content=[ContentBlock(image=image)], parent_message_id="")
        try:
            await call.next()
        except grpc.aio.AioRpcError as error:
            refusal = Refusal(error)
            if refusal.reason != "BYTE_RATE_EXCEEDED":
                return stored
            assert refusal.retry is not None
            await asyncio.sleep(refusal.retry)
        else:
            call.call.cancel()
            stored += 1
    raise AssertionError("more was stored than the volume holds")


async def start_turn(caller: Caller) -> None:
    """Returns once a message in a new session is stored."""
    session = await caller.create_session()
    await caller.start(session.session_id).next()


async def test_one_vaults_images_stop_at_the_floor_and_what_is_erased_makes_room(volume: Path) -> None:
    # As by default, the floor is eight times the largest message.
    with serving_process(volume, STORAGE_FLOOR_BYTES=str(8 * IMAGE_BYTES)) as server:
        async with calling(server.target, mint()) as alice, calling(server.target, mint(vault_id="other")) as bob:
            # The second time all room is within the database, whose file does not shrink.
            for _ in range(2):
                hoard = await alice.create_session()
                await start_turn(bob)
                async with asyncio.timeout(20):
                    # What is free outside the database may first be in the log, which is emptied then.
                    while not await store_images(alice, hoard.session_id):  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
                async with asyncio.timeout(20):
                    # The log may have been emptied since, and has made room.
                    while (await health(server)).get("check") != "disk":
                        await store_images(alice, hoard.session_id)
                for caller in (alice, bob):
                    assert (await refused(caller.create_session())).reason == "STORAGE_FULL"
                size = (volume / "metamorph.db").stat().st_size
                await delete(alice, hoard.session_id)
                async with asyncio.timeout(20):
                    while (await health(server))["status"] != "ok":  # noqa: ASYNC110, housekeeping sets no event
                        await asyncio.sleep(0.1)
                await start_turn(bob)
                assert (volume / "metamorph.db").stat().st_size >= size


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
    space.reserve(room=0)
    assert (volume / "db-ballast").stat().st_blocks * 512 == MEGABYTES * 1024 * 1024 // 16
    fill(volume / "filler")
    assert space.release()
    assert not space.reserved
    space.reserve(room=0)
    assert not space.reserved
    (volume / "filler").unlink()
    space.reserve(room=0)
    assert space.reserved
    assert (volume / "db-ballast").stat().st_mode & 0o777 == 0o600


def test_the_ballast_makes_room_for_the_log_if_only_the_database_has_some(volume: Path) -> None:
    space = Space(volume / "db", floor_bytes=None)
    space.reserve(room=0)
    fill(volume / "filler", leave=500_000)
    space.reserve(room=1_000_000)
    assert space.reserved
    assert space.low(lambda: 16_000_000)
    space.reserve(room=16_000_000)
    assert not space.reserved
    assert not space.low(lambda: 16_000_000)
    # What is committed and will make the file grow takes space too.
    assert space.low(lambda: -2_000_000)
