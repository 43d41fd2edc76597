"""Answers questions about support tickets. POST a question to /tickets/17, and the answer streams back as text."""

import os
import time
import uuid
from collections.abc import AsyncGenerator
from functools import cache
from typing import cast

import jwt
from metamorph_client import MetamorphClient, MetamorphError, Reply
from metamorph_client.chat.v1.chat_service_pb2 import CreateSessionRequest, ListSessionsRequest
from metamorph_client.chat.v1.message_pb2 import ROLE_USER
from metamorph_client.chat.v1.session_pb2 import Session
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

TARGET = os.environ.get("METAMORPH_TARGET", "localhost:50051")
SECRET = os.environ["EMBLEM_JWT_SECRET"]
# Of which the request IDs of sessions are made.
TICKETS = uuid.UUID("0f0c4e1e-6a3b-4c0e-8d55-2b9a3c1f7d10")
# What a caller of ours can act on. All else that goes wrong behind us is a bad gateway.
STATUSES = {"REQUEST_INVALID": 400, "BRANCH_BUSY": 409, "RATE_LIMITED": 429, "BUDGET_EXCEEDED": 429}


@cache
def connected() -> MetamorphClient:
    return MetamorphClient(TARGET)


def client_of(customer: str) -> MetamorphClient:
    """Returns the client of a customer: each has a vault, which the token names. All share a connection."""

    def token() -> str:
        now = int(time.time())
        claims = {
            "vault_id": customer,
            "sub": "tickets",
            "permissions": ["read", "write"],
            "iat": now,
            "exp": now + 900,
        }
        return jwt.encode(claims, SECRET, algorithm="HS256")

    return connected().with_token(token)


async def session_of(client: MetamorphClient, ticket: str) -> str:
    """Returns the session of a ticket, so that this service has no database. Its metadata names the ticket."""
    found = await client.chat.ListSessions(ListSessionsRequest(metadata={"ticket": ticket}, page_size=1))
    if found.sessions:
        return found.sessions[0].session_id
    # The same ID for the same ticket: two first questions at the same time make one session.
    request_id = str(uuid.uuid5(TICKETS, ticket))
    session = Session(title=f"Ticket {ticket}", metadata={"ticket": ticket})
    created = await client.chat.CreateSession(CreateSessionRequest(session=session, request_id=request_id))
    return created.session.session_id


def customer_of(request: Request) -> str:
    """Returns who asks, as the gateway in front of this service says."""
    if not request.headers.get("x-customer"):
        raise HTTPException(400, "x-customer is missing")
    return request.headers["x-customer"]


async def ask(request: Request) -> Response:
    client = client_of(customer_of(request))
    session_id = await session_of(client, request.path_params["ticket"])
    # What is no UTF-8 is shown as such, and refused by nobody.
    question = (await request.body()).decode(errors="replace")
    # A caller that repeats its key gets the answer of the first time, and pays for one.
    # A refusal is raised here, while our own status can still say so.
    reply = await client.start(session_id, question, request_id=request.headers.get("idempotency-key", ""))
    return StreamingResponse(text_of(reply), media_type="text/plain")


async def text_of(reply: Reply) -> AsyncGenerator[str]:
    async for event in reply:
        if event.HasField("text_delta"):
            yield event.text_delta.text
        elif event.turn_finished.HasField("error"):
            yield f"\n[The answer was cut off: {event.turn_finished.error.reason}]"


async def read(request: Request) -> Response:
    """Returns the conversation. An answer whose reader went away is here too: the turn went on without one."""
    client = client_of(customer_of(request))
    session_id = await session_of(client, request.path_params["ticket"])
    return JSONResponse(
        [
            {
                "from": "customer" if message.role == ROLE_USER else "assistant",
                "text": "".join(block.text.text for block in message.content),
            }
            async for message in client.list_messages(session_id)
        ]
    )


def refused(_: Request, error: Exception) -> Response:
    """Returns a refusal of Metamorph in terms of HTTP."""
    refusal = cast(MetamorphError, error)
    after = {} if refusal.retry_delay is None else {"retry-after": str(int(refusal.retry_delay) + 1)}
    return JSONResponse({"error": refusal.reason}, STATUSES.get(refusal.reason, 502), after)


PATH = "/tickets/{ticket}"
app = Starlette(
    routes=[Route(PATH, ask, methods=["POST"]), Route(PATH, read, methods=["GET"])],
    exception_handlers={MetamorphError: refused},
)
