"""Markdown from others, as a terminal shows it."""

from collections.abc import Iterable, Iterator

from markdown_it.token import Token
from rich.markdown import Markdown

from metamorphd.cli.listing import printable

# Rich puts an empty line before a block that has blocks in it, even if nothing precedes it.
GAP_OF_THEIR_OWN = {"bullet_list_open", "ordered_list_open", "blockquote_open", "table_open"}
# Marks what is no text of the Markdown's own.
ADDRESS = "address"


def markdown(text: str) -> Markdown:
    """Returns Markdown with nothing in it that a terminal would obey, not even as an entity of HTML.

    Links are followed by their addresses, unless those are what they show. An image is its description and its address.
    """
    found = Markdown(printable(text))
    for token in found.parsed:
        _clean(token)
        token.children = token.children and list(_with_addresses(token.children))
    return found


def _clean(token: Token) -> None:
    token.content = printable(token.content)
    for child in token.children or ():
        _clean(child)


def _with_addresses(tokens: Iterable[Token]) -> Iterator[Token]:
    address = ""
    for token in tokens:
        yield _image(token) if token.type == "image" else token
        if token.type == "link_open":
            address = "" if token.info == "auto" else str(token.attrs["href"])
        elif token.type == "link_close" and address:
            yield Token("text", "", 0, content=f" ({address})", meta={ADDRESS: True})


def _image(token: Token) -> Token:
    """Returns an image as text in its place: Rich would show it before the paragraph that it is in."""
    breaks = {"softbreak", "hardbreak"}
    described = "".join(" " if each.type in breaks else each.content for each in token.children or ())
    shown = " ".join(("\N{CITYSCAPE AT DUSK}", *described.split(), f"({token.attrs['src']})"))
    return Token("text", "", 0, content=shown, meta={ADDRESS: True})


def gap_of_its_own(found: Markdown) -> bool:
    """Returns whether it begins with an empty line, or has nothing that could follow one."""
    return not found.parsed or found.parsed[0].type in GAP_OF_THEIR_OWN


def finished_length(text: str) -> int:
    """Returns the length of the blocks that further text cannot change: all but the last that has a whole line.

    The meaning of a line may change while it is incomplete: `*` begins a list, and `*so*` does not.
    """
    whole = text[: text.rfind("\n") + 1]
    starts = [token.map[0] for token in Markdown(whole).parsed if token.level == 0 and token.map and token.nesting >= 0]
    if len(starts) <= 1:
        return 0
    return sum(len(line) + 1 for line in whole.split("\n")[: starts[-1]])


def gap_after(text: str) -> bool:
    """Returns whether a block that follows is set off by an empty line, as within one Markdown."""
    last = [token.type for token in Markdown(text).parsed if token.level == 0]
    return not last or last[-1] != "hr"
