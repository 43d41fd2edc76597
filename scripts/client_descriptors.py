"""Descriptors for clients: `python -m scripts.client_descriptors < FileDescriptorSet > FileDescriptorSet`.

They do not import the options of protovalidate, so that a client gets along with each version of it in one process. The
rules stay, as options that are unknown until a program loads that file. They do not repeat a field's name in JSON if
that follows from its name: debuggers then show the name that the contract has, as they do for Python's own descriptors.
"""

import re
import sys
from collections.abc import Iterable

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet

RULES = "buf/validate/validate.proto"


def for_clients(files: FileDescriptorSet) -> FileDescriptorSet:
    """Returns the files without protovalidate's. Raises ValueError if one imports it and has public imports."""
    kept = FileDescriptorSet(file=[file for file in files.file if file.name != RULES])
    for file in kept.file:
        if RULES in file.dependency:
            if file.public_dependency or file.weak_dependency:
                raise ValueError(f"{file.name} has public imports, whose numbers would change")
            file.dependency.remove(RULES)
        shorten(file.message_type)
    return kept


def shorten(messages: Iterable[DescriptorProto]) -> None:
    """Removes the names in JSON that follow from those of their fields."""
    for message in messages:
        for field in message.field:
            if field.json_name == re.sub(r"_(\w)", lambda found: found[1].upper(), field.name):
                field.ClearField("json_name")
        shorten(message.nested_type)


if __name__ == "__main__":
    sys.stdout.buffer.write(for_clients(FileDescriptorSet.FromString(sys.stdin.buffer.read())).SerializeToString())
