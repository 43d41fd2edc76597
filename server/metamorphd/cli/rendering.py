"""A reply on a terminal, as it arrives."""

import asyncio
import time
from contextlib import suppress
from typing import Self

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.text import Text

DRAW_SECONDS = 1 / 12
DRAWN_CHARACTERS = 20_000
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
# Rich puts an empty line before a block that has blocks in it, even if nothing precedes it.
GAP_OF_THEIR_OWN = {"bullet_list_open", "ordered_list_open", "blockquote_open", "table_open"}


class LiveReply:
    """Shows Markdown that grows. Blocks are printed once they are finished, and only the last one is drawn again.

    Thinking is dim. Once it is finished it is one line, or all of it if `whole_thinking`. Of a last block that is
    taller than the terminal, its end is shown on the terminal's alternate screen until it is finished too: what was
    drawn again is in no scroll-back, also if the terminal is made smaller. `status` is shown below, beside a spinner,
    unless it is empty. Use it as an async context manager.
    """

    def __init__(self, console: Console, *, whole_thinking: bool) -> None:
        self._console = console
        self._whole_thinking = whole_thinking
        self._live = self._display(alternate=False)
        self._alternate = False
        self._notes: list[Text] = []
        self._unprinted = self._thinking = ""
        self._gap = False
        self.status = ""

    async def __aenter__(self) -> Self:
        self._live.start()
        self._drawing = asyncio.create_task(self._draw_often())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._drawing.cancel()
        with suppress(asyncio.CancelledError):
            await self._drawing
        self._finish()
        self._live.stop()

    def add(self, text: str) -> None:
        """Appends text to the reply."""
        if text and self._thinking:
            self._finish()
        # A carriage return would be a line's end to Markdown alone.
        self._unprinted += text.replace("\r", "")

    def think(self, text: str) -> None:
        """Appends to what is thought."""
        if text and self._unprinted:
            self._finish()
        self._thinking += text.replace("\r", "")

    def line(self, text: str) -> None:
        """Prints a line about the reply, which ends its last block."""
        self._finish()
        self._print_dim(Text(text, style="dim", no_wrap=True, overflow="ellipsis"))

    def note(self, text: str) -> None:
        """Prints a line above what is drawn again, once that is on the terminal's own screen."""
        self._notes.append(Text(text, style="dim"))
        if not self._alternate:
            self._print_notes()

    def _finish(self) -> None:
        """Prints for good what was drawn."""
        self._print(self._unprinted)
        thinking, self._unprinted, self._thinking = self._thinking.strip(), "", ""
        if thinking:
            collapsed = f"Thought in {len(thinking.split())} words"
            self._print_dim(Text(thinking if self._whole_thinking else collapsed, style="dim"))

    def _print_dim(self, text: Text) -> None:
        self._move(alternate=False)
        self._live.update(Text(""), refresh=True)
        self._console.print(Group(Text(""), text) if self._gap else text)
        self._gap = True

    async def _draw_often(self) -> None:
        while True:
            before = time.monotonic()
            self._draw()
            # A long block takes long to draw.
            await asyncio.sleep(max(DRAW_SECONDS, 2 * (time.monotonic() - before)))

    def _draw(self) -> None:
        finished = _finished(self._unprinted)
        if finished:
            self._print(self._unprinted[:finished])
            self._unprinted = self._unprinted[finished:]
        whole = Group(self._live_part(), *self._spinner())
        rows = self._console.render_lines(whole, pad=False)
        # One is for the cursor.
        if len(rows) >= self._console.height:
            self._move(alternate=True)
        self._live.update(_Rows(rows[1 - self._console.height :]), refresh=True)

    def _display(self, *, alternate: bool) -> Live:
        return Live(
            console=self._console, auto_refresh=False, screen=alternate, transient=True, vertical_overflow="crop"
        )

    def _move(self, *, alternate: bool) -> None:
        """Goes on on the terminal's other screen, if it is not there."""
        if alternate is self._alternate:
            return
        self._live.update(Text(""), refresh=True)
        self._live.stop()
        self._live, self._alternate = self._display(alternate=alternate), alternate
        self._live.start()
        if not alternate:
            self._print_notes()

    def _print_notes(self) -> None:
        for note in self._notes:
            self._console.print(note)
        self._notes.clear()

    def _live_part(self) -> RenderableType:
        if not self._thinking:
            return self._blocks(self._unprinted)
        # The end of it fills any terminal.
        thinking = Text(self._thinking[-DRAWN_CHARACTERS:], style="dim")
        return Group(Text(""), thinking) if self._gap else thinking

    def _spinner(self) -> list[Text]:
        if not self.status:
            return []
        frame = SPINNER[int(time.monotonic() / DRAW_SECONDS) % len(SPINNER)]
        return [Text(f"{frame} {self.status}", style="dim", no_wrap=True, overflow="ellipsis")]

    def _print(self, text: str) -> None:
        """Prints blocks for good, in place of what was drawn."""
        self._move(alternate=False)
        self._live.update(Text(""), refresh=True)
        if text.strip():
            self._console.print(self._blocks(text))
            self._gap = _gap_after(text)

    def _blocks(self, text: str) -> RenderableType:
        markdown = Markdown(text)
        gap = self._gap and markdown.parsed and markdown.parsed[0].type not in GAP_OF_THEIR_OWN
        return Group(Text(""), markdown) if gap else markdown


class _Rows:
    """Rows that were rendered before."""

    def __init__(self, rows: list[list[Segment]]) -> None:
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for row in self._rows:
            yield from row
            yield Segment.line()


def _finished(text: str) -> int:
    """Returns the length of the blocks that further text cannot change: all but the last that has a whole line.

    The meaning of a line may change while it is incomplete: `*` begins a list, and `*so*` does not.
    """
    whole = text[: text.rfind("\n") + 1]
    starts = [token.map[0] for token in Markdown(whole).parsed if token.level == 0 and token.map and token.nesting >= 0]
    if len(starts) <= 1:
        return 0
    return sum(len(line) + 1 for line in whole.split("\n")[: starts[-1]])


def _gap_after(text: str) -> bool:
    """Returns whether a block that follows is set off by an empty line, as within one Markdown."""
    last = [token.type for token in Markdown(text).parsed if token.level == 0]
    return not last or last[-1] != "hr"
