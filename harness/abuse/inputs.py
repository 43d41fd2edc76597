"""The fuzzer's input as `hypothesis` strategies: requests near and far from their proto, and calls near HTTP/2's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import hypothesis
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

from tests.support.http2 import DATA, END_HEADERS, END_STREAM, HEADERS, Headers, frame, message
from tests.support.http2 import block as header_block
from tests.support.wire import END_GROUP, FIXED32, FIXED64, GROUP, LENGTH_DELIMITED, VARINT, field, varint

DEPTH = 3
NESTED = 2_000
LONG = 100_000
MOST_REPEATED = 1_000_000
# 0xC0 0x80 is an over-long NUL, 0xED 0xA0 0x80 a surrogate: neither is UTF-8.
NO_UTF8 = (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"ok\xf4\x90\x80\x80", b"\x80" * 50)
NUMBERS = (0, 1, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
VARINT_TYPES = {
    FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_BOOL, FieldDescriptor.TYPE_ENUM,
}  # fmt: skip
T = TypeVar("T")
PLACES = st.floats(0, 1, exclude_max=True)


def drawn(strategy: st.SearchStrategy[T], *, seed: int, count: int) -> list[T]:
    """Returns at most `count` examples, the same ones for the same seed."""
    examples: list[T] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def draw(example: T) -> None:
        examples.append(example)

    draw()
    return examples


def requests(descriptor: Descriptor, texts: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Requests of a type, with strings from `texts`. Many parse, and some pass validation."""
    near = _messages(descriptor, texts, DEPTH)
    return st.one_of(near, near, st.builds(_damaged, near, st.lists(st.tuples(PLACES, st.binary(max_size=4)))), _FAR)


def _messages(descriptor: Descriptor, texts: Sequence[bytes], depth: int) -> st.SearchStrategy[bytes]:
    known = [_field(known, texts, depth) for known in descriptor.fields]
    return st.lists(st.one_of(*known, _ODD), max_size=6).map(b"".join)


def _field(known: FieldDescriptor, texts: Sequence[bytes], depth: int) -> st.SearchStrategy[bytes]:
    number = known.number
    if known.type in VARINT_TYPES:
        values = st.one_of(st.integers(0, 5), st.sampled_from(NUMBERS), st.integers(0, 2**64 - 1))
        return values.map(lambda value: field(number, VARINT, varint(value)))
    if known.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FIXED64, FieldDescriptor.TYPE_SFIXED64):
        return st.binary(min_size=8, max_size=8).map(lambda value: field(number, FIXED64, value))
    if known.type == FieldDescriptor.TYPE_FLOAT:
        return st.binary(min_size=4, max_size=4).map(lambda value: field(number, FIXED32, value))
    message_type = known.message_type
    if message_type is not None and depth:
        nested = st.deferred(lambda: _messages(message_type, texts, depth - 1))
        once = nested.map(lambda value: field(number, LENGTH_DELIMITED, value))
        if not known.is_repeated:
            return once
        # Equal and different entries of a map.
        return once | st.builds(_repeated, once, st.integers(2, 3_000)) | _many(number)
    content = st.one_of(
        st.sampled_from([*texts, *NO_UTF8]), st.text(max_size=50).map(_utf8), st.binary(max_size=50),
        st.just(b"x" * LONG),
    )  # fmt: skip
    return content.map(lambda value: field(number, LENGTH_DELIMITED, value))


def _repeated(value: bytes, count: int) -> bytes:
    """Repeats a field as long as it stays small: nested repetition would fill this machine's memory."""
    return value * max(1, min(count, MOST_REPEATED // max(1, len(value))))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _many(number: int) -> st.SearchStrategy[bytes]:
    def entries(count: int) -> bytes:
        keys = (field(1, LENGTH_DELIMITED, b"key%d" % key) + field(2, LENGTH_DELIMITED, b"v") for key in range(count))
        return b"".join(field(number, LENGTH_DELIMITED, entry) for entry in keys)

    return st.integers(10, 10_000).map(entries)


def _nested(depth: int, number: int, group: bool) -> bytes:
    payload = b""
    for _ in range(depth):
        if group:
            payload = field(number, GROUP, payload) + varint(number << 3 | END_GROUP)
        else:
            payload = field(number, LENGTH_DELIMITED, payload)
    return payload


def _damaged(valid: bytes, damages: list[tuple[float, bytes]]) -> bytes:
    damaged = bytearray(valid)
    for place, replacement in damages:
        start = int(place * (len(damaged) + 1))
        damaged[start : start + max(1, len(replacement))] = replacement
    return bytes(damaged)


_ODD = st.one_of(
    # Any field number and any wire type, undefined ones too; wrong lengths.
    st.builds(lambda tag, rest: varint(tag) + rest, st.integers(0, 2**32), st.binary(max_size=12)),
    st.builds(lambda number, value: field(number, VARINT, value), st.integers(1, 20), st.just(b"\xff" * 12)),
    st.builds(
        lambda number, padding: field(number, VARINT, varint(1, padding=padding)),
        st.integers(1, 20),
        st.integers(1, 12),
    ),
    st.builds(lambda number, length: varint(number << 3 | LENGTH_DELIMITED) + varint(length), st.integers(1, 20),
              st.sampled_from(NUMBERS)),
)  # fmt: skip
_FAR = st.one_of(
    st.binary(max_size=2_000), st.builds(_nested, st.integers(1, NESTED), st.integers(1, 20), st.booleans())
)


@dataclass(frozen=True)
class Exchange:
    """The bytes of one stream: a header block and the frames after it."""

    headers: Headers
    frames: tuple[tuple[int, int, bytes], ...]

    def on(self, stream: int) -> bytes:
        """The bytes."""
        opening = frame(
            HEADERS, END_HEADERS | (END_STREAM if not self.frames else 0), stream, header_block(self.headers)
        )
        return opening + b"".join(frame(kind, flags, stream, payload) for kind, flags, payload in self.frames)


_NAMES = st.sampled_from([
    "te", "content-type", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "authorization", "x-request-id",
    "x-vault-id", "x-bin", "x-text", "grpc-status", "grpc-message", "content-length", "connection", "cookie", ":path",
    ":method", ":scheme", ":authority", ":status", "", "X-Upper", "x y", "user-agent", "host", "grpc-trace-bin",
])  # fmt: skip
_VALUES = st.one_of(
    st.sampled_from([
        b"", b"trailers", b"application/grpc", b"application/grpc+json", b"text/html", b"1x", b"-1S", b"0n",
        b"99999999999S", b"1H", b"gzip", b"identity,gzip", b"none", b"Bearer", b"Bearer ", b"Bearer a.b.c", b"!!!",
        b"POST", b"GET", b"/", b"/a", b"/grpc.health.v1.Health/Check", b"a" * 7_000, b"a" * 20_000, b"\xff\x00\r\n",
    ]),
    st.binary(max_size=40),
    st.text(max_size=40).map(_utf8),
)  # fmt: skip
_CHANGES = st.lists(st.tuples(st.sampled_from(["set", "add", "drop"]), _NAMES, _VALUES), max_size=6)
_MESSAGES = st.one_of(
    st.binary(max_size=60).map(message),
    # Undefined flags, wrong lengths.
    st.builds(lambda flag, length, rest: bytes([flag]) + length.to_bytes(4, "big") + rest, st.integers(0, 255),
              st.sampled_from([0, 1, 5, 2**16, 2**25, 2**25 + 1, 2**32 - 1]), st.binary(max_size=60)),
    st.binary(max_size=60),
)  # fmt: skip
_FRAMES = st.lists(
    st.one_of(
        st.tuples(st.just(DATA), st.sampled_from([0, END_STREAM]), _MESSAGES),
        st.tuples(st.just(DATA), st.just(END_STREAM), _MESSAGES),
        st.tuples(st.integers(0, 12), st.integers(0, 255), st.binary(max_size=40)),
    ),
    max_size=4,
).map(tuple)


def exchanges(base: Sequence[Headers]) -> st.SearchStrategy[Exchange]:
    """Calls with headers near one of `base`, and frames near gRPC's."""
    return st.builds(Exchange, st.builds(_changed, st.sampled_from(base), _CHANGES, st.integers(0, 300)), _FRAMES)


def _changed(base: Headers, changes: list[tuple[str, str, bytes]], copies: int) -> Headers:
    headers = list(base)
    for how, name, value in changes:
        if how != "add":
            headers = [pair for pair in headers if pair[0] != name]
        if how != "drop":
            headers += [(name, value)] * (copies if name == "x-text" else 1)
    return headers
