"""The last rows of a terminal, drawn again and again."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment

Row = Sequence[Segment]
# Control sequences of ECMA-48 and DEC: what every terminal emulator of today obeys.
# Its row, and from its next column on all that is below: what is erased from the first column of a terminal would be
# moved into the scroll-back by tmux.
ERASE_BELOW = "\x1b[K\x1b[C\x1b[J\r"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
CUT_OFF, WRAP = "\x1b[?7l", "\x1b[?7h"


class Redrawn:
    """Rows at the end of a terminal that are replaced by the next ones, or by what is printed for good.

    The cursor stays at their beginning, and what is below it is erased. A terminal that is resized takes the cursor
    along with the text at it, so no row is left behind, however the rows were wrapped.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: object = None

    def begin(self) -> None:
        """Hides the cursor."""
        self._shown = None
        self._write(HIDE_CURSOR)

    def end(self) -> None:
        """Erases the rows, and shows the cursor."""
        self._write(f"{ERASE_BELOW}{SHOW_CURSOR}")

    def draw(self, rows: Sequence[Row]) -> None:
        """Shows rows in place of those before. There must be fewer than the terminal has."""
        shown = (rows, self._console.size)
        if shown == self._shown:
            return
        self._shown = shown
        with self._console.capture() as captured:
            self._console.print(Rows(rows), end="")
        # One that the terminal has become too narrow for is cut off, because the cursor would be elsewhere otherwise.
        text = f"{ERASE_BELOW}{CUT_OFF}{captured.get().removesuffix(chr(10))}{WRAP}\r"
        self._write(text + (f"\x1b[{len(rows) - 1}A" if len(rows) > 1 else ""))

    def print(self, rows: Sequence[Row]) -> None:
        """Prints rows for good, in place of those that were drawn."""
        self._shown = None
        self._write(ERASE_BELOW)
        self._console.print(Rows(rows), end="")

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()


class Rows:
    """Rows that were rendered before."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for row in self._rows:
            yield from row
            yield Segment.line()
