"""`metamorph token`, run as a process."""

import json
import time

import pytest
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest

from tests.support.command import run
from tests.support.serving import Serving
from tests.support.tokens import SECRET


async def test_the_server_accepts_a_minted_token_with_its_claims(running: Serving) -> None:
    code, out, _ = await run(
        *("token", "--vault", "acme", "--user", "bob", "--permissions", "read", "--expires", "15m"),
        EMBLEM_JWT_SECRET=SECRET,
    )
    assert code == 0
    caller = running.caller(out.strip())
    response = await caller.vault.WhoAmI(WhoAmIRequest(), metadata=caller.metadata)
    assert (response.vault_id, response.user_id, list(response.permissions)) == ("acme", "bob", ["read"])
    assert 880 < response.expire_time.seconds - time.time() <= 900


async def test_json_output_includes_the_claims_and_the_operator_claim(running: Serving) -> None:
    _, out, _ = await run("token", "--vault", "acme", "--operator", "--json", EMBLEM_JWT_SECRET=SECRET)
    minted = json.loads(out)
    assert minted["claims"]["operator"] is True
    caller = running.caller(minted["token"])
    assert "operator" in (await caller.vault.WhoAmI(WhoAmIRequest(), metadata=caller.metadata)).permissions


@pytest.mark.parametrize(
    ("arguments", "secret", "expected"),
    [
        (["--vault", "a"], "", "EMBLEM_JWT_SECRET is not set"),
        (["--vault", "a"], "short", "EMBLEM_JWT_SECRET has fewer than 32 characters"),
        (["--vault", "a/b"], SECRET, "a vault id has"),
        (["--vault", "a", "--permissions", "read,fly"], SECRET, "unknown: fly"),
        (["--vault", "a", "--expires", "soon"], SECRET, "is not a duration"),
        (["--vault", "a", "--expires", "400d"], SECRET, "is longer than the maximum"),
        ([], SECRET, "Missing option '--vault'"),
    ],
)
async def test_invalid_arguments_are_refused_with_the_reason(arguments: list[str], secret: str, expected: str) -> None:
    code, out, err = await run("token", *arguments, EMBLEM_JWT_SECRET=secret)
    assert code in (1, 2)
    assert out == ""
    assert expected in err
    assert "Traceback" not in err
