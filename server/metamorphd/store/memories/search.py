"""Searches memories by their words, best first."""

import math
from collections.abc import Iterator, Sequence
from heapq import nlargest
from itertools import islice
from operator import itemgetter

import orjson

from metamorphd.models.memory import MemoryMatch, MemoryType, recency, score
from metamorphd.store.database import Row, Transaction, search_read
from metamorphd.store.memories.read import read_memories
from metamorphd.store.search.postings import (
    BLOCK_BITS,
    GROUP_BITS,
    GROUPS,
    LIST_OFFSETS,
    MEMORIES,
    hasher,
    unpack,
)
from metamorphd.store.search.words import rarest_of, words_of

MOST_WORDS = 64
# Memories whose relevance is compared, and those of them whose importance and age are read. Both take about 2 ms.
MOST_CANDIDATES = 4_096
MOST_RANKED, STEP_RANKED = 128, 32
# Of those, with what is passed over: superseded memories, and ones of other types.
MOST_VISITED = 4_096
# Looked at first: more than are ranked, since a few are passed over.
FIRST_VISITED = 256
# Offsets that are read, of the newest blocks, each list counting for at least so many: about 20 ms. Those of rare words
# come on top, together no more than as many again.
MOST_OFFSETS = 131_072
LEAST_OF_A_LIST = 64
# Of so few, words that all of them have say something.
FEW_MEMORIES = 8
# Of what is found. It may exceed this by the last memory.
MOST_BYTES = 1_572_864

GET_VAULT = "SELECT last_memory_number, memory_count, hash_key FROM vaults WHERE vault_id = :vault_id"
LIST_RANKED = """
SELECT memories.memory_id, memories.number, importance, update_time, size
FROM json_each(:numbers) CROSS JOIN memories
WHERE vault_id = :vault_id AND number = value AND state = 0 AND (expire_time IS NULL OR expire_time > :now)
    AND (:type IS NULL OR memories.type = :type)
"""

# By term, its lists of offsets with their blocks.
Lists = dict[str, list[tuple[int, bytes]]]


def words_of_query(query: str) -> list[str]:
    """Returns the different words, and pairs of unspaced scripts, that a query looks for, the first `MOST_WORDS`."""
    return list(dict.fromkeys(rarest_of(tuple(words_of(query)))))[:MOST_WORDS]


@search_read
async def search_memories(
    tx: Transaction,
    *,
    words: Sequence[str],
    type_: MemoryType | None,
    limit: int,
    half_life: int,
    now: int,
    common_words: bool = True,
) -> list[MemoryMatch]:
    """Returns the best `limit` memories that have any of the words, which `words_of_query` makes, best first.

    Of equally good ones the newest is first. The work is bounded by the constants above: of very many memories with the
    same words, the newest are compared. There may be fewer, if they are large. Without `common_words`, words that more
    than half of the memories have find none, unless that are very few.
    """
    vault = await tx.one(GET_VAULT)
    if vault is None or not words:
        return []
    lists, parts = await _lists(tx, words, vault)
    relevance = _relevances(lists, parts, memories=vault.memory_count, common_words=common_words)
    ranked: list[tuple[float, int, Row]] = []
    best = _best_first(relevance)
    while len(ranked) < MOST_RANKED and (step := list(islice(best, STEP_RANKED))):
        # A score is at most the relevance.
        if len(ranked) >= limit and ranked[limit - 1][0] >= step[0][0]:
            break
        numbers = _json([number - MEMORIES for _, number in step])
        for row in await tx.all(LIST_RANKED, numbers=numbers, type=type_, now=now):
            blended = score(relevance[MEMORIES + row.number], row.importance, recency(now - row.update_time, half_life))
            ranked.append((blended, row.number, row))
        ranked.sort(key=itemgetter(0, 1), reverse=True)
    chosen = list(_fitting(ranked[:limit]))
    memories = await read_memories(tx, memory_ids=[row.memory_id for _, _, row in chosen])
    return [
        MemoryMatch(memory, relevance[MEMORIES + number], recency(now - memory.update_time, half_life))
        for memory, (_, number, _) in zip(memories, chosen, strict=True)
    ]


def _best_first(relevance: dict[int, float]) -> Iterator[tuple[float, int]]:
    """Yields relevances with the numbers that have them, the highest first, of equal ones the newest: MOST_VISITED.

    Not sorted at once, which would hold the GIL until all are, however many memories have the words.
    """
    for first, last in ((0, FIRST_VISITED), (FIRST_VISITED, MOST_VISITED)):
        yield from nlargest(last, zip(relevance.values(), relevance.keys(), strict=True))[first:]


def _fitting(ranked: list[tuple[float, int, Row]]) -> Iterator[tuple[float, int, Row]]:
    size = 0
    for item in ranked:
        if size >= MOST_BYTES:
            return
        size += item[2].size
        yield item


async def _lists(tx: Transaction, words: Sequence[str], vault: Row) -> tuple[Lists, dict[str, float]]:
    """Returns the offsets of words, by terms in hexadecimal, and what part of the memories, the newest, those cover.

    Once `MOST_OFFSETS` were read, only words go on to older blocks that have had less than their share of them.
    """
    found: Lists = {term.hex(): [] for term in map(hasher(vault.hash_key), words)}
    terms, spent, share = _json(list(found)), dict.fromkeys(found, 0), MOST_OFFSETS // len(found)
    parts = dict.fromkeys(found, 1.0)
    first, last = (number >> BLOCK_BITS + GROUP_BITS for number in (MEMORIES, MEMORIES + vault.last_memory_number))
    for group in range(last, first - 1, -1):
        for block in await _blocks(tx, group, terms):
            for term, offsets in await _offsets(tx, block, terms):
                found[term].append((block, offsets))
                spent[term] += max(LEAST_OF_A_LIST, len(offsets) // 2)
            if sum(spent.values()) >= MOST_OFFSETS:
                older = max(0, (block << BLOCK_BITS) - MEMORIES - 1) / vault.last_memory_number
                rare = [term for term in found if parts[term] == 1 and spent[term] < share]
                parts |= {term: 1 - older for term in found if parts[term] == 1 and term not in rare}
                if not rare:
                    return found, parts
                terms = _json(rare)
    return found, parts


async def _blocks(tx: Transaction, group: int, terms: str) -> list[int]:
    """Returns the blocks of a group that have any of the terms, the newest first."""
    places = {place for _, offsets in await _offsets(tx, GROUPS + group, terms) for place in unpack(offsets)}
    return [group << GROUP_BITS | place for place in sorted(places, reverse=True)]


async def _offsets(tx: Transaction, block: int, terms: str) -> list[tuple[str, bytes]]:
    row = await tx.one(LIST_OFFSETS, block=block, terms=terms)
    lists = orjson.loads(row.lists) if row else ()
    return [(term, bytes.fromhex(offsets)) for term, offsets in lists]


def _relevances(lists: Lists, parts: dict[str, float], *, memories: int, common_words: bool) -> dict[int, float]:
    """Returns the share of the words that each memory has, by its number in the index.

    A word weighs by the logarithm of how few memories have it, as in BM25 (Robertson and Zaragoza, 2009). The rarest
    are looked at first: once there are `MOST_CANDIDATES`, those with none of these words are left out.
    """
    # Those of a part of the memories stand for as many in the others.
    counts = {term: sum(len(each) // 2 for _, each in found) / parts[term] for term, found in lists.items()}
    weights = {term: _weight(count, max(memories, count)) for term, count in counts.items()}
    total = sum(weights.values())
    found: dict[int, float] = {}
    for term in sorted(counts, key=counts.__getitem__):
        if not common_words and counts[term] > max(FEW_MEMORIES, memories / 2):
            break
        share, full, first = weights[term] / total, len(found) >= MOST_CANDIDATES, not found
        for numbers in _numbers(lists[term]):
            if first:
                found.update(dict.fromkeys(numbers, share))
                continue
            for number in found.keys() & numbers if full else numbers:
                found[number] = found.get(number, 0.0) + share
    return found


def _weight(count: float, memories: float) -> float:
    return math.log1p((memories - count + 0.5) / (count + 0.5))


def _numbers(lists: list[tuple[int, bytes]]) -> Iterator[set[int]]:
    for block, offsets in lists:
        base = block << BLOCK_BITS
        yield {base | offset for offset in unpack(offsets)}


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
