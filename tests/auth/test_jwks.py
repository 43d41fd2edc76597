"""Tokens signed with private keys whose public keys come from a JWKS."""

import asyncio
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
from metamorph.vault.v1.vault_service_pb2 import WhoAmIRequest
from metamorphd.auth import jwks

from tests.support.certificates import Authority
from tests.support.fakes.web import FakeWeb, answering
from tests.support.refusal import refused
from tests.support.serving import Serving, serving
from tests.support.tokens import SECRET, encoded, mint

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
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I", "kid": "r1", "alg": "HS256"},
        json.loads(RSAAlgorithm.to_jwk(SHORT_KEY.public_key())) | {"kid": "r1", "alg": "RS256"},
        {"kid": "r1"},
        {"kid": "r1", "kty": "RSA", "n": 5},
        "r1",
    ],
    ids=["encrypts", "RS512", "secret", "1024 bits", "empty", "broken", "no object"],
)
async def test_an_unsuitable_key_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: dict[str, Any]
) -> None:
    async with trusting(tmp_path, monkeypatch, [key, public("e1")]) as (running, _):
        assert await reason(running, signed("r1")) == "TOKEN_INVALID"
        assert await vault_of(running, signed("e1")) == "acme"


async def test_a_flood_of_unknown_key_ids_fetches_keys_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with trusting(tmp_path, monkeypatch, [public("e1")]) as (running, provider):
        provider.answer = answering({"keys": [public("e1")]}, after=0.2)
        tokens = [
            jwt.encode({"vault_id": "acme", "sub": "a", "exp": 2**31}, EC_KEY, "ES256", headers={"kid": f"k{number}"})
            for number in range(50)
        ]
        assert set(await asyncio.gather(*(reason(running, token) for token in tokens))) == {"TOKEN_INVALID"}
        assert len(provider.requests) == 1
        # A new key is found after the cooldown.
        provider.answer = answering({"keys": [public("e1"), public("d1")]})
        assert await reason(running, signed("d1")) == "TOKEN_INVALID"
        monkeypatch.setattr(jwks, "COOLDOWN_SECONDS", 0.0)
        assert await vault_of(running, signed("d1")) == "acme"
        assert len(provider.requests) == 2


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
        monkeypatch.setattr(jwks, "FRESH_SECONDS", 0.0)
        monkeypatch.setattr(jwks, "COOLDOWN_SECONDS", 0.0)
        provider.answer = answering({}, 500)
        assert await vault_of(running, signed("e1", sub="bob")) == "acme"
        monkeypatch.setattr(jwks, "STALE_SECONDS", 0.0)
        assert await reason(running, signed("e1", sub="carol")) == "IDENTITY_UNAVAILABLE"
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
