"""The usage of a vault, and the state of its budgets."""

import json
import sys
from collections.abc import Sequence

import click
from metamorph_client import MetamorphClient
from metamorph_client.vault.v1.usage_pb2 import StorageStatus, UsageGrouping, UsageRow
from metamorph_client.vault.v1.vault_service_pb2 import GetUsageRequest, GetUsageResponse

from metamorphd.cli.budgets import budget_left, budget_name
from metamorphd.cli.listing import Column, Listing, as_dict
from metamorphd.cli.money import dollars, usd
from metamorphd.cli.paging import pages
from metamorphd.cli.tenant import run_as_tenant
from metamorphd.models.counted import counted
from metamorphd.settings.client import ClientSettings

GROUPS: dict[str, Column[UsageRow]] = {
    "day": Column("day", lambda row: row.day),
    "model": Column("model", lambda row: row.model),
    "session": Column("session", lambda row: row.session_id),
    "user": Column("user", lambda row: row.user_id, gives_way=True),
    "label": Column("label", lambda row: row.label, gives_way=True),
}
FIGURES: Sequence[Column[UsageRow]] = (
    Column("turns", lambda row: f"{row.turns}", numeric=True),
    Column("in", lambda row: f"{row.usage.input_tokens}", numeric=True),
    Column("out", lambda row: f"{row.usage.output_tokens}", numeric=True),
    Column("cached", lambda row: f"{row.usage.cache_read_tokens + row.usage.cache_write_tokens}", numeric=True),
    Column("USD", lambda row: usd(row.usage.cost_usd_nanos), numeric=True),
)


def show_usage(
    settings: ClientSettings,
    *,
    groups: Sequence[str],
    start_day: str,
    end_day: str,
    session: str | None,
    model: str | None,
    user: str | None,
    label: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Prints usage by groups, then its total, the budgets and the storage. Raises ClickException."""
    request = GetUsageRequest(
        start_day=start_day,
        end_day=end_day,
        session_id=session,
        model=model,
        user_id=user,
        label=label,
        group_by=[UsageGrouping.Value(f"USAGE_GROUPING_{group.upper()}") for group in dict.fromkeys(groups)],
    )
    columns = [GROUPS[group] for group in GROUPS if group in groups]

    async def work(client: MetamorphClient) -> bool:
        listing = Listing([*columns, *FIGURES], as_json=as_json, nothing="Nothing was used.")
        answer = GetUsageResponse()
        async for answer in pages(client.vault.GetUsage, request, limit=limit, rows=lambda page: page.rows):
            listing.add(answer.rows)
        listing.end()
        if as_json:
            whole = as_dict(answer)
            click.echo(json.dumps({name: whole.get(name) for name in ("total", "budgets", "storage")}))
        elif sys.stdout.isatty():
            _show_whole(answer)
        return True

    run_as_tenant(settings, work)


def _show_whole(answer: GetUsageResponse) -> None:
    used = answer.total.usage
    every = used.input_tokens + used.output_tokens + used.cache_read_tokens + used.cache_write_tokens
    estimated = ", some of it estimated" if used.estimated else ""
    turns, tokens = counted(answer.total.turns, "turn"), counted(every, "token")
    click.echo(f"\nTotal: {turns}, {tokens}, {dollars(used.cost_usd_nanos)}{estimated}.")
    for budget in answer.budgets:
        click.echo(f"{budget_name(budget)}: {budget_left(budget)}.")
    click.echo(_shown_storage(answer.storage))


def _shown_storage(storage: StorageStatus) -> str:
    limit = f" of {storage.limit_bytes / 1e6:,.1f} MB" if storage.HasField("limit_bytes") else ", no limit"
    return f"Stored: {storage.stored_bytes / 1e6:,.1f} MB{limit}."
