"""Protobuf's wire format, written by hand where no message would say it."""

VARINT, FIXED64, LENGTH_DELIMITED, GROUP, END_GROUP, FIXED32 = range(6)


def varint(number: int, *, padding: int = 0) -> bytes:
    """A number as protobuf writes it, with so many bytes that add nothing."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(encoded) + bytes([number | 0x80] + [0x80] * (padding - 1) + [0] if padding else [number])


def field(number: int, wire_type: int, payload: bytes) -> bytes:
    """A field; of a length-delimited one also its length."""
    length = varint(len(payload)) if wire_type == LENGTH_DELIMITED else b""
    return varint(number << 3 | wire_type) + length + payload
