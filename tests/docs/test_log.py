"""The tables of the log name every kind of what changes, and every verb."""

import re
from pathlib import Path

from metamorphd.models.change import AUDITED, ChangedResource, ChangeVerb

from tests.docs.pages import spans
from tests.support.paths import ROOT
from tests.support.tables import table

WATCHING, AUDIT = ROOT / "docs" / "watching.md", ROOT / "docs" / "audit.md"


def test_the_page_about_watching_has_every_kind_that_callers_can_watch_and_every_verb_of_them() -> None:
    assert _names(WATCHING, 0) == {kind.name for kind in set(ChangedResource) - AUDITED}
    assert _names(WATCHING, 1) == {verb.name for verb in set(ChangeVerb) - {ChangeVerb.REFUSED}}


def test_the_page_about_the_audit_has_every_other_kind_and_verb() -> None:
    named = {name.removeprefix("CHANGED_RESOURCE_") for name in spans(AUDIT)}
    assert named >= {kind.name for kind in AUDITED} | {ChangeVerb.REFUSED.name}


def _names(page: Path, column: int) -> set[str]:
    """Returns the names of values in a column of the page's table of the log."""
    cells = [row[column] for row in table(page, "`CHANGED_RESOURCE_…`")]
    return {name.removeprefix("CHANGED_RESOURCE_") for cell in cells for name in re.findall(r"`([A-Z_]+)`", cell)}
