"""Compares the validation rules and permissions of two versions of the contract.

`buf breaking` compares shapes only. It does not detect that a protovalidate rule or a permission now refuses requests
that were accepted before.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import protovalidate
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from metamorph_client.api.v1 import options_pb2
from metamorphd.third_party import validate_pb2

# Returns whether the second value refuses input that the first accepts. A change to any other rule counts as tighter.
COMPARED: dict[str, Callable[[Any, Any], bool]] = (
    dict.fromkeys(("min_len", "min_bytes", "min_items", "min_pairs", "gt", "gte"), operator.lt)
    | dict.fromkeys(("max_len", "max_bytes", "max_items", "max_pairs", "lt", "lte"), operator.gt)
    | {"in": lambda before, after: not before <= after, "not_in": lambda before, after: not after <= before}
)
# Rules that do not affect which values are accepted.
SILENT = {"example"}
Rules = Mapping[str, Any]


class Contract:
    """The messages, rules and methods of `metamorph`, from a FileDescriptorSet with all imports in it."""

    def __init__(self, files: FileDescriptorSet) -> None:
        self._pool = DescriptorPool()
        for file in files.file:
            self._pool.AddSerializedFile(file.SerializeToString())
        own = [self._pool.FindFileByName(file.name) for file in files.file if file.name.startswith("metamorph/")]
        self.messages = {message.full_name: message for file in own for message in _messages(file)}
        self.methods = {
            method.full_name: set(method.GetOptions().Extensions[options_pb2.requires])
            for file in own
            for service in file.services_by_name.values()
            for method in service.methods
        }
        self.sizes = {
            method.full_name: method.GetOptions().Extensions[options_pb2.max_request_bytes]
            for file in own
            for service in file.services_by_name.values()
            for method in service.methods
        }

    def rules(self, name: str) -> dict[str, Rules]:
        """Returns the rules of a message by their subject: the message itself (empty), a field or a oneof."""
        message = self.messages[name]
        found: dict[str, Rules] = {"": _flat(message.GetOptions().Extensions[validate_pb2.message])}
        for field in message.fields:
            found[field.name] = _flat(field.GetOptions().Extensions[validate_pb2.field])
        for oneof in message.oneofs:
            found[oneof.name] = _flat(oneof.GetOptions().Extensions[validate_pb2.oneof])
        return found

    def violations_when_empty(self, name: str) -> Iterator[tuple[str, str]]:
        """Yields (field or oneof, rule) for each rule that an empty message violates."""
        empty = message_factory.GetMessageClass(self.messages[name])()
        for violation in protovalidate.Validator().collect_violations(empty):
            if violation.proto.field is not None:
                yield violation.proto.field.elements[0].field_name, violation.proto.rule_id


def tightened(before: Contract, after: Contract) -> list[str]:
    """Returns one line for each rule that is tighter in `after`. Rules that cannot be compared count as tighter."""
    found = []
    for name in sorted(before.messages.keys() & after.messages.keys()):
        old, new = before.rules(name), after.rules(name)
        for place in sorted(new.keys() & old.keys()):
            found += [" ".join(filter(None, (name, place, line))) for line in _tighter(old[place], new[place])]
        if added := new.keys() - old.keys():
            # A client that does not know a field omits it.
            refusals = after.violations_when_empty(name)
            found += [f"{name} {place} {rule}, left out" for place, rule in refusals if place in added]
    for name in sorted(before.methods.keys() & after.methods.keys()):
        more = after.methods[name] - before.methods[name]
        found += [f"{name} requires {options_pb2.Permission.Name(permission)}" for permission in sorted(more)]
        if after.sizes[name] < before.sizes[name]:
            found.append(f"{name} max_request_bytes: {before.sizes[name]} -> {after.sizes[name]}")
    return found


def _tighter(old: Rules, new: Rules) -> Iterator[str]:
    for rule in sorted(new.keys() | old.keys()):
        before, after = old.get(rule), new.get(rule)
        if before != after and _refuses_more(rule.rpartition(".")[2], before, after):
            yield f"{rule}: {before} -> {after}"


def _refuses_more(rule: str, before: Any, after: Any) -> bool:
    if rule == "ignore":
        # Ordered from strict to lenient: IGNORE_UNSPECIFIED, IGNORE_IF_ZERO_VALUE, IGNORE_ALWAYS.
        return bool((after or 0) < (before or 0))
    if after is None or after is False:
        return False
    if before is None:
        return True
    compare = COMPARED.get(rule)
    return compare is None or bool(compare(before, after))


def _flat(rules: Message, path: str = "") -> dict[str, Any]:
    """Returns rule values by path, for example `repeated.items.string.min_len`. Lists become sets."""
    found: dict[str, Any] = {}
    for field, value in rules.ListFields():
        place = f"{path}{field.name}"
        if field.name in SILENT:
            continue
        if field.name == "cel":
            found |= {f"{place}.{rule.id}": rule.expression for rule in value}
        elif field.is_repeated:
            found[place] = frozenset(map(str, value))
        elif field.message_type is None:
            found[place] = value
        elif field.message_type.full_name.startswith("google.protobuf."):
            found[place] = (value.seconds, value.nanos)
        else:
            found |= _flat(value, f"{place}.")
    return found


def _messages(file: FileDescriptor) -> Iterator[Descriptor]:
    for message in file.message_types_by_name.values():
        yield message
        yield from message.nested_types
