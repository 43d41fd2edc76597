"""The gRPC port: TLS with real certificates, limits and keepalive."""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from metamorph_client.admin.v1.admin_service_pb2 import GetServerInfoRequest
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest, WhoAmIResponse
from metamorphd.edge.grpc.port import CONCURRENT_STREAMS, KEEPALIVE_SECONDS, LARGEST_REQUEST, SHORTEST_PING_SECONDS
from metamorphd.edge.grpc.service_config import client_configuration
from metamorphd.errors import StartupRefused

from tests.support.caller import Caller
from tests.support.certificates import Authority
from tests.support.http2 import Connection, block, headers
from tests.support.refusal import refused
from tests.support.serving import Serving, serving
from tests.support.tokens import mint
from tests.support.wire import LENGTH_DELIMITED, field

WHO_AM_I = "/metamorph.vault.v1.VaultService/WhoAmI"
COUNT_TOKENS = "/metamorph.chat.v1.ChatService/CountTokens"


async def vault_over_tls(running: Serving, authority: Authority, client: tuple[Path, Path] | None = None) -> str:
    """Returns the vault from WhoAmI over TLS, trusting `authority`, with an optional client certificate and key."""
    chain, key = (None, None) if client is None else (path.read_bytes() for path in client)
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes(), key, chain)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(running.target, credentials, options=options) as channel:
        caller = Caller(channel, [("authorization", f"Bearer {mint()}")])
        answer: WhoAmIResponse = await caller.vault.WhoAmI(WhoAmIRequest(), metadata=caller.metadata, timeout=10)
        return answer.vault_id


async def cannot_connect(running: Serving, authority: Authority, client: tuple[Path, Path] | None = None) -> bool:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await vault_over_tls(running, authority, client)
    return refusal.value.code() is grpc.StatusCode.UNAVAILABLE


def install(files: tuple[Path, Path], cert: Path, key: Path) -> None:
    """Replaces each file atomically, one after the other, as a certificate manager does."""
    for source, target in zip(files, (cert, key), strict=True):
        Path(f"{target}.new").write_bytes(source.read_bytes())
        os.replace(f"{target}.new", target)


async def test_tls_certificates_may_be_given_as_files_or_as_text(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue()
    for number, tls in enumerate(
        (
            {"grpc_tls_cert": str(certificate), "grpc_tls_key": str(key)},
            {"grpc_tls_cert": certificate.read_text(), "grpc_tls_key": key.read_text()},
        )
    ):
        directory = tmp_path / str(number)
        directory.mkdir()
        async with serving(directory, **tls) as running:
            assert await vault_over_tls(running, authority) == "acme"
            assert await cannot_connect(running, Authority(directory, "stranger"))
            plain = running.caller()
            with pytest.raises(grpc.aio.AioRpcError):
                await plain.vault.WhoAmI(WhoAmIRequest(), metadata=plain.metadata, timeout=10)


async def test_mtls_requires_a_client_certificate_and_a_token(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    certificate, key = authority.issue()
    tls = {
        "grpc_tls_cert": str(certificate),
        "grpc_tls_key": str(key),
        "grpc_tls_client_ca": str(authority.certificate),
    }
    async with serving(tmp_path, **tls) as running:
        assert await vault_over_tls(running, authority, authority.issue("client")) == "acme"
        assert await cannot_connect(running, authority)
        assert await cannot_connect(running, authority, stranger.issue("client"))
        chain, private = authority.issue("client")
        credentials = grpc.ssl_channel_credentials(
            authority.certificate.read_bytes(), private.read_bytes(), chain.read_bytes()
        )
        async with grpc.aio.secure_channel(running.target, credentials) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await Caller(channel, ()).vault.WhoAmI(WhoAmIRequest())
        assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_new_connections_use_changed_certificates(tmp_path: Path) -> None:
    first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
    cert, key = tmp_path / "tls.pem", tmp_path / "tls.key"
    install(first.issue(), cert, key)
    async with serving(tmp_path, grpc_tls_cert=str(cert), grpc_tls_key=str(key)) as running:
        assert await vault_over_tls(running, first) == "acme"
        # While only one file is new, and while one is broken, the old pair stays in use.
        certificate, private = second.issue()
        os.replace(certificate, cert)
        assert await vault_over_tls(running, first) == "acme"
        key.write_text("-----BEGIN nothing")
        assert await vault_over_tls(running, first) == "acme"
        key.unlink()
        assert await vault_over_tls(running, first) == "acme"
        os.replace(private, key)
        assert await vault_over_tls(running, second) == "acme"
        assert await cannot_connect(running, first)


@pytest.mark.parametrize("broken", ["missing", "no PEM", "another's key"])
async def test_the_server_does_not_start_with_unusable_certificates(tmp_path: Path, broken: str) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue()
    if broken == "missing":
        key.unlink()
    else:
        key.write_bytes(b"canary" if broken == "no PEM" else authority.issue()[1].read_bytes())
    with pytest.raises(StartupRefused, match="GRPC_TLS") as refusal:
        async with serving(tmp_path, grpc_tls_cert=str(certificate), grpc_tls_key=str(key)):
            pass
    assert "canary" not in str(refusal.value)


async def test_the_operator_is_warned_of_plaintext_on_every_address(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with serving(tmp_path, listen_address="::") as running:
        operator = running.caller(operator=True)
        info = await operator.admin.GetServerInfo(GetServerInfoRequest(), metadata=operator.metadata)
        assert [warning for warning in info.warnings if "TLS" in warning] == list(info.warnings) != []
    assert "without TLS" in capfd.readouterr().out


class Peer:
    """An HTTP/2 client that can misbehave."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.http.initiate_connection()

    async def flush(self) -> None:
        self._writer.write(self.http.data_to_send())
        # The server may have closed the connection; its GOAWAY frame can still be read.
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def events(self, kind: type[Any], *, seconds: float) -> Any:
        """Returns the next event of a kind, or None."""
        try:
            async with asyncio.timeout(seconds):
                while data := await self._reader.read(65_536):
                    events = self.http.receive_data(data)
                    await self.flush()
                    for event in events:
                        if isinstance(event, kind):
                            return event
        except TimeoutError:
            pass
        return None

    def close(self) -> None:
        self._writer.close()


async def connect(running: Serving) -> Peer:
    peer = Peer(*await asyncio.open_connection(*running.target.split(":")))
    await peer.flush()
    return peer


async def test_the_server_announces_its_stream_limit(running: Serving) -> None:
    peer = await connect(running)
    settings = await peer.events(h2.events.RemoteSettingsChanged, seconds=5)
    announced = settings.changed_settings[SettingCodes.MAX_CONCURRENT_STREAMS]
    assert announced.new_value == CONCURRENT_STREAMS
    peer.close()


async def test_a_client_that_pings_too_often_is_disconnected(running: Serving) -> None:
    peer = await connect(running)
    await peer.events(h2.events.RemoteSettingsChanged, seconds=5)
    for _ in range(10):
        peer.http.ping(b"12345678")
    await peer.flush()
    end = await peer.events(h2.events.ConnectionTerminated, seconds=5)
    assert end.error_code == ErrorCodes.ENHANCE_YOUR_CALM
    peer.close()


def test_client_keepalive_stays_below_the_ping_limit_of_the_server() -> None:
    agreed = client_configuration()
    assert agreed["keepaliveTimeMs"] == KEEPALIVE_SECONDS * 1000 > SHORTEST_PING_SECONDS * 1000
    repeated = {name["method"] for name in agreed["serviceConfig"]["methodConfig"][0]["name"]}
    assert {"GetSession", "ListSessions", "StreamTurn", "WhoAmI", "CancelTurn", "RevokeTokens"} <= repeated
    assert not repeated & {"SendMessage", "RegenerateReply", "CreateSession", "UpdateSession", "DeleteSession"}


async def test_invalid_paths_and_unknown_methods_do_not_disturb_other_calls(running: Serving) -> None:
    async with Connection(running.target) as connection:
        for path in (b"/\xfe\x87", b"", b"/no.such/Method"):
            changed = [(name, path if name == ":path" else value) for name, value in headers("", mint())]
            connection.call(block(changed), b"")
        async with asyncio.timeout(5):
            await connection.until_quiet()
    caller = running.caller()
    unknown: Any = caller.channel.unary_unary("/no.such/Method")
    assert (await refused(unknown(b"", metadata=caller.metadata))).code is grpc.StatusCode.UNIMPLEMENTED
    await caller.vault.WhoAmI(WhoAmIRequest(), metadata=caller.metadata)


@pytest.mark.parametrize(
    "path",
    [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_a_malformed_request_to_a_grpc_service_is_refused(
    running: Serving, capfd: pytest.CaptureFixture[str], path: str
) -> None:
    call: Any = running.caller().channel.stream_stream(path)
    refusal = await refused(call(iter([b"\x0a\xff"])))
    assert (refusal.code.name, refusal.message) == ("INVALID_ARGUMENT", "the request is not a message of its type")
    assert "DecodeError" not in capfd.readouterr().out


async def test_a_request_of_more_than_32_mib_is_refused(running: Serving) -> None:
    caller = running.caller()
    count_tokens: Any = caller.channel.unary_unary(COUNT_TOKENS)
    # An unknown field, which the parser skips. The five bytes are its tag and length.
    size = LARGEST_REQUEST - 5
    largest = field(15, LENGTH_DELIMITED, bytes(size))
    assert len(largest) == LARGEST_REQUEST
    refusal = await refused(count_tokens(largest, metadata=caller.metadata))
    assert (refusal.reason, refusal.fields) == ("REQUEST_INVALID", ["message"])
    refusal = await refused(count_tokens(bytes(LARGEST_REQUEST + 1), metadata=caller.metadata))
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_stream_beyond_the_limit_is_refused_and_the_others_stay_open(running: Serving) -> None:
    async with Connection(running.target) as connection, asyncio.timeout(30):
        watch = block(headers("/grpc.health.v1.Health/Watch", mint()))
        for _ in range(CONCURRENT_STREAMS):
            connection.call(watch, b"")
        await connection.until(lambda: len(connection.received) == CONCURRENT_STREAMS)
        beyond = connection.call(watch, b"")
        await connection.until(lambda: bool(connection.ended))
        assert connection.ended == {beyond}
