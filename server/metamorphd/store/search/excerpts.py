"""The part of a text that shows why it was found."""

from collections.abc import Set as AbstractSet

from metamorphd.models.message import Highlight
from metamorphd.store.search.words import WORDS, words_of

CHARACTERS = 400
BEFORE = 100


def excerpt(text: str, wanted: AbstractSet[str]) -> tuple[str, tuple[Highlight, ...]]:
    """Returns about `CHARACTERS` of a text around the first of the words, and where those words are in it.

    `…` shows where it was cut.
    """
    first = next((word.start() for word in WORDS.finditer(text) if not wanted.isdisjoint(words_of(word[0]))), 0)
    begin = max(0, first - BEFORE)
    if begin:
        # At the beginning of a word, if there is one soon.
        begin = next((word.start() for word in WORDS.finditer(text, begin + 1, first + 1)), begin)
    end = min(len(text), begin + CHARACTERS)
    before, after = "…" if begin else "", "…" if end < len(text) else ""
    moved = len(before) - begin
    shown = tuple(
        Highlight(word.start() + moved, word.end() + moved)
        for word in WORDS.finditer(text, begin, end)
        if not wanted.isdisjoint(words_of(word[0]))
    )
    return f"{before}{text[begin:end]}{after}", shown
