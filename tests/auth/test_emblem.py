"""Tokens that the Emblem API verifies."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from metamorph_client.admin.v1.admin_service_pb2 import RevokeTokensRequest, UserTokens
from metamorph_client.chat.v1.chat_service_pb2 import CreateSessionRequest
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest, WhoAmIResponse
from metamorphd.auth import emblem, http_client, tokens
from metamorphd.auth.emblem import EmblemApi
from metamorphd.auth.http_client import HttpClient
from metamorphd.errors import IdentityUnavailable
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.support.fakes.web import Answer, FakeWeb, answering
from tests.support.refusal import refused
from tests.support.serving import Serving, serving
from tests.support.tokens import mint

YES = {"vaultId": "remote", "userId": "rita", "email": "rita@example.org", "permissions": ["read", "write"]}


@asynccontextmanager
async def asking(directory: Path, answer: Answer, **settings: Any) -> AsyncIterator[tuple[Serving, FakeWeb]]:
    """Yields a server and the Emblem API that it calls."""
    async with FakeWeb(answer) as api, serving(directory, emblem_api_url=api.url, **settings) as running:
        yield running, api


async def who_am_i(running: Serving, token: str) -> WhoAmIResponse:
    caller = running.caller(token)
    return await caller.vault.WhoAmI(WhoAmIRequest(), metadata=caller.metadata)


async def reason(running: Serving, token: str) -> str:
    return (await refused(who_am_i(running, token))).reason


async def test_the_api_identifies_the_caller_of_an_opaque_token(tmp_path: Path) -> None:
    async with asking(tmp_path, answering(YES)) as (running, api):
        identity = await who_am_i(running, "opaque-token")
        assert (identity.vault_id, identity.user_id, identity.email, identity.auth_method) == (
            "remote",
            "rita",
            "rita@example.org",
            "emblem",
        )
        assert list(identity.permissions) == ["read", "write"]
        assert not identity.HasField("expire_time")
        (request,) = api.requests
        assert (request.method, request.url.path) == ("POST", "/vault/info")
        assert request.headers["authorization"] == "Bearer opaque-token"
        assert await request.body() == b""
        caller = running.caller("opaque-token")
        await caller.chat.CreateSession(CreateSessionRequest(), metadata=caller.metadata)
        assert len(api.requests) == 1


async def test_missing_fields_grant_nothing(tmp_path: Path) -> None:
    async with asking(tmp_path, answering({"vaultId": "remote"})) as (running, _):
        identity = await who_am_i(running, "opaque")
        assert (identity.vault_id, identity.user_id, list(identity.permissions)) == ("remote", "", [])


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
async def test_any_other_answer_refuses_the_token_and_is_cached(tmp_path: Path, answer: Answer) -> None:
    async with asking(tmp_path, answer) as (running, api):
        assert await reason(running, "opaque") == "TOKEN_INVALID"
        assert await reason(running, "opaque") == "TOKEN_INVALID"
        assert len(api.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [answering({}, 500), answering({}, 429), answering(YES, after=3), answering(b"x" * 100_000)],
    ids=["500", "429", "slow", "huge"],
)
async def test_an_outage_is_reported_as_such_and_not_cached(tmp_path: Path, answer: Answer) -> None:
    async with asking(tmp_path, answer) as (running, api):
        refusal = await refused(who_am_i(running, "opaque"))
        assert (refusal.code.name, refusal.reason) == ("UNAVAILABLE", "IDENTITY_UNAVAILABLE")
        assert refusal.retry is not None
        api.answer = answering(YES)
        assert (await who_am_i(running, "opaque")).vault_id == "remote"


async def test_what_the_api_sets_for_one_token_does_not_go_along_with_another(tmp_path: Path) -> None:
    """Nor does a cookie that cannot be sent back, since it is not of ASCII, keep others from being asked for."""
    cookies = iter(["session=of-the-first; Path=/", "odd=\xe9; Path=/"])

    async def answer(_: Request) -> Response:
        return JSONResponse(YES, headers={"set-cookie": next(cookies, "last=1")})

    async with asking(tmp_path, answer) as (running, api):
        for token in ("first", "second", "third"):
            assert (await who_am_i(running, token)).vault_id == "remote"
        assert [request.headers.get("cookie") for request in api.requests] == [None] * 3


async def test_a_token_that_makes_the_api_fail_is_not_sent_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(tmp_path, answering({}, 503)) as (running, api):
        for _ in range(20):
            assert await reason(running, "opaque") == "IDENTITY_UNAVAILABLE"
        assert len(api.requests) == emblem.FAILURES
        assert (await who_am_i(running, mint())).vault_id == "acme"
        monotonic, ahead = time.monotonic, 2 * emblem.OPEN_SECONDS
        monkeypatch.setattr(time, "monotonic", lambda: monotonic() + ahead)
        # One call tries again and fails, which starts another pause, until a call succeeds.
        assert await reason(running, "opaque") == "IDENTITY_UNAVAILABLE"
        assert await reason(running, "opaque") == "IDENTITY_UNAVAILABLE"
        assert len(api.requests) == emblem.FAILURES + 1
        ahead += 2 * emblem.OPEN_SECONDS
        api.answer = answering(YES)
        assert [(await who_am_i(running, "opaque")).vault_id for _ in range(3)] == ["remote"] * 3


async def failing_for_the_bad(request: Request) -> Response:
    good = request.headers["authorization"].startswith("Bearer good")
    return JSONResponse(YES if good else {}, status_code=200 if good else 503)


async def test_tokens_that_make_the_api_fail_lock_out_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each call of a token that was accepted is verified again.
    monkeypatch.setattr(tokens, "ACCEPTED_SECONDS", 0.0)
    async with asking(tmp_path, failing_for_the_bad, auth_failure_requests=5) as (running, api):
        assert (await who_am_i(running, "good-before")).vault_id == "remote"
        for number in range(3 * emblem.FAILURES):
            assert await reason(running, f"bad-{number}") == "IDENTITY_UNAVAILABLE"
        for _ in range(2 * emblem.FAILURES):
            assert await reason(running, "bad") == "IDENTITY_UNAVAILABLE"
        # From the same address, which may be that of a proxy.
        assert (await who_am_i(running, "good-after")).vault_id == "remote"
        assert (await who_am_i(running, "good-before")).vault_id == "remote"
        assert len(api.requests) == 1 + 3 * emblem.FAILURES + emblem.FAILURES + 2


async def test_a_token_that_was_accepted_is_verified_again_from_the_address_of_a_flood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "ACCEPTED_SECONDS", 0.0)
    async with asking(tmp_path, answering(YES), auth_failure_requests=3) as (running, api):
        assert (await who_am_i(running, "good")).vault_id == "remote"
        for _ in range(5):
            await reason(running, mint(secret="b" * 32))
        assert await reason(running, "stranger") == "RATE_LIMITED"
        assert (await who_am_i(running, "good")).vault_id == "remote"
        # Once refused, it is a stranger's again.
        api.answer = answering({}, 401)
        assert await reason(running, "good") == "RATE_LIMITED"
        assert len(api.requests) == 3
        monkeypatch.setattr(emblem, "REFUSED_SECONDS", 0.0)
        assert await reason(running, "good") == "RATE_LIMITED"
        assert len(api.requests) == 3


async def test_tokens_that_make_the_api_hang_take_no_place_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    # The API hangs as long as the test says, not as long as the client waits.
    monkeypatch.setattr(http_client, "TIMEOUT_SECONDS", 60.0)
    going = asyncio.Event()

    async def answer(request: Request) -> Response:
        if "good" not in request.headers["authorization"]:
            await going.wait()
        return JSONResponse(YES)

    async with FakeWeb(answer) as web, HttpClient() as http:
        api = EmblemApi(url=web.url, http=http, permissions=frozenset())
        strangers = [api.caller(f"bad-{n}", network="192.0.2.1", vault_id=None) for n in range(emblem.IN_FLIGHT_EACH)]
        known = [api.caller(f"bad-known-{n}", network="", vault_id="evil") for n in range(emblem.IN_FLIGHT_EACH)]
        hanging = [asyncio.create_task(caller) for caller in strangers + known]
        while len(web.requests) < len(hanging):  # noqa: ASYNC110, the API has no event for it
            await asyncio.sleep(0.01)
        with pytest.raises(IdentityUnavailable):
            await api.caller("good-1", network="192.0.2.1", vault_id=None)
        with pytest.raises(IdentityUnavailable):
            await api.caller("good-2", network="192.0.2.2", vault_id="evil")
        assert (await api.caller("good-3", network="192.0.2.2", vault_id=None)).vault_id == "remote"
        assert (await api.caller("good-4", network="192.0.2.1", vault_id="remote")).vault_id == "remote"
        going.set()
        await asyncio.gather(*hanging)
        assert (await api.caller("good-1", network="192.0.2.1", vault_id=None)).vault_id == "remote"


async def test_callers_who_were_accepted_before_wait_for_one_of_their_vaults_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_a_time, most = 0, 0

    async def answer(request: Request) -> Response:
        nonlocal at_a_time, most
        at_a_time += 1
        most = max(most, at_a_time)
        await asyncio.sleep(60 if "bad" in request.headers["authorization"] else 0.1)
        at_a_time -= 1
        return JSONResponse(YES)

    async with FakeWeb(answer) as web, HttpClient() as http:
        api = EmblemApi(url=web.url, http=http, permissions=frozenset())
        lapsed = [api.caller(f"known-{n}", network="", vault_id="remote") for n in range(5 * emblem.IN_FLIGHT_EACH)]
        assert {caller.vault_id for caller in await asyncio.gather(*lapsed)} == {"remote"}
        assert most == emblem.IN_FLIGHT_EACH
        # Not for long, and strangers not at all.
        monkeypatch.setattr(emblem, "WAIT_SECONDS", 0.2)
        for vault_id in ("remote", None):
            asked = [api.caller(f"bad-{vault_id}-{n}", network="", vault_id=vault_id) for n in range(most)]
            hanging = [asyncio.create_task(caller) for caller in asked]
            await asyncio.sleep(0.1)
            began = time.monotonic()
            with pytest.raises(IdentityUnavailable):
                await api.caller(f"one-more-{vault_id}", network="", vault_id=vault_id)
            assert (time.monotonic() - began >= 0.2) == (vault_id is not None)
            await asyncio.gather(*hanging, return_exceptions=True)


def addresses(number: int) -> str:
    return f"192.0.2.{number}"


def networks(number: int) -> str:
    return f"2001:db8:1:{number:x}::/64"


@pytest.mark.parametrize(
    ("network", "count"),
    [(addresses, 10), (addresses, 100), (networks, 10), (networks, 200)],
    ids=["ten addresses", "a hundred addresses", "ten networks of a site", "two hundred networks of a site"],
)
@pytest.mark.parametrize("others", ["198.51.100.1", "2001:db8:2::/64"], ids=["IPv4", "IPv6"])
async def test_hanging_tokens_of_many_networks_keep_no_other_network_out(
    monkeypatch: pytest.MonkeyPatch, network: Callable[[int], str], count: int, others: str
) -> None:
    monkeypatch.setattr(http_client, "TIMEOUT_SECONDS", 60.0)
    going = asyncio.Event()

    async def answer(request: Request) -> Response:
        if "good" not in request.headers["authorization"]:
            await going.wait()
        return JSONResponse(YES)

    async with FakeWeb(answer) as web, HttpClient() as http:
        api = EmblemApi(url=web.url, http=http, permissions=frozenset())
        bad = [api.caller(f"bad-{n}", network=network(n % count), vault_id=None) for n in range(emblem.IN_FLIGHT)]
        bad += [api.caller(f"bad-known-{n}", network="", vault_id=f"evil-{n % 10}") for n in range(emblem.IN_FLIGHT)]
        hanging = [asyncio.create_task(caller) for caller in bad]
        while len(web.requests) < len(hanging):  # noqa: ASYNC110, the API has no event for it
            await asyncio.sleep(0.01)
        assert (await api.caller("good", network=others, vault_id=None)).vault_id == "remote"
        assert (await api.caller("good-known", network="", vault_id="remote")).vault_id == "remote"
        going.set()
        ended = await asyncio.gather(*hanging, return_exceptions=True)
        # One of each kind has lost its place, and may ask again.
        assert [type(error) for error in ended if isinstance(error, BaseException)] == [IdentityUnavailable] * 2
        again = [api.caller(f"again-{n}", network=network(0), vault_id=None) for n in range(emblem.IN_FLIGHT_EACH)]
        assert {caller.vault_id for caller in await asyncio.gather(*again)} == {"remote"}


async def test_networks_that_have_equally_many_requests_take_no_place_from_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(emblem, "IN_FLIGHT", 3)
    going = asyncio.Event()

    async def answer(_: Request) -> Response:
        await going.wait()
        return JSONResponse(YES)

    async with FakeWeb(answer) as web, HttpClient() as http:
        api = EmblemApi(url=web.url, http=http, permissions=frozenset())
        each = [api.caller(f"each-{number}", network=addresses(number), vault_id=None) for number in (1, 2, 3)]
        hanging = [asyncio.create_task(caller) for caller in each]
        while len(web.requests) < len(hanging):  # noqa: ASYNC110, the API has no event for it
            await asyncio.sleep(0.01)
        with pytest.raises(IdentityUnavailable):
            await api.caller("a fourth", network=addresses(4), vault_id=None)
        with pytest.raises(IdentityUnavailable):
            await api.caller("a second", network=addresses(1), vault_id=None)
        going.set()
        assert {caller.vault_id for caller in await asyncio.gather(*hanging)} == {"remote"}


async def test_the_tokens_of_one_network_are_limited_for_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = time.monotonic()
    monkeypatch.setattr(emblem, "CALLS_PER_SECOND", 3)
    async with FakeWeb(answering(YES)) as web, HttpClient() as http:
        api = EmblemApi(url=web.url, http=http, permissions=frozenset())
        with monkeypatch.context() as stopped:
            stopped.setattr(emblem, "time", Stopped(moment))
            for number in range(3):
                await api.caller(f"a-{number}", network="192.0.2.1", vault_id=None)
            with pytest.raises(IdentityUnavailable):
                await api.caller("a-3", network="192.0.2.1", vault_id=None)
            assert (await api.caller("b", network="192.0.2.2", vault_id=None)).vault_id == "remote"
            assert (await api.caller("a-0", network="192.0.2.1", vault_id="remote")).vault_id == "remote"
            stopped.setattr(emblem, "time", Stopped(moment + 1))
            assert (await api.caller("a-3", network="192.0.2.1", vault_id=None)).vault_id == "remote"


class Stopped:
    """The time module, at a moment."""

    def __init__(self, moment: float) -> None:
        self._moment = moment

    def monotonic(self) -> float:
        return self._moment


async def test_a_flood_of_one_token_makes_one_call_and_of_many_a_bounded_number(
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


async def test_tokens_of_our_own_are_never_sent_to_the_api(tmp_path: Path) -> None:
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


async def test_a_token_of_a_declared_foreign_issuer_is_sent_to_the_api(tmp_path: Path) -> None:
    async with asking(tmp_path, answering(YES), emblem_jwt_issuer="https://ours") as (running, api):
        expire = int(time.time()) + 100
        foreign = mint(iss="https://theirs", exp=expire, jti="t1", secret="z" * 32)
        identity = await who_am_i(running, foreign)
        assert (identity.vault_id, identity.user_id, identity.expire_time.seconds) == ("remote", "rita", expire)
        assert (await who_am_i(running, mint(iss="https://ours"))).vault_id == "acme"
        assert await reason(running, mint(secret="z" * 32)) == "TOKEN_INVALID"
        assert len(api.requests) == 1
        assert await reason(running, mint(iss="https://theirs", exp=int(time.time()) - 60)) == "TOKEN_EXPIRED"


async def test_a_token_that_the_api_verified_is_revoked_by_its_own_claims(tmp_path: Path) -> None:
    async with asking(tmp_path, answering(YES), emblem_jwt_issuer="https://ours") as (running, _):
        now = int(time.time())
        operator = running.caller(iss="https://ours", operator=True)
        lasting = mint(iss="https://theirs", exp=None, jti="t1")
        later = mint(iss="https://theirs", exp=None, iat=now + 25)
        assert (await who_am_i(running, lasting)).vault_id == (await who_am_i(running, later)).vault_id == "remote"
        revoked: dict[str, Any]
        for revoked in ({"token_id": "t1"}, {"user_tokens": UserTokens(user_id="rita")}):
            request = RevokeTokensRequest(vault_id="remote", **revoked)
            await operator.admin.RevokeTokens(request, metadata=operator.metadata)
            assert await reason(running, lasting) == "TOKEN_REVOKED"
        assert await reason(running, later) == "TOKEN_REVOKED"
        # Dated beyond the leeway it would outlive every revocation until then.
        for claim, value in (("iat", now + 600), ("nbf", now + 600), ("exp", now + 367 * 86_400), ("jti", 7)):
            claims: dict[str, Any] = {"exp": None, claim: value}
            assert await reason(running, mint(iss="https://theirs", **claims)) == "TOKEN_INVALID"


async def test_without_a_secret_every_token_is_sent_to_the_api(tmp_path: Path) -> None:
    async with asking(tmp_path, answering(YES), emblem_jwt_secret="") as (running, api):
        assert (await who_am_i(running, mint())).vault_id == "remote"
        assert len(api.requests) == 1


async def test_an_accepted_token_is_verified_again_each_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "ACCEPTED_SECONDS", 0.2)
    async with asking(tmp_path, answering(YES)) as (running, api):
        assert (await who_am_i(running, "opaque")).vault_id == "remote"
        await asyncio.sleep(0.3)
        api.answer = answering({}, 401)
        assert await reason(running, "opaque") == "TOKEN_INVALID"


async def test_a_flood_from_one_address_does_not_block_other_callers(tmp_path: Path) -> None:
    async def answer(request: Request) -> Response:
        good = request.headers["authorization"].endswith("good")
        return JSONResponse(YES if good else {}, status_code=200 if good else 401)

    async with asking(tmp_path, answer, auth_failure_requests=5) as (running, api):
        answers = [await reason(running, f"bad-{number}") for number in range(10)]
        assert answers == ["TOKEN_INVALID"] * 5 + ["RATE_LIMITED"] * 5
        assert len(api.requests) == 5
        # Known tokens and our own are still accepted from the same address.
        assert (await who_am_i(running, mint())).vault_id == "acme"
        refusal = await refused(who_am_i(running, "good"))
        assert (refusal.reason, refusal.retry is not None) == ("RATE_LIMITED", True)
