"""Commands that call a server over TLS."""

from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.command import run
from tests.support.commands import CLIENTS, COMMANDS
from tests.support.serving import Serving, serving
from tests.support.tokens import SECRET, mint

# As a user, as an operator, and `check`, which is both.
CALLS = {
    "chat": ["chat", "--token", mint(), "Hi"],
    "export": ["vault", "export", "--token", mint()],
    "list": ["backup", "list"],
    "check": ["check"],
}


def test_every_client_command_has_the_options() -> None:
    for path in CLIENTS:
        names = {each.name for each in COMMANDS[path].params}
        # `check` finds out whether a server speaks TLS.
        assert {"ca", "cert", "key"} | (set() if path == ("check",) else {"tls"}) <= names, path


@pytest.mark.parametrize("call", CALLS)
async def test_a_server_is_reached_as_grpcs(call: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue()
    async with serving(tmp_path / "server", grpc_tls_cert=str(certificate), grpc_tls_key=str(key)) as server:
        http = ["--http", f"http://127.0.0.1:{server.server.http_port}"] if call == "check" else []
        given = [*CALLS[call], *http, *([str(tmp_path / "file")] if call == "export" else [])]
        secure, trusted = f"grpcs://{server.target}", {"METAMORPH_CA": str(authority.certificate)}
        code, out, err = await run(*given, "--target", secure, EMBLEM_JWT_SECRET=SECRET, **trusted)
        assert (code, bool(out)) == (0, True), out + err
        code, out, err = await run(*given, EMBLEM_JWT_SECRET=SECRET, METAMORPH_TARGET=secure, **trusted)
        if call == "export":
            assert "exists already" in err
        else:
            assert (code, bool(out)) == (0, True), out + err


async def test_a_server_that_asks_for_a_certificate_is_shown_one(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue()
    own, own_key = (str(path) for path in authority.issue("caller"))
    trusted = str(authority.certificate)
    tls = {"grpc_tls_cert": str(certificate), "grpc_tls_key": str(key), "grpc_tls_client_ca": trusted}
    async with serving(tmp_path / "server", **tls) as server:
        reach = [*CALLS["chat"], "--target", f"grpcs://{server.target}", "--ca", trusted]
        code, out, _ = await run(*reach, "--cert", own, "--key", own_key)
        assert (code, bool(out)) == (0, True)
        code, out, err = await run(*reach)
        assert (code, out, err.count("\n")) == (3, "", 1), err


@pytest.mark.parametrize("call", ["chat", "list"])
async def test_what_prevents_tls_is_one_line_with_what_to_do(call: str, running: Serving, tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    certificate, key = authority.issue()
    async with serving(tmp_path / "server", grpc_tls_cert=str(certificate), grpc_tls_key=str(key)) as server:
        for target, options, said in (
            (f"grpcs://{server.target}", [], "--ca"),
            (server.target, ["--ca", str(other.certificate)], "--ca"),
            (f"grpcs://{running.target}", [], "the server does not speak TLS"),
            (running.target, ["--tls"], "the server does not speak TLS"),
            (server.target, [], "if it speaks TLS, name it as grpcs://host:port"),
        ):
            code, out, err = await run(*CALLS[call], "--target", target, *options, EMBLEM_JWT_SECRET=SECRET)
            assert (code, out, said in err, err.count("\n")) == (3, "", True, 1), err


async def test_a_check_that_is_to_use_tls_sends_nothing_without(running: Serving) -> None:
    code, out, err = await run("check", "--target", f"grpcs://{running.target}", EMBLEM_JWT_SECRET=SECRET)
    assert (code, "does not speak TLS" in out, "isolation" in out, err) == (1, True, False, "")
