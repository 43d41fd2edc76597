"""Pages name only what there is."""

import re
from pathlib import Path

import pytest
from metamorph.api.v1.error_reason_pb2 import ErrorReason
from metamorphd.cli import cli
from metamorphd.settings import ClientSettings, Settings

from tests.docs.pages import PAGES, anchors, blocks, prose, spans
from tests.support.paths import ROOT

DECISIONS = sorted(ROOT.glob("docs/decisions/*.md"))
SETTINGS = {name.upper() for name in Settings.model_fields} | {
    f"METAMORPH_{name.upper()}" for name in ClientSettings.model_fields
}
REASONS = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.DESCRIPTOR.values_by_name}
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def test_the_pages_are_found() -> None:
    assert {path.name for path in PAGES} >= {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"}
    assert DECISIONS


@each_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
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
def test_every_make_target_named_is_one(page: Path) -> None:
    named = {target for span in spans(page) for target in re.findall(r"^make ([a-z]+)", span, re.MULTILINE)}
    assert named <= TARGETS


@each_page
def test_every_command_named_is_one(page: Path) -> None:
    named = {
        command
        for span in spans(page)
        for command in re.findall(r"(?:^|bin/|\$\()metamorph ([a-z]+)", span, re.MULTILINE)
    }
    assert named <= set(cli.commands)


@each_page
def test_every_setting_named_is_one(page: Path) -> None:
    shell = {name for block in blocks(page) for name in re.findall(r"^([A-Z_]+)=", block.text, re.MULTILINE)}
    named = {name for span in spans(page) for name in re.findall(r"(?<![\w$])[A-Z]+(?:_[A-Z]+)+\b", span)}
    assert named - shell <= SETTINGS | REASONS


def test_the_readme_names_every_make_target() -> None:
    named = set(re.findall(r"`make ([a-z]+)`", (ROOT / "README.md").read_text()))
    assert named | {"help", "install"} == TARGETS


def test_the_tree_in_the_readme_is_there() -> None:
    (tree,) = (block for block in blocks(ROOT / "README.md") if block.language == "text")
    places = [line.split()[0] for line in tree.text.splitlines()]
    assert [place for place in places if not (ROOT / place).is_dir()] == []


def test_the_readme_opens_with_two_commands() -> None:
    text = prose(ROOT / "README.md")
    opening = text.split("\n\n")[1]
    assert len(re.findall(r"\.(?:\s|$)", opening)) == 2
    assert blocks(ROOT / "README.md")[0].text == "make run\nmake test\n"


def test_decisions_are_numbered_without_gaps() -> None:
    assert [path.name[:4] for path in DECISIONS] == [f"{number:04}" for number in range(1, len(DECISIONS) + 1)]


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_its_parts_on_one_page(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert re.fullmatch(rf"# {int(page.name[:4])}\. .+", lines[0])
    assert [line for line in lines if line.startswith("## ")] == ["## Context", "## Decision", "## Consequences"]
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 120


def test_the_changelog_has_what_is_not_released() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
