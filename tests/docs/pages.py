"""The project's pages, and what is on them."""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

PAGES = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "clients/*/*.md", "bench/*.md") for path in ROOT.glob(pattern)
)
# The languages of blocks that are run; any other is only shown.
RUN = {"bash", "sh", "python"}
_FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A fenced block. `reason` says why it is not run; it stands in a comment before the block."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, match.start("text")), match["language"], match["text"], match["reason"])
        for match in _FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    """A page without its fenced blocks and comments."""
    return re.sub(r"<!--.*?-->", "", _FENCE.sub("", page.read_text()), flags=re.DOTALL)


def spans(page: Path) -> list[str]:
    """What a page sets in `code`, whatever is in its blocks included."""
    return re.findall(r"`([^`\n]+)`", prose(page)) + [block.text for block in blocks(page)]


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings can be linked by."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
