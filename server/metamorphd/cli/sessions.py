"""`metamorph sessions`."""

import re
from pathlib import Path
from typing import Any

import click

from metamorphd.cli.arguments import TEXT
from metamorphd.cli.connection import client_settings, tenant_options

LIMIT = click.option("--limit", type=click.IntRange(min=1), help="At most so many rows.  [default: all]")


class Pair(click.ParamType[tuple[str, str]]):
    """KEY=VALUE, converted to both."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, text = TEXT.convert(value, param, ctx).partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", key):
            self.fail(f"{value!r} is not KEY=VALUE; a key has letters, digits, '.', '_' and '-'", param, ctx)
        return key, text


@click.group()
def sessions() -> None:
    """List, show, search, delete and export the sessions of your vault."""


@sessions.command("list")
@click.option("--archived/--not-archived", default=None, help="Only those that are archived, or not.  [default: both]")
@click.option("--creator", type=TEXT, help="Only those that this user created.")
@click.option("--metadata", "pairs", type=Pair(), multiple=True, help="Only those with this metadata. Repeatable.")
@LIMIT
@tenant_options
def list_(
    *,
    archived: bool | None,
    creator: str | None,
    pairs: tuple[tuple[str, str], ...],
    limit: int | None,
    as_json: bool,
    **connection: Any,
) -> None:
    """List sessions, those first that were active last."""
    from metamorphd.cli.lists import list_sessions

    settings = client_settings(**connection)
    list_sessions(settings, archived=archived, creator=creator, metadata=dict(pairs), limit=limit, as_json=as_json)


@sessions.command()
@click.argument("query", type=TEXT)
@click.option("--session", type=TEXT, help="Only messages of this session.")
@LIMIT
@tenant_options
def search(*, query: str, session: str | None, limit: int | None, as_json: bool, **connection: Any) -> None:
    """Find messages that have all words of QUERY, newest first."""
    from metamorphd.cli.lists import search_messages

    search_messages(client_settings(**connection), query, session_id=session, limit=limit, as_json=as_json)


@sessions.command()
@click.argument("session_id", type=TEXT, metavar="SESSION")
@click.option("--message", type=TEXT, help="Last message of the branch to show.  [default: the newest]")
@tenant_options
def show(*, session_id: str, message: str | None, as_json: bool, **connection: Any) -> None:
    """Show a session and the messages of a branch: rendered on a terminal, as Markdown elsewhere."""
    from metamorphd.cli.transcript import show_session

    show_session(client_settings(**connection), session_id, leaf=message, as_json=as_json)


@sessions.command()
@click.argument("session_id", type=TEXT, metavar="SESSION")
@click.option("--yes", is_flag=True, help="Do not ask.")
@tenant_options
def delete(*, session_id: str, yes: bool, as_json: bool, **connection: Any) -> None:
    """Delete a session with all that it has. Nobody can bring it back.

    The token needs the permission `delete`. --json requires --yes.
    """
    if as_json and not yes:
        raise click.UsageError("--json does not ask; add --yes")
    from metamorphd.cli.session_deletion import delete_session

    delete_session(client_settings(**connection), session_id, ask=not yes, as_json=as_json)


@sessions.command()
@click.argument("session_id", type=TEXT, metavar="SESSION")
@click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write.  [default: standard output]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["markdown", "json"]),
    help="What to write.  [default: as FILE is called, else markdown]",
)
@click.option("--force", is_flag=True, help="Replace FILE.")
@tenant_options
def export(
    *, session_id: str, file: Path | None, form: str | None, force: bool, as_json: bool, **connection: Any
) -> None:
    """Write a session to FILE: the newest branch as Markdown, or all branches as JSON.

    FILE is there once it is whole, and is not replaced without --force. It has the IDs of attachments, not their bytes.
    """
    from metamorphd.cli.transcript import export_session

    named = "json" if as_json or (file is not None and file.suffix == ".json") else "markdown"
    export_session(client_settings(**connection), session_id, file, as_json=(form or named) == "json", force=force)
