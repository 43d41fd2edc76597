"""The services, and the methods with the options from their protos."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from metamorph_client.admin.v1 import admin_service_pb2
from metamorph_client.api.v1 import options_pb2
from metamorph_client.api.v1.options_pb2 import Permission, RateClass
from metamorph_client.chat.v1 import chat_service_pb2
from metamorph_client.vault.v1 import vault_service_pb2

from metamorphd.edge.carried import Places, places_of
from metamorphd.edge.wire import Shape, shape_of

SERVICES = [
    chat_service_pb2.DESCRIPTOR.services_by_name["ChatService"],
    vault_service_pb2.DESCRIPTOR.services_by_name["VaultService"],
    admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"],
]
OPERATOR = "operator"
CLAIMS: dict[int, str] = {
    value.number: value.GetOptions().Extensions[options_pb2.claim] or "unspecified"
    for value in Permission.DESCRIPTOR.values
} | {Permission.PERMISSION_OPERATOR: OPERATOR}
# The permissions that a token can grant. The enum is the only list of them.
PERMISSIONS = frozenset(
    claim for value in Permission.DESCRIPTOR.values if (claim := value.GetOptions().Extensions[options_pb2.claim])
)


@dataclass(frozen=True, slots=True)
class Method:
    """A method, with its path (`/package.Service/Method`) and the options from its proto.

    `claims` are the required permissions in the spelling of tokens. `operator` stands for the operator's claim, and
    `unspecified`, for a permission without a spelling, is held by no caller. `idempotency` is IDEMPOTENCY_UNKNOWN if
    the proto does not set it. `max_request_bytes` limits each request, `shape` the number of its fields. `attachments`
    are where a request may have some. `in_any_vault_state` if the state of the caller's vault makes no difference.
    """

    path: str
    name: str
    request_type: type[Message]
    streams_requests: bool
    streams_responses: bool
    requires: tuple["Permission.ValueType", ...]
    claims: tuple[str, ...]
    rate_class: "RateClass.ValueType"
    idempotency: "MethodOptions.IdempotencyLevel.ValueType"
    max_request_bytes: int
    in_any_vault_state: bool
    releases_requests: bool
    shape: Shape = field(compare=False, repr=False)
    attachments: Places = field(compare=False, repr=False)


def methods_of(services: Sequence[ServiceDescriptor]) -> dict[str, Method]:
    """Returns the methods of services, by path."""
    methods = [_method(service, method) for service in services for method in service.methods]
    return {method.path: method for method in methods}


def _method(service: ServiceDescriptor, method: MethodDescriptor) -> Method:
    options = method.GetOptions()
    requires = tuple(options.Extensions[options_pb2.requires])
    return Method(
        path=f"/{service.full_name}/{method.name}",
        name=method.name,
        request_type=message_factory.GetMessageClass(method.input_type),
        streams_requests=method.client_streaming,
        streams_responses=method.server_streaming,
        requires=requires,
        claims=tuple(
            CLAIMS[permission] for permission in requires if permission != Permission.PERMISSION_AUTHENTICATED
        ),
        rate_class=options.Extensions[options_pb2.rate_class],
        idempotency=options.idempotency_level,
        max_request_bytes=options.Extensions[options_pb2.max_request_bytes],
        # An operator may be a user of any vault.
        in_any_vault_state=options.Extensions[options_pb2.in_any_vault_state]
        or Permission.PERMISSION_OPERATOR in requires,
        releases_requests=options.Extensions[options_pb2.releases_requests],
        shape=shape_of(method.input_type),
        attachments=places_of(method.input_type),
    )
