"""Words of a text, as they are compared: one folding for the index, for queries and for what is highlighted.

A text is folded by compatibility (NFKD), case (full case folding) and marks, and then split. A word is a run of
letters, digits and the marks that are left. Of scripts that put no spaces between words each character is a word, and a
run of them is found as a phrase. Messages are indexed by such characters and by pairs of neighbours, because few
messages have a given pair.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

# A message is searched by its beginning, so that it costs no more than this to store, search and delete.
SEARCHED_CHARACTERS = 65_536
# One character can become so many when it is decomposed, U+FDFA for instance.
MOST_OF_A_CHARACTER = 18
# Runs of combining marks are cut: putting a run into canonical order takes time by the square of its length.
LONGEST_RUN_OF_MARKS = 8

# Accents by their combining class: overlays, the points of Hebrew and Arabic, what is above and below a letter. Other
# classes are part of the spelling: voicing in kana, viramas, and the vowels and tones of Thai and Lao.
ACCENT_CLASSES = {1, *range(10, 37), *range(200, 256)}
# Its case folding is a letter, iota.
YPOGEGRAMMENI = "\u0345"
# Fillers of Hangul, which are invisible, and what only makes Arabic words longer, the tatweel.
IGNORED_LETTERS = "\u115f\u1160\u3164\uffa0\u0640"
VARIATION_SELECTORS = {*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0), *range(0x180B, 0x1810)}
# Beside them: the grapheme joiner, and vowels of Khmer that are not written.
INVISIBLE_MARKS = {0x34F, 0x17B4, 0x17B5, *VARIATION_SELECTORS}
# What belongs to the character before it, beside marks: vowels and finals of decomposed Hangul, halfwidth voicing, and
# a vowel of Thai and of Lao that begins with a mark.
EXTENDING_LETTERS = "\u1160-\u11ff\ud7b0-\ud7ff\uff9e\uff9f\u0e33\u0eb3"
# Apostrophes that Unicode calls letters: people type any of them, or U+2019, or a simple one.
APOSTROPHES = "\u02b9\u02bb\u02bc\u02bd\u02be\u02bf\u02ee"
# Han, Hiragana, Katakana. Characters beyond the basic plane are few ranges, because each is compared one by one.
HAN_AND_KANA = (
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff"
)
BEYOND = "\U00010000-\U0010ffff"
UNSPACED_BEYOND = "\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
UNSPACED_SCRIPTS = ("THAI ", "LAO ", "MYANMAR ", "KHMER ", "TAI ", "NEW TAI ")
LAST_BASIC = 0xFFFF

# Words that follow each other in a text.
Phrase = tuple[str, ...]


def _by_category() -> dict[str, list[int]]:
    """Returns the characters of the two planes that have alphabets, and tags and selectors, by category."""
    found = defaultdict[str, list[int]](list)
    for code in (*range(0x80, 0x20000), *range(0xE0000, 0xE0200)):
        found[unicodedata.category(chr(code))].append(code)
    return found


def _class_of(codes: Iterable[int]) -> str:
    """Returns the inside of a character class of a regular expression, for codes in ascending order."""
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


def _is_ignored_mark(code: int) -> bool:
    character = chr(code)
    name = unicodedata.name(character)
    # The vowels and tones of the Tai scripts have the classes of accents.
    accent = unicodedata.combining(character) in ACCENT_CLASSES and not name.startswith("TAI ")
    return code in INVISIBLE_MARKS or name.endswith("NUKTA") or (accent and character != YPOGEGRAMMENI)


def _plain(found: Mapping[str, list[int]]) -> dict[int, str]:
    """Returns by characters without a decomposition what they are compared as: letters, digits and spaces."""
    plain = {"\u0131": "i", "\u0237": "j", "æ": "ae", "œ": "oe"} | dict.fromkeys(APOSTROPHES, " ")
    names = {chr(code): STROKED.fullmatch(unicodedata.name(chr(code))) for code in found["Ll"]}
    plain |= {letter: name[1].lower() for letter, name in names.items() if name}
    plain |= {chr(code): str(unicodedata.decimal(chr(code))) for code in found["Nd"]}
    # So that a text is often ASCII, or has nothing beyond the basic plane, when it is folded.
    others = (chr(code) for category in found if category[0] in "PSZ" for code in found[category])
    plain |= {other: " " for other in others if not unicodedata.decomposition(other)}
    return {ord(character): compared for character, compared in plain.items()}


def _words(letters: str, unspaced: str, mark: str) -> re.Pattern[str]:
    return re.compile(f"[{unspaced}]{mark}*|(?:{letters}+{mark}*)+")


def _long_runs(mark: str) -> re.Pattern[str]:
    return re.compile(f"({mark}{{{LONGEST_RUN_OF_MARKS}}}){mark}+")


STROKED = re.compile("LATIN SMALL LETTER ([A-Z]) WITH (?:DIAGONAL |OBLIQUE )?STROKE")
_found = _by_category()
_marks = sorted(_found["Mn"] + _found["Mc"] + _found["Me"])
_ignored = sorted({*_found["Cf"], *_found["Me"], *filter(_is_ignored_mark, _marks), *map(ord, IGNORED_LETTERS)})
_unspaced = HAN_AND_KANA + _class_of(
    code
    for code in (*range(0xE00, 0xF00), *range(0x1000, 0x1100), *range(0x1780, 0x1AB0), *range(0xA9E0, 0xAAE0))
    if unicodedata.category(chr(code))[0] == "L" and unicodedata.name(chr(code)).startswith(UNSPACED_SCRIPTS)
)
_is_unspaced = re.compile(f"[{_unspaced}]").match
_letters = [code for code in range(0x80, LAST_BASIC) if chr(code).isalnum() and not _is_unspaced(chr(code))]
PLAIN = _plain(_found)

# A class with characters beyond the basic plane is compared one by one, fifty times as slow: there are two of each.
_basic_mark = f"[{_class_of(code for code in _marks if code <= LAST_BASIC)}]"
_any_mark = f"(?:{_basic_mark}|(?=[{BEYOND}])[{_class_of(code for code in _marks if code > LAST_BASIC)}])"
ASCII_WORDS = re.compile(r"[a-z0-9]+")
_extending = _class_of(sorted({*(code for code in _ignored if code not in map(ord, IGNORED_LETTERS)), *_marks}))
# A character with those that extend it, and a piece of several such.
CLUSTER = re.compile(f".[{EXTENDING_LETTERS}{_extending}]*", re.DOTALL)
PIECE = re.compile(f".{{1,64}}[{EXTENDING_LETTERS}{_extending}]*", re.DOTALL)
UNSPACED = re.compile(f"[{_unspaced}{UNSPACED_BEYOND}]")
BASIC_WORDS = _words(f"[a-z0-9{_class_of(_letters)}]", _unspaced, _basic_mark)
WORDS = _words(rf"[^\W_{_unspaced}{UNSPACED_BEYOND}]", _unspaced + UNSPACED_BEYOND, _any_mark)
LONG_RUNS_OF_BASIC_MARKS = _long_runs(_basic_mark)
LONG_RUNS_OF_MARKS = _long_runs(_any_mark)
BEYOND_BASIC = re.compile(f"[{BEYOND}]+")
IGNORED = re.compile(f"[{_class_of(code for code in _ignored if code <= LAST_BASIC)}]+")
IGNORED_BEYOND = dict.fromkeys((code for code in _ignored if code > LAST_BASIC), "") | {
    code: " " for code, compared in PLAIN.items() if code > LAST_BASIC and compared == " "
}
NOT_PLAIN = re.compile(f"[{_class_of(sorted(code for code in PLAIN if code <= LAST_BASIC))}]")


def words_of(text: str) -> list[str]:
    """Returns the words of the first `SEARCHED_CHARACTERS` of a text, in order, as they are compared."""
    found = folded(text[:SEARCHED_CHARACTERS])
    return pattern_for(found).findall(unicodedata.normalize("NFC", found))


def with_pairs(words: Sequence[str]) -> list[str]:
    """Returns the words of a text and, after the second one of each, its pairs of neighbours of unspaced scripts."""
    if "".join(words).isascii():
        return list(words)
    found: list[str] = []
    before = ""
    for word in words:
        found.append(word)
        unspaced = UNSPACED.match(word) is not None
        if unspaced and before:
            found.append(before + word)
        before = word if unspaced else ""
    return found


def rarest_of(phrase: Phrase) -> list[str]:
    """Returns words and pairs that every text with a phrase has: a word that is in a pair is not looked for."""
    pairs = [(first, second) for first, second in pairwise(phrase) if UNSPACED.match(first) and UNSPACED.match(second)]
    paired = {word for pair in pairs for word in pair}
    return [first + second for first, second in pairs] + [word for word in phrase if word not in paired]


def joined(words: Iterable[str]) -> str:
    """Returns words so that a phrase's are in a text's if they follow each other there. No word has a space."""
    return f" {' '.join(words)} "


def pattern_for(text: str) -> re.Pattern[str]:
    """Returns the pattern of the words of a folded text, of several the one that is fast for it."""
    if text.isascii():
        return ASCII_WORDS
    return WORDS if BEYOND_BASIC.search(text) else BASIC_WORDS


def folded(text: str) -> str:
    """Returns a text as it is compared, decomposed.

    It is that of its parts one after the other, if each begins with a character that does not extend the one before it.
    """
    if text.isascii():
        return text.lower()
    # Marks go first, since a text can have any number of them, and once more when characters are decomposed.
    plain = _without_ignored(text)
    long_runs = LONG_RUNS_OF_MARKS if BEYOND_BASIC.search(plain) else LONG_RUNS_OF_BASIC_MARKS
    decomposed = unicodedata.normalize("NFKD", long_runs.sub(r"\1", plain))[:SEARCHED_CHARACTERS]
    return NOT_PLAIN.sub(lambda found: PLAIN[ord(found[0])], _without_ignored(decomposed.casefold()))


def _without_ignored(text: str) -> str:
    return BEYOND_BASIC.sub(lambda run: run[0].translate(IGNORED_BEYOND), IGNORED.sub("", text))
