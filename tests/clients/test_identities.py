"""Clients of other identities over one connection, in Python; the rest is in the suite of all clients."""

import asyncio
import threading
from pathlib import Path

import pytest
from metamorph_client import MetamorphClient, SyncMetamorphClient
from metamorph_client.vault.v1.vault_service_pb2 import WhoAmIRequest

from tests.support.serving import Serving, serving
from tests.support.tokens import mint


class Named(MetamorphClient):
    """A client of somebody's own."""

    name = "mine"


async def test_another_identity_has_the_class_and_stubs_of_its_own(running: Serving) -> None:
    async with Named(running.target, token=mint()) as client:
        assert (await client.vault.WhoAmI(WhoAmIRequest())).vault_id == "acme"
        other = client.with_token(mint(vault="other"))
        assert (type(other), other.name) == (Named, "mine")
        assert (await other.vault.WhoAmI(WhoAmIRequest())).vault_id == "other"
        assert await other.metadata() != await client.metadata()
        assert (await other.with_token(mint(vault="third")).vault.WhoAmI(WhoAmIRequest())).vault_id == "third"
        assert (await client.vault.WhoAmI(WhoAmIRequest())).vault_id == "acme"


async def test_another_identity_is_entered_and_left_for_one_request(running: Serving) -> None:
    async with MetamorphClient(running.target, token=mint()) as client:
        async with client.with_token(mint(vault="other")) as other:
            assert (await other.vault.WhoAmI(WhoAmIRequest())).vault_id == "other"
        assert (await client.vault.WhoAmI(WhoAmIRequest())).vault_id == "acme"


async def test_the_vault_of_dev_mode_is_not_sent_beside_another_token(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, emblem_dev_mode=True) as running,
        MetamorphClient(running.target, vault="mine") as client,
    ):
        assert (await client.with_token(mint(vault="yours")).vault.WhoAmI(WhoAmIRequest())).vault_id == "yours"
        assert (await client.with_token(None).vault.WhoAmI(WhoAmIRequest())).vault_id == "dev-vault"


async def test_a_token_that_is_no_text_is_refused_as_the_constructor_does(running: Serving) -> None:
    async with MetamorphClient(running.target, token=mint()) as client:
        with pytest.raises(TypeError, match="the token must be text"):
            await client.with_token(5).vault.WhoAmI(WhoAmIRequest())  # type: ignore[arg-type]


async def test_identities_without_asyncio_share_a_thread_which_asks_no_token(running: Serving) -> None:
    asked: list[threading.Thread] = []

    def token() -> str:
        asked.append(threading.current_thread())
        return mint(vault="other")

    def work() -> None:
        with SyncMetamorphClient(running.target, token=mint()) as client:
            before = threading.active_count()
            with client.with_token(token) as other:
                session = other.create_session()
                assert other.start(session.session_id, "Hello").final().message.session_id == session.session_id
            assert other.vault.WhoAmI(WhoAmIRequest()).vault_id == "other"
            assert client.vault.WhoAmI(WhoAmIRequest()).vault_id == "acme"
            assert len(asked) == 3
            assert "metamorph-client" not in {thread.name for thread in asked}
            # One more is the pool's, on which functions are asked.
            assert threading.active_count() <= before + 3

    await asyncio.to_thread(work)
