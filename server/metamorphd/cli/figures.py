"""`metamorph models` and `metamorph usage`."""

from datetime import datetime
from typing import Any

import click

from metamorphd.cli.arguments import TEXT
from metamorphd.cli.connection import client_settings, tenant_options
from metamorphd.cli.sessions import LIMIT

DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@tenant_options
def models(*, as_json: bool, **connection: Any) -> None:
    """List the models that the server accepts, and what they cost."""
    from metamorphd.cli.lists import list_models

    list_models(client_settings(**connection), as_json=as_json)


@click.command()
@click.option("--since", type=DAY, help="First day (UTC).  [default: the first of the month of --until]")
@click.option("--until", type=DAY, help="Last day (UTC).  [default: today]")
@click.option(
    "--by",
    "groups",
    type=click.Choice(["day", "model", "session", "user", "label"]),
    multiple=True,
    help="Add up by this. Repeatable, but only one of session, user and label.  [default: model]",
)
@click.option("--session", type=TEXT, help="Only usage of this session.")
@click.option("--model", type=TEXT, help="Only usage of this model.")
@click.option("--user", type=TEXT, help="Only usage of this user.")
@click.option("--label", type=TEXT, help="Only usage with this label, key=value.")
@LIMIT
@tenant_options
def usage(
    *,
    since: datetime | None,
    until: datetime | None,
    groups: tuple[str, ...],
    limit: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Show the tokens and the cost of your vault, and what is left of its budgets."""
    from metamorphd.cli.usage_lists import show_usage

    filters = {name: given.pop(name) for name in ("session", "model", "user", "label")}
    days = {name: "" if day is None else f"{day:%Y-%m-%d}" for name, day in (("start_day", since), ("end_day", until))}
    show_usage(client_settings(**given), groups=groups or ("model",), limit=limit, as_json=as_json, **days, **filters)
