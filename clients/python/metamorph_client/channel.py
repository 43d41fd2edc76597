"""Where a client connects to, and over what: targets, TLS, and the options of channels."""

import asyncio
import importlib.resources
import json
import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

LAST_PORT = 65_535
_CHANNEL = json.loads(importlib.resources.files("metamorph_client").joinpath("channel.json").read_text())
# Pings detect a dead connection, and short backoffs reconnect within a second once the server is back.
OPTIONS: list[tuple[str, Any]] = [
    ("grpc.keepalive_time_ms", _CHANNEL["keepaliveTimeMs"]),
    ("grpc.keepalive_timeout_ms", _CHANNEL["keepaliveTimeoutMs"]),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.service_config", json.dumps(_CHANNEL["serviceConfig"])),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # How long one attempt may take, despite its name: a handshake of TLS has several round trips.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]
# A name, an address of IPv4, or one of IPv6 in brackets.
_TARGET = re.compile(
    r"(?P<scheme>grpcs?://)?(?P<address>(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]):(?P<port>[0-9]{1,5}))"
)
# Where no proxy of the environment (http_proxy, https_proxy) is asked.
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.[0-9]+){3}|\[::1\]):.*", re.IGNORECASE)
_PEM = b"-----BEGIN "
# Those that have opened a channel: this one, or the one that this was forked from.
_processes: set[int] = set()


@dataclass(frozen=True)
class TLS:
    """The files of TLS, each as a path or as the bytes of PEM.

    `ca` has the authorities to trust; without it, those that the system trusts. `cert` and `key` show who the client is
    (mutual TLS).
    """

    ca: str | Path | bytes | None = None
    cert: str | Path | bytes | None = None
    key: str | Path | bytes | None = None


def open_channel(target: str, tls: bool | TLS) -> grpc.aio.Channel:
    """Returns a channel that connects at its first call. Raises ValueError for arguments with which it never could.

    Raises RuntimeError outside an event loop, and in a process where gRPC would hang or crash, as its threads were not
    forked with it.
    """
    found = _TARGET.fullmatch(target)
    if found is None or not 0 < int(found["port"]) <= LAST_PORT:
        raise ValueError(
            f"{target!r} is not the address of a server: name one as host:port, as grpc://host:port, or as"
            " grpcs://host:port for TLS"
        )
    if _processes - {os.getpid()}:
        raise RuntimeError(
            "this process was forked from one that had a client: make the first one after the fork, or start processes"
            " with multiprocessing's spawn"
        )
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        message = "a MetamorphClient is made in the event loop that uses it; a SyncMetamorphClient needs none"
        raise RuntimeError(message) from None
    if found["scheme"] == "grpc://" and tls:
        raise ValueError(f"{target!r} is plaintext because of grpc://, and tls is given: leave out one of them")
    secure = tls or found["scheme"] == "grpcs://"
    credentials = _credentials(tls if isinstance(tls, TLS) else TLS()) if secure else None
    _processes.add(os.getpid())
    options = [*OPTIONS, ("grpc.enable_http_proxy", 0)] if _LOOPBACK.fullmatch(found["address"]) else OPTIONS
    if credentials is None:
        return grpc.aio.insecure_channel(found["address"], options=options)
    return grpc.aio.secure_channel(found["address"], credentials, options=options)


def _credentials(tls: TLS) -> grpc.ChannelCredentials:
    if (tls.cert is None) != (tls.key is None):
        raise ValueError("cert and key of TLS go together: give both, or none")
    ca, cert, key = (_pem(name, getattr(tls, name)) for name in ("ca", "cert", "key"))
    if ca is not None:
        try:
            ssl.create_default_context(cadata=ca.decode("ascii"))
        except (ssl.SSLError, ValueError) as exc:
            raise ValueError(f"ca of TLS is no PEM of certificates ({exc})") from exc
    return grpc.ssl_channel_credentials(ca or _system_roots(), key, cert)


def _pem(name: str, source: str | Path | bytes | None) -> bytes | None:
    if source is None:
        return None
    what = "what is given" if isinstance(source, bytes) else str(source)
    try:
        found = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as exc:
        raise ValueError(f"{name} of TLS cannot be read: {what}: {exc.strerror}") from exc
    if _PEM not in found:
        raise ValueError(f"{name} of TLS is no PEM: {what} has no line that begins with -----BEGIN")
    return found


def _system_roots() -> bytes | None:
    """Returns the certificates that the system trusts, or None for those that gRPC brings along, if it has none."""
    found = ssl.create_default_context().get_ca_certs(binary_form=True)
    return "".join(map(ssl.DER_cert_to_PEM_cert, found)).encode() or None
