"""What a refused send raises in Python; the rest of what clients do is in the suite of all of them."""

import asyncio

import pytest
from metamorph_client import MetamorphClient, MetamorphError

from tests.support.serving import Serving
from tests.support.tokens import mint


@pytest.mark.parametrize(
    ("token", "session_id", "code", "reason"),
    [
        (mint(), "ses_none", "NOT_FOUND", "SESSION_NOT_FOUND"),
        (mint(permissions=["read"]), "ses_none", "PERMISSION_DENIED", "PERMISSION_MISSING"),
        ("no-token", "ses_none", "UNAUTHENTICATED", "TOKEN_INVALID"),
        (mint(), "", "INVALID_ARGUMENT", "REQUEST_INVALID"),
    ],
)
async def test_a_refusal_is_raised_immediately_with_its_reason(
    running: Serving, token: str, session_id: str, code: str, reason: str
) -> None:
    async with MetamorphClient(running.target, token=token) as client:
        with pytest.raises(MetamorphError) as refusal:
            await anext(client.send(session_id, "Hello"))
    assert (refusal.value.code.name, refusal.value.reason) == (code, reason)
    assert refusal.value.message in str(refusal.value)


async def test_a_client_belongs_to_the_event_loop_it_was_made_in() -> None:
    with pytest.raises(RuntimeError, match="SyncMetamorphClient needs none"):
        await asyncio.to_thread(MetamorphClient)
    async with MetamorphClient() as client:
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, client.create_session())


async def test_several_tasks_wait_for_the_end_of_one_reply(running: Serving) -> None:
    async with MetamorphClient(running.target, token=mint()) as client:
        reply = await client.start((await client.create_session()).session_id, "Hello")
        first, second = await asyncio.gather(reply.final(), reply.final())
    assert first == second
