"""Revoked tokens are refused immediately and permanently."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from metamorph.admin.v1.admin_service_pb2 import (
    ListRevocationsRequest,
    Revocation,
    RevokeTokensRequest,
    UserTokens,
)
from metamorph.vault.v1.vault_service_pb2 import WhoAmIRequest

from tests.support.caller import Caller
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.refusal import refused
from tests.support.serving import Serving, asking, serving
from tests.support.tokens import mint
from tests.support.turns import deltas, followed


async def user_of(caller: Caller) -> str:
    return str((await caller.vault.WhoAmI(WhoAmIRequest(), metadata=caller.metadata)).user_id)


async def revoke(running: Serving, **fields: Any) -> Revocation:
    operator = running.caller(user="root", operator=True)
    request = RevokeTokensRequest(**({"vault_id": "acme"} | fields))
    return (await operator.admin.RevokeTokens(request, metadata=operator.metadata)).revocation


async def listed(running: Serving, **fields: Any) -> list[Revocation]:
    operator = running.caller(vault="ops", user="root", operator=True)
    revocations: list[Revocation] = []
    token = ""
    while True:
        request = ListRevocationsRequest(page_token=token, **fields)
        page = await operator.admin.ListRevocations(request, metadata=operator.metadata)
        revocations += page.revocations
        token = page.next_page_token
        if not token:
            return revocations


async def test_revoking_a_token_id_refuses_only_that_token(running: Serving) -> None:
    stolen, other, elsewhere = (
        running.caller(jti="t1"),
        running.caller(jti="t2"),
        running.caller(vault="evil", jti="t1"),
    )
    assert await user_of(stolen) == "alice"
    revocation = await revoke(running, token_id="t1", note="lost laptop")
    assert (revocation.vault_id, revocation.token_id, revocation.note) == ("acme", "t1", "lost laptop")
    assert revocation.creator == "root"
    refusal = await refused(user_of(stolen))
    assert (refusal.code.name, refusal.reason) == ("UNAUTHENTICATED", "TOKEN_REVOKED")
    assert await user_of(other) == "alice"
    assert await user_of(elsewhere) == "alice"
    assert await user_of(running.caller()) == "alice"


async def test_the_tokens_of_a_user_are_revoked_by_their_issue_time(running: Serving) -> None:
    now = int(time.time())
    old, undated = running.caller(iat=now - 10), running.caller()
    user_tokens = UserTokens(user_id="alice")
    user_tokens.issued_before.FromSeconds(now - 5)
    await revoke(running, user_tokens=user_tokens)
    for caller in (old, undated):
        assert (await refused(user_of(caller))).reason == "TOKEN_REVOKED"
    assert await user_of(running.caller(iat=now - 5)) == "alice"
    assert await user_of(running.caller(user="bob", iat=now - 10)) == "bob"
    assert await user_of(running.caller(vault="evil", iat=now - 10)) == "alice"
    # An earlier time undoes nothing. A missing or future time means now.
    user_tokens.issued_before.FromSeconds(now - 100)
    again = await revoke(running, user_tokens=user_tokens)
    assert again.user_tokens.issued_before.seconds == now - 5
    user_tokens.issued_before.FromSeconds(now + 1000)
    assert (await revoke(running, user_tokens=user_tokens)).user_tokens.issued_before.seconds <= time.time()
    assert (await refused(user_of(running.caller(iat=now - 5)))).reason == "TOKEN_REVOKED"
    assert await user_of(running.caller(iat=int(time.time()) + 2)) == "alice"


async def test_a_revocation_survives_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        await revoke(running, token_id="t1")
        await revoke(running, user_tokens=UserTokens(user_id="bob"))
    async with serving(tmp_path) as running:
        for token in (mint(jti="t1"), mint(user="bob")):
            assert (await refused(user_of(running.caller(token)))).reason == "TOKEN_REVOKED"
        assert await user_of(running.caller()) == "alice"


async def test_open_streams_end_and_resume_with_a_new_token(tmp_path: Path) -> None:
    hold = asyncio.Event()
    async with (
        FakeMessagesApi(Reply(("first ", "second"), hold=hold)) as api,
        asking(api, tmp_path) as running,
    ):
        session = await running.caller().create_session()
        events = running.caller(jti="t1").start(session.session_id)
        seen = [await events.next(), await events.next()]
        began = time.monotonic()
        await revoke(running, token_id="t1")
        refusal = await refused(events.rest())
        assert time.monotonic() - began < 5
        assert (refusal.code.name, refusal.reason) == ("UNAUTHENTICATED", "TOKEN_REVOKED")
        hold.set()
        rest = await followed(running.caller(), seen[0].turn_id, seen[-1].sequence)
        assert deltas(seen + rest) == "first second"


async def test_revocations_are_listed_newest_first_and_repeating_one_adds_none(running: Serving) -> None:
    for number in range(5):
        await revoke(running, token_id=f"t{number}")
    first = await revoke(running, vault_id="evil", user_tokens=UserTokens(user_id="mallory"))
    again = await revoke(running, token_id="t0", note="again")
    revocations = await listed(running, page_size=2)
    assert [revocation.token_id for revocation in revocations] == ["", "t4", "t3", "t2", "t1", "t0"]
    assert revocations[0] == first
    assert revocations[-1] == again
    assert again.note == "again"
    assert [revocation.vault_id for revocation in await listed(running, vault_id="evil")] == ["evil"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "tokens"),
        ({"vault_id": "a/b", "token_id": "t"}, "vault_id"),
        ({"vault_id": "", "token_id": "t"}, "vault_id"),
        ({"token_id": ""}, "token_id"),
        ({"token_id": "t" * 257}, "token_id"),
        ({"user_tokens": UserTokens()}, "user_tokens.user_id"),
        ({"token_id": "t", "note": "n" * 501}, "note"),
    ],
)
async def test_an_invalid_revocation_is_refused(running: Serving, fields: dict[str, Any], named: str) -> None:
    refusal = await refused(revoke(running, **fields))
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", [named])
    assert await listed(running) == []
