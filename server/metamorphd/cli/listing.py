"""Lists of what a server returns: tables for people, lines for programs."""

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = TypeVar("Row", bound=Message)
GAP = 2
NARROWEST = 8
AGES = ((365 * 86_400, "y"), (86_400, "d"), (3_600, "h"), (60, "m"))
# Control characters but tabs and line feeds, and those that would have what follows them written from right to left.
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column of a list. One that `gives_way` has what the others leave of a terminal, and is shortened."""

    name: str
    cell: Callable[[Row], str | Text]
    numeric: bool = False
    gives_way: bool = False
    wraps: bool = False


class Listing(Generic[Row]):
    """Prints rows as they come: a table on a terminal, elsewhere lines with tabs, or JSON.

    Only a terminal has headings, and only there cells are shortened. `nothing` is said there if there are no rows.
    """

    def __init__(self, columns: Sequence[Column[Row]], *, as_json: bool, nothing: str) -> None:
        self._columns = columns
        self._as_json = as_json
        self._nothing = nothing
        self._out = Console(highlight=False)
        self._widths: list[int] | None = None

    def add(self, rows: Sequence[Row]) -> None:
        """Prints rows below those before."""
        if self._as_json:
            for row in rows:
                click.echo(json_line(row))
        elif not self._out.is_terminal:
            for row in rows:
                click.echo("\t".join(" ".join(str(column.cell(row)).split()) for column in self._columns))
        elif rows:
            self._add_table([[_clean(column.cell(row)) for column in self._columns] for row in rows])

    def end(self) -> None:
        """Says that there is nothing, if nothing was printed on a terminal."""
        if self._out.is_terminal and not self._as_json and self._widths is None:
            click.echo(self._nothing)

    def _add_table(self, cells: "list[list[Text]]") -> None:
        first = self._widths is None
        # Those of the first rows, so that further ones are below them.
        widths = self._widths = self._fitting(cells) if self._widths is None else self._widths
        table = Table(box=None, show_header=first, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
        for column, width in zip(self._columns, widths, strict=True):
            shortened = column.gives_way and not column.wraps
            table.add_column(
                column.name,
                width=width,
                justify="right" if column.numeric else "left",
                no_wrap=shortened,
                overflow="ellipsis" if shortened else "fold",
            )
        for row in cells:
            table.add_row(*row)
        self._out.print(table)

    def _fitting(self, cells: "list[list[Text]]") -> list[int]:
        widths = [
            max(len(column.name), *(row[at].cell_len for row in cells)) for at, column in enumerate(self._columns)
        ]
        gaps = GAP * (len(widths) - 1)
        for at, column in enumerate(self._columns):
            if column.gives_way:
                left = self._out.width - gaps - sum(widths) + widths[at]
                widths[at] = max(left, NARROWEST)
        return widths


def _clean(cell: str | Text) -> Text:
    """Returns a cell of one line that moves no cursor."""
    if isinstance(cell, Text):
        return cell
    return Text(" ".join(printable(cell).split()))


def printable(text: str) -> str:
    """Returns text with a substitute for each character that a terminal would obey, other than tabs and new lines."""
    return OBEYED.sub("\ufffd", text)


def as_dict(message: Message) -> dict[str, Any]:
    """Returns a message as JSON has it, with the names of the contract, and with what is empty."""
    return dict(MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))


def json_line(message: Message) -> str:
    """Returns a message as a line of JSON."""
    return json.dumps(as_dict(message))


def time_cell(moment: Timestamp) -> str:
    """Returns how long ago it was on a terminal, elsewhere a time of ISO 8601. Returns nothing for none."""
    if not moment.seconds:
        return ""
    return age(time.time() - moment.seconds) if sys.stdout.isatty() else moment.ToJsonString()


def age(seconds: float) -> str:
    """Returns a time that has passed, in its largest unit."""
    return next((f"{seconds / size:.0f}{unit}" for size, unit in AGES if seconds >= size), "now")
