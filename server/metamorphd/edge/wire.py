"""Counts the fields of serialized messages before they are parsed.

Two bytes on the wire can become an object of a hundred bytes, and validating it takes microseconds. The number of
fields therefore limits what a request can cost, more than its size does. The format is that of
https://protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from metamorphd.errors import RequestMalformed, TooManyFields
from metamorphd.third_party import validate_pb2

# Of a whole request. The largest request that its rules allow, 64 tool results of 64 parts each, has 21,000.
MOST_FIELDS = 32_768
# Per message, for fields of a newer contract, and for lists that are a little too long, whose refusal by a rule names
# the field.
SPARE_FIELDS = 16
# Lists in messages that are not ours and therefore have no rules.
OTHERS = {"google.protobuf.FieldMask.paths": 64}
_LONGEST_VARINT = 10
_SEVEN_BITS = 0x7F
# Wire types, and the sizes of those that have one, in bytes.
VARINT, DELIMITED = 0, 2
FIXED = {1: 8, 5: 4}


@dataclass(slots=True)
class Shape:
    """A message type: how many fields a message may have, the types of its submessages, the sizes of packed lists.

    Both maps are by field number.
    """

    name: str
    limit: int
    messages: dict[int, "Shape"] = field(default_factory=dict)
    packed: dict[int, int] = field(default_factory=dict)


def most_items(descriptor: FieldDescriptor) -> int:
    """Returns how often a field may occur: 1, or what its rule allows for a list or a map. 0 without a rule."""
    if not descriptor.is_repeated:
        return 1
    rules = descriptor.GetOptions().Extensions[validate_pb2.field]
    return rules.repeated.max_items or rules.map.max_pairs or OTHERS.get(descriptor.full_name, 0)


def shape_of(descriptor: Descriptor, known: dict[str, Shape] | None = None) -> Shape:
    """Returns the shape of a message type, read from the rules in its proto."""
    known = {} if known is None else known
    if descriptor.full_name in known:
        return known[descriptor.full_name]
    limit = sum(map(most_items, descriptor.fields)) + SPARE_FIELDS
    shape = known[descriptor.full_name] = Shape(descriptor.name, limit)
    for each in descriptor.fields:
        if each.message_type is not None:
            shape.messages[each.number] = shape_of(each.message_type, known)
        elif each.is_packed:
            shape.packed[each.number] = most_items(each) * _LONGEST_VARINT
    return shape


def count_fields(raw: bytes, shape: Shape) -> int:
    """Returns the number of fields of a serialized message, those of submessages included.

    Stops at the first message that has too many, so the time is bounded whatever the size. Raises TooManyFields,
    RequestMalformed.
    """
    total = 0
    waiting = [(shape, 0, len(raw))]
    try:
        while waiting:
            shape, at, end = waiting.pop()
            total += _count(raw, shape, at, end, waiting)
            if total > MOST_FIELDS:
                raise TooManyFields(message=shape.name, limit=MOST_FIELDS)
    except IndexError:
        raise RequestMalformed from None
    return total


def _count(raw: bytes, shape: Shape, at: int, end: int, waiting: list[tuple[Shape, int, int]]) -> int:
    """Returns the number of fields of one message, and adds its submessages to `waiting`."""
    count, limit, messages = 0, shape.limit, shape.messages
    for number, kind, start, stop in fields_of(raw, at, end):
        count += 1
        if count > limit:
            raise TooManyFields(message=shape.name, limit=limit)
        if kind == DELIMITED:
            if number in messages:
                waiting.append((messages[number], start, stop))
            elif stop - start > shape.packed.get(number, stop - start):
                raise TooManyFields(message=shape.name, limit=limit)
    return count


def fields_of(raw: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields the fields of the message between two places: (number, wire type, beginning and end of the value).

    Raises RequestMalformed, also if the last one does not end with the message, and IndexError beyond the bytes.
    """
    while at < end:
        key = raw[at]
        at += 1
        if key > _SEVEN_BITS:
            key, at = _varint(raw, at - 1)
        kind = key & 7
        if kind == DELIMITED:
            size = raw[at]
            at += 1
            if size > _SEVEN_BITS:
                size, at = _varint(raw, at - 1)
            start, at = at, at + size
        elif kind == VARINT:
            start = at
            _, at = _varint(raw, at)
        elif kind in FIXED:
            start, at = at, at + FIXED[kind]
        else:
            # Groups, of an old version of the language, which our contract never used.
            raise RequestMalformed
        if at > end:
            raise RequestMalformed
        yield key >> 3, kind, start, at


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """Returns a varint and the place after it."""
    value = 0
    for shift in range(0, 7 * _LONGEST_VARINT, 7):
        byte = raw[at]
        at += 1
        value |= (byte & _SEVEN_BITS) << shift
        if byte <= _SEVEN_BITS:
            return value, at
    raise RequestMalformed
