"""The recipes that stream replies to a browser, all three driven by the same requests."""

import asyncio
import json
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from metamorph_client.chat.v1.chat_service_pb2 import GetTurnRequest
from metamorph_client.chat.v1.message_pb2 import ROLE_USER
from metamorph_client.chat.v1.turn_pb2 import TURN_STATUS_CANCELLED, TURN_STATUS_RUNNING

from tests.examples.running import BROWSER, uvicorn, web
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.ports import free_port
from tests.support.programs import require
from tests.support.proxy import CuttingProxy
from tests.support.serving import Serving, asking
from tests.support.tokens import mint

WORDS = tuple(f"word {number} " for number in range(8))


def fastapi(_: Path) -> Callable[[int], list[str]]:
    return lambda port: uvicorn(BROWSER / "fastapi", "main:app", port)


def express(_: Path) -> Callable[[int], list[str]]:
    recipe = BROWSER / "express"
    hint = "install Node 20, then `make tools`"
    npm = require("npm", hint=hint, installed=recipe / "node_modules")
    subprocess.run([npm, "run", "--silent", "build"], cwd=recipe, check=True)
    return lambda _: [require("node", hint=hint), str(recipe / "main.js")]


def nethttp(scratch: Path) -> Callable[[int], list[str]]:
    go = require("go", hint="install Go")
    subprocess.run([go, "build", "-o", str(scratch / "recipe"), "."], cwd=BROWSER / "nethttp", check=True)
    return lambda _: [str(scratch / "recipe")]


@pytest.fixture(scope="module", params=[fastapi, express, nethttp], ids=lambda build: build.__name__)
def command(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[str]]:
    """Returns the command of each recipe in turn, for a port. Express and Go are compiled first."""
    built: Callable[[int], list[str]] = request.param(tmp_path_factory.mktemp("built"))
    return built


@dataclass
class App:
    """A recipe, the proxy between it and the server, the server, and the model."""

    http: httpx.AsyncClient
    proxy: CuttingProxy
    server: Serving
    api: FakeMessagesApi

    async def ask(self, text: str = "Hello", **more: str | None) -> str:
        """Returns the turn of a new message."""
        response = await self.http.post("/replies", json={"text": text, **more})
        assert response.status_code == 201, response.text
        return str(response.json()["turn_id"])

    async def status(self, turn_id: str) -> int:
        alice = self.server.caller()
        return (await alice.chat.GetTurn(GetTurnRequest(turn_id=turn_id), metadata=alice.metadata)).turn.status

    async def events(
        self, turn_id: str, *, last: str = "", until: Callable[[dict[str, Any]], bool] = lambda _: False
    ) -> list[tuple[str, dict[str, Any]]]:
        """Returns the IDs and events of a turn, to the end of its stream or to one at which it is left."""
        found: list[tuple[str, dict[str, Any]]] = []
        headers = {"last-event-id": last} if last else {}
        async with self.http.stream("GET", f"/replies/{turn_id}", headers=headers) as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            fields: dict[str, str] = {}
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                fields |= {name: value}
                # An empty line ends an event.
                if not line and "data" in fields:
                    found.append((fields["id"], json.loads(fields["data"])))
                    fields.clear()
                    if until(found[-1][1]):
                        break
        return found


@pytest.fixture
async def app(command: Callable[[int], list[str]], api: FakeMessagesApi, tmp_path: Path) -> AsyncIterator[App]:
    port = free_port()
    async with (
        asking(api, tmp_path) as server,
        CuttingProxy(server.server.grpc_port) as proxy,
        web(command(port), cwd=BROWSER / "nethttp", port=port, METAMORPH_TARGET=proxy.target) as http,
    ):
        http.cookies.set("token", mint())
        yield App(http, proxy, server, api)


def text_of(events: list[tuple[str, dict[str, Any]]]) -> str:
    return "".join(event["textDelta"]["text"] for _, event in events if "textDelta" in event)


def in_order(turn_id: str, events: list[tuple[str, dict[str, Any]]]) -> bool:
    """Returns whether there is each event of a turn once, from the first to TurnFinished."""
    expected = [f"{turn_id}:{sequence}" for sequence in range(1, len(events) + 1)]
    return [event_id for event_id, _ in events] == expected and "turnFinished" in events[-1][1]


async def test_a_browser_that_leaves_in_mid_stream_gets_the_rest_when_it_is_back(app: App) -> None:
    hold = asyncio.Event()
    app.api.default = Reply(WORDS, hold=hold, hold_after=4)
    turn_id = await app.ask()
    seen = await app.events(turn_id, until=lambda event: "textDelta" in event)
    assert await app.status(turn_id) == TURN_STATUS_RUNNING
    hold.set()
    rest = await app.events(turn_id, last=seen[-1][0])
    assert in_order(turn_id, seen + rest)
    assert text_of(seen + rest) == "".join(WORDS)


async def test_a_browser_that_never_returns_does_not_stop_the_turn(app: App) -> None:
    hold = asyncio.Event()
    app.api.default = Reply(WORDS, hold=hold, hold_after=4)
    turn_id = await app.ask()
    await app.events(turn_id, until=lambda event: "textDelta" in event)
    hold.set()
    async with asyncio.timeout(5):
        while await app.status(turn_id) == TURN_STATUS_RUNNING:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    alice = app.server.caller()
    _, reply = await alice.messages((await alice.sessions())[0].session_id)
    assert reply.content[0].text.text == "".join(WORDS)
    assert not reply.partial


async def test_a_connection_that_is_cut_behind_the_recipe_is_nothing_that_a_browser_sees(app: App) -> None:
    hold = asyncio.Event()
    app.api.default = Reply(WORDS, hold=hold, hold_after=4)
    turn_id = await app.ask()
    streaming = asyncio.create_task(app.events(turn_id))
    await app.api.until_answering()
    await asyncio.sleep(0.2)
    app.proxy.cut()
    hold.set()
    events = await streaming
    assert in_order(turn_id, events)
    assert text_of(events) == "".join(WORDS)


async def test_a_browser_that_has_the_whole_reply_is_told_to_ask_no_more(app: App) -> None:
    turn_id = await app.ask()
    events = await app.events(turn_id)
    headers = {"last-event-id": events[-1][0]}
    assert (await app.http.get(f"/replies/{turn_id}", headers=headers)).status_code == 204
    # Of another turn, or of none.
    for other in ("turn_1:3", "garbage", f"{turn_id}:"):
        assert in_order(turn_id, await app.events(turn_id, last=other))


async def test_a_reply_can_be_stopped(app: App) -> None:
    app.api.default = Reply(WORDS, hold=asyncio.Event(), hold_after=4)
    turn_id = await app.ask()
    await app.events(turn_id, until=lambda event: "textDelta" in event)
    assert (await app.http.delete(f"/replies/{turn_id}")).status_code == 204
    assert await app.status(turn_id) == TURN_STATUS_CANCELLED
    (*_, (_, last)) = await app.events(turn_id)
    assert last["turnFinished"]["status"] == "TURN_STATUS_CANCELLED"


async def test_a_conversation_goes_on_in_its_session(app: App) -> None:
    response = await app.http.post("/replies", json={"text": "One"})
    session_id = response.json()["session_id"]
    await app.events(response.json()["turn_id"])
    await app.events(await app.ask("Two", session_id=session_id))
    messages = await app.server.caller().messages(session_id)
    assert [message.content[0].text.text for message in messages if message.role == ROLE_USER] == ["One", "Two"]


async def test_a_refusal_is_a_status_before_anything_streams(app: App) -> None:
    app.api.default = Reply(WORDS, hold=asyncio.Event())
    session = await app.server.caller().create_session()
    turn_id = await app.ask(session_id=session.session_id)

    async def refusal(method: str, path: str, **request: Any) -> tuple[int, str]:
        response = await app.http.request(method, path, **request)
        return response.status_code, str(response.json().get("reason"))

    busy = {"text": "Hello", "session_id": session.session_id}
    assert await refusal("POST", "/replies", json=busy) == (409, "BRANCH_BUSY")
    assert await refusal("POST", "/replies", json={"text": "Hi", "session_id": "ses_1"}) == (404, "SESSION_NOT_FOUND")
    assert await refusal("GET", "/replies/turn_1") == (404, "TURN_NOT_FOUND")
    assert await refusal("DELETE", "/replies/turn_1") == (404, "TURN_NOT_FOUND")
    for text in ("", "x" * 8001, 5):
        assert (await app.http.post("/replies", json={"text": text})).status_code == 422
    for token, answer in (
        (mint(vault="evil", user="mallory"), (404, "TURN_NOT_FOUND")),
        (mint(permissions=["write"]), (403, "PERMISSION_MISSING")),
        ("forged", (401, "TOKEN_INVALID")),
        ("", (401, "TOKEN_MISSING")),
    ):
        app.http.cookies.set("token", token)
        assert await refusal("GET", f"/replies/{turn_id}") == answer


async def test_a_message_that_is_repeated_starts_one_turn(app: App) -> None:
    key = str(uuid.uuid4())
    message = {"text": "Hello"}
    answers = [
        (await app.http.post("/replies", json=message, headers={"idempotency-key": sent})).json()
        for sent in (f'"{key}"', key, f'"{key}"')
    ]
    assert answers == [answers[0]] * 3
    await app.events(answers[0]["turn_id"])
    assert len(await app.server.caller().messages(answers[0]["session_id"])) == 2
    assert len(app.api.requests) == 1
    other = await app.http.post("/replies", json={"text": "Hi"}, headers={"idempotency-key": f'"{key}"'})
    assert (other.status_code, other.json()["reason"]) == (422, "REQUEST_ID_REUSED")
    none = await app.http.post("/replies", json=message, headers={"idempotency-key": '"none"'})
    assert (none.status_code, none.json()["reason"]) == (422, "REQUEST_INVALID")


async def test_a_bad_cursor_is_the_start(app: App) -> None:
    turn_id = await app.ask()
    for bad in ("1e3", "-1", "+1", "0x1", "1.0", "9" * 5000):
        assert in_order(turn_id, await app.events(turn_id, last=f"{turn_id}:{bad}"))


def fault_of(response: httpx.Response) -> str:
    """Returns the message of a refusal that has no reason of Metamorph's."""
    assert response.headers["content-type"].startswith("application/json"), response.text
    refusal = response.json()
    assert set(refusal) == {"reason", "message"}
    assert refusal["reason"] == ""
    return str(refusal["message"])


async def test_a_body_that_is_no_message_is_refused_in_json(app: App) -> None:
    for body in (b"x", b"null", b'"text"', b"\xff", b'{"text": null}', b"{}"):
        response = await app.http.post("/replies", content=body, headers={"content-type": "application/json"})
        assert response.status_code in (400, 422), body
        assert fault_of(response)
    secret = "a secret " * 20_000
    response = await app.http.post("/replies", json={"text": secret})
    assert response.status_code == 413
    assert fault_of(response)
    assert len(response.content) < 1000
    assert "a secret" not in (await app.http.post("/replies", json={"text": "a secret " * 1000})).text
    app.http.cookies.set("token", "two words")
    refused = await app.http.post("/replies", json={"text": "Hello"})
    assert (refused.status_code, bool(fault_of(refused))) == (401, True)


async def test_a_session_that_is_no_id_is_refused_by_name(app: App) -> None:
    for session in (b"5", b'"\\ud83d"', b'"two words"', '"é"'.encode(), b"[]", b"true"):
        body = b'{"text": "Hello", "session_id": ' + session + b"}"
        response = await app.http.post("/replies", content=body, headers={"content-type": "application/json"})
        assert response.status_code == 422, session
        assert "session_id" in fault_of(response)
    assert await app.server.caller().sessions() == []
    assert await app.ask(session_id=None)


async def test_a_text_is_measured_in_characters(app: App) -> None:
    await app.events(await app.ask("\N{SLIGHTLY SMILING FACE}" * 6000))


async def test_a_path_that_is_no_text_is_no_turn(app: App) -> None:
    for method in ("GET", "DELETE"):
        response = await app.http.request(method, "/replies/%ff")
        assert response.status_code in (400, 404)
        assert set(response.json()) == {"reason", "message"}


async def test_a_refusal_names_the_fields_that_are_invalid(app: App) -> None:
    refused = await app.http.post("/replies", json={"text": "Hello"}, headers={"idempotency-key": "none"})
    assert refused.json()["reason"] == "REQUEST_INVALID"
    assert "request_id" in refused.json()["message"]


async def test_an_event_that_there_is_not_is_a_status(app: App) -> None:
    app.api.default = Reply(WORDS, hold=asyncio.Event())
    turn_id = await app.ask()
    ahead = await app.http.get(f"/replies/{turn_id}", headers={"last-event-id": f"{turn_id}:99"})
    assert (ahead.status_code, ahead.json()["reason"]) == (422, "SEQUENCE_AHEAD")


async def test_the_page_is_served(app: App) -> None:
    assert "EventSource" in (await app.http.get("/")).text
