"""The findings of `metamorph check`: of settings before a deployment, or of a running server."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from metamorphd.checks.configuration import bad, check_settings, of_faults
from metamorphd.checks.env_file import EnvFile, overridden, read_env_file
from metamorphd.checks.names import unknown_names
from metamorphd.cli.connection import over_named_scheme
from metamorphd.models.finding import Finding, failed
from metamorphd.settings.client import ClientSettings
from metamorphd.settings.environment import variables
from metamorphd.settings.loading import load_client, load_faulty, load_paths, variable_names

DEFAULT_FILE = Path(".env")


def settings_findings(env_file: Path | None) -> list[Finding]:
    """Returns what is found of the environment and a file of settings, `.env` by default. The environment wins."""
    if env_file is not None and not env_file.is_file():
        # Reading it twice would find nothing the second time.
        return [failed("env-file", f"{env_file} is no regular file", "copy it to a file and check that")]
    path = env_file or DEFAULT_FILE
    file = read_env_file(path) if path.is_file() else None
    if file is not None and not file.readable:
        return list(file.findings)
    findings = name_findings(file, explicit=env_file is not None)
    settings, faults = load_faulty(path)
    findings += of_faults(faults)
    if settings is not None:
        findings += check_settings(settings, today=datetime.now(UTC).date())
    return findings


def start_findings() -> list[Finding]:
    """Returns what an operator should know of the names in the environment and in `.env` when a server starts."""
    return bad(name_findings(read_env_file(DEFAULT_FILE) if DEFAULT_FILE.is_file() else None))


def name_findings(file: EnvFile | None, *, explicit: bool = False) -> list[Finding]:
    """Returns what is found of the names in the environment and in a file, if there is one.

    If the file is `explicit`, the names that the environment overrides are found too.
    """
    given, known = variables(), variable_names()
    if file is None:
        return list(unknown_names(given, known=known, whole=False))
    findings = [*file.findings, *unknown_names(file.values, known=known, whole=True)]
    findings += bad(unknown_names(given.keys() - file.values.keys(), known=known, whole=False))
    if explicit:
        findings += overridden(file.values, given)
    return findings


def chosen_target(target: str | None, *, asked: bool) -> str | None:
    """Returns the server to check, or None if it is settings that should be checked.

    METAMORPH_TARGET chooses a server only in the environment: a `.env` that is yet to be deployed has it too.
    """
    if target:
        return target
    if not asked and not variables().get("METAMORPH_TARGET"):
        return None
    client = load_client()
    return client.target if "target" in client.model_fields_set else f"localhost:{load_paths().grpc_port}"


def server_findings(target: str, *, http: str | None, settings: ClientSettings) -> list[Finding]:
    """Returns what is found of a running server."""
    from metamorphd.cli.trying import running_findings

    settings = over_named_scheme(settings.model_copy(update={"target": target}))
    http = http or f"http://{settings.target.rpartition(':')[0]}:{load_paths().port}"
    return asyncio.run(running_findings(target=settings.target, http=http, settings=settings))
