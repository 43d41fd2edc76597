"""Runs the suite of all clients and prints its table: `python -m scripts.conformance`. Fails if a case does.

Further arguments are pytest's, such as `-k typescript`.
"""

import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

SUITE = Path(__file__).parent.parent / "tests" / "clients" / "conformance" / "test_conformance.py"
CASE = re.compile(r"test_the_case_holds\[(?P<subject>[a-z_]+)-(?P<case>[a-z_]+)-(?P<language>[a-z-]+)\]")


def table(report: str) -> str:
    """Returns the table of a JUnit report: a row for each case, a column for each language."""
    languages: dict[str, None] = {}
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for test in ET.fromstring(report).iter("testcase"):  # noqa: S314, as above
        found = CASE.fullmatch(test.attrib["name"])
        if found is None:
            continue
        failed = any(test.find(kind) is not None for kind in ("failure", "error"))
        outcome = "FAILED" if failed else "-" if test.find("skipped") is not None else "yes"
        languages[found["language"]] = None
        rows.setdefault((found["subject"], found["case"]), {})[found["language"]] = outcome
    lines = ["| Subject | Case | " + " | ".join(languages) + " |", "|---" * (2 + len(languages)) + "|"]
    for (subject, case), outcomes in rows.items():
        cells = [subject.replace("_", " "), case.replace("_", " "), *(outcomes.get(each, "") for each in languages)]
        lines.append(f"| {' | '.join(cells)} |")
    passed = (sum(row.get(language) == "yes" for row in rows.values()) for language in languages)
    return "\n".join([*lines, f"| | {len(rows)} cases | " + " | ".join(map(str, passed)) + " |", ""])


if __name__ == "__main__":
    with tempfile.NamedTemporaryFile(suffix=".xml") as written:
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={written.name}", str(SUITE), *sys.argv[1:]]
        run = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        report = Path(written.name).read_text()
    if not report:
        sys.exit(run.stdout.decode())
    sys.stdout.write(table(report))
    sys.exit(run.returncode)
