"""How well a text fits what was searched for."""

import apsw

TEXT_COLUMN = 3
# BM25's own (Robertson and Zaragoza, 2009): how fast repetition stops counting, and how much length does.
SATURATION, LENGTH_WEIGHT = 1.2, 0.75
TYPICAL_WORDS = 100


def register(connection: apsw.Connection) -> None:
    """Gives a connection the function `relevance(message_search)`."""
    connection.register_fts5_function("relevance", _relevance)


def _relevance(index: apsw.FTS5ExtensionApi, *_: object) -> float:
    """BM25 without the rarity of words, which depends on other texts; more is better."""
    length = 1 - LENGTH_WEIGHT + LENGTH_WEIGHT * index.column_size(TEXT_COLUMN) / TYPICAL_WORDS
    counts = (len(index.phrase_column_offsets(phrase, TEXT_COLUMN)) for phrase in range(index.phrase_count))
    return sum(count * (SATURATION + 1) / (count + SATURATION * length) for count in counts)
