"""The page for operators follows the deployment guide, and its table of log fields is true."""

import json
import re
from pathlib import Path

import pytest
from metamorph_client.chat.v1.chat_service_pb2 import GetSessionRequest

from tests.docs.pages import prose
from tests.support.caller import calling
from tests.support.paths import ROOT
from tests.support.processes import serving_process
from tests.support.refusal import refused
from tests.support.tables import table

PAGE = ROOT / "docs" / "operating.md"
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


async def test_a_line_of_the_log_has_the_guides_fields_as_the_page_says(tmp_path: Path) -> None:
    rows = {row[0].strip("`"): row[1] for row in table(PAGE, "The guide's field")}
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
