"""Commands that call a server as its operator."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from metamorph_client import MetamorphClient, MetamorphError

from metamorphd.cli.connection import client_settings, tls_of
from metamorphd.cli.endings import failed_call
from metamorphd.cli.token import mint
from metamorphd.settings.loading import load_paths

HINTS = {
    grpc.StatusCode.UNAVAILABLE: "is the server running? --target selects another",
    grpc.StatusCode.UNAUTHENTICATED: "pass an operator's --token, or set EMBLEM_JWT_SECRET as the server has it",
    grpc.StatusCode.PERMISSION_DENIED: "the token must be an operator's: `metamorph token --operator` mints one",
}


def run_as_operator(
    work: Callable[[MetamorphClient], Awaitable[bool]], *, hints: Mapping[grpc.StatusCode, str], **given: Any
) -> None:
    """Does some work with the server that `given` options and the environment name.

    `hints` say what to do about the server's errors, besides those that every command has. Exits with 1 if the work
    returns false. Raises ClickException and StartupRefused.
    """
    settings = client_settings(**given)

    async def connected() -> bool:
        named = "target" in settings.model_fields_set
        target = settings.target if named else f"localhost:{load_paths().grpc_port}"
        token = settings.sent_token or _operator_token
        async with MetamorphClient(target, token=token, tls=tls_of(settings)) as client:
            return await work(client)

    try:
        good = asyncio.run(connected())
    except MetamorphError as exc:
        raise failed_call(exc, {**HINTS, **hints}) from exc
    if not good:
        sys.exit(1)


def _operator_token() -> str:
    """Returns a token of an operator for a few minutes, signed with this server's own secret."""
    token, _ = mint({"vault_id": "operator", "sub": "operator", "permissions": [], "operator": True}, lifetime=300)
    return token
