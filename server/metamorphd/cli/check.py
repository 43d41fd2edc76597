"""`metamorph check`."""

import json
import sys
from pathlib import Path

import click

from metamorphd.cli.arguments import TEXT
from metamorphd.cli.connection import client_settings, tls_options


@click.command()
@click.option(
    "--env-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of settings to check.  [default: .env, if there is one]",
)
@click.option("--server", is_flag=True, help="Check a running server.  [default: if METAMORPH_TARGET is set]")
@click.option(
    "--target",
    type=TEXT,
    help="Server to check, [grpcs://]host:port.  [default: METAMORPH_TARGET, else localhost:GRPC_PORT]",
)
@click.option("--http", type=TEXT, help="URL of its HTTP port.  [default: http://, its host, PORT]")
@click.option(
    "--token", type=TEXT, help="Operator's token.  [default: METAMORPH_TOKEN, else one signed with EMBLEM_JWT_SECRET]"
)
@tls_options
@click.option("--strict", is_flag=True, help="Fail for warnings too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(
    *,
    env_file: Path | None,
    server: bool,
    target: str | None,
    http: str | None,
    token: str | None,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    strict: bool,
    as_json: bool,
) -> None:
    """Check a deployment: its settings before it serves, or the running server.

    Exits with 1 if a check fails. Every finding says what to do, and none has a secret. A running server is tried with
    bad tokens, and with a session of two vaults of the check's own.
    """
    from metamorphd.checks.report import as_dict, as_lines, worst
    from metamorphd.cli.checking import chosen_target, server_findings, settings_findings
    from metamorphd.models.finding import FindingStatus

    asked = server or any((target, http, token, ca, cert))
    if asked and env_file is not None:
        raise click.UsageError("--env-file is for settings that no server has yet; check the server by itself")
    reached = None if env_file is not None else chosen_target(target, asked=asked)
    if reached is None:
        findings = settings_findings(env_file)
    else:
        findings = server_findings(reached, http=http, settings=client_settings(token=token, ca=ca, cert=cert, key=key))
    click.echo(json.dumps(as_dict(findings)) if as_json else "\n".join(as_lines(findings)))
    tolerated = {FindingStatus.OK} | (set() if strict else {FindingStatus.WARNING})
    sys.exit(0 if worst(findings) in tolerated else 1)
