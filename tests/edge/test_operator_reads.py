"""What operators read of vaults is recorded, at a bounded rate."""

from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import MethodOptions
from metamorph_client.admin.v1 import admin_service_pb2 as pb
from metamorph_client.vault.v1.audit_pb2 import AuditEvent
from metamorphd.edge import repeated
from metamorphd.edge.methods import OPERATOR, SERVICES, methods_of
from metamorphd.edge.operator_reads import UNRECORDED, is_recorded

from tests.support.caller import Caller
from tests.support.rows import ACME
from tests.support.serving import Serving, serving

METHODS = list(methods_of(SERVICES).values())
SERVICE = "metamorph.admin.v1.AdminService/"


async def listed(operator: Caller) -> list[AuditEvent]:
    """Returns the entries of the server's own log, oldest first."""
    request = pb.ListServerAuditEventsRequest(page_size=1000)
    found = await operator.admin.ListServerAuditEvents(request, metadata=operator.metadata)
    return [*found.audit_events][::-1]


def told(event: AuditEvent) -> tuple[str, str, dict[str, str]]:
    return event.actor, event.resource_id.removeprefix(SERVICE), dict(event.details)


async def stats(operator: Caller, vault: str = ACME.vault_id) -> pb.GetVaultStatsResponse:
    return await operator.admin.GetVaultStats(pb.GetVaultStatsRequest(vault_id=vault), metadata=operator.metadata)


def test_every_method_by_which_an_operator_reads_is_recorded_or_has_a_reason() -> None:
    reads = {
        method.name
        for method in METHODS
        if OPERATOR in method.claims and method.idempotency == MethodOptions.IdempotencyLevel.NO_SIDE_EFFECTS
    }
    recorded = {method.name for method in METHODS if is_recorded(method)}
    assert recorded | set(UNRECORDED) == reads
    assert recorded == {
        *("GetAnyOperation", "GetVaultLimits", "GetVaultStats", "ListAllOperations", "ListRevocations", "ListVaults")
    }


async def test_who_read_what_of_which_vault_is_in_the_servers_own_log(running: Serving, alice: Caller) -> None:
    await alice.create_session()
    operator = running.caller(operator=True, user="root", vault="operations")
    before = await stats(operator)
    await operator.admin.ListVaults(pb.ListVaultsRequest(), metadata=operator.metadata)
    await operator.admin.GetServerInfo(pb.GetServerInfoRequest(), metadata=operator.metadata)
    assert [told(event) for event in await listed(operator)] == [
        ("root", "GetVaultStats", {"vault_id": "acme"}),
        ("root", "ListVaults", {}),
    ]
    # Whoever looks at a vault's last activity is none.
    assert await stats(operator) == before


async def test_an_operator_who_asks_for_ever_fills_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated, "EACH", 3)
    async with serving(tmp_path) as running:
        operator = running.caller(operator=True, user="root")
        for number in range(20):
            await stats(operator, f"vault-{number}")
            await operator.admin.ListVaults(pb.ListVaultsRequest(), metadata=operator.metadata)
        names = [event.resource_id.removeprefix(SERVICE) for event in await listed(operator)]
        assert names == ["GetVaultStats", "ListVaults"] * 3
    async with serving(tmp_path) as running:
        last = (await listed(running.caller(operator=True)))[-2:]
        # What was only counted is recorded at the end at the latest.
        assert sorted(map(told, last)) == [
            ("root", "GetVaultStats", {"count": "17"}),
            ("root", "ListVaults", {"count": "17"}),
        ]
