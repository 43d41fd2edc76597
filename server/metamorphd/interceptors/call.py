"""A call on its way to its servicer, and what its method promises in the proto."""

import ipaddress
import itertools
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from metamorph.api.v1 import options_pb2
from metamorph.api.v1.options_pb2 import Permission, RateClass

from metamorphd.models import Caller

CALL_ID_KEY = "x-request-id"
_CALL_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# Unique without asking the system for randomness on every call.
_PROCESS = secrets.token_hex(8)
_NUMBERS = itertools.count(1)

OPERATOR = "operator"
CLAIMS: dict[int, str] = {
    value.number: value.GetOptions().Extensions[options_pb2.claim] or "unspecified"
    for value in Permission.DESCRIPTOR.values
} | {Permission.PERMISSION_OPERATOR: OPERATOR}


@dataclass(frozen=True, slots=True)
class Method:
    """A method by its path (`/package.Service/Method`), with the options that its proto gives it.

    `claims` are the permissions that it requires as a token spells them; `operator` stands for the operator's claim,
    and a permission without a spelling for one that nobody has.
    """

    path: str
    request_type: type[Message]
    requires: tuple["Permission.ValueType", ...]
    claims: tuple[str, ...]
    rate_class: "RateClass.ValueType"


class Call:
    """One call. The guards fill in the caller, then the request. `call_id` is the caller's own or a new one.

    Of a call that streams requests, `raw` and `request` are the newest one.
    """

    __slots__ = (
        "_peer",
        "authorization",
        "call_id",
        "call_id_was_sent",
        "caller",
        "method",
        "raw",
        "request",
        "vault_header",
    )

    def __init__(
        self, method: Method, metadata: Iterable[tuple[str, str | bytes]], raw: bytes, *, peer: Callable[[], str]
    ) -> None:
        self.method = method
        self.raw = raw
        self._peer = peer
        self.authorization: list[str | bytes] = []
        self.vault_header: list[str | bytes] = []
        self.caller: Caller | None = None
        self.request: Message | None = None
        sent: list[str | bytes] = []
        for key, value in metadata:
            if key == "authorization":
                self.authorization.append(value)
            elif key == "x-vault-id":
                self.vault_header.append(value)
            elif key == CALL_ID_KEY:
                sent.append(value)
        self.call_id_was_sent = len(sent) == 1 and isinstance(sent[0], str) and bool(_CALL_ID.fullmatch(sent[0]))
        self.call_id = str(sent[0]) if self.call_id_was_sent else f"{_PROCESS}-{next(_NUMBERS):x}"

    @property
    def network(self) -> str:
        """Where the call comes from: an IPv4 address, or the /64 of an IPv6 one, which is as much as one host has."""
        # `ipv4:127.0.0.1:4711`, `ipv6:%5B::1%5D:4711`; a socket of another kind has no address.
        address = unquote(self._peer()).partition(":")[2].rpartition(":")[0].strip("[]").partition("%")[0]
        try:
            host = ipaddress.ip_address(address)
        except ValueError:
            return address
        if isinstance(host, ipaddress.IPv6Address):
            return str(host.ipv4_mapped or ipaddress.ip_network((host, 64), strict=False))
        return address


def methods_of(services: Sequence[ServiceDescriptor]) -> dict[str, Method]:
    """The methods of services by path."""
    methods = [_method(service, method) for service in services for method in service.methods]
    return {method.path: method for method in methods}


def _method(service: ServiceDescriptor, method: MethodDescriptor) -> Method:
    options = method.GetOptions()
    requires = tuple(options.Extensions[options_pb2.requires])
    return Method(
        path=f"/{service.full_name}/{method.name}",
        request_type=message_factory.GetMessageClass(method.input_type),
        requires=requires,
        claims=tuple(
            CLAIMS[permission] for permission in requires if permission != Permission.PERMISSION_AUTHENTICATED
        ),
        rate_class=options.Extensions[options_pb2.rate_class],
    )
