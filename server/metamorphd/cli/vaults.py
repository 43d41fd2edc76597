"""Vaults of a running server."""

import json
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any

import click
import grpc
from google.protobuf.message import Message
from metamorph_client import MetamorphClient
from metamorph_client.admin.v1.admin_service_pb2 import (
    GetVaultStatsRequest,
    ListVaultsRequest,
    ReleaseVaultRequest,
    ResumeVaultRequest,
    SuspendVaultRequest,
    VaultStats,
)
from metamorph_client.admin.v1.vault_pb2 import VAULT_STATE_UNSPECIFIED, VaultState, VaultStatus, VaultSummary
from rich.console import Console
from rich.table import Table

from metamorphd.cli.backups import shown_time
from metamorphd.cli.budgets import budget_left, budget_name
from metamorphd.cli.listing import Column, Listing, as_dict, time_cell
from metamorphd.cli.money import dollars, usd
from metamorphd.cli.operator import run_as_operator
from metamorphd.cli.paging import pages
from metamorphd.models.counted import counted

# Each page counts towards the operator's rate limit.
PAGE_SIZE = 1000
PRINTED_WIDTH = 220
PLURALS = {
    "session": "sessions",
    "message": "messages",
    "turn": "turns",
    "running_turn": "running turns",
    "attachment": "attachments",
    "secret": "secrets",
    "memory": "memories",
}
HINTS = {grpc.StatusCode.INVALID_ARGUMENT: "a vault's ID is as in its tokens, and a reason has at most 500 characters"}


def run(work: "Callable[[Client], Awaitable[bool]]", *, as_json: bool, **given: Any) -> None:
    """Does some work with the server that `given` options and the environment name.

    Exits with 1 if it returns false. Raises ClickException and StartupRefused.
    """
    run_as_operator(lambda client: work(Client(client, as_json=as_json)), hints=HINTS, **given)


class Client:
    """Works on the vaults of a server, and prints the result."""

    def __init__(self, client: MetamorphClient, *, as_json: bool) -> None:
        self._admin = client.admin
        self._as_json = as_json
        self._out = Console(highlight=False, width=None if sys.stdout.isatty() else PRINTED_WIDTH)

    async def list(self, state: str | None, *, limit: int | None) -> bool:
        wanted = VAULT_STATE_UNSPECIFIED if state is None else VaultState.Value(f"VAULT_STATE_{state.upper()}")
        nothing = f"There are no {f'{state} ' if state else ''}vaults."
        listing = Listing(VAULTS, as_json=self._as_json, nothing=nothing)
        request = ListVaultsRequest(state=wanted)
        rows = attrgetter("vaults")
        async for page in pages(self._admin.ListVaults, request, limit=limit, rows=rows, page_size=PAGE_SIZE):
            listing.add(page.vaults)
        listing.end()
        return True

    async def stats(self, vault_id: str) -> bool:
        stats = await self._stats(vault_id)
        _require_known(stats)
        if self._as_json:
            click.echo(json.dumps(as_dict(stats)))
            return True
        table = Table(show_header=False)
        for row in _rows(stats):
            table.add_row(*row)
        self._out.print(table)
        return True

    async def suspend(self, vault_id: str, reason: str) -> bool:
        suspended = await self._admin.SuspendVault(SuspendVaultRequest(vault_id=vault_id, reason=reason))
        running = suspended.running_turn_count
        self._show(suspended, f"{vault_id} is suspended: {reason}")
        if running:
            click.echo(f"{counted(running, 'of its turns has', 'of its turns have')} not ended yet.", err=True)
        return not running

    async def resume(self, vault_id: str) -> bool:
        _require_known(await self._stats(vault_id))
        resumed = await self._admin.ResumeVault(ResumeVaultRequest(vault_id=vault_id))
        self._show(resumed, f"{vault_id} is active.")
        return True

    async def release(self, vault_id: str) -> bool:
        released = await self._admin.ReleaseVault(ReleaseVaultRequest(vault_id=vault_id))
        self._show(released, f"{vault_id} can be used again.")
        return True

    async def _stats(self, vault_id: str) -> VaultStats:
        return (await self._admin.GetVaultStats(GetVaultStatsRequest(vault_id=vault_id))).stats

    def _show(self, response: Message, text: str) -> None:
        click.echo(json.dumps(as_dict(response)) if self._as_json else text)


def _require_known(stats: VaultStats) -> None:
    """Raises ClickException for a vault that was never used, and that no operator has changed."""
    summary = stats.summary
    if not (summary.HasField("create_time") or summary.status.HasField("change_time") or stats.revision):
        vault_id = summary.status.vault_id
        raise click.ClickException(f"no vault {vault_id} was ever used; `metamorph vault list` has those that were")


def _state(status: VaultStatus) -> str:
    state = VaultState.Name(status.state).removeprefix("VAULT_STATE_").lower()
    return f"{state}: {status.reason}" if status.reason else state


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"


VAULTS: Sequence[Column[VaultSummary]] = (
    Column("vault", lambda vault: vault.status.vault_id),
    Column("name", lambda vault: vault.display_name, gives_way=True),
    Column("state", lambda vault: _state(vault.status), gives_way=True, wraps=True),
    Column("size", lambda vault: _size(vault.stored_bytes), numeric=True),
    Column("active", lambda vault: time_cell(vault.last_activity_time), numeric=True),
    Column("USD today", lambda vault: usd(vault.today.cost_usd_nanos), numeric=True),
    Column("USD month", lambda vault: usd(vault.this_month.cost_usd_nanos), numeric=True),
)


def _rows(stats: VaultStats) -> Iterator[tuple[str, str]]:
    summary = stats.summary
    yield "vault", summary.status.vault_id
    yield "name", summary.display_name
    yield "state", _state(summary.status)
    if summary.status.actor:
        yield "by", f"{summary.status.actor}, {shown_time(summary.status.change_time.seconds)} UTC"
    yield "first used (UTC)", shown_time(summary.create_time.seconds) or "never"
    yield "last activity (UTC)", shown_time(summary.last_activity_time.seconds)
    limit = f" of {_size(stats.storage.limit_bytes)}" if stats.storage.HasField("limit_bytes") else ", no limit"
    yield "size", f"{_size(summary.stored_bytes)}{limit}"
    for name, plural in PLURALS.items():
        yield plural, f"{getattr(stats, f'{name}_count'):,}"
    for name, spending in (("today", summary.today), ("this month", summary.this_month)):
        yield f"used {name}", f"{dollars(spending.cost_usd_nanos)}, {counted(spending.tokens, 'token')}"
    for budget in stats.budgets:
        yield budget_name(budget), budget_left(budget)
    yield "revision", f"{stats.revision:,}"
