"""Reads the project's pages."""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

PAGES = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "clients/*/*.md", "bench/*.md") for path in ROOT.glob(pattern)
)
README = ROOT / "README.md"
# The languages whose blocks are run, and those whose blocks are only displayed. tests/clients has the others.
RUN = {"bash", "sh", "python"}
SHOWN = {"text", "go", "typescript"}
_FENCE = re.compile(
    r"(?:^<!-- (?:not run: (?P<reason>[^\n]+)|file: (?P<file>\S+)) -->\n+)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block. A comment before it may state why the block is not run, or which file it shows."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None
    file: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_run(self) -> bool:
        return self.language in RUN and self.reason is None and self.file is None


def blocks(page: Path) -> list[Block]:
    """Returns the fenced blocks of a page, in order."""
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, match.start("text")), **match.groupdict()) for match in _FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    """Returns a page without its fenced blocks and comments."""
    return re.sub(r"<!--.*?-->", "", _FENCE.sub("", page.read_text()), flags=re.DOTALL)


def spans(page: Path) -> list[str]:
    """Returns the text of every code span and every block of a page."""
    return re.findall(r"`([^`\n]+)`", prose(page)) + [block.text for block in blocks(page)]


def anchors(page: Path) -> set[str]:
    """Returns the URL fragments of a page's headings, and of the anchors that it has beside them."""
    text = prose(page)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'^<a id="([\w-]+)"></a>$', text, re.MULTILINE))
