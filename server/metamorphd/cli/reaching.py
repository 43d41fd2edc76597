"""How a server is reached: over TLS or not, at which addresses, over HTTP."""

import asyncio
import json
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from metamorph_client import TLS

from metamorphd.auth.http_client import HttpClient
from metamorphd.checks.remote import certificate, clocks, plaintext
from metamorphd.cli.connection import tls_context, tls_of
from metamorphd.errors import IdentityUnavailable
from metamorphd.models.finding import Finding, failed, ok, warning
from metamorphd.settings.client import ClientSettings

CONNECT_SECONDS = 5.0
OK, DEGRADED = 200, "degraded"


@dataclass(frozen=True)
class Reached:
    """How gRPC is reached: whether at all, the TLS of a client, what was found."""

    usable: bool
    tls: bool | TLS
    findings: tuple[Finding, ...]


async def reach(target: str, settings: ClientSettings) -> Reached:
    """Connects to a target, host:port, over TLS if it speaks that. It must if the settings say so."""
    host, _, port = target.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit():
        return _unreachable(target, "it is not host:port")
    try:
        context = tls_context(settings)
    except ValueError as exc:
        return _unreachable(target, str(exc))
    try:
        expires = await _expiry(host, int(port), context)
    except ssl.SSLCertVerificationError as exc:
        what = f"the certificate of {target} is not trusted ({exc.verify_message})"
        mend = "name its authority with --ca, or issue one for this name"
        return Reached(False, False, (failed("tls", what, mend),))
    except (ssl.SSLError, ConnectionResetError, asyncio.IncompleteReadError, TimeoutError):
        return await _without_tls(target, host, settings)
    except (OSError, ValueError, OverflowError, UnicodeError) as exc:
        return _unreachable(target, getattr(exc, "strerror", None) or type(exc).__name__)
    found = tls_of(settings.model_copy(update={"tls": True}))
    return Reached(True, found, (certificate(expires - time.time()),))


async def _without_tls(target: str, host: str, settings: ClientSettings) -> Reached:
    """Returns how a server that does not speak TLS is reached: not at all if it must."""
    if settings.over_tls:
        mend = "set GRPC_TLS_CERT and GRPC_TLS_KEY, or name the server without TLS"
        return Reached(False, False, (failed("tls", f"{target} does not speak TLS", mend),))
    mend = "set GRPC_TLS_CERT and GRPC_TLS_KEY, or close the port to the internet"
    return Reached(True, False, (plaintext("tls", "gRPC is served", await _addresses(host), mend),))


async def _expiry(host: str, port: int, context: ssl.SSLContext) -> float:
    async with asyncio.timeout(CONNECT_SECONDS):
        _, writer = await asyncio.open_connection(host, port, ssl=context)
    certificate = writer.get_extra_info("ssl_object").getpeercert()
    writer.close()
    return float(ssl.cert_time_to_seconds(certificate["notAfter"]))


async def _addresses(host: str) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [str(address[0]) for *_, address in found]


def _unreachable(target: str, why: str) -> Reached:
    mend = "start it, or name another with --target host:port; the platform's log says why it ended"
    return Reached(False, False, (failed("server", f"{target} cannot be reached: {why}", mend),))


async def over_http(base: str) -> list[Finding]:
    """Looks at the HTTP port: health, the clock, whether metrics are public, whether it is encrypted."""
    base = base.rstrip("/")
    try:
        parts = urlsplit(base)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known:
        return [failed("http", "the address of the HTTP port is no URL", "name it with --http http://host:port")]
    addresses = await _addresses(str(parts.hostname))
    async with HttpClient() as http:
        try:
            before = time.time()
            status, body = await http.request("GET", f"{base}/health")
            between = (before + time.time()) / 2
        except IdentityUnavailable:
            mend = "name the HTTP port with --http http://host:port (PORT), or open it to this machine"
            return [warning("health", f"{base}/health cannot be reached, so it was not checked", mend)]
        findings = list(_health(status, body, between))
        if parts.scheme == "https":
            findings.append(await _enforced(http, base))
        else:
            mend = "reach it by HTTPS only (Railway's domains are), or keep it on the private network"
            findings.append(plaintext("https", "HTTP is served", addresses, mend))
        findings.append(await _metrics(http, base, addresses))
    return findings


def _health(status: int, body: bytes, received: float) -> Iterator[Finding]:
    try:
        answer = json.loads(body)
        state, check = str(answer["status"]), str(answer.get("check", ""))
        served = datetime.fromisoformat(answer["timestamp"]).timestamp()
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        yield failed("health", f"/health answers {status}, and not as Metamorph does", "name the right one with --http")
        return
    look = "`metamorph check --server` with an operator's token says why, and so does the log"
    if status != OK:
        yield failed("health", f"/health answers {status}: {check[:40]} fails", look)
    elif state == DEGRADED:
        yield warning("health", f"/health answers degraded: {check[:40]}", look)
    else:
        yield ok("health", "/health answers ok")
    yield clocks(served - received)


async def _enforced(http: HttpClient, base: str) -> Finding:
    host = urlsplit(base).hostname
    try:
        status, _ = await http.request("HEAD", f"http://{f'[{host}]' if host and ':' in host else host}/health")
    except IdentityUnavailable:
        return ok("https", "HTTPS is enforced: plain HTTP is not answered")
    if status == OK:
        return failed("https", "plain HTTP is answered too", "redirect it to HTTPS at the proxy")
    return ok("https", f"HTTPS is enforced: plain HTTP is answered {status}")


async def _metrics(http: HttpClient, base: str, addresses: list[str]) -> Finding:
    try:
        # The figures are many, and not needed.
        status, _ = await http.request("HEAD", f"{base}/metrics")
    except IdentityUnavailable:
        return warning("metrics", "/metrics cannot be reached, so it was not checked", "name the HTTP port with --http")
    if status != OK:
        return ok("metrics", f"/metrics answers {status} without a token")
    mend = "keep the HTTP port on the private network, or let the proxy pass /health only"
    found = plaintext("metrics", "/metrics is open to everyone who reaches it,", addresses, mend)
    return found if found.remedy else ok("metrics", "/metrics needs no token, and its address is not public")
