"""TLS for the gRPC port. Certificates are read again when their files change."""

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
    """A certificate chain, its key, and the authorities that client certificates must come from, if any.

    Each is PEM text, or the path of a PEM file, which is read again when it has changed.
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
    """The certificates in use: those of the newest files that are valid together."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._stamp = self._current_stamp()
        try:
            self._material = _checked(tls)
        except (OSError, ValueError) as exc:
            raise StartupRefused(f"GRPC_TLS_CERT, GRPC_TLS_KEY or GRPC_TLS_CLIENT_CA cannot be used: {exc}") from exc

    def credentials(self) -> grpc.ServerCredentials:
        """Returns credentials that check for changed files at every handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self._material.configuration(),
            self._renewed,
            require_client_authentication=self._tls.client_authorities is not None,
        )

    def _renewed(self) -> Any:
        """Returns the new configuration, or None to keep the old one. Is called by grpc on a thread of its own."""
        stamp = self._current_stamp()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            self._material = _checked(self._tls)
        except (OSError, ValueError) as exc:
            # Files replaced one after the other do not match for a moment. The next handshake tries again.
            logger.warning("the changed TLS files cannot be used; the previous ones stay in use", error=str(exc))
            self._stamp = None
            return None
        logger.info("TLS files reloaded")
        return self._material.configuration()

    def _current_stamp(self) -> tuple[tuple[int, int], ...] | None:
        """Returns a stamp that changes with the files, or None if one cannot be read."""
        sources = (self._tls.certificate, self._tls.key, self._tls.client_authorities)
        try:
            stats = [Path(source).stat() for source in sources if source is not None and not _is_pem(source)]
        except OSError:
            return None
        return tuple((stat.st_mtime_ns, stat.st_ino) for stat in stats)


def _checked(tls: Tls) -> _Material:
    """Reads and checks all files. Raises OSError (or ssl.SSLError) or ValueError for malformed or mismatched ones."""
    authorities = None if tls.client_authorities is None else _read(tls.client_authorities)
    material = _Material(_read(tls.certificate), _read(tls.key), authorities)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # The ssl module reads a certificate chain from files only.
    with tempfile.NamedTemporaryFile() as file:
        file.write(material.key + b"\n" + material.certificate)
        file.flush()
        context.load_cert_chain(file.name)
    if authorities is not None:
        context.load_verify_locations(cadata=authorities.decode())
    return material


def _read(source: str) -> bytes:
    return source.encode() if _is_pem(source) else Path(source).read_bytes()


def _is_pem(source: str) -> bool:
    return source.lstrip().startswith("-----BEGIN ")
