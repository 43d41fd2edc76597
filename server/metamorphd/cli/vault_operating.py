"""Commands of `metamorph vault` for operators."""

from typing import Any

import click

from metamorphd.cli.arguments import TEXT
from metamorphd.cli.connection import operator_options
from metamorphd.cli.sessions import LIMIT


@click.command("list")
@click.option("--state", type=click.Choice(["suspended", "deleted"]), help="Only those.")
@LIMIT
@operator_options
def list_(*, state: str | None, limit: int | None, **connection: Any) -> None:
    """List the vaults of a server by ID, with their sizes, their last activity and what they spent."""
    from metamorphd.cli.vaults import run

    run(lambda client: client.list(state, limit=limit), **connection)


@click.command()
@click.argument("vault_id", type=TEXT, metavar="VAULT")
@operator_options
def stats(*, vault_id: str, **connection: Any) -> None:
    """Show what VAULT stores and uses, its limits and its state."""
    from metamorphd.cli.vaults import run

    run(lambda client: client.stats(vault_id), **connection)


@click.command()
@click.argument("vault_id", type=TEXT, metavar="VAULT")
@click.option("--reason", type=TEXT, required=True, help="Why, for the users of VAULT, who read it.")
@operator_options
def suspend(*, vault_id: str, reason: str, **connection: Any) -> None:
    """Refuse all calls of the users of VAULT, end their streams and cancel their turns, until it is resumed.

    Nothing is erased. Exits with 1 if turns have not ended after 5 seconds. They end once the store can be written.
    """
    from metamorphd.cli.vaults import run

    run(lambda client: client.suspend(vault_id, reason), **connection)


@click.command()
@click.argument("vault_id", type=TEXT, metavar="VAULT")
@operator_options
def resume(*, vault_id: str, **connection: Any) -> None:
    """End the suspension of VAULT."""
    from metamorphd.cli.vaults import run

    run(lambda client: client.resume(vault_id), **connection)


@click.command()
@click.argument("vault_id", type=TEXT, metavar="VAULT")
@operator_options
def release(*, vault_id: str, **connection: Any) -> None:
    """Let the ID of VAULT, which was deleted and is erased, be used again, for a new vault."""
    from metamorphd.cli.vaults import run

    run(lambda client: client.release(vault_id), **connection)
