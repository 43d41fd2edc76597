"""Media types are recognized by the signature of a file."""

import pytest
from metamorphd.models.media_signatures import STEP_BYTES, is_blank, is_media

from tests.support.media import FILES


@pytest.mark.parametrize("media_type", FILES)
def test_a_file_matches_only_its_own_media_type(media_type: str) -> None:
    # The beginning of a PDF is also valid text, and declared text is not examined further.
    fits = {name for name, data in FILES.items() if is_media(media_type, data)}
    assert fits == ({media_type, "application/pdf"} if media_type == "text/plain" else {media_type})


@pytest.mark.parametrize("media_type", [name for name in FILES if name != "text/plain"])
def test_a_partial_or_misplaced_signature_does_not_match(media_type: str) -> None:
    data = FILES[media_type]
    assert is_media("image/gif", b"GIF87a")
    for other in (data[:2], b" " + data, data[1:]):
        assert not is_media(media_type, other)


@pytest.mark.parametrize("data", [b"a\0b", b"\xff\xfe", "é".encode()[:1], "é".encode("latin-1")])
def test_text_is_utf_8_without_nul(data: bytes) -> None:
    assert not is_media("text/plain", data)


@pytest.mark.parametrize("blank", [b" ", b" \t\n\f\r", b" " * 3 * STEP_BYTES])
def test_text_is_blank_if_it_is_only_ascii_white_space(blank: bytes) -> None:
    assert is_blank(blank)
    for text in (b"a", b"\v", "\N{NO-BREAK SPACE}".encode()):
        assert not is_blank(memoryview(blank + text + blank))
        assert not is_blank(memoryview(blank + text))
