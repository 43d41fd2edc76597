"""Everything that the pages refer to exists."""

import configparser
import re
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pool
from metamorph_client.api.v1.error_reason_pb2 import ErrorReason
from metamorphd.cli import cli
from metamorphd.edge.methods import SERVICES
from metamorphd.settings.client import ClientSettings
from metamorphd.settings.server import Settings

from tests.docs.pages import PAGES, README, anchors, blocks, prose, spans
from tests.support.paths import ROOT

LONGEST_README = 120
DECISIONS = sorted(ROOT.glob("docs/decisions/0*.md"))
SETTINGS = {name.upper() for name in Settings.model_fields} | {
    f"METAMORPH_{name.upper()}" for name in ClientSettings.model_fields
}
REASONS = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.DESCRIPTOR.values_by_name}
CODES = {code.name for code in grpc.StatusCode}
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
ARCHITECTURE = ROOT / "docs" / "architecture.md"
LAYER_COLUMNS = ("rooms", "job", "touches")
# Directories that the path of a source file may be relative to.
ROOTS = [ROOT, ROOT / "server" / "metamorphd", ROOT / "clients", ROOT / "tests", ROOT / "third_party/proto"]
# Source trees whose comments may refer to pages.
SOURCES = ["server", "proto", "clients/python", "clients/go", "tests", "harness", "bench", "scripts", ".railway"]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def enum_values() -> set[str]:
    """Returns the values of every enum in the contract, for example `TURN_STATUS_RUNNING`."""
    files = {descriptor_pool.Default().FindFileByName(service.file.name) for service in SERVICES}
    for file in list(files):
        files |= set(file.dependencies)
    return {
        value
        for file in files
        if file.package.startswith("metamorph.")
        for enum in file.enum_types_by_name.values()
        for value in enum.values_by_name
    }


def test_pages_are_found() -> None:
    assert {path.name for path in PAGES} >= {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "architecture.md"}
    assert DECISIONS


@each_page
def test_every_relative_link_resolves(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path) if path else page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)
    assert broken == []


@each_page
def test_every_make_target_named_exists(page: Path) -> None:
    named = {target for span in spans(page) for target in re.findall(r"^make ([a-z]+)", span, re.MULTILINE)}
    assert named <= TARGETS


@each_page
def test_every_command_named_exists(page: Path) -> None:
    named = {
        command
        for span in spans(page)
        for command in re.findall(r"(?:^|bin/|\$\()metamorph ([a-z]+)", span, re.MULTILINE)
    }
    assert named <= set(cli.commands)


@each_page
def test_every_constant_named_is_a_setting_or_an_enum_value(page: Path) -> None:
    shell = {name for block in blocks(page) for name in re.findall(r"^([A-Z_]+)=", block.text, re.MULTILINE)}
    named = {name for span in spans(page) for name in re.findall(r"(?<![\w$])[A-Z]+(?:_[A-Z]+)+\b", span)}
    assert named - shell <= SETTINGS | REASONS | CODES | enum_values()


@each_page
def test_every_source_file_named_exists(page: Path) -> None:
    named = {
        path
        for path in re.findall(r"`([\w.-]+(?:/[\w.-]+)*/?)`", prose(page))
        if path.endswith("/") or re.search(r"/.*\.(py|proto|md|sql|toml|json|js|go)$", path)
    }
    assert [path for path in sorted(named) if not any((root / path).exists() for root in ROOTS)] == []


def sources() -> list[Path]:
    paths = (path for tree in SOURCES for path in sorted((ROOT / tree).rglob("*")))
    return [path for path in paths if path.suffix in (".py", ".proto", ".go", ".sql") and "_pb2" not in path.name]


def test_every_page_named_in_the_sources_exists() -> None:
    missing = [
        f"{path.relative_to(ROOT)}: {page}"
        for path in sources()
        for page in re.findall(r"(?<![\w/.*-])(?:[\w-]+/)*[\w-]+\.md\b", path.read_text())
        if not any(place.exists() for place in (ROOT / page, ROOT / "docs" / page))
    ]
    assert missing == []


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= LONGEST_README


def test_the_readme_links_to_every_page_of_docs() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+)", README.read_text()))
    assert {str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md")} <= linked


def test_contributing_names_every_make_target() -> None:
    named = set(re.findall(r"`make ([a-z]+)`", (ROOT / "CONTRIBUTING.md").read_text()))
    assert named | {"help", "install"} == TARGETS


def test_the_tree_in_the_architecture_page_exists() -> None:
    (tree,) = (block for block in blocks(ARCHITECTURE) if block.language == "text")
    places = [line.split()[0] for line in tree.text.splitlines()]
    assert [place for place in places if not (ROOT / place).exists()] == []


def import_contracts() -> configparser.ConfigParser:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    return contracts


def rows(page: Path) -> list[list[str]]:
    """Returns the cells of every table row of a page."""
    return [re.findall(r"(?<=\| )[^|]+(?= \|)", line) for line in prose(page).splitlines() if line.startswith("| ")]


def test_the_architecture_page_lists_the_enforced_layers() -> None:
    enforced = import_contracts()["importlinter:contract:layers"]["layers"].split("\n")
    layers = [re.findall(r"`(\w+)`", row[0]) for row in rows(ARCHITECTURE) if len(row) == len(LAYER_COLUMNS)]
    assert [layer for layer in layers if layer] == [line.split(" | ") for line in enforced if line]


def test_the_architecture_page_lists_the_enforced_import_restrictions() -> None:
    contracts = import_contracts()
    protected = [contracts[name] for name in contracts.sections() if contracts[name].get("type") == "protected"]
    enforced = {one["protected_modules"].strip(): one["allowed_importers"].split() for one in protected}
    listed = {row[0].strip("`"): re.findall(r"`([\w.]+)`", row[1]) for row in rows(ARCHITECTURE) if len(row) == 2}
    assert {module: importers for module, importers in listed.items() if importers} == enforced


def test_decisions_are_numbered_without_gaps() -> None:
    assert [path.name[:4] for path in DECISIONS] == [f"{number:04}" for number in range(1, len(DECISIONS) + 1)]


def test_the_index_lists_every_decision_by_title() -> None:
    index = (ROOT / "docs/decisions/README.md").read_text()
    listed = re.findall(r"^\| (\d+) \| \[(.+)\]\((.+)\) \| \S.* \|$", index, re.MULTILINE)
    titles = [page.read_text().partition("\n")[0].removeprefix("# ").split(". ", 1) for page in DECISIONS]
    expected = [(number, title, page.name) for (number, title), page in zip(titles, DECISIONS, strict=True)]
    assert listed == expected


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_all_its_sections_and_fits_on_a_page(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert re.fullmatch(rf"# {int(page.name[:4])}\. .+", lines[0])
    assert [line for line in lines if line.startswith("## ")] == ["## Context", "## Decision", "## Consequences"]
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 120


def test_the_changelog_has_an_unreleased_section() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
