"""What a request may cost is stated in the contract: its size by method, its lists by rule."""

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from metamorphd.edge.grpc.port import LARGEST_REQUEST
from metamorphd.edge.methods import Method
from metamorphd.edge.wire import MOST_FIELDS, most_items
from metamorphd.third_party import validate_pb2

from tests.support.rpcs import METHODS

# Attachments come within these requests, or their text is limited by MAX_CONTENT_BYTES, a setting.
BY_CONTENT = {"SendMessage", "CountTokens", "RegenerateReply", "UploadAttachment"}
BYTES_OF_A_CHARACTER = 4
BYTES_OF_A_NUMBER = 10
# A key and a length.
FRAMING = 8


def lists(descriptor: Any, seen: set[str]) -> Iterator[FieldDescriptor]:
    """Yields the repeated fields of a message and of those in it."""
    if descriptor.full_name in seen:
        return
    seen.add(descriptor.full_name)
    for field in descriptor.fields:
        if field.is_repeated:
            yield field
        if field.message_type is not None:
            yield from lists(field.message_type, seen)


def largest(descriptor: Any) -> int:
    """Returns the largest size in bytes that the rules of a message allow."""
    return sum(most_items(field) * (FRAMING + value_size(field)) for field in descriptor.fields)


def value_size(field: FieldDescriptor) -> int:
    if field.message_type is not None:
        return largest(field.message_type)
    rules = field.GetOptions().Extensions[validate_pb2.field]
    if field.type == field.TYPE_BYTES and (most := rules.bytes.max_len or rules.bytes.len):
        return int(most)
    if field.is_repeated:
        rules = rules.repeated.items
    # Patterns limit names to 128 characters; sizes of output-only text are ours.
    return BYTES_OF_A_CHARACTER * (rules.string.max_len or 128) if field.cpp_type == field.CPPTYPE_STRING else 10


def most_fields(descriptor: Any) -> int:
    """Returns the largest number of fields that the rules of a message allow, submessages included."""
    alone = [field for field in descriptor.fields if field.containing_oneof is None]
    chosen = [max(map(fields_of, oneof.fields)) for oneof in descriptor.oneofs]
    return sum(map(fields_of, alone)) + sum(chosen)


def fields_of(field: FieldDescriptor) -> int:
    return most_items(field) * (1 + (most_fields(field.message_type) if field.message_type is not None else 0))


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.path)
def test_every_list_in_a_request_has_a_limit(method: Method) -> None:
    fields = lists(method.request_type.DESCRIPTOR, set())
    assert [field.full_name for field in fields if not most_items(field)] == []


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.path)
def test_every_method_states_the_size_of_its_requests(method: Method) -> None:
    assert 0 < method.max_request_bytes <= LARGEST_REQUEST
    if method.name not in BY_CONTENT:
        needed = largest(method.request_type.DESCRIPTOR)
        assert needed <= method.max_request_bytes <= max(4 * needed, 16 << 10)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.path)
def test_no_request_that_its_rules_allow_has_too_many_fields(method: Method) -> None:
    assert most_fields(method.request_type.DESCRIPTOR) <= MOST_FIELDS
