"""VaultService and AdminService, through a whole server."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from metamorph_client.admin.v1.admin_service_pb2 import GetServerInfoRequest
from metamorph_client.vault.v1 import vault_service_pb2 as pb
from metamorphd.store import migrations

from tests.support.caller import Caller
from tests.support.engines import ENGINES
from tests.support.refusal import refused
from tests.support.serving import serving
from tests.support.tokens import SECRET


def get(caller: Caller) -> Any:
    return caller.vault.GetVault(pb.GetVaultRequest(), metadata=caller.metadata)


def update(caller: Caller, vault: pb.Vault, *paths: str) -> Any:
    request = pb.UpdateVaultRequest(vault=vault, update_mask=FieldMask(paths=paths))
    return caller.vault.UpdateVault(request, metadata=caller.metadata)


async def test_a_vault_is_created_on_first_use_and_stays(alice: Caller) -> None:
    vault = (await get(alice)).vault
    assert (vault.vault_id, vault.display_name, vault.etag) == ("acme", "", "1")
    assert (await get(alice)).vault == vault


async def test_an_update_sets_the_fields_in_the_mask(alice: Caller, mallory: Caller) -> None:
    changed = (await update(alice, pb.Vault(display_name="Acme", system_prompt="ignored"), "display_name")).vault
    assert (changed.display_name, changed.system_prompt) == ("Acme", "")
    assert (await get(alice)).vault == changed
    assert (await get(mallory)).vault.display_name == ""


async def test_a_stale_etag_or_an_immutable_field_is_refused(alice: Caller) -> None:
    vault = (await get(alice)).vault
    await update(alice, pb.Vault(display_name="a"), "display_name")
    refusal = await refused(update(alice, pb.Vault(display_name="b", etag=vault.etag), "display_name"))
    assert (refusal.code.name, refusal.reason) == ("ABORTED", "ETAG_MISMATCH")
    for path in ("vault_id", "etag", "create_time"):
        assert (await refused(update(alice, pb.Vault(vault_id="x"), path))).reason == "UPDATE_MASK_INVALID"
    assert (await get(alice)).vault.display_name == "a"


async def test_sessions_inherit_the_settings_of_their_vault(alice: Caller) -> None:
    await update(alice, pb.Vault(default_model="claude-opus-5-5"), "default_model")
    session = await alice.create_session()
    assert (await alice.send(session.session_id))[0].turn_started.model == "claude-opus-5-5"


async def test_server_info_shows_settings_without_secrets(tmp_path: Path) -> None:
    async with serving(tmp_path, anthropic_api_key="sk-ant-secret") as running:
        operator = running.caller(operator=True)
        info = await operator.admin.GetServerInfo(GetServerInfoRequest(), metadata=operator.metadata)
        assert (info.store.engine, info.store.schema_version, info.model_source) == (
            ENGINES[0].name,
            migrations.load(ENGINES[0].name)[-1][0],
            "claude",
        )
        assert info.settings["EMBLEM_JWT_SECRET"] == info.settings["ANTHROPIC_API_KEY"] == "set"
        assert info.settings["RATE_LIMIT_REQUESTS"] == "0"
        assert info.settings["DATABASE_PATH"].endswith("metamorph.db")
        assert SECRET not in str(info)
        assert "sk-ant-secret" not in str(info)


async def test_only_an_operator_may_call_the_admin_service(alice: Caller) -> None:
    refusal = await refused(alice.admin.GetServerInfo(GetServerInfoRequest(), metadata=alice.metadata))
    assert (refusal.code.name, refusal.info.metadata["permission"]) == ("PERMISSION_DENIED", "operator")


@pytest.mark.parametrize("claim", ["true", 1, ["true"]])
async def test_the_operator_claim_must_be_exactly_true(running: Any, claim: object) -> None:
    caller = running.caller(operator=claim)
    assert (await refused(caller.admin.GetServerInfo(GetServerInfoRequest(), metadata=caller.metadata))).code
