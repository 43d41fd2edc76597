"""A file of settings as it is read before a deployment."""

from pathlib import Path

import pytest
from metamorphd.checks.env_file import overridden, read_env_file


@pytest.mark.parametrize(("lines", "times"), [("PORT=3001", 0), ("PORT=1\nport=2", 2), ("PORT=1\nPORT=2\nPORT=3", 3)])
def test_a_name_that_is_set_more_than_once_is_found_and_the_last_one_counts(
    tmp_path: Path, lines: str, times: int
) -> None:
    file = tmp_path / ".env"
    file.write_text(lines)
    read = read_env_file(file)
    assert [finding.what for finding in read.findings if "times" in finding.what] == (
        [f"PORT is set {times} times in {file}, and the last one counts"] if times else []
    )
    assert read.values == {"PORT": lines.rpartition("=")[2]}


@pytest.mark.parametrize(("line", "secret"), [("PORT=1", False), ("EMBLEM_JWT_SECRET=", False), ("API_KEY=a", True)])
def test_only_a_file_with_secrets_must_not_be_read_by_others(tmp_path: Path, line: str, secret: bool) -> None:
    file = tmp_path / ".env"
    file.write_text(line)
    file.chmod(0o644)
    assert any("chmod" in finding.remedy for finding in read_env_file(file).findings) is secret
    file.chmod(0o600)
    assert not any("chmod" in finding.remedy for finding in read_env_file(file).findings)


def test_only_a_value_that_the_environment_replaces_was_not_checked() -> None:
    values = {"PORT": "1", "LOG_LEVEL": "info", "NODE_ENV": "test"}
    found = overridden(values, {"PORT": "2", "LOG_LEVEL": "info", "HOME": "/root"})
    assert [finding.what.partition(" ")[0] for finding in found] == ["PORT"]
