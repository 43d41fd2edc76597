"""Tokens that are not ours to verify: the Emblem API is asked, warily."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from metamorph.chat.v1.chat_service_pb2 import CreateSessionRequest
from metamorph.vault.v1.vault_service_pb2 import WhoAmIRequest, WhoAmIResponse
from metamorphd.auth import emblem, http_client, tokens
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.support.fakes.web import Answer, FakeWeb, answering
from tests.support.refusal import refused
from tests.support.serving import Serving, serving
from tests.support.tokens import mint

YES = {"vaultId": "remote", "userId": "rita", "email": "rita@example.org", "permissions": ["read", "write"]}


@asynccontextmanager
async def asking(directory: Path, answer: Answer, **settings: Any) -> AsyncIterator[tuple[Serving, FakeWeb]]:
    """A server and the Emblem API that it asks."""
    async with FakeWeb(answer) as api, serving(directory, emblem_api_url=api.url, **settings) as running:
        yield running, api


async def who(running: Serving, token: str) -> WhoAmIResponse:
    caller = running.caller(token)
    return await caller.vault.WhoAmI(WhoAmIRequest(), metadata=caller.metadata)


async def reason(running: Serving, token: str) -> str:
    return (await refused(who(running, token))).reason


async def test_an_opaque_token_is_who_the_api_says(tmp_path: Path) -> None:
    async with asking(tmp_path, answering(YES)) as (running, api):
        told = await who(running, "opaque-token")
        assert (told.vault_id, told.user_id, told.email, told.auth_method) == (
            "remote",
            "rita",
            "rita@example.org",
            "emblem",
        )
        assert list(told.permissions) == ["read", "write"]
        assert not told.HasField("expire_time")
        (request,) = api.requests
        assert (request.method, request.url.path) == ("POST", "/vault/info")
        assert request.headers["authorization"] == "Bearer opaque-token"
        assert await request.body() == b""
        caller = running.caller("opaque-token")
        await caller.chat.CreateSession(CreateSessionRequest(), metadata=caller.metadata)
        assert len(api.requests) == 1


async def test_what_is_left_out_grants_nothing(tmp_path: Path) -> None:
    async with asking(tmp_path, answering({"vaultId": "remote"})) as (running, _):
        told = await who(running, "opaque")
        assert (told.vault_id, told.user_id, list(told.permissions)) == ("remote", "", [])


@pytest.mark.parametrize(
    "answer",
    [
        answering({"error": "no"}, 401),
        answering(YES, 301, location="/elsewhere"),
        answering({"userId": "rita"}),
        answering({"vaultId": ""}),
        answering({"vaultId": "a/b"}),
        answering({"vaultId": 7}),
        answering(YES | {"userId": 7}),
        answering(YES | {"permissions": "read"}),
        answering(b"<html>"),
        answering(b"[" * 50_000),
        answering(["remote"]),
    ],
    ids=["401", "redirect", "no vault", "empty", "slash", "number", "user", "permissions", "html", "deep", "array"],
)
async def test_anything_but_a_clear_yes_is_a_no_and_is_remembered(tmp_path: Path, answer: Answer) -> None:
    async with asking(tmp_path, answer) as (running, api):
        assert await reason(running, "opaque") == "TOKEN_INVALID"
        assert await reason(running, "opaque") == "TOKEN_INVALID"
        assert len(api.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [answering({}, 500), answering({}, 429), answering(YES, after=3), answering(b"x" * 100_000)],
    ids=["500", "429", "slow", "huge"],
)
async def test_an_outage_is_told_as_one_and_not_remembered(tmp_path: Path, answer: Answer) -> None:
    async with asking(tmp_path, answer) as (running, api):
        refusal = await refused(who(running, "opaque"))
        assert (refusal.code.name, refusal.reason) == ("UNAVAILABLE", "IDENTITY_UNAVAILABLE")
        assert refusal.retry is not None
        api.answer = answering(YES)
        assert (await who(running, "opaque")).vault_id == "remote"


async def test_an_api_that_is_down_is_left_alone_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking(tmp_path, answering({}, 503)) as (running, api):
        for number in range(20):
            assert await reason(running, f"opaque-{number}") == "IDENTITY_UNAVAILABLE"
        assert len(api.requests) == emblem.FAILURES
        assert (await who(running, mint())).vault_id == "acme"
        monotonic, ahead = time.monotonic, 2 * emblem.OPEN_SECONDS
        monkeypatch.setattr(time, "monotonic", lambda: monotonic() + ahead)
        # One tries it, and fails; then it is left alone again, until one succeeds.
        assert await reason(running, "opaque-a") == "IDENTITY_UNAVAILABLE"
        assert await reason(running, "opaque-b") == "IDENTITY_UNAVAILABLE"
        assert len(api.requests) == emblem.FAILURES + 1
        ahead += 2 * emblem.OPEN_SECONDS
        api.answer = answering(YES)
        assert [(await who(running, f"opaque-{name}")).vault_id for name in "cde"] == ["remote"] * 3


async def test_a_flood_of_one_token_is_one_call_and_of_many_a_bounded_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine may take longer than the timeout, which is not under test here.
    monkeypatch.setattr(http_client, "TIMEOUT_SECONDS", 30.0)
    async with asking(tmp_path, answering({}, 401, after=0.3)) as (running, api):
        caller = running.caller("same")

        async def ask() -> str:
            return (await refused(caller.vault.WhoAmI(WhoAmIRequest(), metadata=caller.metadata))).reason

        assert set(await asyncio.gather(*(ask() for _ in range(200)))) == {"TOKEN_INVALID"}
        assert len(api.requests) == 1
        monkeypatch.setattr(emblem, "CALLS_PER_SECOND", 5)
        began = time.monotonic()
        answers = await asyncio.gather(*(reason(running, f"bad-{number}") for number in range(100)))
        seconds = int(time.monotonic() - began) + 2
        assert set(answers) == {"TOKEN_INVALID", "IDENTITY_UNAVAILABLE"}
        assert len(api.requests) - 1 <= 5 * seconds


async def test_what_is_ours_to_verify_is_never_asked_about(tmp_path: Path) -> None:
    async with asking(tmp_path, answering(YES), emblem_jwt_audience="chat") as (running, api):
        now = int(time.time())
        for token in (
            mint(secret="b" * 32, aud="chat"),
            mint(aud="another"),
            mint(aud="chat", exp=None),
            mint(iss="https://elsewhere", secret="b" * 32, aud="chat"),
            jwt.encode({"vault_id": "v", "sub": "u", "exp": now + 60}, "", algorithm="none"),
            "a.b.c",
            "spaces are not allowed",
        ):
            assert await reason(running, token) == "TOKEN_INVALID"
        assert await reason(running, mint(aud="chat", exp=now - 60)) == "TOKEN_EXPIRED"
        assert api.requests == []


async def test_a_declared_foreign_issuer_is_asked_about(tmp_path: Path) -> None:
    async with asking(tmp_path, answering(YES), emblem_jwt_issuer="https://ours") as (running, api):
        expire = int(time.time()) + 100
        foreign = mint(iss="https://theirs", exp=expire, jti="t1", secret="z" * 32)
        told = await who(running, foreign)
        assert (told.vault_id, told.user_id, told.expire_time.seconds) == ("remote", "rita", expire)
        assert (await who(running, mint(iss="https://ours"))).vault_id == "acme"
        assert await reason(running, mint(secret="z" * 32)) == "TOKEN_INVALID"
        assert len(api.requests) == 1
        assert await reason(running, mint(iss="https://theirs", exp=int(time.time()) - 60)) == "TOKEN_EXPIRED"


async def test_without_a_secret_of_our_own_every_token_is_asked_about(tmp_path: Path) -> None:
    async with asking(tmp_path, answering(YES), emblem_jwt_secret="") as (running, api):
        assert (await who(running, mint())).vault_id == "remote"
        assert len(api.requests) == 1


async def test_a_yes_is_asked_for_again_after_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "ACCEPTED_SECONDS", 0.2)
    async with asking(tmp_path, answering(YES)) as (running, api):
        assert (await who(running, "opaque")).vault_id == "remote"
        await asyncio.sleep(0.3)
        api.answer = answering({}, 401)
        assert await reason(running, "opaque") == "TOKEN_INVALID"


async def test_whoever_floods_does_not_keep_the_others_from_being_asked_about(tmp_path: Path) -> None:
    async def answer(request: Request) -> Response:
        good = request.headers["authorization"].endswith("good")
        return JSONResponse(YES if good else {}, status_code=200 if good else 401)

    async with asking(tmp_path, answer, auth_failure_requests=5) as (running, api):
        answers = [await reason(running, f"bad-{number}") for number in range(10)]
        assert answers == ["TOKEN_INVALID"] * 5 + ["RATE_LIMITED"] * 5
        assert len(api.requests) == 5
        # Known tokens, and those that are ours, pass from the same address.
        assert (await who(running, mint())).vault_id == "acme"
        refusal = await refused(who(running, "good"))
        assert (refusal.reason, refusal.retry is not None) == ("RATE_LIMITED", True)
