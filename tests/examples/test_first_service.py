"""The service of docs/first-service.md, beside a live server."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from metamorph_client.chat.v1.chat_service_pb2 import ListSessionsRequest

from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.processes import SOURCES
from tests.support.serving import Serving, serving
from tests.support.tokens import SECRET

KEY = "7b0c2f0e-3d53-4b7e-9d7c-5f4e7a7d2f11"


@asynccontextmanager
async def service(target: str) -> AsyncIterator[httpx.AsyncClient]:
    """Yields a client of the service, which calls the server at `target`."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "tickets:app", "--port", str(port), "--log-level", "warning"),
        cwd=ROOT / "examples" / "first_service",
        env={**os.environ, "METAMORPH_TARGET": target, "EMBLEM_JWT_SECRET": SECRET, "PYTHONPATH": SOURCES},
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"x-customer": "acme"}) as client:
            await listening(client, process)
            yield client
    finally:
        process.terminate()
        await process.wait()


async def listening(client: httpx.AsyncClient, process: asyncio.subprocess.Process) -> None:
    while process.returncode is None:
        try:
            await client.get("/")
        except httpx.ConnectError:
            await asyncio.sleep(0.05)
        else:
            return
    raise AssertionError(f"the service has ended with {process.returncode}")


@pytest.fixture
async def tickets(running: Serving) -> AsyncIterator[httpx.AsyncClient]:
    async with service(running.target) as client:
        yield client


async def test_an_answer_streams_and_is_in_the_conversation(tickets: httpx.AsyncClient) -> None:
    answer = await tickets.post("/tickets/17", content="Where is my order?")
    assert answer.status_code == 200
    conversation = (await tickets.get("/tickets/17")).json()
    assert conversation == [
        {"from": "customer", "text": "Where is my order?"},
        {"from": "assistant", "text": answer.text},
    ]
    assert "Where is my order?" in answer.text


async def test_a_conversation_of_several_pages_is_read_to_its_end(tickets: httpx.AsyncClient) -> None:
    questions = [f"Question {number}" for number in range(26)]
    for question in questions:
        await tickets.post("/tickets/17", content=question)
    conversation = (await tickets.get("/tickets/17")).json()
    assert [entry["text"] for entry in conversation if entry["from"] == "customer"] == questions
    assert len(conversation) == 52


async def test_a_repeated_key_gets_the_answer_of_the_first_time(tickets: httpx.AsyncClient) -> None:
    first, second = [
        await tickets.post("/tickets/17", content="Once", headers={"idempotency-key": KEY}) for _ in range(2)
    ]
    assert first.text == second.text
    assert len((await tickets.get("/tickets/17")).json()) == 2


async def test_two_first_questions_make_one_session(tickets: httpx.AsyncClient, running: Serving) -> None:
    await asyncio.gather(*(tickets.post("/tickets/17", content="First") for _ in range(4)))
    caller = running.caller()
    assert len((await caller.chat.ListSessions(ListSessionsRequest(), metadata=caller.metadata)).sessions) == 1


async def test_customers_do_not_see_each_other(tickets: httpx.AsyncClient) -> None:
    await tickets.post("/tickets/17", content="Mine")
    assert (await tickets.get("/tickets/17", headers={"x-customer": "umbrella"})).json() == []


async def test_a_refusal_is_a_status_of_http(tickets: httpx.AsyncClient) -> None:
    refused = await tickets.post("/tickets/17", content="")
    assert (refused.status_code, refused.json()) == (400, {"error": "REQUEST_INVALID"})


async def test_a_limit_says_when_to_come_back(tmp_path: Path) -> None:
    async with serving(tmp_path, rate_limit_requests=3) as limited, service(limited.target) as tickets:
        answers = [await tickets.post("/tickets/17", content="Hello") for _ in range(3)]
    assert answers[0].status_code == 200
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) > 0
