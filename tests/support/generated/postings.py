"""The full-text index of a generated vault, as `metamorphd.store.search.postings` makes it, by blocks.

Texts are repeated every so many blocks, and so are the postings of their words: what differs from block to block is
only the sessions and the words that messages have beside their texts. Groups of blocks are collected from the blocks.
"""

import struct
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache

from metamorphd.store.database import SqlValue
from metamorphd.store.search.postings import BLOCK_BITS, GROUP_BITS, GROUPS, hasher, session_word

from tests.support.generated.corpus import CORPUS, TEXTS

BLOCK, GROUP = 1 << BLOCK_BITS, 1 << GROUP_BITS
# Blocks after which the texts begin again.
PERIOD = TEXTS // BLOCK

Row = tuple[SqlValue, ...]
Offsets = tuple[int, ...]


@cache
def _pattern(block: int) -> dict[str, tuple[Offsets, bytes]]:
    """Returns by word of the texts the offsets of a block, one of the first PERIOD ones, ascending and as stored."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for offset in range(BLOCK):
        # The first message has the number 1 in the index.
        text = CORPUS.texts[CORPUS.text_number(block * BLOCK + offset - 1)]
        for word in set(text.split()):
            found[word].append(offset)
    return {word: (tuple(offsets), _packed(offsets)) for word, offsets in found.items()}


@cache
def text_words(text_number: int) -> int:
    """Returns how many different words a text has."""
    return len(set(CORPUS.texts[text_number].split()))


class Postings:
    """The index of one vault with `messages`, from which rows are taken block by block."""

    def __init__(self, vault_id: str, hash_key: bytes, messages: int) -> None:
        self._vault_id = vault_id
        self._messages = messages
        self._term = cache(hasher(hash_key))
        self._added: defaultdict[str, bytearray] = defaultdict(bytearray)
        self._patterns: dict[int, list[tuple[bytes, Offsets, bytes]]] = {}
        # Of a group, the blocks that have a term.
        self._blocks: defaultdict[bytes, bytearray] = defaultdict(bytearray)
        self._block = 0

    def add(self, number: int, session_id: str, added: str) -> Iterator[Row]:
        """Adds the next message by its number in the index. Yields the rows of a block or group that it completes."""
        offset = struct.pack(">H", number % BLOCK)
        self._added[session_word(session_id)] += offset
        if added:
            self._added[added] += offset
        if number % BLOCK == BLOCK - 1 or number == self._messages:
            place = struct.pack(">H", self._block % GROUP)
            for term, offsets in self._rows(first=1 if number < BLOCK else 0, last=number % BLOCK):
                self._blocks[term] += place
                yield self._vault_id, self._block, term, offsets
            self._added.clear()
            if self._block % GROUP == GROUP - 1 or number == self._messages:
                for term, blocks in self._blocks.items():
                    yield self._vault_id, GROUPS + self._block // GROUP, term, bytes(blocks)
                self._blocks.clear()
            self._block += 1

    def _rows(self, *, first: int, last: int) -> Iterator[tuple[bytes, bytes]]:
        """Yields the lists of a block in the order of its texts' terms, then of those that its messages have beside."""
        for term, offsets, packed in self._by_term(self._block % PERIOD):
            if first <= offsets[0] and offsets[-1] <= last:
                yield term, packed
            elif some := offsets[bisect_left(offsets, first) : bisect_left(offsets, last + 1)]:
                yield term, _packed(some)
        for word, added in self._added.items():
            yield self._term(word), bytes(added)

    def _by_term(self, block: int) -> list[tuple[bytes, Offsets, bytes]]:
        if block not in self._patterns:
            self._patterns[block] = sorted((self._term(word), *found) for word, found in _pattern(block).items())
        return self._patterns[block]


def _packed(offsets: Sequence[int]) -> bytes:
    return struct.pack(f">{len(offsets)}H", *offsets)
