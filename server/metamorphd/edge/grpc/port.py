"""The gRPC port: its limits, its keepalive, and the server that listens on it."""

from typing import Self

from metamorphd.edge.grpc.hardened_server import hardened_server
from metamorphd.edge.grpc.tls import Certificates, Tls
from metamorphd.errors import StartupRefused

LARGEST_REQUEST = 32 * 1024 * 1024
LARGEST_METADATA = 8 * 1024
# Streams of a connection that are open, and more that are over but still hold about 20 kB each. The sum bounds what a
# connection that resets its streams at once can make the server hold; beyond it a stream is refused, REFUSED_STREAM.
# A client library never opens more than the first; the second is how many the server may be late in releasing.
CONCURRENT_STREAMS = 200
ENDED_STREAMS = 50
# A connection that is silent for so long is pinged; one that does not answer is closed, and with it its streams.
KEEPALIVE_SECONDS = 20
KEEPALIVE_TIMEOUT_SECONDS = 20
# Clients may ping as often as that; who pings more is sent away with GOAWAY / ENHANCE_YOUR_CALM.
SHORTEST_PING_SECONDS = 10
# Shorter: until then the connection of who resets streams all the time costs what it has opened.
PING_TIMEOUT_SECONDS = 10
# Calls of a method that wait to be accepted. grpc cancels more without a reason, so this is more than callers reach:
# 50 connections with all their streams open.
WAITING_CALLS = 10_000

# Soft and hard limit alike: between them grpc refuses at random. Port reuse would let a second server share the port.
OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", CONCURRENT_STREAMS),
    ("grpc.http2.max_deallocating_streams", ENDED_STREAMS),
    ("grpc.max_metadata_size", LARGEST_METADATA),
    ("grpc.absolute_max_metadata_size", LARGEST_METADATA),
    ("grpc.max_receive_message_length", LARGEST_REQUEST),
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", SHORTEST_PING_SECONDS * 1000),
    ("grpc.server.max_pending_requests", WAITING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", WAITING_CALLS),
    # A stream that is reset is answered with a ping (one at a time). Who resets ten thousand more before it answers is
    # not read any further (CVE-2023-44487), and loses the connection when the ping times out.
    ("grpc.http2.ping_on_rst_stream_percent", 100),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_SECONDS * 1000),
]


class GrpcPort:
    """A gRPC server between entering and leaving it as a context; `port` is the one that it got, where 0 was asked for.

    What is to be served is added to `server` before it is entered.
    """

    def __init__(self, *, address: str, port: int, tls: Tls | None) -> None:
        self.server = hardened_server(options=OPTIONS)
        self.port = port
        self._where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        self._tls = tls

    async def __aenter__(self) -> Self:
        """Listens. Raises StartupRefused."""
        try:
            if self._tls is None:
                self.port = self.server.add_insecure_port(self._where)
            else:
                self.port = self.server.add_secure_port(self._where, Certificates(self._tls).credentials())
        except RuntimeError as exc:
            raise StartupRefused(f"cannot listen on port {self.port} for gRPC; set GRPC_PORT to a free one") from exc
        await self.server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Ends every call and connection at once. May be called more than once."""
        # Not grpc's own grace: an open Health.Watch would hold it to the end.
        await self.server.stop(0)
