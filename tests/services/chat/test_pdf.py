"""Whether a PDF is whole and encrypted, and how many pages it has."""

import time

import pytest
from metamorphd.services.chat.pdf import is_encrypted, is_whole, pages_of

from tests.support.media import pdf

STEP = 256 * 1024
LARGEST = 20 * 1024 * 1024
# As a linearized document begins: the end of its first part names no place.
FIRST_PART = b"%PDF-1.7\n1 0 obj<</Linearized 1/L 9999>>endobj\ntrailer<</Prev 99>>\nstartxref\n0\n%%EOF\n"


def in_a_stream(entries: bytes) -> bytes:
    """Returns a document whose trailer is that of a cross-reference stream."""
    return b"%PDF-1.7\n5 0 obj<</Type/XRef/Root 1 0 R" + entries + b">>stream\n/Encrypt 4 0 R\nendstream\nstartxref 9"


def linearized(entries: bytes, *, table: int = 400_000) -> bytes:
    """Returns a document whose end names the table at its beginning, of `table` bytes."""
    first = (
        b"%PDF-1.7\n" + b"xref\n0 1\n".ljust(table) + b"trailer<</Root 1 0 R" + entries + b">>\nstartxref\n0\n%%EOF\n"
    )
    return first + bytes(STEP) + b"trailer<</Size 4>>\nstartxref\n9\n%%EOF"


@pytest.mark.parametrize("after", [b"", b"\r\n" * 1000, bytes(STEP - 5), bytes(STEP - 300), b"x" * 3 * STEP])
def test_a_pdf_is_whole_whatever_follows_it(after: bytes) -> None:
    assert is_whole(pdf() + after)
    assert is_whole(memoryview(bytearray(pdf() + after)))
    assert is_whole(FIRST_PART + pdf() + after)
    # Wrong, and viewers look for the table.
    assert is_whole(pdf().replace(b"startxref\n", b"startxref\n0 ") + after)


def test_words_are_found_wherever_a_step_ends() -> None:
    for size in range(STEP - 24, STEP + 1):
        assert is_whole(pdf() + bytes(size))
        assert is_encrypted(linearized(b"/Encrypt 4 0 R", table=size))
        assert pages_of(pdf().replace(b"\n2 0 obj", bytes(size - 50) + b"\n2 0 obj")) == 1


@pytest.mark.parametrize("data", [b"%PDF-1.7\n", pdf()[: pdf().rindex(b"startxref") + 9], FIRST_PART + b"4 0 obj<<>>"])
def test_a_pdf_without_its_end_is_not_whole(data: bytes) -> None:
    assert not is_whole(data)
    assert not is_encrypted(data)


@pytest.mark.parametrize("encrypt", [b"/Encrypt 4 0 R", b"/Encrypt\n4\n0\nR", b"/ID[<1>]/Encrypt<</Filter/Standard>>"])
def test_an_encrypted_pdf_says_so_in_its_trailer(encrypt: bytes) -> None:
    for data in (pdf(trailer=encrypt), in_a_stream(encrypt), linearized(encrypt)):
        assert is_whole(data)
        assert is_encrypted(data)
    # The place of the table is wrong.
    assert is_encrypted(pdf(trailer=encrypt).replace(b"startxref\n", b"startxref\n7"))


def test_a_pdf_that_mentions_encryption_elsewhere_is_not_encrypted() -> None:
    for entries in (b"/Info(/Encrypt)", b"/EncryptMetadata 4 0 R"):
        assert not any(map(is_encrypted, (pdf(trailer=entries), in_a_stream(entries), linearized(entries))))
    assert not is_encrypted(b"%PDF-1.7\n5 0 obj<</Encrypt 4 0 R>>endobj\nstartxref 7")
    assert not is_encrypted(pdf() + b"/Encrypt 4 0 R")
    # A revision replaces the trailer before it.
    first = pdf(trailer=b"/Encrypt 4 0 R")
    assert not is_encrypted(first + b"xref\n0 0\ntrailer<</Size 4>>\nstartxref\n%d" % len(first))


@pytest.mark.parametrize("pages", [1, 600, 5000])
@pytest.mark.parametrize("between", [0, STEP - 70, 3 * STEP])
def test_the_pages_of_a_pdf_are_counted(pages: int, between: int) -> None:
    data = pdf(pages=pages).replace(b"\n2 0 obj", bytes(between) + b"\n2 0 obj")
    assert pages_of(data) == pages
    assert pages_of(memoryview(bytearray(data + bytes(STEP)))) == pages
    # A revision has fewer pages.
    revision = b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\nxref\n0 0\ntrailer<</Root 1 0 R>>\nstartxref\n%d"
    assert pages_of(data + revision % (len(data) + 49)) == 1


def test_the_pages_of_a_linearized_pdf_are_those_at_its_beginning_if_others_are_compressed() -> None:
    def of(entries: bytes, rest: bytes = in_a_stream(b"")) -> bytes:
        """Returns a document whose length has the place of a plus sign."""
        data = b"%PDF-1.7\n1 0 obj<<" + entries + b">>endobj\n" + rest
        return data.replace(b"+", b"%d" % (len(data) + 2))

    assert pages_of(of(b"/Linearized 1/L +/N 7/O 3")) == 7
    assert pages_of(of(b"/N 7 /L + /Linearized 1.0")) == 7
    # What a page tree says goes first.
    assert pages_of(of(b"/Linearized 1/L +/N 7", pdf(pages=3).replace(b"%PDF-1.7\n1 0 obj", b"\n1 0 obj"))) == 3
    assert pages_of(of(b"/Linearized 1/L +/N 7") + b"\n") == 0
    for entries in (
        b"/L +/N 7",
        b"/Linearized 1/N 7",
        b"/Linearized 1/L +",
        b"/Linearized 1/L +>>endobj 2 0 obj<</N 7",
    ):
        assert pages_of(of(entries)) == 0


@pytest.mark.parametrize("space", [b" ", b"\0", b"\t", b"\n", b"\f", b"\r"])
def test_the_pages_of_a_pdf_are_counted_whatever_space_is_in_the_names_of_its_objects(space: bytes) -> None:
    assert pages_of(pdf(pages=3).replace(b"\n2 0 obj", space.join((b"", b"2", b"0", b"obj")))) == 3


def test_the_pages_of_a_pdf_that_states_them_where_it_is_compressed_are_not_counted() -> None:
    for data in (in_a_stream(b""), pdf().replace(b"\n2 0 obj", b"\n12 0 obj"), pdf().replace(b"/Catalog", b"/Other")):
        assert pages_of(data) == 0
    for count in (b"/Count 9 0 R>>", b">>endobj\n9 0 obj<</Type/Outlines/Count 9>>"):
        assert pages_of(pdf().replace(b"/Count 1>>", count)) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"%PDF-" + bytes(LARGEST),
        b"%PDF-startxref" + b" " * LARGEST,
        b"%PDF-\nxref\n" + b"startxre" * (LARGEST // 8) + b"startxref 6",
        b"%PDF-" + b"1" * LARGEST + b"startxref 6",
        b"%PDF-" + b" " * LARGEST + b"startxref 6",
        pdf() + b"11 0 obj " * (LARGEST // 9) + b"trailer<</Root 1 0 R>>startxref 6",
        pdf() + b"1 0 obj " * (LARGEST // 8) + b"trailer<</Root 1 0 R>>startxref 6",
        pdf() + bytes(LARGEST),
        pdf().replace(b"\n2 0 obj", b"\n3 0 obj") + b"2 0 " * (LARGEST // 4),
        b"%PDF-\n1 0 obj" + b"/Encrypt " * (LARGEST // 9) + b"startxref 6",
    ],
    ids=[
        "nothing",
        "spaces after",
        "almost",
        "digits",
        "spaces before",
        "other objects",
        "objects",
        "zeros",
        "numbers",
        "names",
    ],
)
def test_the_largest_pdf_is_read_in_a_moment(data: bytes) -> None:
    began = time.thread_time()
    is_whole(data)
    is_encrypted(data)
    pages_of(data)
    assert time.thread_time() - began < 0.2
