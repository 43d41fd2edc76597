"""The generated pages match their sources."""

import pytest

from scripts.docs.__main__ import PAGES
from tests.support.paths import ROOT


@pytest.mark.parametrize("page", PAGES)
def test_a_generated_page_is_up_to_date(page: str) -> None:
    assert (ROOT / page).read_text() == PAGES[page](), "run `make generate`"
