"""Builds requests for any RPC from its descriptor."""

from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from metamorph_client.vault.v1.memory_pb2 import MEMORY_TYPE_SEMANTIC
from metamorphd.edge.methods import SERVICES, Method, methods_of

from tests.support.caller import Caller, text_block

METHODS = methods_of(SERVICES)
# Ids chosen by the caller, which do not refer to a resource of a vault.
NOT_RESOURCES = {"request_id", "vault_id", "user_id", "token_id", "revocation_id", "tool_use_id"}


def id_fields(descriptor: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yields the paths of request fields that refer to a resource, without output-only fields inside a resource."""
    for field in descriptor.fields:
        if field.type == FieldDescriptor.TYPE_STRING and field.name.endswith("_id") and field.name not in NOT_RESOURCES:
            yield (*path, field.name)
        elif field.message_type is not None and field.message_type.full_name.startswith("metamorph."):
            yield from id_fields(field.message_type, (*path, field.name))


# Output-only fields, ignored in a request.
IGNORED = {
    ("CreateSession", ("session", "session_id")),
    ("CreateSession", ("session", "current_leaf_message_id")),
    ("UpdateSession", ("session", "current_leaf_message_id")),
    ("CreateMemory", ("memory", "memory_id")),
    ("UpdateMemory", ("memory", "session_id")),
    ("UpdateMemory", ("memory", "message_id")),
}
# Usage outlives its session, so an unknown session id is not an error. That the usage of another vault's session is
# empty is tested in tests/services/test_usage.py.
FILTERS = {("GetUsage", ("session_id",)), ("ListAuditEvents", ("resource_id",))}
# Of a vault, not of a session; operators name any vault. That another vault's is refused like an unknown one is tested
# in tests/services/test_operations.py.
OPERATION_METHODS = ("GetOperation", "CancelOperation", "GetAnyOperation", "CancelAnyOperation")
OF_NO_SESSION = {(name, ("operation_id",)) for name in OPERATION_METHODS}
ID_FIELDS = [
    (method, path)
    for method in METHODS.values()
    for path in id_fields(method.request_type.DESCRIPTOR)
    if (method.path.rpartition("/")[2], path) not in IGNORED | FILTERS | OF_NO_SESSION
]


def request_with(method: Method, path: tuple[str, ...], value: str, session_id: str) -> Any:
    """Returns a request that is valid except for the id at `path`."""
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
    """Sets the fields that a message needs to be valid."""
    names = {field.name for field in message.DESCRIPTOR.fields}
    if message.DESCRIPTOR.name == "Memory":
        message.type, message.content = MEMORY_TYPE_SEMANTIC, "Hello"
    elif "session_id" in names and message.DESCRIPTOR.name != "Session":
        message.session_id = session_id
    if "message" in names:
        fill(message.message, session_id)
    if "content" in names and message.DESCRIPTOR.name.endswith("Request"):
        message.content.append(text_block("Hello"))
    if "update_mask" in names:
        message.update_mask.paths.append("content" if "memory" in names else "title")
    if "query" in names:
        message.query = "word"
    if "media_type" in names:
        message.media_type = "image/png" if message.DESCRIPTOR.name == "ImageBlock" else "text/plain"
    if "tool_use_id" in names:
        message.tool_use_id = "toolu_1"


def call(caller: Caller, method: Method, request: Message) -> Any:
    """Calls a method by its descriptor, with this request as the only one where requests are streamed."""
    service, _, name = method.path[1:].partition("/")
    stub = {"ChatService": caller.chat, "VaultService": caller.vault, "AdminService": caller.admin}
    callable_: Any = getattr(stub[service.rpartition(".")[2]], name)
    streams = isinstance(callable_, grpc.aio.StreamUnaryMultiCallable)
    return callable_(iter([request]) if streams else request, metadata=caller.metadata)
