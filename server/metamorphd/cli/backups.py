"""Backups of a running server."""

import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import click
import grpc
from metamorph_client import MetamorphClient, MetamorphError
from metamorph_client.admin.v1.admin_service_pb2 import (
    CreateBackupRequest,
    DeleteBackupRequest,
    DownloadBackupRequest,
    GetBackupRequest,
    ListBackupsRequest,
    PruneBackupsRequest,
    VerifyBackupRequest,
)
from metamorph_client.admin.v1.backup_pb2 import (
    BACKUP_STATE_CREATING,
    BACKUP_STATE_READY,
    BACKUP_STATE_VERIFYING,
    Backup,
    BackupState,
)
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TransferSpeedColumn
from rich.table import Table

from metamorphd.cli.listing import as_dict
from metamorphd.cli.operator import run_as_operator
from metamorphd.models.counted import counted

# Each look at a backup counts towards the operator's rate limit, by default one call in 9 seconds after the first 100.
LOOK_SECONDS = 0.2
LONGEST_LOOK_SECONDS = 10.0
LOOK_GROWTH = 1.2
PRINTED_WIDTH = 220
HINTS = {grpc.StatusCode.NOT_FOUND: "`metamorph backup list` lists them"}


def run(work: "Callable[[Client], Awaitable[bool]]", *, as_json: bool, **given: Any) -> None:
    """Does some work with the server that `given` options and the environment name.

    Exits with 1 if it returns false. Raises ClickException and StartupRefused.
    """
    run_as_operator(lambda client: work(Client(client, as_json=as_json)), hints=HINTS, **given)


class Client:
    """Works on the backups of a server, and prints the result."""

    def __init__(self, client: MetamorphClient, *, as_json: bool) -> None:
        self._admin = client.admin
        self._as_json = as_json
        self._out = Console(highlight=False, width=None if sys.stdout.isatty() else PRINTED_WIDTH)
        self._notes = Console(stderr=True, highlight=False)

    async def create(self, *, wait: bool) -> bool:
        backup = (await self._admin.CreateBackup(CreateBackupRequest())).backup
        return self._show(await self._done(backup) if wait else backup)

    async def verify(self, name: str | None) -> bool:
        request = VerifyBackupRequest(name=name or (await self._newest()).name)
        return self._show(await self._done((await self._admin.VerifyBackup(request)).backup))

    async def list(self) -> bool:
        backups = [backup async for backup in self._backups()]
        if self._as_json:
            click.echo(json.dumps([as_dict(backup) for backup in backups]))
        else:
            self._out.print(
                _table(backups) if backups else "There are no backups. `metamorph backup create` makes one."
            )
        return True

    async def delete(self, name: str) -> bool:
        await self._admin.DeleteBackup(DeleteBackupRequest(name=name))
        click.echo(json.dumps({"deleted": name}) if self._as_json else f"{name} is deleted.")
        return True

    async def prune(self, *, dry_run: bool) -> bool:
        names = list((await self._admin.PruneBackups(PruneBackupsRequest(validate_only=dry_run))).names)
        if self._as_json:
            click.echo(json.dumps({"deleted": [] if dry_run else names, "expired": names}))
        else:
            lines = [f"{name} {'would be' if dry_run else 'is'} deleted." for name in names]
            click.echo("\n".join(lines or ["No backup is too old but the newest good one of a database."]))
        return True

    async def download(self, name: str | None, output: Path | None) -> bool:
        backup = await self._newest() if name is None else (await self._get(name))
        file = output or Path(backup.name)
        if file.is_dir():
            file = file / backup.name
        if file.exists():
            raise click.ClickException(f"{file} exists already; pass another --output, or delete it")
        # Of this one: what is left of another must not be continued.
        partial = file.with_name(f"{file.name}.{backup.sha256[:16] or backup.name}.part")
        hashed = hashlib.sha256()
        # All of every vault is in it.
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with (
            os.fdopen(descriptor, "ab+") as written,
            self._progress(DownloadColumn(), TransferSpeedColumn()) as progress,
        ):
            written.seek(0)
            while chunk := written.read(2**20):
                hashed.update(chunk)
            offset = written.tell()
            task = progress.add_task(backup.name, total=backup.size_bytes, completed=offset)
            request = DownloadBackupRequest(name=backup.name, offset=offset)
            async for response in self._admin.DownloadBackup(request):
                written.write(response.data)
                hashed.update(response.data)
                progress.advance(task, len(response.data))
        if backup.sha256 and hashed.hexdigest() != backup.sha256:
            partial.unlink()
            raise click.ClickException(f"{backup.name} arrived damaged: its SHA-256 is not {backup.sha256}; try again")
        partial.rename(file)
        if self._as_json:
            click.echo(json.dumps({"file": str(file), "sha256": hashed.hexdigest()}))
        else:
            click.echo(f"{file} has {counted(file.stat().st_size, 'byte')}, SHA-256 {hashed.hexdigest()}.")
        return True

    async def _get(self, name: str) -> Backup:
        return (await self._admin.GetBackup(GetBackupRequest(name=name))).backup

    async def _backups(self) -> AsyncIterator[Backup]:
        token = ""
        while True:
            page = await self._admin.ListBackups(ListBackupsRequest(page_token=token))
            for backup in page.backups:
                yield backup
            token = page.next_page_token
            if not token:
                return

    async def _newest(self) -> Backup:
        async for backup in self._backups():
            if backup.state == BACKUP_STATE_READY:
                return backup
        raise click.ClickException("there is no good backup; `metamorph backup create` makes one")

    async def _done(self, backup: Backup) -> Backup:
        """Returns a backup once nothing is done on it. Shows its progress until then."""
        wait = LOOK_SECONDS
        with self._progress(TaskProgressColumn()) as progress:
            task = progress.add_task(backup.name, total=1.0)
            while backup.state in (BACKUP_STATE_CREATING, BACKUP_STATE_VERIFYING):
                progress.update(task, completed=backup.progress, description=f"{backup.name} {_state(backup)}")
                await asyncio.sleep(wait)
                wait = min(wait * LOOK_GROWTH, LONGEST_LOOK_SECONDS)
                backup = await self._looked_at(backup.name)
        return backup

    async def _looked_at(self, name: str) -> Backup:
        """Returns a backup, once the rate limit allows it: the work on it goes on meanwhile."""
        while True:
            try:
                return await self._get(name)
            except MetamorphError as refusal:
                if refusal.code is not grpc.StatusCode.RESOURCE_EXHAUSTED or refusal.retry_delay is None:
                    raise
                await asyncio.sleep(refusal.retry_delay)

    def _progress(self, *columns: Any) -> Progress:
        shown = (TextColumn("{task.description}"), BarColumn(), *columns)
        return Progress(*shown, console=self._notes, transient=True, disable=not self._notes.is_terminal)

    def _show(self, backup: Backup) -> bool:
        if self._as_json:
            click.echo(json.dumps(as_dict(backup)))
        else:
            self._out.print(_table([backup]))
        return backup.state in (BACKUP_STATE_READY, BACKUP_STATE_CREATING)


def _state(backup: Backup) -> str:
    return BackupState.Name(backup.state).removeprefix("BACKUP_STATE_").lower()


def _table(backups: "list[Backup]") -> Table:
    table = Table(
        "name", "state", "size", "made (UTC)", "verified (UTC)", "rows", "copied (UTC)", "read back (UTC)", "fault"
    )
    for backup in backups:
        table.add_row(
            backup.name,
            _state(backup),
            f"{backup.size_bytes / 1e6:,.1f} MB",
            shown_time(backup.create_time.seconds),
            shown_time(backup.verify_time.seconds),
            f"{sum(backup.row_counts.values()):,}",
            shown_time(backup.copy.create_time.seconds),
            shown_time(backup.copy.verify_time.seconds),
            "; ".join(filter(None, (backup.fault, backup.copy_fault and f"copy: {backup.copy_fault}"))),
        )
    return table


def shown_time(seconds: int) -> str:
    """Returns a time in UTC as it is shown, or nothing for 0."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) if seconds else ""
