"""Takes the bytes of attachments out of serialized requests.

Parsing, validating and reading twenty megabytes copies them each time, and holds the GIL for 10 ms or more while every
other call waits. So the parsed message has an index in place of each attachment, and the attachments are views of the
request as it arrived.
"""

from collections.abc import Sequence

from google.protobuf.descriptor import Descriptor

from metamorphd.edge.wire import DELIMITED, fields_of
from metamorphd.errors import RequestMalformed

# Fields that hold an attachment.
ATTACHMENTS = {"metamorph.chat.v1.ImageBlock.data", "metamorph.chat.v1.DocumentBlock.data"}

# Where attachments are, by field number: in the field itself (None), or in its message.
Places = dict[int, "Places | None"]


def places_of(descriptor: Descriptor, *, within: frozenset[str] = frozenset()) -> Places:
    """Returns where messages of a type may hold attachments. Empty if they never do."""
    places: Places = {}
    for each in descriptor.fields:
        if each.full_name in ATTACHMENTS:
            places[each.number] = None
        elif each.message_type is not None and each.message_type.full_name not in within:
            inner = places_of(each.message_type, within=within | {descriptor.full_name})
            if inner:
                places[each.number] = inner
    return places


def take_carried(raw: bytes, places: Places) -> tuple[bytes, Sequence[memoryview]]:
    """Returns a serialized message and its attachments; in place of each it has its index, a big-endian number.

    Raises RequestMalformed.
    """
    carried: list[memoryview] = []
    try:
        return _without(raw, 0, len(raw), places, carried), carried
    except IndexError:
        raise RequestMalformed from None


def _without(raw: bytes, at: int, end: int, places: Places, carried: list[memoryview]) -> bytes:
    view, kept, copied, field = memoryview(raw), bytearray(), at, at
    for number, kind, start, stop in fields_of(raw, at, end):
        if kind == DELIMITED and number in places:
            inner = places[number]
            if inner is None:
                value = len(carried).to_bytes(4)
                carried.append(view[start:stop])
            else:
                value = _without(raw, start, stop, inner, carried)
            kept += view[copied:field]
            kept += _varint(number << 3 | DELIMITED) + _varint(len(value)) + value
            copied = stop
        field = stop
    kept += view[copied:end]
    return bytes(kept)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >> 7:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
