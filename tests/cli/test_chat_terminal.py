"""`metamorph chat`, seen in a terminal of 80 columns and 24 rows."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.markdown import Markdown

from tests.support.command import METAMORPH
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply
from tests.support.serving import asking
from tests.support.terminal import terminal
from tests.support.tokens import mint

PARAGRAPHS = "\n\n".join(f"Paragraph {number}." for number in range(31))
LIST = "\n".join(f"- entry {number}" for number in range(61))
CODE = "\n".join(["```", *(f"line {number}" for number in range(59)), "```"])

DOCUMENT = """# A heading

A paragraph whose *emphasis*
has two lines.
* A list that
  follows at once
- another one

1. numbers

   with a second paragraph

| a | table |
|---|---|
| of | one row |

---

> A quote.

    indented code

The end, without a line's end."""


def _letters(text: str, size: int = 7) -> tuple[str, ...]:
    return tuple(text[start : start + size] for start in range(0, len(text), size))


@pytest.mark.parametrize("reply", [PARAGRAPHS, LIST, CODE], ids=["paragraphs", "list", "code"])
async def test_a_reply_taller_than_the_terminal_leaves_each_of_its_lines_once(
    tmp_path: Path, api: FakeMessagesApi, reply: str
) -> None:
    api.default = Reply(_letters(reply), delay=0.02)
    async with (
        asking(api, tmp_path / "server") as running,
        terminal(tmp_path, *METAMORPH, "chat", "--target", running.target, "--token", mint(), "Hi") as shown,
    ):
        assert await shown.exit_code() == 0
        await shown.until("Continue with --session")
        rows = await shown.everything()
    words = [line.strip("`- ") for line in reply.splitlines() if line.strip("`- ")]
    assert [row.strip(" •") for row in rows if row.strip(" •") in words] == words
    assert len(rows) <= len(reply.splitlines()) + 10


async def test_blocks_look_as_if_the_reply_had_come_at_once(tmp_path: Path, api: FakeMessagesApi) -> None:
    api.default = Reply(_letters(DOCUMENT, 3), delay=0.02)
    async with (
        asking(api, tmp_path / "server") as running,
        terminal(tmp_path, *METAMORPH, "chat", "--target", running.target, "--token", mint(), "Hi") as shown,
    ):
        assert await shown.exit_code() == 0
        rows = await shown.everything()
    at_once = io.StringIO()
    Console(file=at_once, width=80).print(Markdown(DOCUMENT))
    expected = [row.rstrip() for row in at_once.getvalue().splitlines()]
    assert rows[: len(expected)] == expected
