"""Commands that call a server as a user of a vault."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

import click
import grpc
from metamorph_client import MetamorphClient, MetamorphError
from metamorph_client.chat.v1.chat_service_pb2 import ListModelsRequest
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from metamorphd.cli.connection import tls_of
from metamorphd.cli.endings import failed_call
from metamorphd.settings.client import ClientSettings

HINTS = {
    grpc.StatusCode.UNAVAILABLE: "is the server running? --target selects another",
    grpc.StatusCode.UNAUTHENTICATED: "pass --token or set METAMORPH_TOKEN; `metamorph token` mints one",
}


def run_as_tenant(
    settings: ClientSettings,
    work: Callable[[MetamorphClient], Awaitable[bool]],
    hints: Mapping[grpc.StatusCode, str] = MappingProxyType({}),
) -> None:
    """Does some work with the server that settings name. Exits with 1 if it returns false. Raises ClickException.

    `hints` say what to do about the server's errors, besides those that every command has.
    """

    async def connected() -> bool:
        async with MetamorphClient(
            settings.target,
            token=settings.sent_token,
            vault=settings.vault,
            tls=tls_of(settings),
        ) as client:
            return await work(client)

    try:
        good = asyncio.run(connected())
    except MetamorphError as exc:
        raise failed_call(exc, {**HINTS, **hints}) from exc
    if not good:
        sys.exit(1)


async def require_model(client: MetamorphClient, model: str) -> None:
    """Raises UsageError unless the server accepts a model, before anything is made for it."""
    accepted = await accepted_models(client)
    if model not in accepted:
        raise click.UsageError(f"the server does not accept the model {model!r}; choose from {', '.join(accepted)}")


async def accepted_models(client: MetamorphClient) -> list[str]:
    """Returns the names of the models that the server accepts."""
    return [each.model for each in (await client.chat.ListModels(ListModelsRequest())).models]


def transfer_progress(*columns: Any) -> Progress:
    """Returns a progress bar of bytes on standard error, which is shown on a terminal only."""
    notes = Console(stderr=True, highlight=False)
    shown = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), *columns)
    return Progress(*shown, console=notes, transient=True, disable=not notes.is_terminal)
