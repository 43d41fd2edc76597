"""TLS of the gRPC port: certificates that are read again when their files change."""

import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog

from metamorphd.errors import StartupRefused

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
