"""A full disk under a running server."""

import asyncio
import uuid
from pathlib import Path

from metamorph_client.chat.v1 import turn_pb2
from metamorphd.store.sqlite.database import SqliteDatabase

from tests.store.sqlite.faulty_vfs import FaultyVFS
from tests.support.caller import calling, text_of
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.processes import serving_process
from tests.support.refusal import refused
from tests.support.serving import asking, serving
from tests.support.turns import WORDS, deltas, followed, get_session


async def test_a_turn_outlives_a_full_disk(tmp_path: Path) -> None:
    vfs = FaultyVFS(uuid.uuid4().hex)
    database = SqliteDatabase(path=tmp_path / "full.db", synchronous="FULL", vfs=vfs.name)
    async with FakeMessagesApi() as api, asking(api, tmp_path, database=database) as running:
        hold = asyncio.Event()
        api.default = Reply(("before ", "during"), hold=hold)
        alice = running.caller()
        session = await alice.create_session()
        call = alice.start(session.session_id)
        events = [await call.next(), await call.next()]
        vfs.log_limit = 0
        refusal = await refused(alice.create_session())
        assert (refusal.code.name, refusal.reason) == ("RESOURCE_EXHAUSTED", "STORAGE_FULL")
        hold.set()
        await asyncio.sleep(0.3)
        vfs.log_limit = None
        events += await call.rest()
        assert deltas(events) == text_of(events[-1].turn_finished.message) == "before during"


async def test_a_full_disk_at_the_start_does_not_prevent_reads(tmp_path: Path) -> None:
    async with FakeMessagesApi(Reply(WORDS, delay=0.01)) as api:
        upstream = {"ANTHROPIC_API_KEY": "sk-test", "ANTHROPIC_BASE_URL": api.base_url}
        with serving_process(tmp_path, **upstream) as server:
            async with calling(server.target) as alice:
                session = await alice.create_session()
                seen = await alice.start(session.session_id).next()
                server.process.kill()
    vfs = FaultyVFS(uuid.uuid4().hex)
    database = SqliteDatabase(path=tmp_path / "metamorph.db", synchronous="FULL", vfs=vfs.name)
    vfs.log_limit = 0
    async with serving(tmp_path, database=database) as running:
        alice = running.caller()
        assert (await get_session(alice, session.session_id)).message_count == 1
        vfs.log_limit = None
        events = await followed(alice, seen.turn_id)
        assert events[0] == seen
        assert events[-1].turn_finished.status == turn_pb2.TURN_STATUS_INTERRUPTED
