"""The HTTP server."""

import asyncio
import re
import socket
import time
from pathlib import Path

import httpx
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest
from metamorphd.clock import Clock
from metamorphd.edge.grpc.health import Health
from metamorphd.edge.http.access import Access
from metamorphd.edge.http.server import KEPT, LAST_ANSWER_SECONDS, Page, application, health_route
from metamorphd.metrics import Gauges, Metrics

from tests.support.caller import Caller
from tests.support.engines import Engine
from tests.support.serving import Serving, serving


async def test_health_returns_the_body_from_the_guide_with_security_headers(running: Serving) -> None:
    async with httpx.AsyncClient(base_url=running.http) as http:
        response = await http.get("/health", headers={"host": "healthcheck.railway.app"})
    assert response.status_code == 200
    assert response.json().keys() == {"status", "timestamp"}
    assert response.json()["status"] == "ok"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", response.json()["timestamp"])
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["x-frame-options"] == "DENY"
    assert response.headers["x-xss-protection"] == "1; mode=block"
    assert "server" not in response.headers


async def test_unknown_paths_and_methods_are_refused_with_security_headers(running: Serving) -> None:
    async with httpx.AsyncClient(base_url=running.http) as http:
        responses = [await http.get("/"), await http.post("/health"), await http.get("/../etc/passwd")]
    assert [response.status_code for response in responses] == [404, 405, 404]
    assert all(response.headers["x-frame-options"] == "DENY" for response in responses)


async def test_health_names_the_failing_check(engine: Engine, tmp_path: Path) -> None:
    database = engine.database(tmp_path)
    health = Health(database=database, services=[], backups=lambda: None)
    access = Access(metrics_token=None, public=True, everybody=False)
    shim = application(health_route(health, access, Clock()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(shim), base_url="http://test") as http:
        starting = await http.get("/health")
        async with health:
            unopened = await http.get("/health")
            unopened_checks = await health.checks()
            async with database:
                opened = await http.get("/health")
                opened_checks = await health.checks()
        draining_checks = await health.checks()
        draining = await http.get("/health")
    assert [answer.status_code for answer in (starting, unopened, opened, draining)] == [503, 503, 200, 503]
    assert [answer.json().get("check") for answer in (starting, unopened, draining)] == [
        "starting",
        "store",
        "draining",
    ]
    names = ("store", "damaged", "write", "disk")
    assert unopened_checks == {"serving": "ok", **dict.fromkeys(names, "failing")}
    assert opened_checks == {"serving": "ok", **dict.fromkeys(names, "ok")}
    assert draining_checks["serving"] == "draining"


def test_a_page_of_metrics_that_took_long_is_read_again_before_another_one_is_rendered() -> None:
    rendered = []

    def slow() -> float:
        rendered.append(1)
        time.sleep(0.05)
        return len(rendered)

    metrics = Metrics()
    metrics.register(Gauges({"metamorph_rendered": ("How often", slow)}))
    page = Page(metrics.registry)
    pages = {page.read() for _ in range(100)}
    assert (len(pages), len(rendered)) == (1, 1)
    time.sleep(0.05 * KEPT + 0.1)
    assert page.read() not in pages


async def test_metrics_count_calls_by_method_and_code_without_naming_tenants(running: Serving, alice: Caller) -> None:
    await alice.vault.WhoAmI(WhoAmIRequest(), metadata=alice.metadata)
    async with httpx.AsyncClient(base_url=running.http) as http:
        text = (await http.get("/metrics")).text
    line = 'metamorph_calls_total{code="OK",method="/metamorph.vault.v1.VaultService/WhoAmI"} 1.0'
    assert line in text.splitlines()
    assert "metamorph_running_turns 0.0" in text
    assert "acme" not in text
    assert "alice" not in text


async def test_a_caller_that_does_not_read_does_not_keep_a_server_from_stopping(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        with socket.socket() as caller:
            # So that answers wait in the server.
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            caller.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(caller, ("127.0.0.1", running.server.http_port))
            await loop.sock_sendall(caller, b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n" * 500)
            await asyncio.sleep(1)
            begun = time.monotonic()
            await running.server.stop(grace_seconds=0)
            assert time.monotonic() - begun < LAST_ANSWER_SECONDS + 4
