"""Texts of about forty words, in which words are as common as Zipf's law makes them.

A message's text is one of a few thousand texts and, in every fourth message, a word that few others have, as names and
numbers are. Texts are repeated so that ten million messages are made in minutes; words are as common as if they were
not, and the index does not know texts.
"""

import random
from functools import cached_property
from itertools import accumulate

SEED = 12
WORDS = 20_000
LENGTH = 37
TEXTS = 8_192
# Odd, so that texts that follow each other differ and all of them are used.
STRIDE = 5_003
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
# In a few messages of a vault, and in no text.
RARE_WORD = "quokka"


def word(rank: int) -> str:
    """Returns the word of a rank, from 0 for the commonest: syllables, all different."""
    syllables = len(CONSONANTS) * len(VOWELS)
    letters, rest = "", rank
    while True:
        rest, syllable = divmod(rest, syllables)
        letters += CONSONANTS[syllable % len(CONSONANTS)] + VOWELS[syllable // len(CONSONANTS)]
        if not rest:
            return letters
        rest -= 1


# In about 97 % and 84 % of messages.
COMMON_WORDS = (word(0), word(1))


class Corpus:
    """The texts of messages, by the number of the message in its vault. The same in every run."""

    @cached_property
    def texts(self) -> list[str]:
        """The texts that are repeated."""
        source = random.Random(SEED)  # noqa: S311, not for secrets
        words = [word(rank) for rank in range(WORDS)]
        weights = list(accumulate(1 / (rank + 1) for rank in range(WORDS)))
        return [" ".join(source.choices(words, cum_weights=weights, k=LENGTH)) for _ in range(TEXTS)]

    def text_number(self, number: int) -> int:
        """Returns the place in `texts` of a message's text."""
        return number * STRIDE % TEXTS

    def added_word(self, number: int, rare_every: int) -> str:
        """Returns the word that a message has beside its text, or nothing. Every `rare_every`th has the rare word."""
        if number % rare_every == 1:
            return RARE_WORD
        return "" if number % 4 else f"n{number // 4 % 1_000_003}"


CORPUS = Corpus()
