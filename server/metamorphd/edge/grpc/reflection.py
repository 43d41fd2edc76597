"""Server reflection under both names: grpcurl tries v1 first, older tools use v1alpha."""

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from metamorphd.edge.grpc.hardened_server import parsing

V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"
POOL = descriptor_pool.Default()


class _Pool:
    """The default pool, extended to find methods, which `grpcurl describe …Service.Method` looks up."""

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        try:
            return POOL.FindFileContainingSymbol(symbol)
        except KeyError:
            return POOL.FindFileContainingSymbol(symbol.rpartition(".")[0])

    def __getattr__(self, name: str) -> Any:
        return getattr(POOL, name)


def add_reflection(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Adds reflection of `services` to a server. The messages of v1 and v1alpha are the same on the wire."""
    servicer = ReflectionServicer([*services, V1, V1ALPHA], pool=_Pool())
    handlers = {
        "ServerReflectionInfo": parsing(
            grpc.stream_stream_rpc_method_handler(
                servicer.ServerReflectionInfo,
                request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
                response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
            )
        )
    }
    for name in (V1, V1ALPHA):
        server.add_registered_method_handlers(name, handlers)
