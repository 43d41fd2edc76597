"""Rules that every RPC must follow, tested from the descriptors."""

import itertools
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import MethodOptions
from metamorph_client.api.v1 import options_pb2
from metamorph_client.api.v1.options_pb2 import Permission
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1.message_pb2 import ContentBlock, DocumentBlock
from metamorph_client.vault.v1.vault_service_pb2 import ExportVaultRequest
from metamorphd.edge.methods import CLAIMS, SERVICES, Method
from metamorphd.housekeeping import Housekeeping
from metamorphd.services.admin.service import AdminService
from metamorphd.services.chat.service import ChatService
from metamorphd.services.vault import VaultService

from tests.support.caller import Caller
from tests.support.memories import made
from tests.support.refusal import comparable, refused
from tests.support.rpcs import ID_FIELDS, METHODS, call, request_with
from tests.support.serving import Serving, serving
from tests.support.tokens import ALL, mint

SERVICERS = {"ChatService": ChatService, "VaultService": VaultService, "AdminService": AdminService}
NEEDING = [(method, permission) for method in METHODS.values() for permission in method.requires]


def implements(servicer: type, name: str) -> bool:
    """Returns whether the servicer defines a method itself instead of inheriting it from generated code."""
    return str(getattr(servicer, name).__module__).startswith("metamorphd.")


def test_every_rpc_is_implemented_by_its_servicer() -> None:
    missing = [
        method.path
        for method in METHODS.values()
        if not implements(SERVICERS[method.path.split("/")[1].rpartition(".")[2]], method.path.rpartition("/")[2])
    ]
    assert missing == []


def test_every_rpc_requires_a_permission_and_every_permission_is_used() -> None:
    assert [method.path for method in METHODS.values() if not method.requires] == []
    used = {permission for method in METHODS.values() for permission in method.requires}
    assert used == set(Permission.values()) - {Permission.PERMISSION_UNSPECIFIED}


def test_every_rpc_states_its_idempotency_level() -> None:
    unstated = [
        method.full_name
        for service in SERVICES
        for method in service.methods
        if not method.GetOptions().HasField("idempotency_level")
    ]
    assert unstated == []


# They read what the vault's administrators alone may see.
READS_OF_ADMINS = {"GetOperation", "ListOperations", "ListAuditEvents"}


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.path)
def test_an_rpc_that_requires_only_read_permission_has_no_side_effects(method: Method) -> None:
    if set(method.requires) <= {Permission.PERMISSION_READ, Permission.PERMISSION_AUTHENTICATED}:
        assert method.idempotency == MethodOptions.NO_SIDE_EFFECTS
    elif set(method.requires) != {Permission.PERMISSION_OPERATOR} and method.name not in READS_OF_ADMINS:
        assert method.idempotency != MethodOptions.NO_SIDE_EFFECTS


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.path)
async def test_every_rpc_is_refused_without_a_token(running: Serving, method: Method) -> None:
    refusal = await refused(call(running.caller(""), method, method.request_type()))
    assert (refusal.code.name, refusal.reason) == ("UNAUTHENTICATED", "TOKEN_MISSING")


@pytest.fixture
async def production(tmp_path: Path) -> AsyncIterator[Serving]:
    """Yields a server with the guide's production settings. No test calls its model."""
    async with serving(tmp_path, node_env="production", anthropic_api_key="key") as running:
        yield running


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.path)
async def test_every_rpc_refuses_x_vault_id_in_production(production: Serving, method: Method) -> None:
    own, another = ("x-vault-id", "acme"), ("x-vault-id", "evil")
    for token, headers in itertools.product(
        (mint(operator=True), mint(secret="b" * 32), ""), ([own], [another], [own, own])
    ):
        refusal = await refused(call(production.caller(token, *headers), method, method.request_type()))
        assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "VAULT_HEADER_NOT_ALLOWED")


@pytest.mark.parametrize(
    ("method", "permission"),
    [pair for pair in NEEDING if pair[1] != Permission.PERMISSION_AUTHENTICATED],
    ids=lambda value: getattr(value, "path", str(value)),
)
async def test_every_rpc_is_refused_without_each_of_its_permissions(
    running: Serving, method: Method, permission: int
) -> None:
    claim = CLAIMS[permission]
    caller = running.caller(permissions=[other for other in ALL if other != claim], operator=claim != "operator")
    refusal = await refused(call(caller, method, method.request_type()))
    assert (refusal.code.name, refusal.reason) == ("PERMISSION_DENIED", "PERMISSION_MISSING")
    assert refusal.info.metadata == {"permission": claim}


def test_claims_are_distinct() -> None:
    claims = [value.GetOptions().Extensions[options_pb2.claim] for value in Permission.DESCRIPTOR.values]
    named = [claim for claim in claims if claim]
    assert len(set(named)) == len(named)


each_id_field = pytest.mark.parametrize(
    ("method", "path"), ID_FIELDS, ids=lambda value: ".".join(value) if isinstance(value, tuple) else value.path
)
# These stay when a session is deleted.
OF_THE_VAULT = {"export_id", "memory_id"}


def unknown_like(resource_id: str) -> str:
    return resource_id.partition("_")[0] + "_" + uuid.uuid4().hex


@each_id_field
async def test_an_id_of_another_vault_is_refused_like_an_unknown_one(
    running: Serving, alice: Caller, mallory: Caller, method: Method, path: tuple[str, ...]
) -> None:
    foreign = (await stored_ids(alice))[path[-1]]
    own = await mallory.create_session()
    await refuses_as_unknown(mallory, method, path, foreign, own.session_id)


@pytest.mark.parametrize(
    ("method", "path"),
    [field for field in ID_FIELDS if field[1][-1] not in OF_THE_VAULT],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else value.path,
)
async def test_an_id_of_a_deleted_session_is_refused_like_an_unknown_one(
    running: Serving, alice: Caller, monkeypatch: pytest.MonkeyPatch, method: Method, path: tuple[str, ...]
) -> None:
    async def nothing(_: Housekeeping) -> None:
        """Leaves what is deleted as it is: hidden."""

    monkeypatch.setattr(Housekeeping, "_erase", nothing)
    deleted = await stored_ids(alice)
    await alice.chat.DeleteSession(pb.DeleteSessionRequest(session_id=deleted["session_id"]), metadata=alice.metadata)
    own = await alice.create_session()
    await refuses_as_unknown(alice, method, path, deleted[path[-1]], own.session_id)


async def stored_ids(caller: Caller) -> dict[str, str]:
    """Stores a session with an attachment, a message and its reply, exports it, and returns IDs by names of fields."""
    session = await caller.create_session()
    attached = ContentBlock(document=DocumentBlock(data=b"secret", media_type="text/plain"))
    started, *_, finished = await caller.send(session.session_id, content=[attached], max_output_tokens=1)
    request = pb.GetMessageRequest(message_id=started.turn_started.user_message_id)
    sent = (await caller.chat.GetMessage(request, metadata=caller.metadata)).message
    reply = finished.turn_finished.message.message_id
    memory = await made(caller, "secret", session_id=session.session_id)
    exporting = caller.vault.ExportVault(ExportVaultRequest(), metadata=caller.metadata)
    export_id = next(iter([response async for response in exporting])).export.export_id
    return {
        "export_id": export_id,
        "memory_id": memory.memory_id,
        "attachment_id": sent.content[0].document.attachment_id,
        "session_id": session.session_id,
        "turn_id": finished.turn_id,
        "message_id": reply,
        "leaf_message_id": reply,
        "parent_message_id": reply,
        "user_message_id": reply,
    }


async def refuses_as_unknown(
    caller: Caller, method: Method, path: tuple[str, ...], resource_id: str, session_id: str
) -> None:
    """Asserts that a method refuses an ID at `path` with NOT_FOUND, and with the same words as one that is unknown."""
    answers = [
        comparable(await refused(call(caller, method, request_with(method, path, value, session_id))), value)
        for value in (resource_id, unknown_like(resource_id))
    ]
    assert answers[0] == answers[1]
    assert str(answers[0][0]) == "StatusCode.NOT_FOUND"
