"""The static site: whole, without a broken link, and without a request to another host."""

import json
import re
from pathlib import Path

import pytest

from scripts import site
from tests.support.paths import ROOT
from tests.support.programs import require

# What a browser loads by itself. A link is followed by its reader only.
LOADED = re.compile(r'<(?:script|img|iframe|source|link)\b[^>]*\b(?:src|href)="((?:https?:)?//[^"]+)"')
MISSING = "missing" + ".md"


@pytest.fixture(scope="module", autouse=True)
def mkdocs() -> None:
    require("python", hint="`make tools` installs mkdocs", installed=site.MKDOCS)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    site.build(directory)
    return directory


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    site.stage(tmp_path)
    return tmp_path


def test_every_page_is_on_the_site(built: Path) -> None:
    names = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    expected = {name.parent if name.name == "README" else name for name in names} | {Path("CHANGELOG"), Path()}
    assert {path.parent.relative_to(built) for path in built.rglob("index.html")} >= expected


def test_a_browser_that_shows_it_asks_no_other_host(built: Path) -> None:
    pages = [*built.rglob("*.html")]
    styles = [*built.rglob("*.css")]
    assert pages
    assert styles
    assert {page.name: found for page in pages if (found := LOADED.findall(page.read_text()))} == {}
    assert [style.name for style in styles if re.search(r"url\([\"']?(?:https?:)?//|@import", style.read_text())] == []


def test_its_search_finds_a_reason_a_method_and_a_setting(built: Path) -> None:
    entries = json.loads((built / "search/search_index.json").read_text())["docs"]
    titles = {entry["location"]: entry["title"] for entry in entries}
    assert titles["errors/#branch_busy"] == "BRANCH_BUSY"
    assert "SendMessage" in titles.values()
    assert any("RATE_LIMIT_REQUESTS" in entry["text"] for entry in entries if entry["location"].startswith("settings/"))


def test_the_first_page_is_the_readme_and_its_links_are_the_sites(built: Path) -> None:
    page = (built / "index.html").read_text()
    assert "make run" in page
    assert 'href="getting-started/"' in page


def test_a_link_to_a_source_file_becomes_text(built: Path) -> None:
    page = (built / "api/index.html").read_text()
    assert "options in proto/metamorph." in page


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (f"[x]({MISSING})", "the target is not found"),
        ("[x](errors.md#no_such_reason)", "does not contain an anchor"),
        ("[x](#no-such-heading)", "no such anchor"),
        ("[x](/errors.md)", "absolute link"),
    ],
)
def test_a_broken_link_fails(staged: Path, tmp_path_factory: pytest.TempPathFactory, broken: str, said: str) -> None:
    with (staged / "docs/chat.md").open("a") as page:
        page.write(f"\n{broken}\n")
    with pytest.raises(SystemExit, match=said):
        site.render(staged, tmp_path_factory.mktemp("broken"))


def test_a_page_without_a_place_in_the_navigation_fails(staged: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (staged / "docs" / MISSING).write_text("# Missing\n")
    with pytest.raises(SystemExit, match=re.escape(MISSING)):
        site.render(staged, tmp_path_factory.mktemp("missing"))
