"""The checks of settings, before a deployment."""

from datetime import UTC, datetime
from pathlib import Path

from metamorphd.checks.configuration import bad, check_settings, of_faults
from metamorphd.checks.env_file import overridden, read_env_file
from metamorphd.checks.names import unknown_names
from metamorphd.models.finding import Finding, failed
from metamorphd.settings import environment, load_faulty, variable_names

DEFAULT_FILE = Path(".env")


def settings_findings(env_file: Path | None) -> list[Finding]:
    """Returns what is found of the environment and a file of settings, `.env` by default. The environment wins."""
    if env_file is not None and not env_file.is_file():
        # Reading it twice would find nothing the second time.
        return [failed("env-file", f"{env_file} is no regular file", "copy it to a file and check that")]
    path = env_file or DEFAULT_FILE
    findings = name_findings(path, explicit=env_file is not None)
    settings, faults = load_faulty(path)
    findings += of_faults(faults)
    if settings is not None:
        findings += check_settings(settings, today=datetime.now(UTC).date())
    return findings


def name_findings(path: Path = DEFAULT_FILE, *, explicit: bool = False) -> list[Finding]:
    """Returns what is found of the names in the environment and in a file, if there is one.

    If the file is `explicit`, the names that the environment overrides are found too.
    """
    given, known = environment(), variable_names()
    if not path.is_file():
        return list(unknown_names(given, known=known, whole=False))
    file = read_env_file(path)
    findings = [*file.findings, *unknown_names(file.values, known=known, whole=True)]
    findings += bad(unknown_names(given.keys() - file.values.keys(), known=known, whole=False))
    if explicit:
        findings += overridden(file.values, given)
    return findings
