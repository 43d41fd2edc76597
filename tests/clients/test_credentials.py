"""Clients identify the caller on every call, unless the call itself does."""

import asyncio
import itertools
import os
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from metamorph_client import MetamorphClient
from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest

from tests.support.caller import Events, send_request, upload_requests
from tests.support.media import FILES
from tests.support.paths import ROOT
from tests.support.programs import client_program
from tests.support.serving import Serving, serving
from tests.support.tokens import mint

PROGRAM = Path(__file__).parent / "programs" / "credentials"


async def vault_of(client: MetamorphClient, *metadata: tuple[str, str]) -> str:
    return (await client.vault.WhoAmI(WhoAmIRequest(), metadata=metadata)).vault_id


async def test_every_kind_of_call_identifies_the_caller(running: Serving) -> None:
    async with MetamorphClient(running.target, token=mint()) as client:
        assert (await client.vault.WhoAmI(WhoAmIRequest())).vault_id == "acme"
        session = await client.create_session()
        events = await Events(client.chat.SendMessage(send_request(session.session_id, "Hello"))).rest()
        assert events[-1].HasField("turn_finished")
        uploaded = await client.chat.UploadAttachment(iter(upload_requests(FILES["image/png"])))
        writing = client.chat.UploadAttachment()
        for request in upload_requests(FILES["image/png"]):
            await writing.write(request)
        await writing.done_writing()
        assert (await writing).attachment == uploaded.attachment


async def test_the_metadata_of_a_call_takes_precedence(running: Serving) -> None:
    other = ("authorization", f"Bearer {mint(vault='other')}")
    async with MetamorphClient(running.target, token=mint()) as client:
        assert await vault_of(client, other) == "other"
        assert await vault_of(client, *await client.metadata()) == "acme"
        request = pb.CreateSessionRequest()
        call = client.chat.CreateSession(request, metadata=[("x-request-id", "mine")])
        assert dict(await call.trailing_metadata() or ())["x-request-id"] == "mine"
        await call


async def test_the_vault_of_a_call_takes_precedence_in_dev_mode(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, emblem_dev_mode=True) as running,
        MetamorphClient(running.target, vault="mine") as client,
    ):
        assert [await vault_of(client), await vault_of(client, ("x-vault-id", "yours"))] == ["mine", "yours"]


async def test_a_call_that_identifies_its_caller_is_sent_without_what_identifies_the_client(tmp_path: Path) -> None:
    """The server refuses a vault beside a token."""
    token, vault = ("authorization", f"Bearer {mint(vault='yours')}"), ("x-vault-id", "yours")
    async with serving(tmp_path, emblem_dev_mode=True) as running:
        async with MetamorphClient(running.target, vault="mine") as client:
            assert await vault_of(client, token) == "yours"
        async with MetamorphClient(running.target, token=mint()) as client:
            assert await vault_of(client, vault) == "yours"


async def test_each_call_asks_for_a_token(running: Serving) -> None:
    vaults = (f"vault-{number}" for number in itertools.count())
    async with MetamorphClient(running.target, token=lambda: mint(vault=next(vaults))) as client:
        assert [await vault_of(client) for _ in range(3)] == ["vault-0", "vault-1", "vault-2"]


async def an_async_token() -> str:
    return mint()


async def no_token() -> Any:
    return 5


@pytest.mark.parametrize("token", [an_async_token, partial(an_async_token)])
async def test_a_token_may_come_later(running: Serving, token: Any) -> None:
    async with MetamorphClient(running.target, token=token) as client:
        assert await vault_of(client) == "acme"
        call = client.vault.WhoAmI(WhoAmIRequest())
        assert await call.code() is grpc.StatusCode.OK
        assert [(await call).vault_id, (await call).vault_id] == ["acme", "acme"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("token", [b"bytes", lambda: b"bytes", lambda: 5, no_token])
async def test_a_token_that_is_no_text_is_refused_before_anything_is_sent(running: Serving, token: Any) -> None:
    async with MetamorphClient(running.target, token=token) as client:
        with pytest.raises(TypeError, match="the token must be text"):
            await vault_of(client)
        with pytest.raises(TypeError, match="the token must be text"):
            await anext(client.send("session", "Hello"))
        # A call that identifies its caller asks for no other token.
        assert await vault_of(client, ("authorization", f"Bearer {mint()}")) == "acme"


@pytest.mark.parametrize("token", ["token\n", "two words", "naïve", "\x00"])
async def test_a_token_that_cannot_be_sent_is_refused_before_anything_is_sent(running: Serving, token: str) -> None:
    with pytest.raises(ValueError, match="the token has"):
        MetamorphClient(running.target, token=token)
    async with MetamorphClient(running.target, token=lambda: token) as client:
        with pytest.raises(ValueError, match="the token has"):
            client.with_token(token)
        with pytest.raises(ValueError, match="the token has"):
            await client.start("session", "Hello")


@pytest.mark.parametrize("token", [mint(), an_async_token])
async def test_a_call_has_what_grpc_says_that_it_has(running: Serving, token: Any) -> None:
    async with MetamorphClient(running.target, token=token) as client:
        session = await client.create_session()
        call = client.chat.SendMessage(send_request(session.session_id, "Hello"), timeout=30)
        ended: list[Any] = []
        call.add_done_callback(ended.append)
        first: Any = await call.read()
        assert first.event.HasField("turn_started")
        assert 0 < (call.time_remaining() or 0) <= 30
        assert (call.done(), call.cancelled()) == (False, False)
        await call.wait_for_connection()
        while await call.read() is not grpc.aio.EOF:
            pass
        assert (call.done(), call.cancelled(), ended) == (True, False, [call])


async def test_a_vault_that_is_no_text_is_refused(running: Serving) -> None:
    vault: Any = an_async_token
    async with MetamorphClient(running.target, vault=vault) as client:
        with pytest.raises(TypeError, match="the vault must be text"):
            await vault_of(client)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("language", ["typescript", "go"])
async def test_another_language_does_the_same(tmp_path: Path, language: str) -> None:
    command = client_program(language, PROGRAM)
    tokens = {"ALICE": mint(vault="alice"), "BOB": mint(vault="bob")}
    async with serving(tmp_path, emblem_dev_mode=True) as running:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT / "clients" / language,
            env={**os.environ, "METAMORPH_TARGET": running.target, **tokens},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    # Alice's own, the call's, and the call's vault.
    vaults = ["alice", "bob", "yours"]
    # A fresh one for each call, and none once there are no more.
    vaults += ["alice", "bob", "dev-vault"]
    # The client's vault, the call's, and the call's token.
    vaults += ["mine", "yours", "bob"]
    if language == "typescript":
        # A promise of a token, and what is none.
        vaults += ["alice", *["the token must be a string, not of type object"] * 2, "the vault must be a string"]
    # A stream of responses, which is refused for its turn and not its caller, and one of requests.
    assert out.decode().splitlines() == [*vaults, "no turn turn_none", "text/plain"]
