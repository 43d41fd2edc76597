"""The contract accepts everything that the baseline, an image of an earlier contract, accepts."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet
from metamorph_client.api.v1 import options_pb2
from metamorphd.edge.methods import SERVICES
from metamorphd.third_party import validate_pb2

from tests.contract.rules import Contract, tightened
from tests.support.paths import ROOT

BASELINE = ROOT / "proto/baseline.binpb"
Change = Callable[[FileDescriptorSet], Any]


def baseline() -> FileDescriptorSet:
    """Returns a new copy of the baseline. A buf image is a FileDescriptorSet with additional fields."""
    return FileDescriptorSet.FromString(BASELINE.read_bytes())


def tree() -> FileDescriptorSet:
    """Returns the current contract with all its imports, taken from the generated code."""
    files: dict[str, Any] = {}

    def collect(file: Any) -> None:
        for imported in file.dependencies:
            collect(imported)
        files.setdefault(file.name, file)

    for service in SERVICES:
        collect(service.file)
    found = FileDescriptorSet()
    for file in files.values():
        found.file.add().ParseFromString(file.serialized_pb)
    return found


def message(files: FileDescriptorSet, name: str) -> Any:
    return next(found for file in files.file for found in file.message_type if found.name == name)


def rules(files: FileDescriptorSet, name: str, field: str) -> Any:
    """Returns the mutable rules of a field."""
    found = next(known for known in message(files, name).field if known.name == field)
    return found.options.Extensions[validate_pb2.field]


def message_rules(files: FileDescriptorSet, name: str) -> Any:
    return message(files, name).options.Extensions[validate_pb2.message]


def method(files: FileDescriptorSet, name: str) -> Any:
    return next(
        found for file in files.file for service in file.service for found in service.method if found.name == name
    )


def add_field(files: FileDescriptorSet, **options: Any) -> None:
    """Adds a string field with rules to SendMessageRequest."""
    added = message(files, "SendMessageRequest").field.add(
        name="added", number=1000, type=FieldDescriptorProto.TYPE_STRING, label=FieldDescriptorProto.LABEL_OPTIONAL
    )
    added.options.Extensions[validate_pb2.field].CopyFrom(validate_pb2.FieldRules(**options))


def require_added_oneof(files: FileDescriptorSet) -> None:
    """Adds a required oneof to SendMessageRequest."""
    target = message(files, "SendMessageRequest")
    target.oneof_decl.add(name="choice").options.Extensions[validate_pb2.oneof].required = True
    target.field.add(
        name="added",
        number=1000,
        type=FieldDescriptorProto.TYPE_STRING,
        label=FieldDescriptorProto.LABEL_OPTIONAL,
        oneof_index=len(target.oneof_decl) - 1,
    )
    # Synthetic oneofs of optional fields must come last.
    target.oneof_decl.insert(0, target.oneof_decl.pop())
    for field in target.field:
        if field.HasField("oneof_index"):
            field.oneof_index = 0 if field.name == "added" else field.oneof_index + 1


def test_the_baseline_holds_the_services() -> None:
    names = {service.name for file in baseline().file for service in file.service}
    assert names >= {"ChatService", "VaultService", "AdminService"}


def test_no_rule_is_tighter_than_in_the_baseline() -> None:
    assert tightened(Contract(baseline()), Contract(tree())) == []


STRING = validate_pb2.StringRules


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda f: setattr(rules(f, "Session", "title").string, "max_len", 199), "Session title string.max_len"),
        (lambda f: setattr(rules(f, "Session", "title").string, "min_len", 1), "Session title string.min_len"),
        (lambda f: setattr(rules(f, "Session", "creator").string, "max_len", 9), "Session creator string.max_len"),
        (lambda f: setattr(rules(f, "Session", "title"), "required", True), "Session title required"),
        (lambda f: setattr(rules(f, "Session", "model").string, "pattern", "^a$"), "Session model string.pattern"),
        (lambda f: rules(f, "Session", "model").ClearField("ignore"), "Session model ignore"),
        (lambda f: setattr(rules(f, "Session", "metadata").map, "max_pairs", 31), "Session metadata map.max_pairs"),
        (
            lambda f: setattr(rules(f, "StopSequenceList", "values").repeated.items.string, "min_len", 2),
            "StopSequenceList values repeated.items.string.min_len",
        ),
        (lambda f: setattr(rules(f, "GetUsageRequest", "page_size").int32, "gte", 1), "page_size int32.gte"),
        (lambda f: setattr(rules(f, "ThinkingConfig", "budget_tokens").int32, "gte", 0), "budget_tokens int32.gte"),
        (lambda f: getattr(rules(f, "ImageBlock", "media_type").string, "in").pop(), "ImageBlock media_type string.in"),
        (lambda f: rules(f, "GetUsageRequest", "group_by").repeated.items.enum.not_in.append(3), "enum.not_in"),
        (
            lambda f: message_rules(f, "ToolList").cel.add(id="tool_list.some", expression="this.values.size() > 0"),
            "ToolList cel.tool_list.some",
        ),
        (lambda f: setattr(message_rules(f, "ToolChoice").cel[0], "expression", "false"), "cel.tool_choice.name"),
        (
            lambda f: message_rules(f, "Session").oneof.add(fields=["title", "model"], required=True),
            "metamorph.chat.v1.Session oneof",
        ),
        (lambda f: add_field(f, required=True), "SendMessageRequest added required, left out"),
        (lambda f: add_field(f, string=STRING(min_len=1)), "SendMessageRequest added string.min_len, left out"),
        (lambda f: add_field(f, string=STRING(pattern="^a$")), "SendMessageRequest added string.pattern, left out"),
        (require_added_oneof, "SendMessageRequest choice required, left out"),
        (
            lambda f: method(f, "GetSession").options.Extensions[options_pb2.requires].append(5),
            "ChatService.GetSession requires PERMISSION_ADMIN",
        ),
        (
            lambda f: method(f, "GetSession").options.Extensions.__setitem__(options_pb2.max_request_bytes, 9),
            "ChatService.GetSession max_request_bytes: 16384 -> 9",
        ),
    ],
)
def test_a_tighter_rule_is_detected(change: Change, named: str) -> None:
    changed = baseline()
    change(changed)
    (line,) = tightened(Contract(baseline()), Contract(changed))
    assert named in line


@pytest.mark.parametrize(
    "change",
    [
        lambda f: setattr(rules(f, "Session", "title").string, "max_len", 201),
        lambda f: rules(f, "Session", "title").Clear(),
        lambda f: setattr(rules(f, "Session", "title"), "ignore", validate_pb2.IGNORE_ALWAYS),
        lambda f: getattr(rules(f, "ImageBlock", "media_type").string, "in").append("image/avif"),
        lambda f: message_rules(f, "ToolList").cel.pop(),
        lambda f: add_field(f, string=STRING(max_len=10)),
        lambda f: add_field(f, string=STRING(min_len=1), ignore=validate_pb2.IGNORE_IF_ZERO_VALUE),
        lambda f: method(f, "DeleteSession").options.Extensions[options_pb2.requires].pop(),
    ],
)
def test_a_looser_rule_is_not_reported(change: Change) -> None:
    changed = baseline()
    change(changed)
    assert changed != baseline()
    assert tightened(Contract(baseline()), Contract(changed)) == []
