"""The part of a text that shows why it was found."""

from collections.abc import Set as AbstractSet

from metamorphd.models.message import Highlight
from metamorphd.store.search.words import ASCII_WORDS, WORDS, words_of

CHARACTERS = 400
BEFORE = 100


def excerpt(text: str, wanted: AbstractSet[str]) -> tuple[str, tuple[Highlight, ...]]:
    """Returns about `CHARACTERS` of a text around the first of the words, and where those words are in it.

    `…` shows where it was cut.
    """
    first = _first(text, wanted)
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


def _first(text: str, wanted: AbstractSet[str]) -> int:
    """Returns where the first of the words begins, or 0."""
    if text.isascii():
        return next((word.start() for word in ASCII_WORDS.finditer(text.lower()) if word[0] in wanted), 0)
    return next((word.start() for word in WORDS.finditer(text) if not wanted.isdisjoint(words_of(word[0]))), 0)
