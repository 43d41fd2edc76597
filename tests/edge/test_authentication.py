"""Which callers are accepted, and how all others are refused."""

import asyncio
import hmac
import time
from pathlib import Path

import jwt
import pytest
from metamorph.vault.v1.vault_service_pb2 import GetVaultRequest, WhoAmIRequest, WhoAmIResponse
from metamorphd.auth.tokens import LEEWAY_SECONDS

from tests.support.caller import Caller
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
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


def crafted() -> dict[str, str]:
    head, body, signature = mint().split(".")
    now = int(time.time())
    return {
        "empty": " ",
        "no token": "token",
        "padded signature": f"{head}.{body}.{signature}=",
        "no signature": f"{head}.{body}.",
        "unsigned": jwt.encode({"vault_id": "v", "sub": "u", "exp": now + 60}, "", algorithm="none"),
        "another secret": mint(secret="b" * 32),
        "another algorithm": jwt.encode({"vault_id": "v", "sub": "u", "exp": now + 60}, SECRET * 2, algorithm="HS512"),
        "no expiry": mint(exp=None),
        "expiry as text": mint(exp=str(now + 60)),
        "expiry in ten thousand years": mint(exp=now + 2**42),
        "expiry in 367 days": mint(exp=now + 367 * 86_400),
        "expiry at infinity": signed('{"vault_id":"v","sub":"u","exp":1e999}'),
        "a claim twice": signed(f'{{"vault_id":"v","vault_id":"w","sub":"u","exp":{now + 60}}}'),
        "a claim twice, deeper": signed(f'{{"vault_id":"v","sub":"u","exp":{now + 60},"x":{{"a":1,"a":2}}}}'),
        "algorithm is a list": signed("{}", b'{"alg":["HS256"]}'),
        "algorithm is an object": signed("{}", b'{"alg":{}}'),
        "no object": signed(f'["v","u",{now + 60}]'),
        "nested without end": signed("[" * 3000),
        "header nested without end": f"{encoded(b'[' * 4000)}.{body}.{signature}",
        "not valid yet": mint(nbf=now + 600),
        "issued in the future": mint(iat=now + 600),
        "not valid before text": mint(nbf="yesterday"),
        "not valid before a time as text": mint(nbf=str(now)),
        "not valid before true": mint(nbf=True),
        "no vault": mint(vault_id=None),
        "no user": mint(sub=None),
        "vault is a number": mint(vault_id=7),
        "vault with a slash": mint("a/b"),
        "vault too long": mint("a" * 129),
        "vault with a line end": mint("acme\n"),
        "user empty": mint(user=""),
        "user with NUL": mint(user="a\0b"),
        "user too long": mint(user="u" * 257),
        "permissions as text": encode(permissions="read"),
        "permissions of numbers": encode(permissions=[1]),
        "email is a list": mint(email=["a"]),
    }


async def test_every_crafted_token_is_refused(running: Serving) -> None:
    for name, token in crafted().items():
        refusal = await refused(who_am_i(running.caller(token)))
        assert (name, refusal.code.name, refusal.reason) == (name, "UNAUTHENTICATED", "TOKEN_INVALID")
        assert refusal.message == "the token is invalid"


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
