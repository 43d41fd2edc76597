"""Words as servers before migration 16 made them. A message that one of them indexed is removed by these.

Nothing here may change.
"""

import re
import unicodedata
from collections.abc import Iterable

SEARCHED_CHARACTERS = 65_536
LONGEST_RUN_OF_MARKS = 8

ACCENT_CLASSES = {1, *range(10, 37), *range(200, 256)}
UNSPACED = (
    "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e81-\u0eb0\u0eb2\u0eb3\u0ec0-\u0ec6\u1000-\u102a\u103f\u1780-\u17b3"
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U000323af"
)


def _class_of(characters: Iterable[str]) -> str:
    """Returns the inside of a character class of a regular expression."""
    return "".join(map(re.escape, characters))


_marks = [chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code)) in ("Mn", "Mc", "Me")]
_accents = _class_of(mark for mark in _marks if unicodedata.combining(mark) in ACCENT_CLASSES)
_all_marks = _class_of(_marks)

ASCII_WORDS = re.compile(r"[a-z0-9]+")
WORDS = re.compile(rf"[{UNSPACED}][{_all_marks}]*|(?:[^\W_{UNSPACED}]+[{_all_marks}]*)+")
ACCENTS = re.compile(f"[{_accents}]+")
LONG_RUNS_OF_MARKS = re.compile(f"([{_all_marks}]{{{LONGEST_RUN_OF_MARKS}}})[{_all_marks}]+")


def earlier_words_of(text: str) -> list[str]:
    """Returns the words of the first `SEARCHED_CHARACTERS` of a text, in order, as they were compared."""
    text = text[:SEARCHED_CHARACTERS]
    if text.isascii():
        return ASCII_WORDS.findall(text.lower())
    return WORDS.findall(_folded(text))


def _folded(text: str) -> str:
    plain = LONG_RUNS_OF_MARKS.sub(r"\1", ACCENTS.sub("", text))
    decomposed = unicodedata.normalize("NFKD", plain)[:SEARCHED_CHARACTERS]
    return unicodedata.normalize("NFC", ACCENTS.sub("", decomposed.casefold()))
