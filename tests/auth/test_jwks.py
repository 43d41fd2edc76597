"""Tokens signed with private keys whose public keys come from a JWKS."""

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from metamorph_client.admin.v1.admin_service_pb2 import GetServerInfoRequest
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest
from metamorphd.auth import http_client, jwks
from metamorphd.auth.http_client import HttpClient
from metamorphd.auth.jwks import KeySet
from metamorphd.auth.revoked_tokens import RevokedTokens
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.support.certificates import Authority
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.fakes.web import Answer, FakeWeb, answering
from tests.support.refusal import refused
from tests.support.serving import Serving, replies_from, serving
from tests.support.tokens import SECRET, encoded, mint
from tests.support.turns import deltas, followed

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SHORT_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
KEYS: dict[str, tuple[str, Any, Any]] = {
    "r1": ("RS256", RSA_KEY, RSAAlgorithm),
    "e1": ("ES256", EC_KEY, ECAlgorithm),
    "d1": ("EdDSA", ED_KEY, OKPAlgorithm),
}


def public(key_id: str, **members: object) -> dict[str, Any]:
    algorithm, key, kind = KEYS[key_id]
    jwk: dict[str, Any] = json.loads(kind.to_jwk(key.public_key()))
    return jwk | {"kid": key_id, "alg": algorithm, "use": "sig"} | members


def signed(key_id: str, key: Any = None, algorithm: str | None = None, **claims: object) -> str:
    own_algorithm, own_key, _ = KEYS[key_id]
    body = {"vault_id": "acme", "sub": "alice", "exp": int(time.time()) + 60, **claims}
    return jwt.encode(body, key or own_key, algorithm=algorithm or own_algorithm, headers={"kid": key_id})


@asynccontextmanager
async def trusting(
    directory: Path, monkeypatch: pytest.MonkeyPatch, keys: Sequence[dict[str, Any]], **settings: Any
) -> AsyncIterator[tuple[Serving, FakeWeb]]:
    """Yields a server and the identity provider whose keys it uses."""
    authority = Authority(directory)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    async with (
        FakeWeb(answering({"keys": list(keys)}), tls=authority.issue()) as provider,
        serving(directory, emblem_jwks_url=f"{provider.url}/keys", **settings) as running,
    ):
        yield running, provider


async def vault_of(running: Serving, token: str) -> str:
    caller = running.caller(token)
    return str((await caller.vault.WhoAmI(WhoAmIRequest(), metadata=caller.metadata)).vault_id)


async def reason(running: Serving, token: str) -> str:
    return (await refused(vault_of(running, token))).reason


async def test_each_algorithm_is_accepted_with_its_own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with trusting(tmp_path, monkeypatch, [public(key_id) for key_id in KEYS]) as (running, provider):
        for key_id in KEYS:
            assert await vault_of(running, signed(key_id)) == "acme"
        assert await vault_of(running, mint()) == "acme"
        assert len(provider.requests) == 1


def public_forms() -> list[tuple[str, bytes]]:
    key = RSA_KEY.public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return [("JWK", json.dumps(public("r1")).encode()), ("PEM", pem), ("DER", der)]


def by_secret(secret: bytes) -> str:
    """Returns a token signed with a public key as an HMAC secret, which PyJWT refuses to make."""
    claims = json.dumps({"vault_id": "acme", "sub": "a", "exp": int(time.time()) + 60})
    head = encoded(b'{"alg":"HS256","typ":"JWT","kid":"r1"}') + "." + encoded(claims.encode())
    return head + "." + encoded(hmac.digest(secret, head.encode(), "sha256"))


async def test_a_key_is_accepted_for_one_algorithm_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with trusting(tmp_path, monkeypatch, [public(key_id) for key_id in KEYS]) as (running, _):
        crafted = {
            "another hash": signed("r1", algorithm="RS384"),
            "another padding": signed("r1", algorithm="PS256"),
            "another key's id": signed("r1", EC_KEY, "ES256"),
            **{f"the public key as a secret, {name}": by_secret(secret) for name, secret in public_forms()},
            "our secret under a key's id": jwt.encode(
                {"vault_id": "acme", "sub": "a", "exp": int(time.time()) + 60}, "x" * 40, headers={"kid": "e1"}
            ),
            "another key": signed("r1", rsa.generate_private_key(public_exponent=65537, key_size=2048)),
            "no key id": jwt.encode({"vault_id": "acme", "sub": "a", "exp": int(time.time()) + 60}, EC_KEY, "ES256"),
            "a key of its own": jwt.encode(
                {"vault_id": "acme", "sub": "a", "exp": int(time.time()) + 60},
                EC_KEY,
                "ES256",
                headers={"jwk": public("e1"), "jku": "https://evil.invalid/keys"},
            ),
        }
        for name, token in crafted.items():
            assert (name, await reason(running, token)) == (name, "TOKEN_INVALID")
        assert await reason(running, signed("e1", exp=int(time.time()) - 60)) == "TOKEN_EXPIRED"


@pytest.mark.parametrize(
    "key",
    [
        public("r1", use="enc"),
        public("r1", alg="RS512"),
        public("r1", alg="none"),
        public("r1", key_ops=["sign"]),
        public("r1", key_ops="verify"),
        json.loads(RSAAlgorithm.to_jwk(RSA_KEY)) | {"kid": "r1", "alg": "RS256"},
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I", "kid": "r1", "alg": "HS256"},
        json.loads(RSAAlgorithm.to_jwk(SHORT_KEY.public_key())) | {"kid": "r1", "alg": "RS256"},
        {"kid": "r1"},
        {"kid": "r1", "kty": "RSA", "n": 5},
        "r1",
    ],
    ids=[
        "encrypts",
        "RS512",
        "no algorithm",
        "signs",
        "no operations",
        "private",
        "secret",
        "1024 bits",
        "empty",
        "broken",
        "no object",
    ],
)
async def test_an_unsuitable_key_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: dict[str, Any]
) -> None:
    async with trusting(tmp_path, monkeypatch, [key, public("e1")]) as (running, _):
        assert await reason(running, signed("r1")) == "TOKEN_INVALID"
        assert await vault_of(running, signed("e1")) == "acme"


def unknown(number: int) -> str:
    claims = {"vault_id": "acme", "sub": "a", "exp": int(time.time()) + 60}
    return jwt.encode(claims, EC_KEY, "ES256", headers={"kid": f"k{number}"})


async def test_a_flood_of_unknown_key_ids_fetches_keys_rarely_and_keeps_nobody_from_a_new_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trusting(tmp_path, monkeypatch, [public("e1")]) as (running, provider):
        assert await vault_of(running, signed("e1")) == "acme"
        # Within the cooldown: all of them, and a token of a key that is newer than the set, wait for one fetch.
        monkeypatch.setattr(jwks, "COOLDOWN_SECONDS", 1.0)
        flood = asyncio.gather(*(reason(running, unknown(number)) for number in range(50)))
        provider.answer = answering({"keys": [public("e1"), public("d1")]})
        assert await vault_of(running, signed("d1")) == "acme"
        assert set(await flood) == {"TOKEN_INVALID"}
        # One that was asked for while the second was on its way waits for a third.
        assert len(provider.requests) <= 3


async def test_an_unknown_key_id_during_an_outage_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with trusting(tmp_path, monkeypatch, [public("e1")]) as (running, provider):
        assert await vault_of(running, signed("e1")) == "acme"
        monkeypatch.setattr(jwks, "COOLDOWN_SECONDS", 0.0)
        provider.answer = answering({}, 503)
        # The key may be a new one.
        assert await reason(running, signed("d1")) == "IDENTITY_UNAVAILABLE"
        assert await vault_of(running, signed("e1", sub="bob")) == "acme"


async def test_bad_tokens_from_an_address_refuse_no_token_of_a_key_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trusting(tmp_path, monkeypatch, [public("e1")], auth_failure_requests=3) as (running, provider):
        bad = mint(secret="b" * 32)
        assert [await reason(running, bad) for _ in range(5)] == ["TOKEN_INVALID"] * 3 + ["RATE_LIMITED"] * 2
        # Its key must be fetched first.
        assert await vault_of(running, signed("e1")) == "acme"
        monkeypatch.setattr(jwks, "COOLDOWN_SECONDS", 0.0)
        provider.answer = answering({"keys": [public("e1"), public("d1")]})
        assert await reason(running, unknown(1)) == "RATE_LIMITED"
        assert await vault_of(running, signed("d1")) == "acme"
        # The set is too old, and fetched again.
        monkeypatch.setattr(jwks, "STALE_SECONDS", -1.0)
        asked = len(provider.requests)
        pending = asyncio.create_task(vault_of(running, signed("e1", sub="bob")))
        while len(provider.requests) == asked:  # noqa: ASYNC110, the provider has no event for it
            await asyncio.sleep(0.01)
        monkeypatch.setattr(jwks, "STALE_SECONDS", 3600.0)
        assert await pending == "acme"


async def until_refused(running: Serving, token: str) -> str:
    """Returns the reason once the token is refused."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(AssertionError):
                return await reason(running, token)


@pytest.mark.parametrize("replaced", [False, True], ids=["without it", "with another key of its id"])
async def test_a_key_that_left_the_set_ends_the_tokens_that_it_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    monkeypatch.setattr(jwks, "FRESH_SECONDS", 0.05)
    monkeypatch.setattr(jwks, "COOLDOWN_SECONDS", 0.0)
    hold = asyncio.Event()
    another = json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key()))
    async with (
        FakeMessagesApi(Reply(("first ", "second"), hold=hold)) as api,
        trusting(tmp_path, monkeypatch, [public("e1"), public("d1")], **replies_from(api)) as (running, provider),
    ):
        token = signed("e1", permissions=["read", "write"])
        caller = running.caller(token)
        session = await caller.create_session()
        events = caller.start(session.session_id)
        seen = [await events.next(), await events.next()]
        provider.answer = answering({"keys": [public("d1")] + ([another | {"kid": "e1"}] if replaced else [])})
        # Revoked, if the key left while the call waited for its request.
        assert await until_refused(running, token) in ("TOKEN_INVALID", "TOKEN_REVOKED")
        assert await reason(running, token) == "TOKEN_INVALID"
        refusal = await asyncio.wait_for(refused(events.rest()), 20)
        assert (refusal.code.name, refusal.reason) == ("UNAUTHENTICATED", "TOKEN_REVOKED")
        assert await vault_of(running, signed("d1")) == "acme"
        # The turn goes on, and a key that comes back counts again.
        hold.set()
        rest = await followed(running.caller(), seen[0].turn_id, seen[-1].sequence)
        assert deltas(seen + rest) == "first second"
        provider.answer = answering({"keys": [public("e1")]})
        await until_refused(running, signed("d1"))
        assert await vault_of(running, token) == "acme"


async def test_known_keys_are_used_while_others_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "FRESH_SECONDS", 0.05)
    monkeypatch.setattr(jwks, "COOLDOWN_SECONDS", 0.0)
    # The provider hangs as long as the test says, not as long as the client waits.
    monkeypatch.setattr(http_client, "TIMEOUT_SECONDS", 60.0)
    going, asked = asyncio.Event(), asyncio.Event()

    async def answer(_: Request) -> Response:
        asked.set()
        await going.wait()
        return JSONResponse({"keys": [public("e1")]})

    async with trusting(tmp_path, monkeypatch, [public("e1")]) as (running, provider):
        cached = signed("e1")
        assert await vault_of(running, cached) == "acme"
        provider.answer = answer
        await asyncio.wait_for(asked.wait(), 20)
        assert await vault_of(running, cached) == "acme"
        assert await vault_of(running, signed("e1", sub="bob")) == "acme"
        going.set()


async def odd_cookie(_: Request) -> Response:
    return Response(headers={"set-cookie": "a=\xe9; Path=/"})


async def hanging(_: Request) -> Response:
    await asyncio.sleep(1)
    return Response()


@pytest.mark.parametrize(
    "answer",
    [
        answering(b"<html>"),
        answering({}),
        answering({"keys": {}}),
        answering(b""),
        answering(b"[" * 60_000),
        answering(b"x" * 100_000),
        answering({"keys": []}, 503),
        answering({"keys": []}, 302, location="/elsewhere"),
        answering(b"", 304),
        odd_cookie,
        hanging,
    ],
    ids=["html", "no keys", "object", "empty", "deep", "huge", "503", "redirect", "304", "cookie", "hanging"],
)
async def test_the_keys_are_used_and_fetched_again_whatever_the_provider_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    monkeypatch.setattr(jwks, "FRESH_SECONDS", 0.05)
    monkeypatch.setattr(jwks, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(jwks, "COOLDOWN_SECONDS", 0.0)
    async with trusting(tmp_path, monkeypatch, [public("e1"), public("d1")]) as (running, provider):
        assert await vault_of(running, signed("e1")) == "acme"
        monkeypatch.setattr(http_client, "TIMEOUT_SECONDS", 0.5)
        provider.answer = answer
        asked = len(provider.requests)
        async with asyncio.timeout(20):
            while len(provider.requests) < asked + 3:  # noqa: ASYNC110, the provider has no event for it
                await asyncio.sleep(0.01)
        token = signed("e1", sub="bob")
        assert await vault_of(running, token) == "acme"
        monkeypatch.setattr(http_client, "TIMEOUT_SECONDS", 30.0)
        provider.answer = answering({"keys": [public("d1")]})
        assert await until_refused(running, token) in ("TOKEN_INVALID", "TOKEN_REVOKED")
        assert await vault_of(running, signed("d1")) == "acme"


async def test_one_id_may_be_that_of_several_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    same_id = [public("r1", kid="k"), json.loads(ECAlgorithm.to_jwk(other.public_key())) | {"kid": "k"}]
    async with trusting(tmp_path, monkeypatch, [*same_id, public("e1", kid="k")]) as (running, _):
        claims = {"vault_id": "acme", "sub": "a", "exp": int(time.time()) + 60}
        for key, algorithm in ((RSA_KEY, "RS256"), (other, "ES256"), (EC_KEY, "ES256")):
            assert await vault_of(running, jwt.encode(claims, key, algorithm, headers={"kid": "k"})) == "acme"
        assert await reason(running, jwt.encode(claims, ED_KEY, "EdDSA", headers={"kid": "k"})) == "TOKEN_INVALID"


@pytest.mark.parametrize("trusted", [False, True])
async def test_a_key_names_operators_only_if_a_setting_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    keys = [public("e1")]
    async with trusting(tmp_path, monkeypatch, keys, emblem_jwks_operators=trusted) as (running, _):
        for token, operator in ((signed("e1", operator=True), trusted), (mint(operator=True), True)):
            caller = running.caller(token)
            identity = await caller.vault.WhoAmI(WhoAmIRequest(), metadata=caller.metadata)
            assert ("operator" in identity.permissions) == operator
            answer = caller.admin.GetServerInfo(GetServerInfoRequest(), metadata=caller.metadata)
            if operator:
                assert await answer
            else:
                assert (await refused(answer)).reason == "PERMISSION_MISSING"


async def test_a_key_set_can_be_confined_to_vaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"emblem_jwks_vaults": "acme-*, a.b", "emblem_dev_mode": True}
    async with trusting(tmp_path, monkeypatch, [public("e1")], **settings) as (running, _):
        for vault in ("acme-", "acme-1:2", "a.b"):
            assert await vault_of(running, signed("e1", vault_id=vault)) == vault
        for vault in ("acme", "not-acme-1", "a-b", "a.b.c", "ACME-1", "other"):
            refusal = await refused(vault_of(running, signed("e1", vault_id=vault)))
            why = "vault_id is not one that the key set may name"
            assert (refusal.reason, refusal.message) == ("TOKEN_INVALID", f"the token is invalid: {why}")
            assert await vault_of(running, mint(vault)) == vault


@pytest.mark.parametrize(
    "answer",
    [
        answering({"keys": []}, 302, location="/elsewhere"),
        answering({"keys": []}, 500),
        answering(b"<html>"),
        answering({"keys": {}}),
        answering([1]),
        answering({"keys": [], "padding": "x" * 70_000}),
        answering({"keys": []}, after=3),
    ],
    ids=["redirect", "500", "html", "no list", "no object", "too large", "slow"],
)
async def test_a_failing_provider_is_an_outage_and_our_own_secret_still_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    async with trusting(tmp_path, monkeypatch, []) as (running, provider):
        provider.answer = answer
        refusal = await refused(vault_of(running, signed("e1")))
        assert (refusal.code.name, refusal.reason) == ("UNAVAILABLE", "IDENTITY_UNAVAILABLE")
        assert refusal.retry is not None
        assert len(provider.requests) == 1
        assert await vault_of(running, mint()) == "acme"


async def test_keys_stay_valid_during_an_outage_for_a_limited_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trusting(tmp_path, monkeypatch, [public("e1")]) as (running, provider):
        assert await vault_of(running, signed("e1")) == "acme"
        monkeypatch.setattr(jwks, "COOLDOWN_SECONDS", 0.0)
        provider.answer = answering({}, 500)
        expire = int(time.time()) + 600
        assert await vault_of(running, signed("e1", sub="bob", exp=expire)) == "acme"
        monkeypatch.setattr(jwks, "STALE_SECONDS", 0.0)
        assert await reason(running, signed("e1", sub="carol")) == "IDENTITY_UNAVAILABLE"
        # Nor does a token count that was verified before.
        assert await reason(running, signed("e1", sub="bob", exp=expire)) == "IDENTITY_UNAVAILABLE"
        # A key that the provider has withdrawn is no longer accepted.
        provider.answer = answering({"keys": [public("d1")]})
        assert await reason(running, signed("e1", sub="dave")) == "TOKEN_INVALID"


async def test_keys_from_an_untrusted_server_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with trusting(tmp_path, monkeypatch, [public("e1")]) as (running, provider):
        assert await vault_of(running, signed("e1")) == "acme"
        monkeypatch.setenv("SSL_CERT_FILE", str(Authority(tmp_path, "other").certificate))
        (tmp_path / "second").mkdir()
        async with serving(tmp_path / "second", emblem_jwks_url=provider.url) as distrusting:
            assert await reason(distrusting, signed("e1")) == "IDENTITY_UNAVAILABLE"
        assert SECRET not in str(provider.requests)


async def test_nothing_of_a_key_set_goes_on_once_it_is_left() -> None:
    async with HttpClient() as http:
        before = asyncio.all_tasks()
        revoked = RevokedTokens()
        keys = KeySet(url="http://127.0.0.1:1", http=http, revoked_tokens=revoked, vaults=None, operators=False)
        async with keys:
            assert len(asyncio.all_tasks() - before) == 1
        assert asyncio.all_tasks() == before
