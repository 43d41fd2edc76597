"""Revoked tokens are refused immediately and permanently."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from metamorph_client.admin.v1.admin_service_pb2 import (
    ListRevocationsRequest,
    Revocation,
    RevokeTokensRequest,
    UserTokens,
)
from metamorph_client.chat.v1.chat_service_pb2 import (
    CreateSessionRequest,
    ListMessagesRequest,
    ListSessionsRequest,
)
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest
from metamorphd.auth.claims import LONGEST_LIFE_SECONDS
from metamorphd.auth.revoked_tokens import RevokedTokens
from metamorphd.clock import Clock
from metamorphd.edge.arrivals import Arrivals
from metamorphd.edge.call import Call

from tests.support.caller import Caller, send_request
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.http2 import DATA, END_STREAM, Connection, block, frame, headers, message
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


def test_listeners_are_called_when_a_key_is_no_longer_trusted_and_only_then() -> None:
    tokens, calls = RevokedTokens(), list[set[str]]()
    trusted: set[str] = set()
    tokens.listen(lambda: calls.append(trusted))
    for trusted in ({"a", "b"}, {"a", "b"}, {"b", "c"}, {"b", "c", "d"}):
        tokens.trust(trusted)
    assert calls == [{"b", "c"}]


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
    old, undated = running.caller(iat=now - 100), running.caller()
    user_tokens = UserTokens(user_id="alice")
    user_tokens.issued_before.FromSeconds(now - 90)
    await revoke(running, user_tokens=user_tokens)
    for caller in (old, undated):
        assert (await refused(user_of(caller))).reason == "TOKEN_REVOKED"
    assert await user_of(running.caller(iat=now - 50)) == "alice"
    assert await user_of(running.caller(user="bob", iat=now - 100)) == "bob"
    assert await user_of(running.caller(vault="evil", iat=now - 100)) == "alice"
    # An earlier time undoes nothing. A missing or future time means now.
    user_tokens.issued_before.FromSeconds(now - 200)
    again = await revoke(running, user_tokens=user_tokens)
    assert again.user_tokens.issued_before.seconds == now - 90
    user_tokens.issued_before.FromSeconds(now + 1000)
    assert (await revoke(running, user_tokens=user_tokens)).user_tokens.issued_before.seconds <= time.time()
    assert (await refused(user_of(running.caller(iat=now - 50)))).reason == "TOKEN_REVOKED"


class SetClock(Clock):
    """Shows the time that it is set to, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = time.time() // 1

    def now(self) -> int:
        return int(self.seconds * 1_000_000)


SKEWS = (-30, -29, -1, 0, 0.5, 1, 29, 30)
# When tokens are issued, in seconds from the revocation, in true time.
ISSUED = (-100, -61, -60, -59, -31, -30, -29, -1, -0.5, 0, 0.5, 1, 29, 30, 31, 59, 60, 60.5, 61, 100)


@pytest.mark.parametrize("late", [False, True], ids=["revoked now", "revoked later"])
async def test_no_clock_of_an_issuer_within_the_leeway_saves_a_token_from_a_revocation(
    tmp_path: Path, late: bool
) -> None:
    clock = SetClock()
    moment = clock.seconds + 1000
    async with serving(tmp_path, clock=clock) as running:
        operator = running.caller(user="root", operator=True, iat=moment, exp=moment + 3600)
        # One caller, and one vault, for each cell of the grid.
        cells = [(issued, skew) for issued in ISSUED for skew in SKEWS]
        callers = {
            (issued, skew): running.caller(user=f"u{issued}/{skew}", iat=moment + issued + skew, exp=moment + 3600)
            for issued, skew in cells
        }
        for issued, skew in cells:
            if issued <= 0:
                clock.seconds = moment + issued
                assert await user_of(callers[issued, skew])
        clock.seconds = moment + (1 if late else 0)
        for issued, skew in cells:
            user = UserTokens(user_id=f"u{issued}/{skew}")
            if late:
                user.issued_before.FromSeconds(int(moment))
            request = RevokeTokensRequest(vault_id="acme", user_tokens=user)
            await operator.admin.RevokeTokens(request, metadata=operator.metadata)
        for later in (1, 29, 30, 31, 60, 61, 1000):
            clock.seconds = moment + later
            for issued, skew in cells:
                if issued <= 0:
                    assert (await refused(user_of(callers[issued, skew]))).reason == "TOKEN_REVOKED"
        for issued, skew in cells:
            if issued > (1 if late else 0):
                clock.seconds = moment + issued
                if issued + skew > 30:
                    assert await user_of(callers[issued, skew])
                else:
                    # By its claims it may have been issued before.
                    assert (await refused(user_of(callers[issued, skew]))).reason == "TOKEN_REVOKED"
        # Whatever the issuer's clock shows, a new token is accepted a minute later.
        assert all(issued + skew > 30 for issued, skew in cells if issued > 60)


async def test_each_bound_of_time_has_the_leeway_once(tmp_path: Path) -> None:
    clock = SetClock()
    now, longest = clock.seconds, LONGEST_LIFE_SECONDS
    async with serving(tmp_path, clock=clock) as running:
        accepted: tuple[dict[str, Any], ...] = (
            {"iat": now + 30},
            {"nbf": now + 30},
            {"exp": now - 29.5},
            {"exp": now + longest + 30},
            {"iat": now + 30, "nbf": now + 30, "exp": now + 30},
        )
        for claims in accepted:
            assert await user_of(running.caller(**({"exp": now + 60} | claims))) == "alice"
        refusals: tuple[tuple[dict[str, Any], str], ...] = (
            ({"iat": now + 30.5}, "TOKEN_INVALID"),
            ({"nbf": now + 30.5}, "TOKEN_INVALID"),
            ({"exp": now - 30}, "TOKEN_EXPIRED"),
            ({"exp": now + longest + 31}, "TOKEN_INVALID"),
            ({"iat": now + 30, "exp": now + 29}, "TOKEN_INVALID"),
        )
        for claims, reason in refusals:
            assert (await refused(user_of(running.caller(**({"exp": now + 60} | claims))))).reason == reason
        # A token that was accepted before ends at the same moment as a new one.
        short, unseen = running.caller(exp=now + 10), running.caller(exp=now + 10, jti="unseen")
        for clock.seconds in (now, now + 39.5):
            assert await user_of(short) == "alice"
        clock.seconds = now + 40
        for caller in (short, unseen):
            assert (await refused(user_of(caller))).reason == "TOKEN_EXPIRED"


@pytest.mark.parametrize("ended", ["revoked", "expired"])
@pytest.mark.parametrize("method", ["CreateSession", "SendMessage"])
async def test_a_call_whose_request_arrives_after_the_end_of_its_token_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: str, method: str
) -> None:
    """A request may arrive a minute after its call was authenticated."""
    clock, authenticated = SetClock(), asyncio.Event()

    async def reading(arrivals: Arrivals, call: Call) -> None:
        authenticated.set()
        await read(arrivals, call)

    read = Arrivals.read
    monkeypatch.setattr(Arrivals, "read", reading)
    async with serving(tmp_path, clock=clock) as running, Connection(running.target) as connection:
        session = await running.caller().create_session()
        requests: dict[str, Message] = {
            "CreateSession": CreateSessionRequest(),
            "SendMessage": send_request(session.session_id, "late"),
        }
        token = mint(jti="t1", exp=clock.seconds + 10)
        authenticated.clear()
        stream = connection.begin(block(headers(f"/metamorph.chat.v1.ChatService/{method}", token)), b"")
        await asyncio.wait_for(authenticated.wait(), 20)
        if ended == "revoked":
            await revoke(running, token_id="t1")
        else:
            clock.seconds += 40
        connection.write(frame(DATA, END_STREAM, stream, message(requests[method].SerializeToString())))
        await asyncio.wait_for(connection.until(lambda: stream in connection.ended), 20)
        alice = running.caller()
        sessions = await alice.chat.ListSessions(ListSessionsRequest(), metadata=alice.metadata)
        assert [each.session_id for each in sessions.sessions] == [session.session_id]
        listed = ListMessagesRequest(session_id=session.session_id)
        assert not (await alice.chat.ListMessages(listed, metadata=alice.metadata)).messages


async def test_a_revocation_survives_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        await revoke(running, token_id="t1")
        await revoke(running, user_tokens=UserTokens(user_id="bob"))
    async with serving(tmp_path) as running:
        for token in (mint(jti="t1"), mint(user="bob")):
            assert (await refused(user_of(running.caller(token)))).reason == "TOKEN_REVOKED"
        assert await user_of(running.caller()) == "alice"


async def test_open_streams_end_and_resume_with_a_new_token(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hold = asyncio.Event()
    async with (
        FakeMessagesApi(Reply(("first ", "second"), hold=hold)) as api,
        asking(api, tmp_path, log_level="info") as running,
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
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines() if '"message":"call"' in line]
    (sent,) = [line for line in lines if line["endpoint"].endswith("/SendMessage")]
    assert (sent["reason"], sent["why"]) == ("TOKEN_REVOKED", "jti is revoked")


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
