"""The gRPC port: its limits, its keepalive, and the server that listens on it."""

import errno
import socket
from typing import Self

from metamorphd.edge.connections import ConnectionLimits
from metamorphd.edge.grpc.hardened_server import hardened_server
from metamorphd.edge.grpc.tls import Certificates, Tls
from metamorphd.errors import StartupRefused

LARGEST_REQUEST = 32 * 1024 * 1024
LARGEST_METADATA = 8 * 1024
# Streams of a connection that are open, and ended ones that still hold about 20 kB each. The sum bounds the memory that
# a connection can take up by resetting its streams at once; further streams are refused with REFUSED_STREAM. Client
# libraries never open more than the first; the second allows for streams that the server has yet to release. A busy
# client is refused at times if it is less (decision 22). RFC 9113 recommends at least 100 (section 6.5.2).
CONCURRENT_STREAMS = 100
ENDED_STREAMS = 100
# A connection that is silent for this long is pinged. If it does not answer, it is closed with all its streams.
KEEPALIVE_SECONDS = 20
KEEPALIVE_TIMEOUT_SECONDS = 20
# Minimum interval of a client's pings. Connections that ping more often are closed: GOAWAY, ENHANCE_YOUR_CALM.
SHORTEST_PING_SECONDS = 10
# Short, because until it passes, a connection that keeps resetting streams takes up the memory of all it has opened.
PING_TIMEOUT_SECONDS = 10
# For TLS, and for the client's first HTTP/2 frame. Core's default is two minutes.
HANDSHAKE_SECONDS = 10
# A connection without calls is closed (GOAWAY) after this time. Clients open another one with their next call.
IDLE_SECONDS = 300
# Calls of a method that wait to be accepted. grpc cancels further ones without a reason, so this is more than callers
# reach: 100 connections with all their streams open.
WAITING_CALLS = 10_000

# Soft and hard limits are equal, because between them grpc refuses at random. Port reuse would let a second server
# share the port.
OPTIONS = [
    ("grpc.so_reuseport", 0),
    # Otherwise the core lets a fast connection send megabytes of every request before anybody reads it.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_concurrent_streams", CONCURRENT_STREAMS),
    ("grpc.http2.max_deallocating_streams", ENDED_STREAMS),
    ("grpc.max_metadata_size", LARGEST_METADATA),
    ("grpc.absolute_max_metadata_size", LARGEST_METADATA),
    ("grpc.max_receive_message_length", LARGEST_REQUEST),
    # Only identity, the lowest bit: 260 kB of gzip can contain 32 MB. Compressed requests are UNIMPLEMENTED, as gRPC
    # prescribes (https://github.com/grpc/grpc/blob/master/doc/compression.md).
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", SHORTEST_PING_SECONDS * 1000),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
    ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
    ("grpc.server.max_pending_requests", WAITING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", WAITING_CALLS),
    # A reset stream triggers a ping (one at a time). A connection that resets ten thousand more streams before it
    # answers the ping is not read any further (CVE-2023-44487), and is closed when the ping times out.
    ("grpc.http2.ping_on_rst_stream_percent", 100),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_SECONDS * 1000),
]


class GrpcPort:
    """A gRPC server, which listens while it is entered. `port` is the actual port, also if 0 was requested.

    Services must be added to `server` before it is entered.
    """

    def __init__(self, *, address: str, port: int, tls: Tls | None, limits: ConnectionLimits) -> None:
        self.server = hardened_server(options=[*OPTIONS, ("grpc.max_allowed_incoming_connections", limits.grpc)])
        self.port = port
        self._address = address
        self._where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        self._tls = tls

    async def __aenter__(self) -> Self:
        """Listens. Raises StartupRefused."""
        if self.port:
            _refuse_taken(self._address, self.port)
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
        # Not with grpc's own grace period, which an open Health.Watch would use up.
        await self.server.stop(0)


def _refuse_taken(address: str, port: int) -> None:
    """Raises StartupRefused if the port cannot be had. gRPC's core would write lines of its own about that."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError as exc:
        if exc.errno not in (errno.EADDRINUSE, errno.EACCES):
            # An address that the core may understand.
            return
        raise StartupRefused(
            f"cannot listen on port {port} for gRPC ({exc.strerror}); set GRPC_PORT to a free one"
        ) from exc
