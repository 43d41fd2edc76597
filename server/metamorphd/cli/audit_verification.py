"""The verification of logs by a running server, and the heads that are kept elsewhere."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from metamorph.admin.v1.admin_service_pb2 import VerifyAuditLogRequest, VerifyAuditLogResponse
from metamorph.admin.v1.audit_pb2 import AuditFault, AuditFaultKind, AuditHead
from metamorph.client import MetamorphClient
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from metamorphd.cli.operator import run_as_operator
from metamorphd.models.caller import SERVER_LOG

# As many as a request may have.
ANCHORS = 500
SHOWN_FAULTS = 100

# The revision and the MAC of a vault's newest entry at some time.
Anchors = list[AuditHead]


class Found:
    """The findings of a verification so far."""

    def __init__(self) -> None:
        self.entries = 0
        self.unprotected = 0
        self.faults: list[AuditFault] = []
        self.fault_count = 0
        self.heads: dict[str, int] = {}

    def add(self, part: VerifyAuditLogResponse) -> None:
        self.entries += part.entry_count
        self.unprotected += part.unprotected_count
        self.fault_count += len(part.faults)
        self.faults += part.faults[: SHOWN_FAULTS - len(self.faults)]
        self.heads |= {head.vault_id: head.revision for head in part.heads}


def verify_logs(*, anchors: Path | None, as_json: bool, **given: Any) -> None:
    """Verifies all logs, shows the progress, and what is wrong. Raises ClickException and StartupRefused."""
    known = [] if anchors is None else read_anchors(anchors)

    async def verified(client: MetamorphClient) -> bool:
        found, notes = Found(), Console(stderr=True)
        columns = SpinnerColumn(), TextColumn("{task.description}")
        with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as progress:
            task = progress.add_task("Verifying logs")
            for request in [VerifyAuditLogRequest(), *_requests(known)]:
                async for part in client.admin.VerifyAuditLog(request):
                    found.add(part)
                    if as_json:
                        click.echo(json.dumps(_shown(part)))
                    text = f"Verifying logs: {found.entries:,} entries, {len(found.heads):,} logs"
                    progress.update(task, description=text)
        if not as_json:
            _show(found, known)
        return not found.fault_count

    run_as_operator(verified, hints={}, **given)


def show_heads(backup: Path) -> None:
    """Prints the heads of the logs in a backup, a line each, and their digest."""
    from metamorphd.chain import HeadsDigest
    from metamorphd.store.sqlite.inspection import list_heads

    digest = HeadsDigest()
    for vault_id, head in list_heads(backup):
        digest.add(vault_id, head)
        if head.mac:
            click.echo(json.dumps({"heads": [[_vault(vault_id), head.revision, head.mac.hex()]]}))
    click.echo(json.dumps({"log_count": digest.count, "log_heads": digest.digest.hex()}))


def read_anchors(path: Path) -> Anchors:
    """Returns the heads in the lines of a file, whatever else there is in it. Raises ClickException if there are none.

    Lines are JSON, with `heads`: a list of vault, revision and MAC.
    """
    found: dict[tuple[str, int, str], None] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            # What another program writes around it stays.
            text = line[line.find("{") :].strip()
            if '"heads"' not in text:
                continue
            try:
                heads = json.loads(text)["heads"]
                found |= {(_vault(vault), int(revision), mac): None for vault, revision, mac in heads}
            except (ValueError, TypeError) as exc:
                raise click.ClickException(f"line {number} of {path} has heads that cannot be read") from exc
    try:
        anchors = [AuditHead(vault_id=vault, revision=number, mac=bytes.fromhex(mac)) for vault, number, mac in found]
    except (ValueError, TypeError) as exc:
        raise click.ClickException(f"{path} has heads that cannot be read") from exc
    if not anchors:
        raise click.ClickException(f"{path} has no heads; they are in the log lines `audit heads`")
    return anchors


def _vault(vault_id: str) -> str:
    """Returns a vault's ID as the API has it."""
    return "" if vault_id == SERVER_LOG else str(vault_id)


def _requests(anchors: Anchors) -> Iterator[VerifyAuditLogRequest]:
    for first in range(0, len(anchors), ANCHORS):
        yield VerifyAuditLogRequest(anchors=anchors[first : first + ANCHORS])


def _shown(part: VerifyAuditLogResponse) -> dict[str, Any]:
    """Returns what `--json` prints of a part."""
    return {
        "entries": part.entry_count,
        "unprotected": part.unprotected_count,
        "faults": [
            {"vault_id": fault.vault_id, "revision": fault.revision, "kind": _kind(fault)} for fault in part.faults
        ],
        "heads": [[head.vault_id, head.revision, head.mac.hex()] for head in part.heads],
    }


def _kind(fault: AuditFault) -> str:
    return AuditFaultKind.Name(fault.kind).removeprefix("AUDIT_FAULT_KIND_")


def _show(found: Found, anchors: Anchors) -> None:
    click.echo(f"{found.entries:,} entries of {len(found.heads):,} logs were verified.")
    if found.unprotected:
        click.echo(f"{found.unprotected:,} entries have no MAC: they were stored without AUDIT_KEY, and prove nothing.")
    known: dict[str, int] = {}
    for anchor in anchors:
        known[anchor.vault_id] = max(known.get(anchor.vault_id, 0), anchor.revision)
    later = Counter({vault: revision - known.get(vault, 0) for vault, revision in found.heads.items()})
    click.echo(f"{len(anchors):,} heads were looked for.")
    if beyond := (+later).total():
        click.echo(f"{beyond:,} entries are later than those heads: what was cut off after them cannot be found.")
    for fault in found.faults:
        log = f"vault {fault.vault_id}" if fault.vault_id else "the server's own log"
        click.echo(f"{_kind(fault)}: {log}, entry {fault.revision}")
    click.echo(f"{found.fault_count:,} faults.")
