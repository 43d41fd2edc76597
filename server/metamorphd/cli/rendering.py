"""A reply on a terminal, as it arrives."""

import asyncio
import time
from contextlib import suppress
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.markdown import Markdown
from rich.text import Text

from metamorphd.cli.listing import printable
from metamorphd.cli.markdown import finished_length, gap_after, gap_of_its_own, markdown
from metamorphd.cli.redrawing import Redrawn, Row
from metamorphd.cli.settling import after, settled, visible
from metamorphd.models.counted import counted

DRAW_SECONDS = 1 / 12
DRAWN_CHARACTERS = 20_000
# Whether one of them ends emphasis or code is decided by what follows it.
UNDECIDED = "*_`~"
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class LiveReply:
    """Shows Markdown that grows. What further text cannot change is printed for good, and the rest is drawn again.

    That is mostly a row or two. Of more than half a terminal, such as a long table, the end is shown until the block is
    finished. Thinking is dim. Once it is finished it is one line, or all of it if `whole_thinking`. `status` is shown
    below, beside a spinner, unless it is empty. Use it as an async context manager.
    """

    def __init__(self, console: Console, *, whole_thinking: bool) -> None:
        self._console = console
        self._whole_thinking = whole_thinking
        self._redrawn = Redrawn(console)
        self._unprinted = self._thinking = ""
        # Visible characters of the text that are printed.
        self._printed = 0
        self._gap = False
        self.status = ""

    async def __aenter__(self) -> Self:
        self._redrawn.begin()
        self._drawing = asyncio.create_task(self._draw_often())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._drawing.cancel()
        try:
            with suppress(asyncio.CancelledError):
                await self._drawing
            self._finish()
        finally:
            self._redrawn.end()

    def leave(self) -> None:
        """Leaves the terminal as it was, but for what is printed for good."""
        self._redrawn.end()

    def resume(self) -> None:
        """Draws again on a terminal that was left. The cursor must be in the first column."""
        self._redrawn.begin()

    def add(self, text: str) -> None:
        """Appends text to the reply."""
        if text and self._thinking:
            self._finish()
        # A carriage return would be a line's end to Markdown alone.
        self._unprinted += printable(text.replace("\r", ""))

    def think(self, text: str) -> None:
        """Appends to what is thought."""
        if text and self._unprinted:
            self._finish()
        self._thinking += printable(text.replace("\r", ""))

    def line(self, text: str) -> None:
        """Prints a line about the reply, which ends its last block."""
        self._finish()
        self._print_dim(Text(printable(text), style="dim", no_wrap=True, overflow="ellipsis"))

    def note(self, text: str) -> None:
        """Prints a line above what is drawn again."""
        self._redrawn.print(self._rows(Text(printable(text), style="dim")))

    def _finish(self) -> None:
        """Prints for good what was drawn."""
        self._print(self._unprinted)
        thinking, self._unprinted, self._thinking = self._thinking.strip(), "", ""
        if thinking:
            collapsed = f"Thought in {counted(len(thinking.split()), 'word')}"
            self._print_dim(Text(thinking if self._whole_thinking else collapsed, style="dim"))

    def _print_dim(self, text: Text) -> None:
        self._redrawn.print(self._rows(Group(Text(""), text) if self._gap else text))
        self._gap = True

    async def _draw_often(self) -> None:
        while True:
            before = time.monotonic()
            self._draw()
            # A long block takes long to draw.
            await asyncio.sleep(max(DRAW_SECONDS, 2 * (time.monotonic() - before)))

    def _draw(self) -> None:
        finished = finished_length(self._unprinted)
        if finished:
            self._print(self._unprinted[:finished])
            self._unprinted = self._unprinted[finished:]
        rows = self._thought() if self._thinking else self._growing()
        self._redrawn.draw([*rows[-max(1, self._console.height // 2) :], *self._spinner()])

    def _thought(self) -> list[Row]:
        # The end of it fills any terminal.
        thinking = Text(self._thinking[-DRAWN_CHARACTERS:], style="dim")
        return self._rows(Group(Text(""), thinking) if self._gap else thinking)

    def _growing(self) -> list[Row]:
        """Returns the rows of the last block that are not printed, once those are that cannot change any more."""
        last = markdown(self._unprinted.rstrip(UNDECIDED))
        rows = after(self._blocks(last), self._printed)
        count = settled(rows, last.parsed)
        if count:
            self._redrawn.print(rows[:count])
            self._printed += visible(rows[:count])
        return rows[count:]

    def _spinner(self) -> list[Row]:
        if not self.status:
            return []
        frame = SPINNER[int(time.monotonic() / DRAW_SECONDS) % len(SPINNER)]
        return self._rows(Text(f"{frame} {self.status}", style="dim", no_wrap=True, overflow="ellipsis"))

    def _print(self, text: str) -> None:
        """Prints blocks for good, but for what of them is printed."""
        if text.strip():
            rows = self._blocks(markdown(text))
            self._redrawn.print(after(rows, self._printed))
            # Some of the block that follows may be printed, too.
            self._printed, self._gap = max(0, self._printed - visible(rows)), gap_after(text)

    def _blocks(self, blocks: Markdown) -> list[Row]:
        return self._rows(Group(Text(""), blocks) if self._gap and not gap_of_its_own(blocks) else blocks)

    def _rows(self, what: RenderableType) -> list[Row]:
        return list(self._console.render_lines(what, pad=False))
