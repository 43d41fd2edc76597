"""`metamorph chat`."""

import sys
from typing import Any

import click

from metamorphd.cli.connection import client_settings, connection_options


@click.command()
@click.option("--target", help="Server, host:port.  [default: METAMORPH_TARGET, else localhost:50051]")
@click.option("--token", help="Token to send.  [default: METAMORPH_TOKEN; none is needed in dev mode]")
@click.option("--vault", help="Vault to act on, in dev mode.  [default: METAMORPH_VAULT, else dev-vault]")
@click.option("--session", default="", help="Session to continue.  [default: a new one]")
@click.option("--model", default="", help="Model to use.  [default: the session's]")
@connection_options
@click.option("--json", "as_json", is_flag=True, help="Print each event as a line of JSON.")
@click.argument("message", required=False)
def chat(
    *,
    target: str | None,
    token: str | None,
    vault: str | None,
    session: str,
    model: str,
    as_json: bool,
    message: str | None,
    **tls: Any,
) -> None:
    """Chat in the terminal. With MESSAGE, or text on standard input, send that and exit."""
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read().strip()
        if not message:
            raise click.UsageError("standard input is empty; pass a MESSAGE or type in a terminal")
    from metamorphd.cli.conversation import converse

    complete = converse(
        client_settings(target=target, token=token, vault=vault, **tls),
        session_id=session,
        model=model,
        message=message,
        as_json=as_json,
    )
    if not complete:
        sys.exit(1)
