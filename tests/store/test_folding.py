"""Which forms of a word are found by which others, in every script, and what is highlighted."""

import re
from collections.abc import Callable
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metamorphd.store.database import Database
from metamorphd.store.search.earlier import earlier_words_of
from metamorphd.store.search.excerpts import BEFORE, CHARACTERS, excerpt
from metamorphd.store.search.query import phrases_of
from metamorphd.store.search.words import (
    CLUSTER,
    PIECE,
    SEARCHED_CHARACTERS,
    folded,
    joined,
    rarest_of,
    with_pairs,
    words_of,
)

from tests.support.rows import ACME
from tests.support.searching import Vault

# By text and query: what is highlighted, or None where the query does not find the text.
FOUND: list[tuple[str, str, list[str] | None]] = [
    # Latin: case, accents, strokes, ligatures, ß, Turkish.
    ("Das Café ist gut", "CAFE", ["Café"]),
    ("Das Cafe\u0301 ist gut", "café", ["Cafe\u0301"]),
    ("das cafe", "CAFÉ", ["cafe"]),
    ("Việt Nam", "viet", ["Việt"]),
    ("Łódź und Gdańsk", "lodz", ["Łódź"]),
    ("lodz", "Łódź", ["lodz"]),
    ("smørrebrød", "smorrebrod", ["smørrebrød"]),
    ("Đà Nẵng", "da nang", ["Đà", "Nẵng"]),
    ("Ħamrun", "hamrun", ["Ħamrun"]),
    ("Ærø", "aero", ["Ærø"]),
    ("Œuvre", "oeuvre", ["Œuvre"]),
    ("Straße", "STRASSE", ["Straße"]),
    ("STRASSE", "straße", ["STRASSE"]),
    ("GROẞ", "gross", ["GROẞ"]),
    ("İstanbul", "istanbul", ["İstanbul"]),
    ("IŞIK ışık", "isik", ["IŞIK", "ışık"]),
    ("ısı", "ISI", ["ısı"]),
    ("ﬁne ﬂow", "fine flow", ["ﬁne", "ﬂow"]),
    ("Ǆ ǆ", "dz", ["Ǆ", "ǆ"]),
    ("\uff26\uff55\uff4c\uff4c\u3000width", "full", ["\uff26\uff55\uff4c\uff4c"]),
    ("full", "\uff26\uff35\uff2c\uff2c", ["full"]),
    ("\U0001d49clpha", "alpha", ["\U0001d49clpha"]),
    ("x² and ①", "x2 1", ["x²", "①"]),
    ("Foo™", "footm", ["Foo™"]),
    ("Foo™", "foo", None),
    ("½ cup", "1 2", ["½"]),
    ("ðað", "dad", None),
    # Greek.
    ("Ο Οδυσσεύς", "οδυσσευς", ["Οδυσσεύς"]),
    ("ΟΔΥΣΣΕΥΣ", "Οδυσσεύς", ["ΟΔΥΣΣΕΥΣ"]),
    ("ὁ ἄνθρωπος", "ανθρωπος", ["ἄνθρωπος"]),
    ("ᾠδή", "ΩΙΔΗ", ["ᾠδή"]),
    # Cyrillic.
    ("Ещё чай", "еще", ["Ещё"]),
    ("еще чаи", "ЕЩЁ ЧАЙ", ["еще", "чаи"]),
    ("чаи\u0306", "чай", ["чаи\u0306"]),
    ("Київ", "киів", ["Київ"]),
    ("м’ята", "м'ята", ["м’ята"]),
    ("мʼята", "м'ята", ["мʼята"]),
    ("ґанок", "ганок", None),
    # Hebrew, Arabic.
    ("שָׁלוֹם", "שלום", ["שָׁלוֹם"]),
    ("שלום", "שָׁלוֹם", ["שלום"]),
    ("\ufb2aלום", "שלום", ["\ufb2aלום"]),
    ("الْعَرَبِيَّة", "العربية", ["الْعَرَبِيَّة"]),
    ("العربية", "الْعَرَبِيَّة", ["العربية"]),
    ("أحمد إلى", "احمد الى", ["أحمد", "إلى"]),
    ("كتـــاب", "كتاب", ["كتـــاب"]),
    ("\ufee3\ufeae\ufea3\ufe92\ufe8e", "مرحبا", ["\ufee3\ufeae\ufea3\ufe92\ufe8e"]),
    ("می\u200cخواهم", "میخواهم", ["می\u200cخواهم"]),
    ("مدرسة", "مدرسه", None),
    ("على", "علي", None),
    ("شيئ", "شيي", ["شيئ"]),
    ("سال ۱۴۰۳ و ٢٠٢٤", "1403 2024", ["۱۴۰۳", "٢٠٢٤"]),
    # Scripts of India: a vowel is a mark, and is compared. The nukta, a dot that many leave out, is not.
    ("हिन्दी", "हिन्दी", ["हिन्दी"]),
    ("हिन्दी", "हन्दी", None),
    ("हिन्दी", "हिनदी", None),
    ("\u095eिल्म", "फिल्म", ["\u095eिल्म"]),
    ("फ\u093cिल्म", "\u095eिल्म", ["फ\u093cिल्म"]),
    ("क्\u200dष", "क्ष", ["क्\u200dष"]),
    ("தமிழ் மொழி", "தமிழ்", ["தமிழ்"]),
    ("\u0995\u09c7\u09be", "\u0995\u09cb", ["\u0995\u09c7\u09be"]),
    ("१२३", "123", ["१२३"]),
    # Hangul: words are whole.
    ("한국어 단어", "단어", ["단어"]),
    (normalize("NFD", "한국어 단어"), "단어", [normalize("NFD", "단어")]),
    ("한국어 단어", normalize("NFD", "한국어"), ["한국어"]),
    ("한국어를", "한국어", None),
    ("\uffa1\uffc2", "가", ["\uffa1\uffc2"]),
    # Han, kana: any part of a run, by its characters in order.
    ("我们今天去公园散步", "公园", ["公园"]),
    ("我们今天去公园散步", "园", ["园"]),
    ("我们今天去公园散步", "步", ["步"]),
    ("我们今天去公园散步", "今天去公园", ["今天去公园"]),
    ("我们今天去公园散步", "公步", None),
    ("我们今天去公园散步", "散步 今天", ["今天", "散步"]),
    ("公園", "公园", None),
    ("今天去\n公园", "去公园", ["去\n公园"]),
    ("園公、公国", "公園", None),
    ("東に東京、京", "東京", ["東京"]),
    ("東京都", "東京 京都", ["東京都"]),
    ("Python入門2024年", "入門", ["入門"]),
    ("Python入門2024年", "python入門", ["Python入門"]),
    ("Python入門2024年", "2024年", ["2024年"]),
    ("がくせい", "か\u3099くせい", ["がくせい"]),
    ("か\u3099くせい", "がく", ["か\u3099く"]),
    ("かくせい", "がく", None),
    ("がくせい", "かく", None),
    ("ﾊﾟｿｺﾝを買う", "パソコン", ["ﾊﾟｿｺﾝ"]),
    ("パソコンを買う", "ﾊﾟｿｺﾝ", ["パソコン"]),
    ("ハ\u309aソコン", "パソ", ["ハ\u309aソ"]),
    ("ひらがな", "ヒラガナ", None),
    ("\uf900一", "\u8c48", ["\uf900"]),
    ("㌔メートル", "キロメートル", ["㌔メートル"]),
    ("\U00020bb7野家", "\U00020bb7野", ["\U00020bb7野"]),
    # Thai, Lao, Khmer, Myanmar: likewise, with vowels and tones.
    ("วันนี้อากาศดีมาก", "อากาศ", ["อากาศ"]),
    ("ข้าวสวย", "ขาว", None),
    ("ข้าวสวย", "ข้าว", ["ข้าว"]),
    ("ดื่มน้ำเย็น", "น้ำ", ["น้ำ"]),
    ("ພາສາລາວ", "ລາວ", ["ລາວ"]),
    ("ភាសាខ្មែរ", "ខ្មែរ", ["ខ្មែរ"]),
    ("ភាសា\u200bខ្មែរ", "សាខ្មែរ", ["សា\u200bខ្មែរ"]),
    ("မြန်မာစာ", "စာ", ["စာ"]),
    ("๒๕๖๗", "2567", ["๒๕๖๗"]),
    # Adlam is beyond the basic plane.
    ("\U0001e900\U0001e944\U0001e901", "\U0001e922\U0001e923", ["\U0001e900\U0001e944\U0001e901"]),
    # What is invisible, and what is no letter.
    ("soft\u00adhyphen", "softhyphen", ["soft\u00adhyphen"]),
    ("softhyphen", "soft\u00adhyphen", ["softhyphen"]),
    ("zero\u200dwidth\ufeff", "zerowidth", ["zero\u200dwidth\ufeff"]),
    ("don’t", "don't", ["don’t"]),
    ("don't", "dont", None),
    ("Hawaiʻi", "hawai‘i", ["Hawaiʻi"]),
    ("l’amour", "amour", ["amour"]),
    ("snake_case", "case", ["case"]),
    ("am-ufer", '"am ufer"', ["am-ufer"]),
    ("\U0001f989 owl 👩\u200d👧 1\ufe0f\u20e3", "owl 1", ["owl", "1\ufe0f\u20e3"]),
]

FORMS: list[Callable[[str], str]] = [
    str,
    str.upper,
    str.lower,
    str.title,
    str.casefold,
    lambda text: normalize("NFC", text),
    lambda text: normalize("NFD", text),
    lambda text: normalize("NFKC", text),
    lambda text: normalize("NFKD", text),
]
LETTERS = "".join(text for text, _, _ in FOUND)
TEXTS = st.text() | st.text(LETTERS) | st.lists(st.text(LETTERS, max_size=9), max_size=50).map(" ".join)


@pytest.fixture
def acme(database: Database) -> Vault:
    return Vault(database, ACME)


@pytest.mark.parametrize(("text", "query", "highlights"), FOUND)
async def test_a_word_is_found_by_what_is_the_same_without_case_marks_and_forms(
    acme: Vault, text: str, query: str, highlights: list[str] | None
) -> None:
    await acme.add(text, "something else")
    assert await acme.found(query) == ([] if highlights is None else [text])
    assert await acme.highlights(query) == ([] if highlights is None else [highlights])


def is_found(text: str, query: str) -> bool:
    words = words_of(text)
    phrases = phrases_of(query)
    return all(joined(phrase) in joined(words) for phrase in phrases) and {
        word for phrase in phrases for word in rarest_of(phrase)
    } <= set(with_pairs(words))


@given(TEXTS, st.sampled_from(FORMS), st.sampled_from(FORMS))
def test_a_text_finds_itself_by_any_of_its_words_in_any_form(
    text: str, form: Callable[[str], str], other: Callable[[str], str]
) -> None:
    stored = other(text)
    assert words_of(stored) == words_of(text)
    for word in text.split():
        assert is_found(stored, form(word))


@given(TEXTS, st.data())
def test_a_run_is_found_by_any_part_of_it(text: str, data: st.DataObject) -> None:
    words = words_of(text)
    start = data.draw(st.integers(0, len(words)))
    stop = data.draw(st.integers(start, len(words)))
    part = tuple(words[start:stop])
    assert set(rarest_of(part)) <= set(with_pairs(words))


def test_no_character_is_compared_otherwise_in_another_form() -> None:
    # All that Unicode has assigned but ideographs without a decomposition, and private characters.
    codes = (*range(0x3400), *range(0xA000, 0xAC00), *range(0xD7A0, 0xD800), *range(0xF900, 0x17000))
    codes += (*range(0x1AFF0, 0x20000), *range(0x2F800, 0x2FA20), *range(0xE0000, 0xE0200))
    for first in range(0, len(codes), 1024):
        # Nothing composes with what is between them.
        text = "\n".join(f"x{chr(code)}y" for code in codes[first : first + 1024])
        plain = words_of(text)
        assert all(words_of(form(text)) == plain for form in FORMS)
        # What is folded stays as it is.
        assert folded(folded(text)) == folded(text)


@given(TEXTS)
def test_a_text_is_folded_as_its_parts_are(text: str) -> None:
    for pattern in (PIECE, CLUSTER):
        parts = pattern.findall(text)
        assert "".join(parts) == text
        assert "".join(map(folded, parts)) == folded(text)


@given(st.lists(st.text(LETTERS, max_size=9) | st.just("\n" * 60), max_size=99).map(" ".join), st.data())
def test_an_excerpt_shows_what_was_found_and_cuts_no_character_from_its_marks(text: str, data: st.DataObject) -> None:
    words = words_of(text)
    start = data.draw(st.integers(0, len(words)))
    phrase = tuple(words[start : start + data.draw(st.integers(1, 4))])
    if not phrase:
        return
    snippet, highlights = excerpt(text, [phrase])
    shown = snippet.removeprefix("…").removesuffix("…")
    assert len(shown) <= CHARACTERS
    assert highlights
    clusters = {cluster.start() for cluster in CLUSTER.finditer(text)} | {len(text)}
    assert any(text.startswith(shown, at) and at + len(shown) in clusters for at in clusters)
    previous = 0
    for part in highlights:
        assert previous <= part.start < part.end
        previous = part.end
        assert joined(phrase) in joined(words_of(snippet[part.start : part.end])) or part.end >= len(shown)
    first = snippet.index(snippet[highlights[0].start : highlights[0].end])
    assert first <= 2 * BEFORE


def test_a_word_that_begins_where_an_excerpt_ends_is_not_highlighted() -> None:
    text = "word".ljust(CHARACTERS) + "word and more"
    assert [(part.start, part.end) for part in excerpt(text, phrases_of("word"))[1]] == [(0, 4)]


def test_an_excerpt_ends_before_a_character_whose_marks_have_no_room() -> None:
    text = "word " + "x" * (CHARACTERS - 6) + "e\u0301" + " and more"
    assert excerpt(text, phrases_of("word"))[0] == text[: CHARACTERS - 1] + "…"


def test_a_separator_of_any_plane_ends_a_word() -> None:
    for separator in "\u2022", "\U00010100", "\U0001f600":
        assert folded(f"one{separator}two") == "one two"
        assert words_of(f"one{separator}two") == ["one", "two"]


def test_runs_of_marks_of_any_plane_are_cut() -> None:
    # Putting them into order would take time by the square of their number.
    for marks in ("\u0e38\u0e48", "\u0301\u0323", "\U0001133b\U00011070", "\u3099\U00011070", "\U0001d165\U0001d16d"):
        assert len("".join(words_of("a" + marks * 1_000))) <= 9


def test_the_words_by_which_earlier_servers_indexed_do_not_change() -> None:
    text = "Łódź Straße ᾠδή soft\u00adhyphen ışık 東京タワー か\u3099 น้ำ हिन्दी \u095e чай 한국어 don’t Foo™ x²"
    assert earlier_words_of(text) == [
        *("łodz", "strasse", "ωιδη", "soft", "hyphen", "ısık", "東", "京", "タ", "ワ", "ー", "が", "น้ํ", "า", "हिन्दी"),
        *("फ\u093c", "чаи", "한국어", "don", "t", "footm", "x2"),
    ]


def test_a_pattern_of_one_plane_finds_the_same_words() -> None:
    for text, _, _ in FOUND:
        assert words_of(text) == words_of(f"{text} \U00020bb7")[:-1]
        assert re.sub(r"\s", "", text)


@pytest.mark.parametrize("filler", ["e\u0301 ", "\u1112\u1161\u11ab ", "\u0628\u0651\u064e ", "ab "])
def test_the_word_at_which_the_searched_part_of_a_text_ends_is_highlighted(filler: str) -> None:
    before = filler * (SEARCHED_CHARACTERS // len(filler) - 2)
    text = before + " " * (SEARCHED_CHARACTERS - len(before) - 4) + "wordthatgoeson"
    assert words_of(text)[-1] == "word"
    shown, highlights = excerpt(text, phrases_of("word"))
    assert [shown[found.start : found.end] for found in highlights] == ["word"]


@pytest.mark.parametrize("character", ["\u00e9", "\ufdfa", "\ud55c"])
def test_a_word_that_ends_with_the_searched_part_of_its_decomposition_is_highlighted(character: str) -> None:
    text = character * SEARCHED_CHARACTERS
    last = words_of(text)[-1]
    assert excerpt(text, [(last,)])[1]
