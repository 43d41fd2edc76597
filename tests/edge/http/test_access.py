"""Who may read metrics, and the details of health."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from metamorph_client.admin.v1.admin_service_pb2 import RevokeTokensRequest
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest
from metamorphd.clock import Clock
from metamorphd.edge.grpc.health import Health
from metamorphd.edge.http.access import Access
from metamorphd.edge.http.server import application, health_route, metrics_route
from metamorphd.errors import StartupRefused
from metamorphd.metrics import Metrics

from tests.support.engines import Engine
from tests.support.fakes.web import FakeWeb, answering
from tests.support.serving import Serving, serving
from tests.support.tokens import SECRET, mint

TOKEN = "a-token-for-prometheus-of-32-letters"
PRODUCTION = {"node_env": "production", "anthropic_api_key": "sk-test"}
CHECKS = {"serving": "ok", "store": "ok", "damaged": "ok", "write": "ok", "disk": "ok"}


async def get(url: str, *bearers: str) -> httpx.Response:
    async with httpx.AsyncClient() as http:
        return await http.get(url, headers=[("authorization", f"Bearer {bearer}") for bearer in bearers])


def operator(**claims: Any) -> str:
    return mint(operator=True, **claims)


async def test_production_asks_for_a_token_for_metrics(tmp_path: Path) -> None:
    async with serving(tmp_path, **PRODUCTION, metrics_token=TOKEN) as running:
        url = f"{running.http}/metrics"
        for bearers in ([TOKEN], [operator()]):
            answer = await get(url, *bearers)
            assert (answer.status_code, answer.text[:6]) == (200, "# HELP"), bearers
        for bearers in ([], ["x"], [TOKEN + "x"], [TOKEN[:-1]], [TOKEN, TOKEN], [SECRET]):
            answer = await get(url, *bearers)
            assert answer.status_code == 401, bearers
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json().keys() == {"status", "reason"}
        answer = await get(url, mint())
        assert (answer.status_code, answer.json()["reason"]) == (403, "PERMISSION_MISSING")
        assert (await get(f"{running.http}/health")).status_code == 200


async def test_an_operators_token_reads_metrics_in_production_without_another_setting(tmp_path: Path) -> None:
    async with serving(tmp_path, **PRODUCTION) as running:
        url = f"{running.http}/metrics"
        assert [(await get(url, *tokens)).status_code for tokens in ([], [mint()], [operator()])] == [401, 403, 200]


async def test_no_token_for_metrics_or_health_is_shown_to_the_emblem_api(tmp_path: Path) -> None:
    yes = {"vaultId": "remote", "userId": "rita", "permissions": ["operator", "read"]}
    older = "an-older-token-for-prometheus-that-is-opaque"
    async with (
        FakeWeb(answering(yes)) as api,
        serving(tmp_path, **PRODUCTION, metrics_token=TOKEN, emblem_api_url=api.url) as running,
    ):
        for path in ("/metrics", "/health?verbose"):
            assert (await get(running.http + path, older)).status_code == 401
        assert api.requests == []
        caller = running.caller(older)
        await caller.vault.WhoAmI(WhoAmIRequest(), metadata=caller.metadata)
        assert (await get(f"{running.http}/metrics", older)).status_code == 403


async def test_while_the_server_starts_the_metrics_token_counts_and_operators_have_to_wait(engine: Engine) -> None:
    access = Access(metrics_token=TOKEN, public=False, everybody=False)
    health = Health(database=engine.database(Path()), services=[], backups=lambda: None)
    shim = application(health_route(health, access, Clock()), metrics_route(Metrics().registry, access))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(shim), base_url="http://test") as http:
        mine, theirs = ({"authorization": f"Bearer {token}"} for token in (TOKEN, operator()))
        assert (await http.get("/metrics", headers=mine)).status_code == 200
        waits = await http.get("/metrics", headers=theirs)
        assert (waits.status_code, waits.json()["reason"], waits.headers["retry-after"]) == (
            503,
            "STORE_NOT_READY",
            "1",
        )
        answer = await http.get("/health?verbose", headers=theirs)
        assert (answer.status_code, answer.json()["check"], "checks" in answer.json()) == (503, "starting", False)


async def test_metrics_are_public_where_the_settings_say_so_and_outside_production(tmp_path: Path) -> None:
    for name, settings in (("a", PRODUCTION | {"metrics_public": True}), ("b", {})):
        async with serving(tmp_path / name, **settings) as running:
            assert (await get(f"{running.http}/metrics")).status_code == 200


async def test_a_metrics_token_is_required_outside_production_too_even_in_dev_mode(tmp_path: Path) -> None:
    for name, settings in (("a", {}), ("b", {"emblem_dev_mode": True})):
        async with serving(tmp_path / name, metrics_token=TOKEN, **settings) as running:
            url = f"{running.http}/metrics"
            refused = await get(url)
            assert refused.status_code in (401, 403)
            assert (await get(url, TOKEN)).status_code == 200


async def test_metrics_can_have_an_address_of_their_own(tmp_path: Path) -> None:
    async with serving(tmp_path, metrics_address="127.0.0.1:0", metrics_token=TOKEN) as running:
        own = f"http://127.0.0.1:{running.server.metrics_port}"
        assert running.server.metrics_port != running.server.http_port
        answers = [
            await get(url, TOKEN)
            for url in (f"{own}/metrics", f"{own}/health", f"{running.http}/metrics", f"{running.http}/health")
        ]
        assert [answer.status_code for answer in answers] == [200, 404, 404, 200]
        assert all(answer.headers["x-frame-options"] == "DENY" for answer in answers)
        assert (await get(f"{own}/metrics")).status_code == 401


async def test_a_metrics_address_that_is_taken_is_named(tmp_path: Path) -> None:
    async with serving(tmp_path / "a") as running:
        address = f"127.0.0.1:{running.server.http_port}"
        with pytest.raises(StartupRefused, match="set METRICS_ADDRESS to a free one"):
            async with serving(tmp_path / "b", metrics_address=address):
                pass


async def test_the_details_of_health_are_for_operators(running: Serving) -> None:
    url = f"{running.http}/health?verbose"
    answer = await get(url, operator())
    assert (answer.status_code, answer.json()["checks"]) == (200, CHECKS)
    expected = {"": 401, "x": 401, mint(): 403, operator(exp=1): 401, operator(vault=None): 401}
    for bearer, status in expected.items():
        refused = await get(url, *([bearer] if bearer else []))
        assert (refused.status_code, refused.json()["status"]) == (status, "refused"), bearer
        assert "checks" not in refused.json()
    assert "checks" not in (await get(f"{running.http}/health", operator())).json()


async def test_refused_tokens_are_limited_as_for_calls(tmp_path: Path) -> None:
    async with serving(tmp_path, auth_failure_requests=2) as running:
        url = f"{running.http}/health?verbose"
        answers = [await get(url, "x") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [401, 401, 429]
        assert int(answers[2].headers["retry-after"]) > 0
        # Those who share an address with a hostile caller are not locked out.
        assert (await get(url, operator())).status_code == 200


async def test_in_dev_mode_everybody_on_this_machine_sees_the_details(tmp_path: Path) -> None:
    async with serving(tmp_path, emblem_dev_mode=True) as running:
        assert (await get(f"{running.http}/health?verbose")).json()["checks"] == CHECKS


async def test_a_revoked_operator_sees_nothing(running: Serving) -> None:
    token = operator(jti="lost")
    caller = running.caller(operator=True)
    await caller.admin.RevokeTokens(RevokeTokensRequest(vault_id="acme", token_id="lost"), metadata=caller.metadata)
    assert (await get(f"{running.http}/health?verbose", token)).status_code == 401
