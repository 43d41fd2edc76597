"""Which callers are accepted, and how all others are refused."""

import asyncio
import hmac
import json
import time
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from metamorph_client.admin.v1.admin_service_pb2 import RevokeTokensRequest, UserTokens
from metamorph_client.chat.v1.chat_service_pb2 import StreamTurnRequest
from metamorph_client.vault.v1.vault_service_pb2 import GetVaultRequest, WhoAmIRequest, WhoAmIResponse
from metamorphd.auth.claims import LEEWAY_SECONDS
from metamorphd.auth.remedies import REMEDIES

from tests.support.caller import Caller, Events
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.processes import serving_process
from tests.support.refusal import refused
from tests.support.serving import Serving, asking, serving
from tests.support.tokens import SECRET, encoded, mint
from tests.support.turns import deltas, followed


async def who_am_i(caller: Caller) -> WhoAmIResponse:
    return await caller.vault.WhoAmI(WhoAmIRequest(), metadata=caller.metadata)


@pytest.mark.parametrize(
    ("claims", "vault", "user"),
    [
        ({"vault_id": "v1", "sub": "u1"}, "v1", "u1"),
        ({"vaultId": "v2", "userId": "u2"}, "v2", "u2"),
        ({"vault_id": "v3", "user_id": "u3", "sub": "other"}, "v3", "u3"),
        ({"vault_id": "a:b.c_d-1", "sub": "ü@example"}, "a:b.c_d-1", "ü@example"),
    ],
)
async def test_vault_and_user_are_read_from_every_form_of_claim(
    running: Serving, claims: dict[str, str], vault: str, user: str
) -> None:
    token = jwt.encode({**claims, "exp": int(time.time()) + 60}, SECRET)
    identity = await who_am_i(running.caller(token))
    assert (identity.vault_id, identity.user_id, identity.auth_method) == (vault, user, "jwt")
    assert list(identity.permissions) == []


async def test_permissions_are_read_from_the_array_or_from_scope(running: Serving) -> None:
    identity = await who_am_i(running.caller(permissions=["write", "read", "unknown"], email="a@example.org"))
    assert (list(identity.permissions), identity.email) == (["read", "write"], "a@example.org")
    assert list((await who_am_i(running.caller(encode(scope="read admin")))).permissions) == ["admin", "read"]
    assert "operator" in (await who_am_i(running.caller(operator=True))).permissions


async def test_the_scheme_is_case_insensitive(running: Serving) -> None:
    caller = running.caller("", ("authorization", f"bearer {mint()}"))
    assert (await who_am_i(caller)).vault_id == "acme"


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", f"Bearer {mint()}"), ("authorization", f"Bearer {mint()}")],
        [("authorization", f"Basic {mint()}")],
        [("authorization", mint())],
        [("authorization", "")],
    ],
    ids=["none", "two", "another scheme", "no scheme", "empty"],
)
async def test_a_call_without_exactly_one_bearer_token_is_refused(
    running: Serving, metadata: list[tuple[str, str]]
) -> None:
    refusal = await refused(who_am_i(running.caller("", *metadata)))
    assert (refusal.code.name, refusal.reason) == ("UNAUTHENTICATED", "TOKEN_MISSING")


def encode(**claims: object) -> str:
    """Returns a signed token with these claims and the required ones."""
    return jwt.encode({"vault_id": "v", "sub": "u", "exp": int(time.time()) + 60, **claims}, SECRET)


def signed(payload: str, header: bytes = b'{"alg":"HS256","typ":"JWT"}') -> str:
    """Returns a token with a valid signature over any payload."""
    head = encoded(header) + "." + encoded(payload.encode())
    return head + "." + encoded(hmac.digest(SECRET.encode(), head.encode(), "sha256"))


def crafted() -> dict[str, tuple[str, str]]:
    """Returns tokens by what is wrong with them, each with how its refusal says so."""
    head, body, signature = mint().split(".")
    now = int(time.time())
    return {
        "empty": (" ", "a character is not one of a bearer token"),
        "no token": ("token", "it is not a JSON Web Token"),
        "padded signature": (f"{head}.{body}.{signature}=", "a part is not base64url"),
        "no signature": (f"{head}.{body}.", "a part is not base64url"),
        "unsigned": (
            jwt.encode({"vault_id": "v", "sub": "u", "exp": now + 60}, "", algorithm="none"),
            "a part is not base64url",
        ),
        "another secret": (mint(secret="b" * 32), "the signature is not that of an accepted key"),
        "another algorithm": (
            jwt.encode({"vault_id": "v", "sub": "u", "exp": now + 60}, SECRET * 2, algorithm="HS512"),
            "alg is not accepted",
        ),
        "no expiry": (mint(exp=None), "exp is missing"),
        "expiry as text": (mint(exp=str(now + 60)), "exp is not a number"),
        "expiry in ten thousand years": (mint(exp=now + 2**42), "exp is not a time between 1970 and 9999"),
        "expiry in 367 days": (mint(exp=now + 367 * 86_400), "exp is more than 366 days ahead"),
        "expiry at infinity": (
            signed('{"vault_id":"v","sub":"u","exp":1e999}'),
            "exp is not a time between 1970 and 9999",
        ),
        "a claim twice": (
            signed(f'{{"vault_id":"v","vault_id":"w","sub":"u","exp":{now + 60}}}'),
            "a member is there twice",
        ),
        "a claim twice, deeper": (
            signed(f'{{"vault_id":"v","sub":"u","exp":{now + 60},"x":{{"a":1,"a":2}}}}'),
            "a member is there twice",
        ),
        "algorithm is a list": (signed("{}", b'{"alg":["HS256"]}'), "alg is missing, or not text"),
        "algorithm is an object": (signed("{}", b'{"alg":{}}'), "alg is missing, or not text"),
        "no object": (signed(f'["v","u",{now + 60}]'), "a part is not a JSON object"),
        "nested without end": (signed("[" * 3000), "a part is not JSON"),
        "header nested without end": (f"{encoded(b'[' * 4000)}.{body}.{signature}", "a part is not JSON"),
        "not valid yet": (mint(nbf=now + 600), "nbf is ahead"),
        "issued in the future": (mint(iat=now + 600), "iat is ahead"),
        "not valid before text": (mint(nbf="yesterday"), "nbf is not a number"),
        "not valid before a time as text": (mint(nbf=str(now)), "nbf is not a number"),
        "not valid before true": (mint(nbf=True), "nbf is not a number"),
        "no vault": (mint(vault_id=None), "vault_id is missing"),
        "no user": (mint(sub=None), "sub is missing"),
        "vault is a number": (mint(vault_id=7), "vault_id is not text"),
        "vault with a slash": (mint("a/b"), "vault_id is not a vault ID"),
        "vault too long": (mint("a" * 129), "vault_id is not a vault ID"),
        "vault with a line end": (mint("acme\n"), "vault_id is not a vault ID"),
        "user empty": (mint(user=""), "sub is blank"),
        "user with NUL": (mint(user="a\0b"), "sub has a character that is not printable"),
        "user too long": (mint(user="u" * 257), "sub has more than 256 characters"),
        "permissions as text": (encode(permissions="read"), "permissions is not an array of text"),
        "permissions of numbers": (encode(permissions=[1]), "permissions is not an array of text"),
        "email is a list": (mint(email=["a"]), "email is not text"),
        "another kind": (signed("{}", b'{"alg":"HS256","typ":"logout+jwt"}'), "typ is not that of a JWT"),
        "an extension": (signed("{}", b'{"alg":"HS256","crit":["canary"]}'), "crit is not supported"),
        "not a number": (signed('{"exp":NaN}'), "a number is not finite"),
        "vaults that differ": (encode(vaultId="canary"), "vault_id and vaultId differ"),
        "the second vault is a number": (encode(vaultId=7), "vaultId is not text"),
        "the first user is blank": (encode(user_id=" ", userId="canary"), "user_id is blank"),
        "the second user is a list": (encode(userId=["canary"]), "userId is not text"),
        "subject is a number": (encode(sub=7, user_id="canary"), "sub is not text"),
        "id is a number": (encode(jti=7), "jti is not text"),
        "id too long": (encode(jti="canary" * 50), "jti has more than 256 characters"),
        "scope is a list": (encode(scope=["canary"]), "scope is not text"),
        "issued after its expiry": (mint(iat=now, exp=now - 5), "iat is after exp"),
        "an unknown algorithm": (signed("{}", b'{"alg":"canary"}'), "alg is not accepted"),
    }


async def test_every_crafted_token_is_refused_without_saying_why(running: Serving) -> None:
    for name, (token, _) in crafted().items():
        refusal = await refused(who_am_i(running.caller(token)))
        assert (name, refusal.code.name, refusal.reason) == (name, "UNAUTHENTICATED", "TOKEN_INVALID")
        assert refusal.message == "the token is invalid"


async def test_in_dev_mode_a_refusal_names_the_claim_and_not_its_value(tmp_path: Path) -> None:
    async with serving(tmp_path, emblem_dev_mode=True) as running:
        for name, (token, why) in crafted().items():
            refusal = await refused(who_am_i(running.caller(token)))
            assert (name, refusal.message) == (name, f"the token is invalid: {why}")
            assert (refusal.reason, dict(refusal.info.metadata)) == ("TOKEN_INVALID", {})
        refusal = await refused(who_am_i(running.caller(exp=int(time.time()) - 31)))
        assert (refusal.reason, refusal.message) == ("TOKEN_EXPIRED", "the token has expired: exp is past")


async def test_in_dev_mode_a_refusal_names_the_claim_by_which_a_token_is_revoked(tmp_path: Path) -> None:
    async with serving(tmp_path, emblem_dev_mode=True) as running:
        operator = running.caller(user="root", operator=True)
        revoked: dict[str, Any]
        for revoked in ({"token_id": "canary"}, {"user_tokens": UserTokens(user_id="bob")}):
            request = RevokeTokensRequest(vault_id="acme", **revoked)
            await operator.admin.RevokeTokens(request, metadata=operator.metadata)
        claims: dict[str, Any]
        for claims, why in (
            ({"jti": "canary"}, "jti is revoked"),
            ({"user": "bob"}, "iat is missing, and tokens of the user are revoked"),
            ({"user": "bob", "iat": 1}, "iat is not 30 seconds after the revocation of the user's tokens"),
        ):
            refusal = await refused(who_am_i(running.caller(**claims)))
            assert (refusal.reason, refusal.message) == ("TOKEN_REVOKED", f"the token is revoked: {why}")


@pytest.mark.parametrize("dev_mode", [False, True], ids=["as in production", "dev mode"])
async def test_an_open_stream_ends_with_the_claim_in_dev_mode_only(tmp_path: Path, dev_mode: bool) -> None:
    async with (
        FakeMessagesApi(Reply(("first ", "second"), hold=asyncio.Event())) as api,
        asking(api, tmp_path, emblem_dev_mode=dev_mode) as running,
    ):
        operator, session = running.caller(operator=True), await running.caller().create_session()
        started = await running.caller().start(session.session_id).next()
        streams = {
            "the token has expired": ("exp is past", running.caller(exp=int(time.time()) - LEEWAY_SECONDS + 3)),
            "the token is revoked": ("jti is revoked", running.caller(jti="canary")),
        }
        request = StreamTurnRequest(turn_id=started.turn_id)
        calls = [Events(caller.chat.StreamTurn(request, metadata=caller.metadata)) for _, caller in streams.values()]
        for call in calls:
            await call.next()
        tokens = RevokeTokensRequest(vault_id="acme", token_id="canary")
        await operator.admin.RevokeTokens(tokens, metadata=operator.metadata)
        for call, (message, (why, _)) in zip(calls, streams.items(), strict=True):
            refusal = await refused(call.rest())
            assert refusal.message == (f"{message}: {why}" if dev_mode else message)
            assert dict(refusal.info.metadata) == {}


@pytest.mark.parametrize("settings", [{}, {"EMBLEM_DEV_MODE": "true"}], ids=["as in production", "dev mode"])
async def test_the_log_always_says_why_a_token_was_refused_and_contains_nothing_of_it(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    tokens = [*crafted().values(), (mint(user="canary", exp=int(time.time()) - 31), "exp is past")]
    # The last ones are refused by the limit on refused tokens: the log says why also then.
    with serving_process(tmp_path, AUTH_FAILURE_REQUESTS=str(len(tokens) // 2), **settings) as server:
        async with grpc.aio.insecure_channel(server.target) as channel:
            for token, _ in tokens:
                await refused(who_am_i(Caller(channel, [("authorization", f"Bearer {token}")])))
        server.process.terminate()
        server.process.wait(10)
    text = server.log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line.get("why") for line in lines if line["message"] == "call"] == [why for _, why in tokens]
    assert [line.get("remedy") for line in lines if line["message"] == "call"] == [
        REMEDIES.get(why) for _, why in tokens
    ]
    assert not any(line.get("remedy", "") is None for line in lines)
    assert {line["reason"] for line in lines if line["message"] == "call"} == {
        "TOKEN_INVALID",
        "TOKEN_EXPIRED",
        "RATE_LIMITED",
    }
    assert "canary" not in text
    assert not [token for token, _ in tokens if len(token) > 20 and token in text]


async def test_an_expired_token_is_refused_as_expired(running: Serving) -> None:
    refusal = await refused(who_am_i(running.caller(exp=int(time.time()) - 31)))
    assert (refusal.code.name, refusal.reason) == ("UNAUTHENTICATED", "TOKEN_EXPIRED")


async def test_clocks_may_differ_by_30_seconds(running: Serving) -> None:
    assert (await who_am_i(running.caller(exp=int(time.time()) - 20))).vault_id == "acme"


async def test_x_vault_id_with_a_token_is_refused(running: Serving) -> None:
    for token in (mint(), ""):
        refusal = await refused(who_am_i(running.caller(token, ("x-vault-id", "acme"))))
        assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "VAULT_HEADER_NOT_ALLOWED")


async def test_dev_mode_lets_callers_choose_a_vault_and_verifies_tokens(tmp_path: Path) -> None:
    async with serving(tmp_path, emblem_dev_mode=True) as running:
        identity = await who_am_i(running.caller(""))
        assert (identity.vault_id, identity.auth_method) == ("dev-vault", "dev")
        assert "operator" not in identity.permissions
        assert not identity.HasField("expire_time")
        assert (await who_am_i(running.caller("", ("x-vault-id", "other")))).vault_id == "other"
        assert (await who_am_i(running.caller())).vault_id == "acme"
        assert (await refused(who_am_i(running.caller(mint(secret="b" * 32))))).reason == "TOKEN_INVALID"
        for headers in ([("x-vault-id", "a/b")], [("x-vault-id", "a"), ("x-vault-id", "b")]):
            assert (await refused(who_am_i(running.caller("", *headers)))).reason == "VAULT_HEADER_NOT_ALLOWED"
        assert (
            await refused(who_am_i(running.caller(mint(), ("x-vault-id", "acme"))))
        ).reason == "VAULT_HEADER_NOT_ALLOWED"


async def test_dev_mode_without_a_secret_accepts_no_token(tmp_path: Path) -> None:
    async with serving(tmp_path, emblem_dev_mode=True, emblem_jwt_secret=None) as running:
        assert (await refused(who_am_i(running.caller()))).reason == "TOKEN_INVALID"


async def test_a_missing_permission_is_named(running: Serving) -> None:
    caller = running.caller(permissions=["write"])
    refusal = await refused(caller.vault.GetVault(GetVaultRequest(), metadata=caller.metadata))
    assert (refusal.code.name, refusal.reason) == ("PERMISSION_DENIED", "PERMISSION_MISSING")
    assert refusal.info.metadata == {"permission": "read"}


async def test_a_previous_secret_is_accepted_while_it_is_configured(tmp_path: Path) -> None:
    older, oldest = "o" * 32, "p" * 32
    async with serving(tmp_path, emblem_jwt_secret_previous=f"{older}, {oldest}") as running:
        for secret in (SECRET, older, oldest):
            assert (await who_am_i(running.caller(mint(secret=secret)))).vault_id == "acme"
        assert (await refused(who_am_i(running.caller(mint(secret="q" * 32))))).reason == "TOKEN_INVALID"
        expired = mint(secret=older, exp=int(time.time()) - 100)
        assert (await refused(who_am_i(running.caller(expired)))).reason == "TOKEN_EXPIRED"


async def test_issuer_and_audience_are_required_if_configured(tmp_path: Path) -> None:
    async with serving(tmp_path, emblem_jwt_issuer="https://id", emblem_jwt_audience="chat") as running:
        assert (await who_am_i(running.caller(iss="https://id", aud=["chat", "other"]))).vault_id == "acme"
        for claims in ({}, {"iss": "https://id"}, {"aud": "chat"}, {"iss": "https://no", "aud": "chat"}):
            assert (await refused(who_am_i(running.caller(**claims)))).reason == "TOKEN_INVALID"


async def test_in_dev_mode_a_refusal_names_the_issuer_or_the_audience(tmp_path: Path) -> None:
    issued = {"emblem_jwt_issuer": "https://id", "emblem_jwt_audience": "chat"}
    async with serving(tmp_path, emblem_dev_mode=True, **issued) as running:
        for claims, why in (
            ({"aud": "chat"}, "iss is missing"),
            ({"iss": "https://id"}, "aud is missing"),
            ({"iss": "https://canary", "aud": "chat"}, "iss is another issuer"),
            ({"iss": "https://id", "aud": ["canary"]}, "aud is another audience"),
            ({"iss": "https://id", "aud": {"canary": 1}}, "aud is another audience"),
        ):
            refusal = await refused(who_am_i(running.caller(**claims)))
            assert refusal.message == f"the token is invalid: {why}"


async def test_a_stream_ends_when_its_token_expires_and_resumes_with_a_new_one(tmp_path: Path) -> None:
    hold = asyncio.Event()
    async with (
        FakeMessagesApi(Reply(("first ", "second"), hold=hold)) as api,
        asking(api, tmp_path) as running,
    ):
        session = await running.caller().create_session()
        # A token is accepted until 30 seconds after its expiry.
        short = running.caller(exp=int(time.time()) - LEEWAY_SECONDS + 2)
        events = short.start(session.session_id)
        seen = [await events.next(), await events.next()]
        refusal = await refused(events.rest())
        assert (refusal.code.name, refusal.reason) == ("UNAUTHENTICATED", "TOKEN_EXPIRED")
        hold.set()
        rest = await followed(running.caller(), seen[0].turn_id, seen[-1].sequence)
        assert deltas(seen + rest) == "first second"
