"""A session, shown or written to a file."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from metamorph_client import MetamorphClient
from metamorph_client.chat.v1.chat_service_pb2 import GetSessionRequest, ListMessagesRequest
from metamorph_client.chat.v1.message_pb2 import ROLE_USER, Message
from metamorph_client.chat.v1.session_pb2 import Session
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from metamorphd.cli.listing import as_dict, printable
from metamorphd.cli.markdown import markdown
from metamorphd.cli.message_text import author, body, heading
from metamorphd.cli.paging import pages
from metamorphd.cli.tenant import run_as_tenant
from metamorphd.durable import replacing
from metamorphd.models.counted import counted
from metamorphd.settings.client import ClientSettings

Write = Callable[[str], Any]


def show_session(settings: ClientSettings, session_id: str, *, leaf: str | None, as_json: bool) -> None:
    """Prints a session and the messages of a branch, oldest first. Raises ClickException."""
    console = Console(highlight=False)

    async def show(client: MetamorphClient) -> bool:
        session = await _session(client, session_id)
        messages = _messages(client, session_id, leaf=leaf)
        if as_json:
            click.echo(json.dumps({"session": as_dict(session)}))
            async for message in messages:
                click.echo(json.dumps({"message": as_dict(message)}))
        elif console.is_terminal:
            await _render(console, session, messages)
        else:
            await _write_markdown(lambda text: click.echo(text, nl=False), session, messages)
        return True

    run_as_tenant(settings, show)


def export_session(settings: ClientSettings, session_id: str, file: Path | None, *, as_json: bool, force: bool) -> None:
    """Writes a session to a file, or to standard output: all of it as JSON, or its newest branch as Markdown.

    Raises ClickException, if the file exists too unless it may be replaced.
    """
    if file is not None and file.exists() and not force:
        raise click.ClickException(f"{file} exists already; choose another name, or replace it with --force")

    async def export(client: MetamorphClient) -> bool:
        session = await _session(client, session_id)
        messages = _counted(_messages(client, session_id, everything=as_json), session.message_count)
        with _writing(file) as write:
            await (_write_json if as_json else _write_markdown)(write, session, messages)
        return True

    run_as_tenant(settings, export)
    if file is not None:
        click.echo(f"{file} has {session_id}, with {counted(file.stat().st_size, 'byte')}.", err=True)


async def _session(client: MetamorphClient, session_id: str) -> Session:
    found: Session = (await client.chat.GetSession(GetSessionRequest(session_id=session_id))).session
    return found


async def _messages(
    client: MetamorphClient, session_id: str, *, leaf: str | None = None, everything: bool = False
) -> AsyncIterator[Message]:
    request = ListMessagesRequest(session_id=session_id, leaf_message_id=leaf, all_branches=everything)
    async for page in pages(client.chat.ListMessages, request, rows=lambda page: page.messages):
        for message in page.messages:
            yield message


async def _counted(messages: AsyncIterator[Message], expected: int) -> AsyncIterator[Message]:
    """Yields messages, and shows on a terminal how many there were."""
    notes = Console(stderr=True)
    columns = TextColumn("export"), BarColumn(), MofNCompleteColumn(), TextColumn("messages")
    with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as progress:
        task = progress.add_task("export", total=expected)
        async for message in messages:
            progress.advance(task)
            yield message


async def _render(console: Console, session: Session, messages: AsyncIterator[Message]) -> None:
    console.print(markdown(heading(session)))
    async for message in messages:
        console.print()
        console.rule(printable(author(message)), align="left", style="dim")
        if message.role == ROLE_USER:
            # As it was typed.
            console.print(printable(body(message)), markup=False)
        else:
            console.print(markdown(body(message)))


async def _write_markdown(write: Write, session: Session, messages: AsyncIterator[Message]) -> None:
    write(f"{heading(session)}\n")
    async for message in messages:
        write(f"\n## {author(message)}\n\n{body(message)}\n")


async def _write_json(write: Write, session: Session, messages: AsyncIterator[Message]) -> None:
    """Writes one object, a message at a time."""
    write(f'{{"session": {json.dumps(as_dict(session))},\n"messages": [')
    separator = "\n"
    async for message in messages:
        write(f"{separator}{json.dumps(as_dict(message))}")
        separator = ",\n"
    write("\n]}\n")


@contextmanager
def _writing(file: Path | None) -> Iterator[Write]:
    """Yields what writes to a file, which is there once the block has ended, or to standard output if there is none."""
    if file is None:
        yield lambda text: click.echo(text, nl=False)
        return
    with replacing(file) as opened:
        yield opened.write
