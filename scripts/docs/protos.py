"""The contract's descriptors with their comments."""

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path

import grpc_tools
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).parent.parent.parent
# Field numbers in descriptor.proto, from which the paths of comments are made.
MESSAGES, ENUMS, SERVICES = 4, 5, 6
MESSAGE_FIELDS, MESSAGE_MESSAGES, MESSAGE_ONEOFS, ENUM_VALUES, SERVICE_METHODS = 2, 3, 8, 2, 2

AREAS = ("chat", "vault", "admin")

Comments = Mapping[tuple[int, ...], str]


@functools.cache
def files() -> tuple[tuple[FileDescriptorProto, Comments], ...]:
    """Every file of the contract with its comments by path (SourceCodeInfo.Location in descriptor.proto)."""
    protos = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto").rglob("*.proto"))
    with tempfile.NamedTemporaryFile() as output:
        includes = [
            f"-I{path}"
            for path in (ROOT / "proto", ROOT / "third_party/proto", Path(grpc_tools.__file__).parent / "_proto")
        ]
        arguments = ["protoc", *includes, "--include_source_info", f"--descriptor_set_out={output.name}", *protos]
        if protoc.main(arguments) != 0:
            raise RuntimeError("protoc failed")
        described = FileDescriptorSet.FromString(Path(output.name).read_bytes())
    return tuple(
        (
            file,
            {tuple(place.path): " ".join(place.leading_comments.split()) for place in file.source_code_info.location},
        )
        for file in sorted(described.file, key=_place)
    )


def _place(file: FileDescriptorProto) -> tuple[int, str]:
    """Tenants' services before the operator's, a service before its resources."""
    area = file.package.split(".")[1]
    return (AREAS.index(area) if area in AREAS else len(AREAS)), "" if file.service else file.name
