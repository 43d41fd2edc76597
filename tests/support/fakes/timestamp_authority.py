"""A time stamping authority on loopback (RFC 3161), whose answers OpenSSL makes, and what else an authority may answer.

OpenSSL refuses to sign with a certificate that is for anything but time stamps, so such tokens are signed as CMS.
"""

import asyncio
import datetime
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from starlette.requests import Request
from starlette.responses import Response

from tests.support.fakes.web import FakeWeb
from tests.support.programs import require

QUERY, REPLY = "application/timestamp-query", "application/timestamp-reply"
TST_INFO = "1.2.840.113549.1.9.16.1.4"
CONFIGURATION = """
[tsa]
serial = {directory}/serial
default_policy = 1.3.6.1.4.1.13762.3
digests = sha256
signer_digest = sha256
ess_cert_id_alg = sha256
accuracy = secs:1
"""
STAMPING = (ExtendedKeyUsageOID.TIME_STAMPING,)
SIGNING = (ExtendedKeyUsageOID.CODE_SIGNING,)
# PKIStatusInfo: granted.
GRANTED = b"\x30\x03\x02\x01\x00"

Answer = Callable[[bytes], Awaitable[Response]]


class TimestampAuthority:
    """Stamps what it is asked to. `roots` is the PEM file of its root. `answer`, once set, answers instead.

    `queries` are the requests that it was sent.
    """

    def __init__(self, directory: Path, name: str = "stamps") -> None:
        self._directory = directory / name
        self._directory.mkdir(parents=True)
        self._openssl = require("openssl", hint="apt-get install openssl")
        self._root_key, self._key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        self.roots = self._directory / "root.pem"
        self.roots.write_bytes(self._certificate("root", self._root_key, authority=True))
        self._directory.joinpath("serial").write_text("01\n")
        self._directory.joinpath("ts.cnf").write_text(CONFIGURATION.format(directory=self._directory))
        self._directory.joinpath("key.pem").write_bytes(
            self._key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.queries: list[bytes] = []
        self.answer: Answer | None = None
        self._web = FakeWeb(self._answer)

    async def __aenter__(self) -> Self:
        await self._web.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._web.__aexit__()

    @property
    def url(self) -> str:
        """Returns the value for AUDIT_TSA_URL."""
        return f"{self._web.url}/stamp"

    def stamp(self, query: bytes, *, hours: tuple[int, int] = (-1, 1), chain: bool = False) -> bytes:
        """Returns a token for a request, with a certificate that is valid for these hours from now.

        With `chain`, it has the root too, after it, which is not the order of DER.
        """
        self._issue("signer", STAMPING, hours=hours)
        return self._reply(query, *(("-chain", "root.pem") if chain else ()))

    def stamp_as(self, query: bytes, usage: tuple[x509.ObjectIdentifier, ...], *, critical: bool = True) -> bytes:
        """Returns a token for a request, signed with a certificate for this use."""
        self._issue("signer", STAMPING)
        self._reply(query, "-token_out")
        self._run("cms", "-verify", "-noverify", "-inform", "DER", "-in", "reply", "-out", "info")
        self._issue("other", usage, critical=critical)
        arguments = ("-binary", "-nodetach", "-cades", "-econtent_type", TST_INFO, "-outform", "DER")
        self._run(
            "cms", "-sign", *arguments, "-signer", "other.pem", "-inkey", "key.pem", "-in", "info", "-out", "signed"
        )
        return _sequence(GRANTED + self._directory.joinpath("signed").read_bytes())

    def _reply(self, query: bytes, *options: str) -> bytes:
        self._directory.joinpath("query").write_bytes(query)
        given = ("-queryfile", "query", "-config", "ts.cnf", "-section", "tsa")
        self._run("ts", "-reply", *given, "-signer", "signer.pem", "-inkey", "key.pem", "-out", "reply", *options)
        return self._directory.joinpath("reply").read_bytes()

    def _run(self, *arguments: str) -> None:
        subprocess.run([self._openssl, *arguments], cwd=self._directory, check=True, capture_output=True)

    async def _answer(self, request: Request) -> Response:
        query = await request.body()
        if request.method != "POST" or request.headers.get("content-type") != QUERY:
            return Response(status_code=400)
        self.queries.append(query)
        if self.answer is not None:
            return await self.answer(query)
        return Response(await asyncio.to_thread(self.stamp, query), media_type=REPLY)

    def _issue(
        self,
        name: str,
        usage: tuple[x509.ObjectIdentifier, ...],
        *,
        critical: bool = True,
        hours: tuple[int, int] = (-1, 1),
    ) -> None:
        made = self._certificate(name, self._key, usage=usage, critical=critical, hours=hours)
        self._directory.joinpath(f"{name}.pem").write_bytes(made)

    def _certificate(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        *,
        authority: bool = False,
        usage: tuple[x509.ObjectIdentifier, ...] = (),
        critical: bool = True,
        hours: tuple[int, int] = (-1, 1),
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name("root"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(hours=hours[0]))
            .not_valid_after(now + datetime.timedelta(hours=hours[1]))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if usage:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=critical)
        return builder.sign(self._root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _sequence(content: bytes) -> bytes:
    """Returns a SEQUENCE of DER, of fewer than 64 KB."""
    length = len(content)
    return b"\x30" + (bytes([length]) if length < 128 else b"\x82" + length.to_bytes(2)) + content
