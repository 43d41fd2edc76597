"""Hand-written HTTP/2 frames (RFC 9113), without the restraint of a well-behaved client."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Self

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS = 4
CANCEL = 8
INITIAL_WINDOW_SIZE = 4
LARGEST_WINDOW = 2**31 - 1
FRAME_HEADER = 9
QUIET_SECONDS = 0.02

Headers = Sequence[tuple[str, str | bytes]]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Returns one frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def block(headers: Headers) -> bytes:
    """Returns a header block that does not change the peer's dynamic table, so that it can be sent repeatedly."""
    return bytes(hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*pair) for pair in headers], huffman=False))


def headers(path: str, token: str) -> Headers:
    """Returns the headers of a gRPC call."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("authorization", f"Bearer {token}"),
    ]


def message(payload: bytes, *, size: int | None = None) -> bytes:
    """Returns an uncompressed gRPC message with its length prefix, `size` if the rest of it is never sent."""
    return struct.pack(">BI", 0, len(payload) if size is None else size) + payload


class Connection:
    """A connection. `window` is the flow-control window of each stream. Without `reads` the socket is never read.
    `receive_buffer` is the socket's buffer size in bytes, if not the system default."""

    def __init__(
        self, target: str, *, window: int = LARGEST_WINDOW, reads: bool = True, receive_buffer: int | None = None
    ) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._window = window
        self._reads = reads
        self._receive_buffer = receive_buffer
        self._stream = -1
        self._frames_of_late = 1
        self.closed = asyncio.Event()
        self.received: dict[int, int] = {}
        self.ended: set[int] = set()
        self.first_data = asyncio.Event()

    async def __aenter__(self) -> Self:
        # The reader pauses the socket once this much is buffered.
        self._reader, self._writer = await asyncio.open_connection(sock=await self._socket(), limit=2**16)
        self._writer.write(PREFACE)
        self.write(frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, self._window)))
        self.write(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", LARGEST_WINDOW - 65_535)))
        self._reading = asyncio.create_task(self._read()) if self._reads else None
        if self._reading is None:
            self._writer.transport.pause_reading()  # type: ignore[attr-defined]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _socket(self) -> socket.socket:
        made = socket.socket()
        made.setblocking(False)
        if self._receive_buffer is not None:
            # Must be set before connecting, when the TCP window is negotiated.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(made, (self._host, self._port))
        except BaseException:
            made.close()
            raise
        return made

    def stream(self) -> int:
        """Returns the number of a new stream."""
        self._stream += 2
        return self._stream

    def write(self, data: bytes) -> None:
        """Sends raw bytes."""
        self._writer.write(data)

    async def drain(self) -> None:
        """Waits until the write buffer has room. Raises ConnectionError if the server has closed the connection."""
        await self._writer.drain()

    def call(self, header_block: bytes, payload: bytes) -> int:
        """Starts a unary or server-streaming call and returns the number of its stream."""
        stream = self.stream()
        self.write(frame(HEADERS, END_HEADERS, stream, header_block))
        self.write(frame(DATA, END_STREAM, stream, message(payload)))
        return stream

    def begin(self, header_block: bytes, data: bytes) -> int:
        """Starts a call whose request does not end, and returns the number of its stream."""
        stream = self.stream()
        self.write(frame(HEADERS, END_HEADERS, stream, header_block))
        self.write(frame(DATA, 0, stream, data))
        return stream

    def widen(self, window: int) -> None:
        """Widens the flow-control window of every stream."""
        for stream in range(1, self._stream + 1, 2):
            self.write(frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", window)))

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns once `holds()` is true."""
        while True:
            if holds():
                return
            await asyncio.sleep(QUIET_SECONDS / 10)

    async def until_quiet(self) -> None:
        """Returns once nothing has arrived for a while."""
        while not self.closed.is_set() and self._frames_of_late:
            self._frames_of_late = 0
            await asyncio.sleep(QUIET_SECONDS)

    async def _read(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(FRAME_HEADER)
                length = int.from_bytes(head[:3], "big")
                kind, flags, stream = struct.unpack(">BBI", head[3:])
                payload = await self._reader.readexactly(length)
                self._take(kind, flags, stream, payload)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed.set()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self._frames_of_late += 1
        if kind in (SETTINGS, PING) and not flags & ACK:
            self.write(frame(kind, ACK, 0, payload if kind == PING else b""))
        elif kind == DATA:
            self.received[stream] = self.received.get(stream, 0) + len(payload)
            self.first_data.set()
            if payload and self._window:
                self.write(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", len(payload))))
        if (kind in (HEADERS, DATA) and flags & END_STREAM) or kind == RST_STREAM:
            self.ended.add(stream)
        if kind == GOAWAY:
            self.closed.set()
