"""`metamorph check`."""

import json
import sys
from pathlib import Path

import click


@click.command()
@click.option(
    "--env-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of settings to check.  [default: .env, if there is one]",
)
@click.option("--strict", is_flag=True, help="Fail for warnings too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(*, env_file: Path | None, strict: bool, as_json: bool) -> None:
    """Check a deployment: its settings, before it serves.

    Exits with 1 if a check fails. Every finding says what to do.
    """
    from metamorphd.checks.report import as_dict, as_lines, worst
    from metamorphd.cli.checking import settings_findings
    from metamorphd.models.finding import FindingStatus

    findings = settings_findings(env_file)
    click.echo(json.dumps(as_dict(findings)) if as_json else "\n".join(as_lines(findings)))
    tolerated = {FindingStatus.OK} | (set() if strict else {FindingStatus.WARNING})
    sys.exit(0 if worst(findings) in tolerated else 1)
