"""Prints the replies of a conversation, and notes about them."""

import json
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import click
from google.protobuf.json_format import MessageToDict
from metamorph_client.chat.v1.turn_pb2 import TurnEvent, TurnFinished
from rich.console import Console

from metamorphd.cli.jobs import has_terminal, stoppable
from metamorphd.cli.listing import printable
from metamorphd.cli.outcomes import note_on
from metamorphd.cli.rendering import LiveReply

# Bracketed paste, as xterm has it.
MARK_PASTED, LEAVE_PASTED = "\x1b[?2004h", "\x1b[?2004l"
WAITING = "Waiting for the reply"


class Terminal:
    """Prints replies: rendered as they arrive on a terminal, as plain text elsewhere, or as JSON lines."""

    def __init__(self, *, as_json: bool, whole_thinking: bool) -> None:
        self._as_json = as_json
        self._whole_thinking = whole_thinking
        self._out = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
        self._notes = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
        self._reply: LiveReply | None = None
        self._status_printed = self._status_stays = False

    def note(self, text: str) -> None:
        """Prints a line that is not part of the conversation, on standard error."""
        if self._reply is None:
            self._notes.print(printable(text), style="dim", markup=False)
        else:
            self._reply.note(text)

    def status(self, text: str, *, stays: bool = False) -> None:
        """Shows on one line what the reply waits for, until its next event, or if it `stays` until the turn's end.

        Where replies are not rendered, the first such line before an event is printed.
        """
        line = " ".join(printable(text).split())
        if self._status_stays:
            return
        self._status_stays = stays
        if self._reply is not None:
            self._reply.status = line
        elif not self._status_printed:
            self._notes.print(line, style="dim", markup=False, soft_wrap=True)
            self._status_printed = True

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Shows that a reply is waited for, where replies are rendered."""
        self._status_stays = False
        if not self._renders:
            yield
            return
        async with self._live():
            yield

    async def show(self, events: AsyncIterator[TurnEvent]) -> TurnFinished | None:
        """Prints a turn. Returns its last event, or None if the stream ended before it."""
        self._status_stays = False
        return await (self._render(events) if self._renders else self._print(events))

    @property
    def _renders(self) -> bool:
        movable = self._out.is_terminal and not self._out.is_dumb_terminal
        return movable and not self._as_json and has_terminal()

    async def _print(self, events: AsyncIterator[TurnEvent]) -> TurnFinished | None:
        finished = None
        async for event in events:
            self._status_printed = False
            if self._as_json:
                click.echo(json.dumps(MessageToDict(event, preserving_proto_field_name=True)))
            else:
                self._print_plainly(event)
            finished = event.turn_finished if event.HasField("turn_finished") else finished
        if not self._as_json:
            click.echo()
        return finished

    def _print_plainly(self, event: TurnEvent) -> None:
        text = event.text_delta.text
        click.echo(printable(text.replace("\r", "")) if self._out.is_terminal else text, nl=False)
        if self._whole_thinking:
            click.echo(printable(event.thinking_delta.text), nl=False, err=True)
        if line := note_on(event):
            self._notes.print(printable(line), style="dim", markup=False, no_wrap=True, overflow="ellipsis")

    async def _render(self, events: AsyncIterator[TurnEvent]) -> TurnFinished | None:
        finished, begun = None, False
        async with self._live() as reply:
            async for event in events:
                line = note_on(event)
                begun = begun or bool(event.text_delta.text or event.thinking_delta.text or line)
                reply.add(event.text_delta.text)
                reply.think(event.thinking_delta.text)
                if line:
                    reply.line(line)
                if not self._status_stays:
                    reply.status = _waits_for(event, begun=begun)
                finished = event.turn_finished if event.HasField("turn_finished") else finished
        return finished

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[LiveReply]:
        """Yields a reply that is drawn on the terminal, and waited for."""
        with Silence() as silence:
            async with LiveReply(self._out, whole_thinking=self._whole_thinking) as reply:

                def leave() -> None:
                    reply.leave()
                    silence.end()

                def resume() -> None:
                    silence.begin()
                    reply.resume()

                self._reply = reply
                reply.status = WAITING
                try:
                    with stoppable(leave=leave, resume=resume):
                        yield reply
                finally:
                    self._reply = None


def _waits_for(event: TurnEvent, *, begun: bool) -> str:
    # The provider may not disclose what is thought.
    if event.HasField("thinking_delta"):
        return "Thinking"
    return "" if begun else WAITING


class Silence:
    """Keeps the terminal from printing what is typed, which would be in the midst of what is drawn again.

    A text that is pasted meanwhile is marked as such, so that it is one message.
    """

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(sys.stdin) if sys.stdin.isatty() else None
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self) -> None:
        """Turns the echo off. A process in the background is stopped here until it is in the foreground."""
        if self._before is not None:
            silent = list(self._before)
            silent[3] &= ~termios.ECHO
            termios.tcsetattr(sys.stdin, termios.TCSANOW, silent)
            click.echo(MARK_PASTED, nl=False)

    def end(self) -> None:
        """Leaves the terminal as it was."""
        if self._before is not None:
            click.echo(LEAVE_PASTED, nl=False)
            termios.tcsetattr(sys.stdin, termios.TCSANOW, self._before)
