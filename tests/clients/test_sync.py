"""The Python client for programs without asyncio."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from metamorph_client import MetamorphError, SyncMetamorphClient
from metamorph_client.chat.v1.turn_pb2 import TURN_STATUS_COMPLETED
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest

from tests.support.caller import upload_requests
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.media import FILES
from tests.support.serving import Serving, asking, replies_from
from tests.support.tokens import mint


@pytest.fixture
def overrides(api: FakeMessagesApi) -> dict[str, Any]:
    return replies_from(api)


async def test_several_threads_share_a_client(running: Serving) -> None:
    def converse(client: SyncMetamorphClient, number: int) -> str:
        session = client.create_session(title=f"{number}")
        reply = client.start(session.session_id, f"Hello {number}")
        text = "".join(reply.text())
        assert reply.final().status == TURN_STATUS_COMPLETED
        return text

    def work() -> list[str]:
        with SyncMetamorphClient(running.target, token=mint()) as client, ThreadPoolExecutor(8) as threads:
            said = list(threads.map(lambda number: converse(client, number), range(16)))
            assert len(list(client.list_sessions(page_size=5))) == 16
        return said

    assert await asyncio.to_thread(work) == [f"You said: Hello {number}" for number in range(16)]


async def test_stubs_take_and_return_streams(running: Serving) -> None:
    def work() -> None:
        with SyncMetamorphClient(running.target, token=mint()) as client:
            uploaded = client.chat.UploadAttachment(iter(upload_requests(FILES["image/png"])))
            assert b"".join(client.download(uploaded.attachment.attachment_id)) == FILES["image/png"]

    await asyncio.to_thread(work)


async def test_stubs_say_what_they_do_not_have(running: Serving) -> None:
    def work() -> None:
        with SyncMetamorphClient(running.target, token=mint()) as client:
            with pytest.raises(NotImplementedError, match="with_call is not in SyncMetamorphClient"):
                client.vault.WhoAmI.with_call(WhoAmIRequest())
            with pytest.raises(NotImplementedError, match="call the method itself"):
                client.chat.UploadAttachment.future(iter(upload_requests(FILES["image/png"])))

    await asyncio.to_thread(work)


async def test_closing_ends_the_thread_and_what_other_threads_wait_for(tmp_path: Path) -> None:
    waiting = threading.Event()

    def read(client: SyncMetamorphClient, session_id: str) -> MetamorphError:
        events = client.send(session_id, "Hello")
        assert next(events).HasField("turn_started")
        waiting.set()
        with pytest.raises(MetamorphError) as ended:
            list(events)
        return ended.value

    def work(target: str) -> MetamorphError:
        client = SyncMetamorphClient(target, token=mint())
        session = client.create_session()
        with ThreadPoolExecutor() as threads:
            reading = threads.submit(read, client, session.session_id)
            assert waiting.wait(10)
            client.close()
            error = reading.result(timeout=10)
        assert "metamorph-client" not in {thread.name for thread in threading.enumerate()}
        client.close()
        with pytest.raises(MetamorphError, match="closed"):
            client.vault.WhoAmI(WhoAmIRequest())
        return error

    async with (
        FakeMessagesApi(Reply(("One ", "two"), hold=asyncio.Event())) as api,
        asking(api, tmp_path) as running,
    ):
        error = await asyncio.to_thread(work, running.target)
    assert error.code.name == "CANCELLED"


async def test_a_loop_that_is_left_does_not_stop_its_turn(running: Serving) -> None:
    def work() -> str:
        with SyncMetamorphClient(running.target, token=mint()) as client:
            session = client.create_session()
            events = client.send(session.session_id, "Hello")
            turn_id = next(events).turn_id
            events.close()
            return list(client.follow(turn_id))[-1].turn_finished.message.content[0].text.text

    assert await asyncio.to_thread(work) == "You said: Hello"
