"""Rules that every RPC must follow, tested from the descriptors."""

import itertools
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from metamorph.api.v1 import options_pb2
from metamorph.api.v1.options_pb2 import Permission
from metamorphd.edge.methods import CLAIMS, SERVICES, Method
from metamorphd.services.admin import AdminService
from metamorphd.services.chat.service import ChatService
from metamorphd.services.vault import VaultService

from tests.support.caller import Caller
from tests.support.refusal import comparable, refused
from tests.support.rpcs import ID_FIELDS, METHODS, request_with
from tests.support.serving import Serving, serving
from tests.support.tokens import ALL, mint

SERVICERS = {"ChatService": ChatService, "VaultService": VaultService, "AdminService": AdminService}
NEEDING = [(method, permission) for method in METHODS.values() for permission in method.requires]


def call(caller: Caller, method: Method, request: Message) -> Any:
    """Calls a method by its descriptor, with this request as the only one where requests are streamed."""
    service, _, name = method.path[1:].partition("/")
    stub = {"ChatService": caller.chat, "VaultService": caller.vault, "AdminService": caller.admin}
    callable_: Any = getattr(stub[service.rpartition(".")[2]], name)
    streams = isinstance(callable_, grpc.aio.StreamUnaryMultiCallable)
    return callable_(iter([request]) if streams else request, metadata=caller.metadata)


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


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.path)
def test_an_rpc_that_requires_only_read_permission_has_no_side_effects(method: Method) -> None:
    if set(method.requires) <= {Permission.PERMISSION_READ, Permission.PERMISSION_AUTHENTICATED}:
        assert method.idempotency == MethodOptions.NO_SIDE_EFFECTS
    elif set(method.requires) != {Permission.PERMISSION_OPERATOR}:
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


@pytest.mark.parametrize(
    ("method", "path"), ID_FIELDS, ids=lambda value: ".".join(value) if isinstance(value, tuple) else value.path
)
async def test_an_id_of_another_vault_is_refused_like_an_unknown_one(
    running: Serving, alice: Caller, mallory: Caller, method: Method, path: tuple[str, ...]
) -> None:
    theirs = await alice.create_session()
    finished = (await alice.send(theirs.session_id, "secret", max_output_tokens=1))[-1]
    attachment = await alice.upload(b"secret", "text/plain")
    foreign = {
        "attachment_id": attachment.attachment_id,
        "session_id": theirs.session_id,
        "turn_id": finished.turn_id,
        "message_id": finished.turn_finished.message.message_id,
        "leaf_message_id": finished.turn_finished.message.message_id,
        "parent_message_id": finished.turn_finished.message.message_id,
        "user_message_id": finished.turn_finished.message.message_id,
    }[path[-1]]
    own = await mallory.create_session()
    unknown = foreign.partition("_")[0] + "_" + uuid.uuid4().hex
    answers = [
        comparable(await refused(call(mallory, method, request_with(method, path, value, own.session_id))), value)
        for value in (foreign, unknown)
    ]
    assert answers[0] == answers[1]
    assert str(answers[0][0]) == "StatusCode.NOT_FOUND"
