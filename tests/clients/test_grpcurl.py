"""The services as seen from grpcurl, the usual debugging tool."""

import asyncio
import json
from typing import Any

from metamorphd.server import NAMES

from tests.support.programs import require
from tests.support.serving import Serving
from tests.support.tokens import mint


async def grpcurl(running: Serving, *arguments: str) -> tuple[int | None, str, str]:
    """Returns (exit code, standard output, standard error) of a call as alice."""
    process = await asyncio.create_subprocess_exec(
        require("grpcurl", hint="`make tools` builds it with Go"),
        *("-plaintext", "-H", f"authorization: Bearer {mint()}"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def documents(text: str) -> list[Any]:
    """Parses JSON documents that follow one another."""
    decoder, found, place = json.JSONDecoder(), [], 0
    while text[place:].strip():
        place += len(text[place:]) - len(text[place:].lstrip())
        document, place = decoder.raw_decode(text, place)
        found.append(document)
    return found


async def test_it_lists_the_services_and_describes_a_method(running: Serving) -> None:
    _, out, _ = await grpcurl(running, running.target, "list")
    assert set(out.split()) >= {*NAMES, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"}
    _, out, _ = await grpcurl(running, running.target, "describe", "metamorph.chat.v1.ChatService.SendMessage")
    assert "returns ( stream .metamorph.chat.v1.SendMessageResponse )" in out


async def test_it_shows_comments_permissions_and_rules(running: Serving) -> None:
    _, method, _ = await grpcurl(running, running.target, "describe", "metamorph.chat.v1.ChatService.StreamTurn")
    assert "// Replays a turn's events after a sequence" in method
    assert "(.metamorph.api.v1.requires) = PERMISSION_READ" in method
    _, request, _ = await grpcurl(running, running.target, "describe", "metamorph.chat.v1.StreamTurnRequest")
    assert "// Required. At most 64 characters." in request
    assert "min_len: 1, max_len: 64" in request
    _, reason, _ = await grpcurl(running, running.target, "describe", "metamorph.api.v1.ErrorReason")
    assert "// Cure: " in reason


async def test_it_streams_a_chat(running: Serving) -> None:
    chat = "metamorph.chat.v1.ChatService"
    _, out, _ = await grpcurl(running, "-d", '{"session":{"title":"by hand"}}', running.target, f"{chat}/CreateSession")
    session = json.loads(out)["session"]["session_id"]
    body = json.dumps({"session_id": session, "content": [{"text": {"text": "Hello from grpcurl"}}]})
    code, out, _ = await grpcurl(running, "-d", body, running.target, f"{chat}/SendMessage")
    events = [document["event"] for document in documents(out)]
    assert code == 0
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert "turn_started" in events[0]
    finished = events[-1]["turn_finished"]
    assert finished["status"] == "TURN_STATUS_COMPLETED"
    text = "".join(event.get("text_delta", {}).get("text", "") for event in events)
    assert text == finished["message"]["content"][0]["text"]["text"]
    assert "Hello from grpcurl" in text


async def test_it_shows_why_a_call_was_refused(running: Serving) -> None:
    body = '{"session_id":"ses_none"}'
    code, _, err = await grpcurl(running, "-d", body, running.target, "metamorph.chat.v1.ChatService/GetSession")
    assert code != 0
    assert "NotFound" in err
    assert '"reason": "SESSION_NOT_FOUND"' in err
