"""What clients are generated from."""

from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from metamorphd.third_party import validate_pb2

from scripts.client_descriptors import RULES, for_clients


def contract(**file: Any) -> FileDescriptorSet:
    """Returns descriptors of a file that imports the rules. The second field has a rule and a name in JSON."""
    fields = [
        FieldDescriptorProto(name="session_id", json_name="sessionId"),
        FieldDescriptorProto(name="a_b", json_name="c"),
    ]
    fields[1].options.Extensions[validate_pb2.field].required = True
    message = DescriptorProto(name="Outer", nested_type=[DescriptorProto(name="Inner", field=fields)])
    ours = FileDescriptorProto(name="ours.proto", dependency=["other.proto", RULES], message_type=[message], **file)
    return FileDescriptorSet(file=[FileDescriptorProto(name=RULES), ours])


def test_rules_stay_and_their_import_goes() -> None:
    [file] = for_clients(contract()).file
    assert list(file.dependency) == ["other.proto"]
    [message] = file.message_type[0].nested_type
    assert message.field[1].options.Extensions[validate_pb2.field].required
    assert [field.json_name for field in message.field] == ["", "c"]


def test_public_imports_are_not_renumbered() -> None:
    with pytest.raises(ValueError, match=r"ours\.proto has public imports"):
        for_clients(contract(public_dependency=[0]))
