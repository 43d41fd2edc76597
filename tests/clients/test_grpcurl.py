"""The services as seen from grpcurl, the usual debugging tool."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from metamorphd.server import NAMES

from tests.support.paths import ROOT
from tests.support.programs import require
from tests.support.serving import Serving
from tests.support.tokens import mint


class Request(NamedTuple):
    """A request of a .http file."""

    title: str
    method: str
    headers: list[str]
    body: str
    # The names of variables that are set from the answer, each with the path of its value.
    sets: dict[str, str]


def requests_of_the_file() -> Iterator[Request]:
    # What is before the first one is about the file.
    _, *parts = re.split(r"^### ", (ROOT / "docs" / "requests.http").read_text(), flags=re.MULTILINE)
    for part in parts:
        title, call, rest = part.split("\n", 2)
        headers, body = rest.split("\n\n", 1) if not rest.startswith("\n") else ("", rest)
        body, _, script = body.partition("> {%")
        sets = dict(re.findall(r"client\.global\.set\(\"(\w+)\", response\.body\.([\w.\[\]]+)\)", script))
        assert bool(script) == bool(sets), script
        method = call.removeprefix("GRPC {{host}}/")
        assert re.fullmatch(r"metamorph\.\w+\.v1\.\w+/\w+", method), call
        yield Request(title, method, headers.splitlines(), body, sets)


def value_at(answer: Any, path: str) -> str:
    """Returns what is at a path such as `turns[0].turnId`. grpcurl prints names as the contract has them."""
    for name in re.findall(r"\w+", path):
        answer = answer[int(name)] if name.isdecimal() else answer[re.sub(r"[A-Z]", r"_\g<0>", name).lower()]
    return str(answer)


async def grpcurl(running: Serving, *arguments: str, token: str = "") -> tuple[int | None, str, str]:
    """Returns (exit code, standard output, standard error) of a call, as alice unless there is a token."""
    process = await asyncio.create_subprocess_exec(
        require("grpcurl", hint="`make tools` builds it with Go"),
        *("-plaintext", "-H", f"authorization: Bearer {token or mint()}"),
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


async def test_it_describes_all_that_is_listed(running: Serving) -> None:
    code, out, err = await grpcurl(running, running.target, "describe")
    assert (code, err) == (0, "")
    assert "grpc.reflection.v1.ServerReflection is a service" in out


async def test_every_request_of_the_http_file_succeeds(running: Serving) -> None:
    operator = mint("operations", permissions=[], operator=True)
    known: dict[str, str] = {}

    def filled(text: str) -> str:
        return re.sub(r"\{\{(\w+)\}\}", lambda found: known[found[1]], text)

    for request in requests_of_the_file():
        token = operator if request.headers == ["authorization: Bearer {{operator_token}}"] else ""
        assert token or not request.headers
        body = filled(request.body)
        code, out, err = await grpcurl(running, "-d", body, running.target, request.method, token=token)
        assert code == 0, (request.title, err)
        assert documents(out), request.title
        known |= {name: value_at(json.loads(out), path) for name, path in request.sets.items()}
    assert known.keys() == {"session_id", "message_id", "turn_id", "memory_id"}


async def test_it_shows_why_a_call_was_refused(running: Serving) -> None:
    body = '{"session_id":"ses_none"}'
    code, _, err = await grpcurl(running, "-d", body, running.target, "metamorph.chat.v1.ChatService/GetSession")
    assert code != 0
    assert "NotFound" in err
    assert '"reason": "SESSION_NOT_FOUND"' in err
