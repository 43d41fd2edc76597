"""`metamorph chat`."""

import sys
from typing import Any

import click

from metamorphd.cli.arguments import TEXT, piped_text
from metamorphd.cli.connection import client_settings, connection_options


@click.command()
@click.option(
    "--target", type=TEXT, help="Server, [grpcs://]host:port.  [default: METAMORPH_TARGET, else localhost:50051]"
)
@click.option("--token", type=TEXT, help="Token to send.  [default: METAMORPH_TOKEN; none is needed in dev mode]")
@click.option("--vault", type=TEXT, help="Vault to act on, in dev mode.  [default: METAMORPH_VAULT, else dev-vault]")
@click.option("--session", type=TEXT, help="Session to continue.  [default: a new one]")
@click.option("--model", type=TEXT, help="Model to use.  [default: the session's]")
@connection_options
@click.option("--no-history", is_flag=True, help="Keep no history of what is typed.  [default: METAMORPH_HISTORY]")
@click.option("--thinking", is_flag=True, help="Keep all of what the model thinks, instead of a line.")
@click.option("--json", "as_json", is_flag=True, help="Print each event as a line of JSON.")
@click.argument("message", type=TEXT, required=False)
def chat(
    *,
    target: str | None,
    token: str | None,
    vault: str | None,
    session: str | None,
    model: str | None,
    no_history: bool,
    thinking: bool,
    as_json: bool,
    message: str | None,
    **tls: Any,
) -> None:
    """Chat in the terminal. With MESSAGE, or text on standard input, send that and exit."""
    if message is None and not sys.stdin.isatty():
        message = piped_text()
    if message is not None and not message.strip():
        raise click.UsageError("the message is empty; pass one with words, or none to be asked for it")
    from metamorphd.cli.chatting import converse

    settings = client_settings(target=target, token=token, vault=vault, **tls)
    complete = converse(
        settings.model_copy(update={"history": settings.history and not no_history}),
        session_id=session or "",
        model=model or "",
        message=message,
        as_json=as_json,
        whole_thinking=thinking,
    )
    if not complete:
        sys.exit(1)
