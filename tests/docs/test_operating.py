"""The page for operators follows the deployment guide, and its tables are true."""

import json
import re
from pathlib import Path

import pytest
from metamorph.chat.v1.chat_service_pb2 import GetSessionRequest

from bench.volumes import GUIDE, TABLES, User, Volumes, volumes
from tests.docs.pages import prose
from tests.support.caller import calling
from tests.support.paths import ROOT
from tests.support.processes import serving_process
from tests.support.refusal import refused

PAGE = ROOT / "docs" / "operating.md"
# Sizes depend on identifiers, and a little on how a reply is divided into events.
TOLERANCE = 0.25
# The guide's headings, which is not in the tree.
SECTIONS = {
    "Railway Setup": [
        "Prerequisites",
        "Step 1: Create Project",
        "Step 2: Configure Service",
        "Step 3: Create Volume",
        "Step 4: Configure railway.toml",
        "Step 5: Set Environment Variables",
        "Step 6: Deploy",
    ],
    "Volume Configuration": ["Volume Structure", "SQLite Configuration", "Volume Size Guidelines"],
    "Environment Variables": [
        "Required Variables",
        "Security Variables",
        "Optional Variables",
        "Vercel Integration Variables",
        "Generating Secrets",
    ],
    "Database Backup and Restore": [
        "Manual Backup",
        "Automated Backup Script",
        "Restore from Backup",
        "Export Database Locally",
    ],
    "Monitoring": ["Health Check Endpoint", "Recommended Monitoring", "Logging", "Railway Logs"],
    "Scaling Considerations": [
        "Current Architecture Limits",
        "When to Scale",
        "Scaling Options",
        "Performance Optimization",
    ],
    "Security Checklist": ["Pre-Deployment", "Post-Deployment", "Ongoing", "Security Headers", "Rate Limiting"],
    "Troubleshooting": [
        "Database Lock Issues",
        "Volume Not Mounting",
        "Authentication Failing",
        "Memory Issues",
    ],
}


def table(first_column: str) -> list[list[str]]:
    """Returns the rows of the table whose first column has this heading."""
    lines = prose(PAGE).splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith(f"| {first_column} |")) + 2
    rows = []
    for line in lines[begin:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def stated_bytes() -> dict[str, int]:
    return {kind: int(size.replace(",", "")) for kind, size in table("What is stored")}


def test_the_page_has_the_guides_sections_in_its_order_and_no_others() -> None:
    headings = re.findall(r"^## (.+)$", prose(PAGE), re.MULTILINE)
    assert headings == list(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_has_the_guides_headings_in_its_order(section: str) -> None:
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", prose(PAGE), re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^### (.+)$", text, re.MULTILINE)
    # Ours may be among them.
    assert [heading for heading in headings if heading in SECTIONS[section]] == SECTIONS[section]


def test_there_is_something_below_each_heading() -> None:
    assert re.findall(r"^(### .+)\n+(?=^#|\Z)", PAGE.read_text(), re.MULTILINE) == []


@pytest.mark.timeout(300)
def test_the_stated_bytes_are_those_of_a_database_that_a_server_writes() -> None:
    measured = Volumes(step=lambda _: None).measured()
    stated = stated_bytes()
    assert list(stated) == list(TABLES) == list(measured)
    wrong = {kind: (stated[kind], size) for kind, size in measured.items() if abs(stated[kind] / size - 1) > TOLERANCE}
    assert wrong == {}


def test_the_stated_volumes_follow_from_the_stated_bytes() -> None:
    stated = table("Users")
    computed = [
        [f"{volume.users:,}", f"{volume.database / 1e9:.2f} GB", f"{volume.week} GB", f"{volume.day} GB"]
        for volume in volumes(stated_bytes())
    ]
    assert [row[:4] for row in stated] == computed
    assert [int(row[4].split()[0]) for row in stated] == list(GUIDE.values())


def test_the_page_states_what_a_user_is_taken_for() -> None:
    user, text = User(), " ".join(prose(PAGE).split())
    assert f"a vault with {user.sessions} sessions, each used on one day, and {user.turns} turns" in text
    assert f"who make {user.turns_a_day} turns a day" in text


async def test_a_line_of_the_log_has_the_guides_fields_as_the_page_says(tmp_path: Path) -> None:
    rows = {row[0].strip("`"): row[1] for row in table("The guide's field")}
    assert list(rows) == ["level", "message", "vaultId", "endpoint", "duration"]
    with serving_process(tmp_path) as server:
        async with calling(server.target) as alice:
            await refused(alice.chat.GetSession(GetSessionRequest(session_id="none"), metadata=alice.metadata))
        server.process.terminate()
        server.process.wait(20)
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (line,) = (line for line in lines if line["message"] == "call")
    ours = {field: re.match(r"`(\w+)`", rows[field]) for field in rows}
    values = {field: line[match[1]] for field, match in ours.items() if match}
    assert isinstance(values.pop("duration"), float)
    endpoint = "/metamorph.chat.v1.ChatService/GetSession"
    assert values == {"level": "info", "message": "call", "vaultId": "acme", "endpoint": endpoint}
    assert all(f"`{value}`" in rows[field] for field, value in values.items() if field != "vaultId")
    # Besides them, the line has those that the page names.
    named = re.search(r"Besides them, a line has (.+?)\.", prose(PAGE))
    assert named is not None
    assert set(re.findall(r"`(\w+)`", named[1])) == line.keys() - values.keys() - {"duration"}
