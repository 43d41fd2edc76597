"""The gRPC port: its limits, its keepalive, TLS."""

import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog

from metamorphd.errors import StartupRefused

LARGEST_REQUEST = 32 * 1024 * 1024
LARGEST_METADATA = 8 * 1024
CONCURRENT_STREAMS = 1000
# A connection that is silent for so long is pinged; one that does not answer is closed, and with it its streams.
KEEPALIVE_SECONDS = 20
KEEPALIVE_TIMEOUT_SECONDS = 20
# Clients may ping as often as that; who pings more is sent away with GOAWAY / ENHANCE_YOUR_CALM.
SHORTEST_PING_SECONDS = 10
# Shorter: until then the connection of who resets streams all the time costs what it has opened.
PING_TIMEOUT_SECONDS = 10
# Calls that wait to be taken up, of all connections together: what a flood can make the server keep. grpc would let
# six times as many in, refusing some of them at random.
WAITING_CALLS = 500

# Soft and hard limit alike: between them grpc refuses at random. Port reuse would let a second server share the port.
OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", CONCURRENT_STREAMS),
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

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Tls:
    """A certificate chain, its key, and the authorities whose clients alone may connect, if any.

    Each is PEM text, or the path of a file with it, which is read again when it has changed.
    """

    certificate: str
    key: str
    client_authorities: str | None


@dataclass(frozen=True, slots=True)
class _Material:
    certificate: bytes
    key: bytes
    client_authorities: bytes | None

    def configuration(self) -> Any:
        return grpc.ssl_server_certificate_configuration([(self.key, self.certificate)], self.client_authorities)


class Certificates:
    """What the port shows and demands, by the newest files that fit together."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._stamp = self._changed()
        try:
            self._material = _checked(tls)
        except (OSError, ValueError) as exc:
            raise StartupRefused(f"GRPC_TLS_CERT, GRPC_TLS_KEY or GRPC_TLS_CLIENT_CA cannot be used: {exc}") from exc

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials that ask again at every handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self._material.configuration(),
            self._renewed,
            require_client_authentication=self._tls.client_authorities is not None,
        )

    def _renewed(self) -> Any:
        """The new configuration, or None while the old one holds. Called by grpc, on a thread of its own."""
        stamp = self._changed()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            self._material = _checked(self._tls)
        except (OSError, ValueError) as exc:
            # Written one after the other, they do not fit for a moment; the next handshake looks again.
            logger.warning("TLS files have changed and cannot be used; the old ones still are", error=str(exc))
            self._stamp = None
            return None
        logger.info("TLS files read again")
        return self._material.configuration()

    def _changed(self) -> tuple[tuple[int, int], ...] | None:
        """Tells one state of the files from another."""
        told = (self._tls.certificate, self._tls.key, self._tls.client_authorities)
        try:
            stats = [Path(path).stat() for path in told if path is not None and not _is_pem(path)]
        except OSError:
            return None
        return tuple((stat.st_mtime_ns, stat.st_ino) for stat in stats)


def _checked(tls: Tls) -> _Material:
    """Reads all. Raises OSError (ssl.SSLError is one) or ValueError when they are no PEM or do not fit together."""
    authorities = None if tls.client_authorities is None else _read(tls.client_authorities)
    material = _Material(_read(tls.certificate), _read(tls.key), authorities)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # The ssl module reads a chain from a file only.
    with tempfile.NamedTemporaryFile() as file:
        file.write(material.key + b"\n" + material.certificate)
        file.flush()
        context.load_cert_chain(file.name)
    if authorities is not None:
        context.load_verify_locations(cadata=authorities.decode())
    return material


def _read(told: str) -> bytes:
    return told.encode() if _is_pem(told) else Path(told).read_bytes()


def _is_pem(told: str) -> bool:
    return told.lstrip().startswith("-----BEGIN ")
