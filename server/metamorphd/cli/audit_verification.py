"""The verification of logs by a running server, and the heads that are kept elsewhere."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from metamorph_client import MetamorphClient
from metamorph_client.admin.v1.admin_service_pb2 import VerifyAuditLogRequest, VerifyAuditLogResponse
from metamorph_client.admin.v1.audit_pb2 import AuditFault, AuditFaultKind, AuditHead
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from metamorphd.cli.anchors import Anchor, Anchors, Stamped, api_vault, read_anchors
from metamorphd.cli.operator import run_as_operator
from metamorphd.models.counted import counted

# As many as a request may have.
ANCHORS = 500
SHOWN_FAULTS = 100


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


def verify_logs(*, anchors: Path | None, certificates: Path | None, as_json: bool, **given: Any) -> None:
    """Verifies all logs, shows the progress, and what is wrong. Raises ClickException and StartupRefused."""
    known = None if anchors is None else read_anchors(anchors)
    stamped = [] if known is None else _judged(known, certificates)

    async def verified(client: MetamorphClient) -> bool:
        found, notes = Found(), Console(stderr=True)
        columns = SpinnerColumn(), TextColumn("{task.description}")
        with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as progress:
            task = progress.add_task("Verifying logs")
            for request in [VerifyAuditLogRequest(), *_requests([] if known is None else list(known.heads))]:
                async for part in client.admin.VerifyAuditLog(request):
                    found.add(part)
                    if as_json:
                        click.echo(json.dumps(_shown(part)))
                    text = f"Verifying logs: {_verified(found)}"
                    progress.update(task, description=text)
        if not as_json:
            _show(found, known, stamped)
        elif stamped:
            click.echo(json.dumps({"timestamps": list(map(_shown_stamp, stamped))}))
        return not found.fault_count and not any(stamp.fault for stamp in stamped)

    run_as_operator(verified, hints={}, **given)


def show_heads(backup: Path) -> None:
    """Prints the heads of the logs in a backup, a line each, and their digest, with its time stamp if it has one."""
    from metamorphd.backups.directory import MANIFEST, read_manifest
    from metamorphd.chain import HeadsDigest
    from metamorphd.store.sqlite.inspection import list_heads

    digest = HeadsDigest()
    for vault_id, head in list_heads(backup):
        digest.add(vault_id, head)
        shown = [api_vault(vault_id), head.revision, head.mac.hex()]
        click.echo(json.dumps({"backup": backup.name, "heads": [shown]}))
    last: dict[str, Any] = {"backup": backup.name, "log_count": digest.count, "log_heads": digest.digest.hex()}
    manifest = read_manifest(Path(f"{backup}{MANIFEST}"))
    if manifest is not None and manifest.log_heads_timestamp:
        # Of what the manifest says, which may not be what the backup has.
        last |= {"digests": [manifest.log_heads], "stamp": manifest.log_heads_timestamp}
    click.echo(json.dumps(last))


def _judged(anchors: Anchors, certificates: Path | None) -> list[Stamped]:
    if certificates is None:
        return []
    from metamorphd.audit.timestamps import TrustedCertificates

    try:
        trusted = TrustedCertificates(certificates)
    except (OSError, ValueError) as exc:
        raise click.ClickException(f"{certificates} has no certificates that can be read") from exc
    return list(anchors.judged(trusted))


def _requests(heads: Sequence[Anchor]) -> Iterator[VerifyAuditLogRequest]:
    for first in range(0, len(heads), ANCHORS):
        yield VerifyAuditLogRequest(
            anchors=(
                AuditHead(vault_id=vault, revision=revision, mac=bytes.fromhex(mac))
                for vault, revision, mac in heads[first : first + ANCHORS]
            )
        )


def _shown_stamp(stamp: Stamped) -> dict[str, Any]:
    time = None if stamp.time is None else stamp.time.isoformat()
    return {"line": stamp.line, "time": time, "heads": len(stamp.heads), "fault": stamp.fault}


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


def _show(found: Found, anchors: Anchors | None, stamped: Sequence[Stamped]) -> None:
    click.echo(f"Verified: {_verified(found)}.")
    if found.unprotected:
        unprotected = counted(found.unprotected, "entry has", "entries have")
        click.echo(f"{unprotected} no MAC, as if stored without AUDIT_KEY, and so no proof.")
    heads = [] if anchors is None else list(anchors.heads)
    click.echo(f"{counted(len(heads), 'head was', 'heads were')} looked for.")
    if beyond := _later(found, heads):
        later = counted(beyond, "entry is", "entries are")
        click.echo(
            f"{later} later than those heads: what was cut off after them cannot be found. "
            "--anchors takes newer ones, of the server's log or of `metamorph audit heads`."
        )
    if anchors is not None:
        _show_stamps(found, anchors, stamped)
    for fault in found.faults:
        log = f"vault {fault.vault_id}" if fault.vault_id else "the server's own log"
        click.echo(f"{_kind(fault)}: {log}, entry {fault.revision}")
    for stamp in (bad := [stamp for stamp in stamped if stamp.fault])[:SHOWN_FAULTS]:
        click.echo(f"TIMESTAMP: line {stamp.line}, {stamp.fault}")
    click.echo(f"{counted(found.fault_count + len(bad), 'fault')}.")


def _show_stamps(found: Found, anchors: Anchors, stamped: Sequence[Stamped]) -> None:
    if not anchors.stamps:
        return
    if not stamped:
        unverified = counted(len(anchors.stamps), "time stamp was", "time stamps were")
        click.echo(f"{unverified} not verified: name the authority's with --certificates.")
        return
    times = [stamp.time for stamp in stamped if stamp.time is not None]
    newest = f"; the newest is of {max(times):%Y-%m-%d %H:%M:%S} UTC" if times else ""
    click.echo(f"{len(times):,} of {len(stamped):,} time stamps are good{newest}.")
    if beyond := _later(found, [head for stamp in stamped for head in stamp.heads]):
        click.echo(f"{counted(beyond, 'entry is', 'entries are')} later than the heads that were stamped.")


def _verified(found: Found) -> str:
    return f"{counted(found.entries, 'entry', 'entries')} of {counted(len(found.heads), 'log')}"


def _later(found: Found, heads: Iterable[Anchor]) -> int:
    """Returns how many entries are later than the newest of these heads of their logs."""
    known: dict[str, int] = {}
    for vault, revision, _ in heads:
        known[vault] = max(known.get(vault, 0), revision)
    return (+Counter({vault: revision - known.get(vault, 0) for vault, revision in found.heads.items()})).total()
