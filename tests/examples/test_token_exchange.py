"""The recipe that exchanges another issuer's token for one of ours."""

import json
import time
from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest

from tests.examples.running import EXAMPLES, uvicorn, web
from tests.support.fakes.web import FakeWeb, answering
from tests.support.ports import free_port
from tests.support.serving import Serving
from tests.support.tokens import SECRET

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
JWK = json.loads(RSAAlgorithm.to_jwk(KEY.public_key())) | {"kid": "k1", "alg": "RS256", "use": "sig"}
ISSUER, AUDIENCE = "https://login.example", "chat"


def theirs(key: Any = KEY, algorithm: str = "RS256", key_id: str = "k1", **claims: object) -> str:
    """Returns a token of the other issuer. A claim of None is left out."""
    body = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "org_id": "acme", "exp": int(time.time()) + 3600, **claims}
    body = {name: value for name, value in body.items() if value is not None}
    return jwt.encode(body, key, algorithm=algorithm, headers={"kid": key_id})


@pytest.fixture
async def issuer() -> AsyncIterator[FakeWeb]:
    async with FakeWeb(answering({"keys": [JWK]})) as started:
        yield started


@pytest.fixture
async def exchange(issuer: FakeWeb) -> AsyncIterator[httpx.AsyncClient]:
    port = free_port()
    environment = {"ISSUER": ISSUER, "AUDIENCE": AUDIENCE, "EMBLEM_JWT_SECRET": SECRET, "JWKS_URL": issuer.url}
    command = uvicorn(EXAMPLES, "token_exchange:app", port)
    async with web(command, cwd=EXAMPLES, port=port, **environment) as client:
        yield client


async def exchanged(client: httpx.AsyncClient, token: str) -> tuple[int, str]:
    """Returns the status, and the cookie or the reason why there is none."""
    response = await client.post("/token", headers={"authorization": f"Bearer {token}"})
    return response.status_code, response.headers.get("set-cookie") or response.json()["detail"]


async def test_the_token_is_of_the_organisation_and_the_user_and_may_read_and_write(
    running: Serving, exchange: httpx.AsyncClient
) -> None:
    status, cookie = await exchanged(exchange, theirs())
    assert status == 204
    caller = running.caller(SimpleCookie(cookie)["token"].value)
    me = await caller.vault.WhoAmI(WhoAmIRequest(), metadata=caller.metadata)
    assert (me.vault_id, me.user_id, sorted(me.permissions)) == ("org-acme", "ada", ["read", "write"])
    assert 0 < me.expire_time.seconds - time.time() <= 900


async def test_no_script_and_no_other_site_has_the_cookie(exchange: httpx.AsyncClient) -> None:
    _, cookie = await exchanged(exchange, theirs())
    assert {"HttpOnly", "Secure", "SameSite=strict"} <= set(cookie.split("; "))


async def test_ours_does_not_outlive_theirs(exchange: httpx.AsyncClient) -> None:
    soon = int(time.time()) + 60
    _, cookie = await exchanged(exchange, theirs(exp=soon))
    ours = jwt.decode(SimpleCookie(cookie)["token"].value, SECRET, algorithms=["HS256"])
    assert ours["exp"] == soon


async def test_any_other_token_is_refused_without_the_reason(exchange: httpx.AsyncClient) -> None:
    refused = {
        "another key": theirs(OTHER_KEY),
        "an unknown key": theirs(key_id="k2"),
        "their public key as a secret": theirs(JWK["n"], "HS256"),
        "no signature": theirs(None, "none"),
        "another issuer": theirs(iss="https://login.evil"),
        "another audience": theirs(aud="mail"),
        "expired": theirs(exp=int(time.time()) - 60),
        "no organisation": theirs(org_id=None),
        "no user": theirs(sub=None),
        "no expiry": theirs(exp=None),
        "garbage": "garbage",
    }
    answers = {what: await exchanged(exchange, token) for what, token in refused.items()}
    assert answers == dict.fromkeys(refused, (401, "the token is not valid"))


async def test_an_issuer_that_cannot_be_reached_is_no_fault_of_the_token(
    exchange: httpx.AsyncClient, issuer: FakeWeb
) -> None:
    issuer.answer = answering({}, 500)
    assert await exchanged(exchange, theirs()) == (503, "the issuer cannot be reached")
