"""The part of a text that shows why it was found."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, islice
from unicodedata import normalize

from metamorphd.models.message import Highlight
from metamorphd.store.search.words import (
    CLUSTER,
    MOST_OF_A_CHARACTER,
    PIECE,
    SEARCHED_CHARACTERS,
    Phrase,
    folded,
    joined,
    pattern_for,
)

CHARACTERS = 400
BEFORE = 100


def excerpt(text: str, phrases: Sequence[Phrase]) -> tuple[str, tuple[Highlight, ...]]:
    """Returns about `CHARACTERS` of a text around the first of the phrases, and where phrases are in it.

    `…` shows where it was cut. A character and its marks stay together, but for hundreds of marks.
    """
    folding = _Folding(text)
    if not folding.words:
        return _cut(text, 0, CHARACTERS), ()
    first = _first(folding.words, phrases)
    before, part = folding.near(first)
    earliest = part.places[first - before][0] - BEFORE
    begin = next(start for start, _ in part.places if start >= earliest) if earliest > 0 else 0
    end = part.boundary(begin, begin + CHARACTERS)
    moved = bool(begin) - begin
    ranges = _merged(_ranges(folding.words[before:], part.places, phrases))
    highlights = tuple(
        Highlight(max(start, begin) + moved, min(stop, end) + moved)
        for start, stop in ranges
        if start < end and stop > begin
    )
    return _cut(text, begin, end), highlights


class _Folding:
    """A text as it is compared, in pieces that begin at characters, not at their marks. `words` are its words."""

    def __init__(self, text: str) -> None:
        self._text = text
        # Where pieces of the text begin and the last one ends, and where their foldings do.
        self._pieces, self._folded_pieces = [0], [0]
        foldings = []
        # No further than the index reads, or the word at which that ends would be another one here.
        for piece in PIECE.finditer(text, 0, SEARCHED_CHARACTERS):
            foldings.append(folded(piece[0]))
            self._pieces.append(piece.end())
            self._folded_pieces.append(self._folded_pieces[-1] + len(foldings[-1]))
            if self._folded_pieces[-1] >= SEARCHED_CHARACTERS:
                break
        self._folded = "".join(foldings)
        if not text.isascii() and len(text) * MOST_OF_A_CHARACTER > SEARCHED_CHARACTERS:
            # The index reads a text folded in one piece, whose decomposition may be cut.
            self._folded = self._folded[: len(folded(text[:SEARCHED_CHARACTERS]))]
        self._pattern = pattern_for(self._folded)
        self.words: list[str] = self._pattern.findall(normalize("NFC", self._folded))

    def near(self, word: int) -> tuple[int, "_Part"]:
        """Returns the part around a word that an excerpt can show, and the index of the part's first word."""
        first = max(0, word - BEFORE)
        words = [found.span() for found in islice(self._pattern.finditer(self._folded), first, word + CHARACTERS)]
        begins = [begin for begin, _ in words]
        piece = bisect_right(self._folded_pieces, begins[word - first]) - 1
        lowest = bisect_right(self._pieces, max(0, self._pieces[piece] - BEFORE)) - 1
        highest = min(len(self._pieces) - 1, bisect_left(self._pieces, self._pieces[piece] + CHARACTERS) + 1)
        skipped = bisect_left(begins, self._folded_pieces[lowest])
        shown = words[skipped : bisect_left(begins, self._folded_pieces[highest])]
        text = self._text[: self._pieces[highest]]
        return first + skipped, _Part(text, self._pieces[lowest], self._folded_pieces[lowest], shown)


class _Part:
    """The part of a text from `begin` to its end. `places` are where its words are, from those of the folding."""

    def __init__(self, text: str, begin: int, folded_begin: int, words: Sequence[tuple[int, int]]) -> None:
        self._end = len(text)
        self._begins: list[int] = []
        self._ends: list[int] = []
        for piece in PIECE.finditer(text, begin):
            first, last = piece.span()
            if piece[0].isascii():
                self._begins += range(first, last)
                self._ends += range(first + 1, last + 1)
                continue
            for cluster in CLUSTER.finditer(text, first, last):
                start, stop = cluster.span()
                size = len(_folded_character(cluster[0]) if stop == start + 1 else folded(cluster[0]))
                self._begins += [start] * size
                self._ends += [stop] * size

        # The last word can go on behind this part.
        last = len(self._ends) - 1
        self.places = [
            (self._begins[begin - folded_begin], self._ends[min(end - 1 - folded_begin, last)]) for begin, end in words
        ]

    def boundary(self, begin: int, end: int) -> int:
        """Returns the last place up to `end` that is not before a mark, or `end` if there is none above `begin`."""
        if end >= self._end:
            return self._end
        found = self._begins[bisect_right(self._begins, end) - 1]
        return found if found > begin else end


@lru_cache(maxsize=1024)
def _folded_character(character: str) -> str:
    return folded(character)


def _first(words: Sequence[str], phrases: Sequence[Phrase]) -> int:
    """Returns the index of the word at which the first of the phrases begins, or 0."""
    text = joined(words)
    found = [text.find(joined(phrase)) for phrase in phrases]
    return text.count(" ", 0, min((at for at in found if at >= 0), default=0))


def _ranges(
    words: Sequence[str], places: Sequence[tuple[int, int]], phrases: Sequence[Phrase]
) -> Iterator[tuple[int, int]]:
    """Yields where phrases are that begin at one of the words that have a place. Others may follow those."""
    longest = max(map(len, phrases), default=0)
    near = words[: len(places) + longest]
    text = joined(near)
    starts = [0, *accumulate(len(word) + 1 for word in near)]
    for phrase in phrases:
        wanted = joined(phrase)
        at = text.find(wanted)
        while 0 <= at < starts[len(places)]:
            word = bisect_left(starts, at)
            last = min(word + len(phrase), len(places)) - 1
            yield places[word][0], places[last][1]
            at = text.find(wanted, at + 1)


def _merged(ranges: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    """Returns ranges in order, and one in place of those that overlap."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if found and start < found[-1][1]:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        else:
            found.append((start, stop))
    return found


def _cut(text: str, begin: int, end: int) -> str:
    return f"{'…' if begin else ''}{text[begin:end]}{'…' if end < len(text) else ''}"
