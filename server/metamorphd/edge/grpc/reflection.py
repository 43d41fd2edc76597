"""Server reflection under both names: grpcurl tries v1 first, older tools use v1alpha.

Files of the contract are served as they are written, with their comments and rules (scripts/reflected.py).
"""

import functools
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from metamorphd.edge.grpc.hardened_server import parsing
from metamorphd.third_party import validate_pb2

V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"
POOL = descriptor_pool.Default()
V1_FILE = reflection_pb2.DESCRIPTOR.name.replace("v1alpha", "v1")
CONTRACT = "contract.binpb"
# Which the contract's files import, and generated code does not.
RULES = validate_pb2.DESCRIPTOR


@dataclass(frozen=True)
class _File:
    """As much of a FileDescriptor as the servicer reads. A descriptor of a pool would have lost its comments."""

    proto: FileDescriptorProto

    @property
    def name(self) -> str:
        return self.proto.name

    @property
    def dependencies(self) -> list[Any]:
        return [_file(name) for name in self.proto.dependency]

    def CopyToProto(self, proto: FileDescriptorProto) -> None:
        proto.CopyFrom(self.proto)


@functools.cache
def _contract() -> Mapping[str, _File]:
    """The files of the contract by name. Read when they are first asked for, which most servers never are."""
    files = FileDescriptorSet.FromString(importlib.resources.files(__package__).joinpath(CONTRACT).read_bytes())
    return {file.name: _File(file) for file in files.file}


@functools.cache
def _v1() -> _File:
    """The file of v1. grpcio has that of v1alpha, which differs from it in its package only."""
    written = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(written)
    renamed = text_format.MessageToString(written).replace("v1alpha", "v1")
    return _File(text_format.Parse(renamed, FileDescriptorProto()))


def _file(name: str) -> Any:
    """A file of the contract, or else of the pool. Raises KeyError if neither has it."""
    if name == RULES.name:
        return RULES
    if name == V1_FILE:
        return _v1()
    return _contract().get(name) or POOL.FindFileByName(name)


class _Pool:
    """The default pool, with the contract's own files, and with methods, which `grpcurl describe` looks up."""

    def FindFileByName(self, name: str) -> Any:
        return _file(name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:
        if symbol == V1:
            return _v1()
        try:
            found = POOL.FindFileContainingSymbol(symbol)
        except KeyError:
            found = POOL.FindFileContainingSymbol(symbol.rpartition(".")[0])
        return _file(found.name)

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
