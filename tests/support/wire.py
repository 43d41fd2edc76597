"""Hand-written protobuf wire format, for bytes that no message serializes to."""

VARINT, FIXED64, LENGTH_DELIMITED, GROUP, END_GROUP, FIXED32 = range(6)


def varint(number: int, *, padding: int = 0) -> bytes:
    """Returns a varint with `padding` redundant bytes."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(encoded) + bytes([number | 0x80] + [0x80] * (padding - 1) + [0] if padding else [number])


def field(number: int, wire_type: int, payload: bytes) -> bytes:
    """Returns an encoded field, with its length if it is length-delimited."""
    length = varint(len(payload)) if wire_type == LENGTH_DELIMITED else b""
    return varint(number << 3 | wire_type) + length + payload
