"""Streams replies to a browser: `uvicorn --app-dir examples/browser/fastapi main:app`, then http://localhost:8000.

The cookie `token` is the user's own, such as token_exchange.py sets. Each call passes it on, so that the server decides
what this user may do, and in which vault. In dev mode there need not be one."""

import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated

from fastapi import Body, Cookie, Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi.staticfiles import StaticFiles
from google.protobuf.json_format import MessageToJson
from metamorph_client import MetamorphClient, MetamorphError, Reply
from metamorph_client.chat.v1.chat_service_pb2 import GetTurnRequest
from metamorph_client.chat.v1.turn_pb2 import TURN_STATUS_RUNNING
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STATUSES = {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403, "NOT_FOUND": 404, "FAILED_PRECONDITION": 409}
STATUSES |= {"ABORTED": 409, "INVALID_ARGUMENT": 422, "OUT_OF_RANGE": 422, "ALREADY_EXISTS": 422}
STATUSES |= {"RESOURCE_EXHAUSTED": 429, "UNAVAILABLE": 503}
LONGEST_BODY, LONGEST_NUMBER, NOTHING_LEFT = 64 * 1024, 9, 204
TARGET = os.environ.get("METAMORPH_TARGET", "localhost:50051")
Text = Annotated[str, Body(min_length=1, max_length=8000)]
SessionId = Annotated[str | None, Body(pattern=r"^[\x21-\x7e]*$")]
Key = Annotated[str, Header(alias="idempotency-key")]


@asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[None]:
    async with MetamorphClient(TARGET, give_up_after=20) as app.state.client:
        yield


async def client(request: Request, token: Annotated[str, Cookie()] = "") -> MetamorphClient:
    shared: MetamorphClient = request.app.state.client
    try:
        return shared.with_token(token)
    except ValueError as exc:
        raise HTTPException(401, str(exc)) from exc


Client = Annotated[MetamorphClient, Depends(client)]
app = FastAPI(lifespan=connected)


@app.add_middleware
def limited(app: ASGIApp) -> ASGIApp:
    """Refuses bodies of more than LONGEST_BODY bytes."""

    async def limit(scope: Scope, receive: Receive, send: Send) -> None:
        left = LONGEST_BODY

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"the body has more than {LONGEST_BODY} bytes")
            return message

        await app(scope, counted, send)

    return limit


@app.exception_handler(RequestValidationError)
@app.exception_handler(HTTPException)
async def end(_: Request, error: HTTPException | RequestValidationError) -> Response:
    if isinstance(error, RequestValidationError):
        faults = "; ".join(f"{fault['loc'][-1]}: {fault['msg']}" for fault in error.errors())
        return JSONResponse({"reason": "", "message": faults}, 422)
    if error.status_code == NOTHING_LEFT:
        return Response(status_code=NOTHING_LEFT)
    return JSONResponse({"reason": "", "message": error.detail}, error.status_code)


@app.exception_handler(MetamorphError)
async def refuse(_: Request, error: MetamorphError) -> JSONResponse:
    wait = {"retry-after": str(math.ceil(error.retry_delay))} if error.retry_delay else {}
    return JSONResponse({"reason": error.reason, "message": str(error)}, STATUSES.get(error.code.name, 500), wait)


@app.post("/replies", status_code=201)
async def ask(text: Text, client: Client, key: Key = "", session_id: SessionId = None) -> dict[str, str]:
    request_id = key.strip('"')  # With the same one, this answers with the same session and turn.
    session_id = session_id or (await client.create_session(request_id=request_id)).session_id
    reply = await client.start(session_id, text, request_id=request_id)
    await reply.aclose()  # This stream only. The turn goes on.
    return {"session_id": session_id, "turn_id": reply.turn_id}


async def rest(turn_id: str, client: Client, last_event_id: Annotated[str, Header()] = "") -> Reply:
    turn = (await client.chat.GetTurn(GetTurnRequest(turn_id=turn_id))).turn
    seen, _, sequence = last_event_id.partition(":")
    after = int(sequence) if seen == turn_id and sequence.isdecimal() and len(sequence) <= LONGEST_NUMBER else 0
    if turn.status != TURN_STATUS_RUNNING and after >= turn.last_sequence:
        raise HTTPException(NOTHING_LEFT)  # The browser asks no more.
    return await client.follow(turn_id, after)


@app.get("/replies/{turn_id}", response_class=EventSourceResponse)
async def stream(turn_id: str, rest: Annotated[Reply, Depends(rest)]) -> AsyncIterator[ServerSentEvent]:
    with suppress(MetamorphError):  # The browser asks again, with its Last-Event-ID.
        async for event in rest:
            yield ServerSentEvent(id=f"{turn_id}:{event.sequence}", raw_data=MessageToJson(event, indent=None))


@app.delete("/replies/{turn_id}", status_code=204)
async def cancel(turn_id: str, client: Client) -> None:
    await client.cancel(turn_id)


app.mount("/", StaticFiles(directory=Path(__file__).parents[1] / "page", html=True))
