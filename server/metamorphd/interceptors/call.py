"""A call on its way to its servicer, and what its method promises in the proto."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from metamorph.api.v1 import options_pb2
from metamorph.api.v1.options_pb2 import Permission, RateClass

from metamorphd.models import Caller


@dataclass(frozen=True, slots=True)
class Method:
    """A method by its path (`/package.Service/Method`), with the options that its proto gives it."""

    path: str
    request_type: type[Message]
    requires: tuple["Permission.ValueType", ...]
    rate_class: "RateClass.ValueType"


@dataclass(slots=True)
class Call:
    """One call. The guards fill in the caller, then the request."""

    method: Method
    metadata: Iterable[tuple[str, str | bytes]]
    raw: bytes
    call_id: str = ""
    caller: Caller | None = None
    request: Message | None = None

    def values(self, key: str) -> list[str | bytes]:
        """Every value that the caller sent under a metadata key."""
        return [value for name, value in self.metadata if name == key]


def methods_of(services: Sequence[ServiceDescriptor]) -> dict[str, Method]:
    """The methods of services by path."""
    methods = [_method(service, method) for service in services for method in service.methods]
    return {method.path: method for method in methods}


def _method(service: ServiceDescriptor, method: MethodDescriptor) -> Method:
    options = method.GetOptions()
    return Method(
        path=f"/{service.full_name}/{method.name}",
        request_type=message_factory.GetMessageClass(method.input_type),
        requires=tuple(options.Extensions[options_pb2.requires]),
        rate_class=options.Extensions[options_pb2.rate_class],
    )
