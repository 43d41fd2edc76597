"""docs/api.md."""

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
)
from google.protobuf.message import Message
from metamorph_client.api.v1 import options_pb2
from metamorphd.third_party import validate_pb2

from scripts.docs.links import anchor, anchored, linked
from scripts.docs.markdown import NOTICE, code, table
from scripts.docs.protos import (
    ENUM_VALUES,
    ENUMS,
    MESSAGE_FIELDS,
    MESSAGE_MESSAGES,
    MESSAGE_ONEOFS,
    MESSAGES,
    SERVICE_METHODS,
    SERVICES,
    Comments,
    files,
)

API_INTRO = """\
# API

Generated from the comments and options in [proto/metamorph](../proto/metamorph). Rules are
[protovalidate](https://protovalidate.com) rules; a request that breaks one fails with `REQUEST_INVALID` and a
`BadRequest` that names the field. [errors.md](errors.md) lists the reasons of refusals.

Every part has an anchor that is made from its full name and stays the same, for example
`#metamorph-chat-v1-chatservice-sendmessage` or `#metamorph-chat-v1-turnevent`.
"""
SHAPES = {
    (False, False): "unary",
    (False, True): "server stream",
    (True, False): "client stream",
    (True, True): "bidirectional stream",
}
PHRASES = {
    "defined_only": "a defined value",
    "gte": "≥ {}",
    "ignore": "may be empty",
    "in": "one of `{}`",
    "max_items": "max items {}",
    "max_len": "max length {}",
    "max_pairs": "max pairs {}",
    "min_items": "min items {}",
    "min_len": "min length {}",
    "not_in": "not {}",
    "pattern": "matches `{}`",
    "required": "required",
    "unique": "no duplicates",
    "uuid": "a UUID",
}
IDEMPOTENCY = {
    MethodOptions.IDEMPOTENCY_UNKNOWN: "",
    MethodOptions.NO_SIDE_EFFECTS: "no side effects",
    MethodOptions.IDEMPOTENT: "idempotent",
}


def api_page() -> str:
    """docs/api.md."""
    services, messages, enums = [], [], []
    for file, comments in files():
        package = file.package
        services += [service_part(package, one, comments, (SERVICES, i)) for i, one in enumerate(file.service)]
        messages += [message_part(package, one, comments, (MESSAGES, i)) for i, one in enumerate(file.message_type)]
        enums += [
            enum_part(package, one, comments, (ENUMS, i))
            for i, one in enumerate(file.enum_type)
            if one.name != "ErrorReason"
        ]
    return "\n".join([NOTICE + API_INTRO, *services, "## Messages\n", *messages, "## Enums\n", *enums])


def service_part(package: str, service: ServiceDescriptorProto, comments: Comments, path: tuple[int, ...]) -> str:
    name = f"{package}.{service.name}"
    parts = [anchored(name, f"## {service.name}"), f"`{name}`: {described(comments[path])}\n"]
    for index, method in enumerate(service.method):
        rows = (
            ("Call", f"{link(method.input_type)} → {link(method.output_type)}"),
            ("Shape", SHAPES[method.client_streaming, method.server_streaming]),
            ("Requires", ", ".join(permissions(method))),
            ("Request limit", size(method.options.Extensions[options_pb2.max_request_bytes])),
            ("Idempotency", IDEMPOTENCY[method.options.idempotency_level]),
        )
        parts += [
            anchored(f"{name}.{method.name}", f"### {method.name}"),
            described(comments[(*path, SERVICE_METHODS, index)]) + "\n",
            "".join(f"- {label}: {value}\n" for label, value in rows if value),
        ]
    return "\n".join(parts)


def described(comment: str) -> str:
    """A comment, with links to the methods and reasons that it names."""
    return linked(comment, "api.md")


def size(count: int) -> str:
    """A number of bytes, in the largest unit that it is a multiple of."""
    for unit, name in ((1024 * 1024, "MiB"), (1024, "KiB")):
        if count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} B"


def permissions(method: MethodDescriptorProto) -> list[str]:
    """The permissions that a method requires, as a token's claims name them."""
    values = options_pb2.Permission.DESCRIPTOR.values_by_number
    required = (values[number] for number in method.options.Extensions[options_pb2.requires])
    return [
        code(value.GetOptions().Extensions[options_pb2.claim] or value.name.removeprefix("PERMISSION_").lower())
        for value in required
    ]


def message_part(package: str, message: DescriptorProto, comments: Comments, path: tuple[int, ...]) -> str:
    name = f"{package}.{message.name}"
    entries = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    rows = (
        (
            f"`{field.name}`{one_of(message, field)}",
            field_type(field, entries),
            rules_of(field.options, validate_pb2.field),
            described(comments[(*path, MESSAGE_FIELDS, index)]),
        )
        for index, field in enumerate(message.field)
    )
    nested = [
        message_part(name, one, comments, (*path, MESSAGE_MESSAGES, index))
        for index, one in enumerate(message.nested_type)
        if one.name not in entries
    ]
    notes = [*oneofs(message, comments, path), *message_rules(message)]
    fields = f"\n{table(('Field', 'Type', 'Rules', 'Description'), rows)}" if message.field else ""
    head = anchored(name, f"### {message.name}")
    return "\n".join([f"{head}\n{described(comments[path])}\n{''.join(notes)}{fields}", *nested])


def oneofs(message: DescriptorProto, comments: Comments, path: tuple[int, ...]) -> Iterator[str]:
    """A paragraph for each oneof, except those that proto3's `optional` makes."""
    for index, oneof in enumerate(message.oneof_decl):
        comment = comments.get((*path, MESSAGE_ONEOFS, index))
        if comment:
            yield f"\nOne of `{oneof.name}`: {comment}\n"


def message_rules(message: DescriptorProto) -> Iterator[str]:
    for rule in message.options.Extensions[validate_pb2.message].cel:
        yield f"\nRule: {rule.message}.\n"


def one_of(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    if field.proto3_optional or not field.HasField("oneof_index"):
        return ""
    return f" (one of `{message.oneof_decl[field.oneof_index].name}`)"


def field_type(field: FieldDescriptorProto, entries: Mapping[str, DescriptorProto]) -> str:
    entry = entries.get(field.type_name.rpartition(".")[2])
    if entry is not None:
        key, value = (field_type(one, {}) for one in entry.field)
        return f"map of {key} to {value}"
    scalar = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    name = link(field.type_name) if field.type_name else scalar
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    return f"repeated {name}" if repeated else f"optional {name}" if field.proto3_optional else name


def rules_of(options: Message, extension: Any) -> str:
    """The protovalidate rules of a field, for example `min length 1, max length 64`."""
    return ", ".join(phrases(options.Extensions[extension])) if options.HasExtension(extension) else ""


def phrases(rules: Message, prefix: str = "") -> Iterator[str]:
    """One phrase for each rule that is set."""
    for field, value in rules.ListFields():
        if field.message_type is not None and field.message_type.name.endswith("Rules"):
            # The type of the field needs no mention, but that it is the type of its items does.
            of_type = field.containing_oneof is not None and field.containing_oneof.name == "type"
            yield from phrases(value, prefix if of_type else f"{field.name}: ")
        else:
            values = value if field.is_repeated else [value]
            # A message whose fields are all zero prints as nothing.
            shown = ", ".join(" ".join(str(one).split()) or "0" for one in values)
            yield prefix + PHRASES.get(field.name, f"{field.name} {{}}").format(shown)


def enum_part(package: str, enum: EnumDescriptorProto, comments: Comments, path: tuple[int, ...]) -> str:
    rows = (
        (f"`{value.name}`", str(value.number), described(comments[(*path, ENUM_VALUES, index)]))
        for index, value in enumerate(enum.value)
    )
    head = anchored(f"{package}.{enum.name}", f"### {enum.name}")
    return f"{head}\n{described(comments[path])}\n\n{table(('Value', 'Number', 'Meaning'), rows)}"


def link(type_name: str) -> str:
    """A type of the contract as a link to its part of the page; any other by its full name."""
    name = type_name.removeprefix(".")
    short = name.rpartition(".")[2]
    return f"[{short}](#{anchor(name)})" if name.startswith("metamorph.") else code(name)
