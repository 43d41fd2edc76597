"""The part of a text that shows why it was found.

Our own, because an index's may take too long: FTS5's `snippet` takes time by the square of how often a word occurs,
minutes for a long message.
"""

import re
import unicodedata
from collections.abc import Set as AbstractSet

from metamorphd.models.message import Highlight

# Letters and digits, as the index takes them for words.
WORDS = re.compile(r"[^\W_]+")
CHARACTERS = 400
BEFORE = 100


def fold(word: str) -> str:
    """Returns a word without case and accents, as the index compares it."""
    if word.isascii():
        return word.lower()
    decomposed = unicodedata.normalize("NFD", word.lower())
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def excerpt(text: str, wanted: AbstractSet[str]) -> tuple[str, tuple[Highlight, ...]]:
    """Returns about `CHARACTERS` of a text around the first of the folded words, and where those words are in it.

    `…` shows where it was cut.
    """
    first = next((word.start() for word in WORDS.finditer(text) if fold(word[0]) in wanted), 0)
    begin = max(0, first - BEFORE)
    if begin:
        # Not amid a word, if one begins soon.
        begin = next((word.start() for word in WORDS.finditer(text, begin + 1, first + 1)), begin)
    end = min(len(text), begin + CHARACTERS)
    before, after = "…" if begin else "", "…" if end < len(text) else ""
    moved = len(before) - begin
    shown = tuple(
        Highlight(word.start() + moved, word.end() + moved)
        for word in WORDS.finditer(text, begin, end)
        if fold(word[0]) in wanted
    )
    return f"{before}{text[begin:end]}{after}", shown
