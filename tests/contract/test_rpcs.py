"""What holds for every RPC, generated from the descriptors."""

import itertools
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from metamorph.api.v1 import options_pb2
from metamorph.api.v1.options_pb2 import Permission
from metamorphd.edge.methods import CLAIMS, SERVICES, Method, methods_of
from metamorphd.services.admin import AdminService
from metamorphd.services.chat.service import ChatService
from metamorphd.services.vault import VaultService

from tests.support.serving import ALL, Caller, Refusal, Serving, mint, refused, serving, text_block

METHODS = methods_of(SERVICES)
SERVICERS = {"ChatService": ChatService, "VaultService": VaultService, "AdminService": AdminService}
NEEDING = [(method, permission) for method in METHODS.values() for permission in method.requires]
# Ids that name nothing of a vault: the caller's own words.
NOT_RESOURCES = {"request_id", "vault_id", "user_id", "token_id", "revocation_id", "tool_use_id"}


def call(caller: Caller, method: Method, request: Message) -> Any:
    """A call by path, as its descriptor has it; of a stream of requests this one."""
    service, _, name = method.path[1:].partition("/")
    stub = {"ChatService": caller.chat, "VaultService": caller.vault, "AdminService": caller.admin}
    callable_: Any = getattr(stub[service.rpartition(".")[2]], name)
    streams = isinstance(callable_, grpc.aio.StreamUnaryMultiCallable)
    return callable_(iter([request]) if streams else request, metadata=caller.metadata)


def implements(servicer: type, name: str) -> bool:
    """Whether a method is the servicer's own, and not the one that it would inherit from generated code."""
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
def test_an_rpc_has_no_side_effects_if_reading_is_all_that_it_requires(method: Method) -> None:
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
    """A server as the guide has it in production; its model is never asked."""
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


def id_fields(descriptor: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of the fields of a request that name a resource; output-only ones inside a resource are left out."""
    for field in descriptor.fields:
        if field.type == FieldDescriptor.TYPE_STRING and field.name.endswith("_id") and field.name not in NOT_RESOURCES:
            yield (*path, field.name)
        elif field.message_type is not None and field.message_type.full_name.startswith("metamorph."):
            yield from id_fields(field.message_type, (*path, field.name))


# Output-only, and ignored in a request.
IGNORED = {
    ("CreateSession", ("session", "session_id")),
    ("CreateSession", ("session", "current_leaf_message_id")),
    ("UpdateSession", ("session", "current_leaf_message_id")),
}
# Usage outlives its session: of one that is gone, or was never there, there may be some or none. Another vault's has
# none, which tests/services/test_usage.py sees to.
FILTERS = {("GetUsage", ("session_id",))}
ID_FIELDS = [
    (method, path)
    for method in METHODS.values()
    for path in id_fields(method.request_type.DESCRIPTOR)
    if (method.path.rpartition("/")[2], path) not in IGNORED | FILTERS
]


def request_with(method: Method, path: tuple[str, ...], value: str, session_id: str) -> Any:
    """A request that is acceptable but for the id at `path`."""
    request: Any = method.request_type()
    fill(request, session_id)
    target = request
    for name in path[:-1]:
        field = target.DESCRIPTOR.fields_by_name[name]
        target = getattr(target, name)
        if field.is_repeated:
            del target[:]
            target = target.add()
        fill(target, session_id)
    setattr(target, path[-1], value)
    return request


def fill(message: Any, session_id: str) -> None:
    """Sets what a message needs to be acceptable."""
    names = {field.name for field in message.DESCRIPTOR.fields}
    if "session_id" in names and message.DESCRIPTOR.name != "Session":
        message.session_id = session_id
    if "message" in names:
        fill(message.message, session_id)
    if "content" in names and message.DESCRIPTOR.name.endswith("Request"):
        message.content.append(text_block("Hello"))
    if "update_mask" in names:
        message.update_mask.paths.append("title")
    if "query" in names:
        message.query = "word"
    if "media_type" in names:
        message.media_type = "image/png" if message.DESCRIPTOR.name == "ImageBlock" else "text/plain"
    if "tool_use_id" in names:
        message.tool_use_id = "toolu_1"


def told(refusal: Refusal, value: str) -> tuple[object, ...]:
    """All that a refusal says, the id and the call's own id aside."""
    metadata = {key: text.replace(value, "ID") for key, text in refusal.info.metadata.items()}
    message = refusal.message.replace(value, "ID")
    return refusal.code, refusal.reason, message, metadata, refusal.retry, refusal.fields


@pytest.mark.parametrize(
    ("method", "path"), ID_FIELDS, ids=lambda value: ".".join(value) if isinstance(value, tuple) else value.path
)
async def test_anothers_id_answers_like_one_that_never_existed(
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
        told(await refused(call(mallory, method, request_with(method, path, value, own.session_id))), value)
        for value in (foreign, unknown)
    ]
    assert answers[0] == answers[1]
    assert str(answers[0][0]) == "StatusCode.NOT_FOUND"
