"""The generated pages match their sources."""

import re

import pytest

from scripts.docs.__main__ import PAGES
from scripts.docs.errors import RETRIES, advice, reason_comments
from scripts.docs.links import methods
from tests.support.paths import ROOT


@pytest.mark.parametrize("page", PAGES)
def test_a_generated_page_is_up_to_date(page: str) -> None:
    assert (ROOT / page).read_text() == PAGES[page](), "run `make generate`"


@pytest.mark.parametrize("reason", reason_comments())
def test_every_reason_has_a_cure(reason: str) -> None:
    cure = advice(reason, reason_comments()[reason]).cure
    assert re.match(r"[A-Z].*\.$", cure), cure


@pytest.mark.parametrize(
    "comment",
    [
        "NOT_FOUND (name). No such thing. Retry: no.",
        "NOT_FOUND (name). No such thing. Cure: Make one.",
        "NOT_FOUND (name). No such thing. Retry: perhaps. Cure: Make one.",
        "No such thing. Retry: no. Cure: Make one.",
        "NOT_FOUND. Retry: no. Cure: Make one.",
    ],
)
def test_a_reason_without_a_cure_is_refused(comment: str) -> None:
    with pytest.raises(ValueError, match="THING_NOT_FOUND needs"):
        advice("THING_NOT_FOUND", comment)


def test_every_way_of_repeating_is_used_and_explained() -> None:
    assert {advice(reason, comment).retry for reason, comment in reason_comments().items()} == set(RETRIES)


def test_every_method_and_type_has_an_anchor_that_occurs_once() -> None:
    page = PAGES["docs/api.md"]()
    anchors = re.findall(r'^<a id="([\w-]+)"></a>$', page, re.MULTILINE)
    assert len(anchors) == len(set(anchors)) > len(methods())
    assert {"metamorph-chat-v1-chatservice-sendmessage", "metamorph-chat-v1-turnevent"} <= set(anchors)
    assert set(re.findall(r"\(#([\w-]+)\)", page)) <= set(anchors)
