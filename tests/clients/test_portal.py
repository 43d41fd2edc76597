"""The thread behind the Python client without asyncio: nothing waits for it that it waits for itself."""

import asyncio
import gc
import os
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from metamorph_client import MetamorphError, SyncMetamorphClient
from metamorph_client.chat.v1.chat_service_pb2 import ListSessionsRequest

from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.serving import Serving, replies_from
from tests.support.tokens import mint

CONNECTED = """
import os, sys
from metamorph_client import SyncMetamorphClient
target, token = os.environ["METAMORPH_TARGET"], os.environ["METAMORPH_TOKEN"]
client = SyncMetamorphClient(target, token=token)
session = client.create_session()
"""


@pytest.fixture
def overrides(api: FakeMessagesApi) -> dict[str, Any]:
    return replies_from(api)


async def output_of(program: str, running: Serving) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CONNECTED + textwrap.dedent(program),
        env={**os.environ, "METAMORPH_TARGET": running.target, "METAMORPH_TOKEN": mint()},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_a_program_ends_though_a_stream_is_open(running: Serving) -> None:
    program = """
        events = client.send(session.session_id, "Hello")
        print(next(events).sequence)
    """
    assert await output_of(program, running) == "1\n"


async def test_a_program_ends_though_a_token_function_blocks(running: Serving) -> None:
    program = """
        import time
        with SyncMetamorphClient(target, token=lambda: time.sleep(60), timeout=0.2) as other:
            try:
                other.start(session.session_id, "Hello")
            except Exception as exc:
                print(exc.code.name)
    """
    assert await output_of(program, running) == "DEADLINE_EXCEEDED\n"


async def test_streams_that_are_garbage_are_collected_on_any_thread(running: Serving) -> None:
    class Job:
        """Is in a cycle with its list, so that only the collector ends that."""

        def __init__(self, client: SyncMetamorphClient) -> None:
            self.me = self
            self.sessions = client.list_sessions()
            next(self.sessions)

    async def collect() -> int:
        return gc.collect()

    def work() -> None:
        with SyncMetamorphClient(running.target, token=mint()) as client:
            client.create_session()
            Job(client)
            assert client.portal.run(collect())
            assert len(client.chat.ListSessions(ListSessionsRequest()).sessions) == 1

    async with asyncio.timeout(10):
        await asyncio.to_thread(work)


async def test_a_process_that_was_forked_says_that_it_needs_a_client_of_its_own(running: Serving) -> None:
    program = """
        child = os.fork()
        if not child:
            for attempt in (client.create_session, lambda: SyncMetamorphClient(target)):
                try:
                    attempt()
                except RuntimeError as error:
                    print(str(error).partition(":")[0])
            client.close()
            sys.stdout.flush()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(len(list(client.list_sessions())))
    """
    assert await output_of(program, running) == (
        "this client was made before the process was forked\nthis process was forked from one that had a client\n1\n"
    )


async def test_a_client_may_be_closed_where_it_says_that_it_tries_again() -> None:
    def work() -> MetamorphError:
        client = SyncMetamorphClient("127.0.0.1:1", on_retry=lambda _: client.close())
        with pytest.raises(MetamorphError) as refused:
            client.start("ses_1", "Hello")
        return refused.value

    async with asyncio.timeout(10):
        error = await asyncio.to_thread(work)
    assert error.code.name == "CANCELLED"


async def test_pages_and_tokens_do_not_wait_for_each_others_threads(running: Serving) -> None:
    together = threading.Barrier(40)

    def list_all(client: SyncMetamorphClient) -> int:
        together.wait(10)
        return len(list(client.pages(client.chat.ListSessions, ListSessionsRequest())))

    def work() -> None:
        with SyncMetamorphClient(running.target, token=mint) as client, ThreadPoolExecutor(40) as threads:
            client.create_session()
            assert [*threads.map(list_all, [client] * 40)] == [1] * 40

    async with asyncio.timeout(20):
        await asyncio.to_thread(work)


async def test_a_tool_that_would_wait_for_its_own_thread_is_refused(running: Serving) -> None:
    def work() -> None:
        with SyncMetamorphClient(running.target, token=mint()) as client:

            async def waits() -> None:
                client.create_session()

            with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"):
                client.portal.run(waits())

    async with asyncio.timeout(10):
        await asyncio.to_thread(work)
