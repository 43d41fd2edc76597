"""Finds what further text cannot change in a block of Markdown that grows, and what is left once that is printed.

Both are counted in visible characters: those that are neither spaces nor the bar of a quotation. A block has the same
ones in the same order however wide the terminal is, so what is left is found again when it was resized.
"""

import re
from collections.abc import Iterator, Sequence

from markdown_it.token import Token
from rich.segment import Segment

from metamorphd.cli.markdown import ADDRESS
from metamorphd.cli.redrawing import Row

BAR = "▌"
# Their visible characters are other ones when there is more text, or another width.
UNSTEADY = {"table_open", "hr"}
# What later text may pair: emphasis, code, strikethrough, links, images, tags of HTML, and the cells of a table.
UNPAIRED = re.compile(r"\*(?!\s)|(?<![^\W_])_(?!\s)|`|~~|!?\[|<(?=[A-Za-z/!?]|$)|\|")


def visible(rows: Sequence[Row]) -> int:
    """Returns how many visible characters rows have."""
    return sum(_visible(segment.text) for row in rows for segment in row)


def _visible(text: str) -> int:
    return sum(not (character.isspace() or character == BAR) for character in text)


def settled(rows: Sequence[Row], tokens: Sequence[Token]) -> int:
    """Returns how many of a block's rows further text cannot change. Its last one is never among them.

    `tokens` are the block's. The rows end with it, and may begin later than it.
    """
    counts = [visible([row]) for row in rows]
    left, held = sum(counts), _unsettled(tokens)
    if held is None:
        return 0
    # A row ends where the first word of the next one does not fit, so that must be settled too.
    found = before = 0
    for at, count in enumerate(counts):
        left -= count
        if count and (left < held or not left):
            return before if held else found
        if count:
            before, found = found, at + 1
    return found


def after(rows: Sequence[Row], printed: int) -> list[Row]:
    """Returns the rows that follow so many visible characters, and the rest of the row in which those end."""
    at = 0
    while printed and at < len(rows):
        rest = list(_less(rows[at], printed))
        printed = max(0, printed - visible([rows[at]]))
        at += 1
        if not printed and visible([rest]):
            return [rest, *rows[at:]]
    return list(rows[at:])


def _less(row: Row, printed: int) -> Iterator[Segment]:
    """Yields a row without so many visible characters at its beginning, and what is between them."""
    for segment in row:
        cut = 0
        while printed and cut < len(segment.text):
            printed -= _visible(segment.text[cut])
            cut += 1
        if cut < len(segment.text):
            yield Segment(segment.text[cut:], segment.style)


def _unsettled(tokens: Sequence[Token]) -> int | None:
    """Returns how many visible characters at a block's end further text may change, or None if all."""
    if any(each.type in UNSTEADY for token in tokens for each in (token, *(token.children or ()))):
        return None
    last = next((token for token in reversed(tokens) if token.type in ("inline", "fence", "code_block")), None)
    children = (last and last.children) or []
    for at, child in enumerate(children):
        if child.type == "text" and ADDRESS not in child.meta and (found := UNPAIRED.search(child.content)):
            later = (each.content for each in children[at + 1 :] if each.type != "html_inline")
            return _visible(child.content[found.start() :]) + sum(map(_visible, later))
    return 0
