"""`metamorph turns`."""

from typing import Any

import click

from metamorphd.cli.arguments import TEXT
from metamorphd.cli.connection import client_settings, tenant_options
from metamorphd.cli.sessions import LIMIT

STATUSES = ["running", "completed", "cancelled", "interrupted", "failed"]


@click.group()
def turns() -> None:
    """List the turns of a session, and cancel one."""


@turns.command("list")
@click.argument("session_id", type=TEXT, metavar="SESSION")
@click.option("--status", type=click.Choice(STATUSES), help="Only those with this status.")
@LIMIT
@tenant_options
def list_(*, session_id: str, status: str | None, limit: int | None, as_json: bool, **connection: Any) -> None:
    """List the turns of a session, newest first."""
    from metamorphd.cli.lists import list_turns

    list_turns(client_settings(**connection), session_id, status=status, limit=limit, as_json=as_json)


@turns.command()
@click.argument("turn_id", type=TEXT, metavar="TURN")
@tenant_options
def cancel(*, turn_id: str, as_json: bool, **connection: Any) -> None:
    """Cancel a turn, and say how it has ended. The text so far is kept.

    Does nothing to a turn that has ended.
    """
    from metamorphd.cli.lists import cancel_turn

    cancel_turn(client_settings(**connection), turn_id, as_json=as_json)
