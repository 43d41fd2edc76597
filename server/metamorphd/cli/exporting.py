"""Exports of a vault, downloaded and verified."""

import asyncio
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import click
import grpc
from metamorph_client import MetamorphClient, MetamorphError
from metamorph_client.vault.v1.vault_service_pb2 import ExportVaultRequest

from metamorphd.cli.counting import listed
from metamorphd.cli.tenant import run_as_tenant, transfer_progress
from metamorphd.models.counted import counted
from metamorphd.settings.client import ClientSettings

READ_BYTES = 2**20
# The trailer, and more.
HELD_BYTES = 65_536
GIVE_UP_ATTEMPTS = 10
PAUSE_SECONDS = 1.0


class Damaged(Exception):
    """A file is not a whole export. The message says why."""


class Verification:
    """Verifies an export as it arrives: its last line has the SHA-256 of all that precedes it."""

    def __init__(self) -> None:
        self._hashed = hashlib.sha256()
        self._held = b""
        self._size = 0

    def add(self, data: bytes) -> None:
        """Takes the next bytes."""
        self._size += len(data)
        self._held += data
        if len(self._held) > HELD_BYTES:
            self._hashed.update(self._held[:-HELD_BYTES])
            self._held = self._held[-HELD_BYTES:]

    def trailer(self) -> Mapping[str, Any]:
        """Returns the last line, once all is there. Raises Damaged."""
        whole, _, last = self._held.removesuffix(b"\n").rpartition(b"\n")
        try:
            trailer = json.loads(last)
            named = trailer["sha256"]
            complete = trailer["kind"] == "trailer" and self._held.endswith(b"\n")
        except (ValueError, KeyError, TypeError):
            complete = False
        if not complete:
            raise Damaged("it has no end")
        self._hashed.update(whole + b"\n")
        if self._hashed.hexdigest() != named:
            raise Damaged(f"its SHA-256 is not {named}")
        found: Mapping[str, Any] = trailer
        return found


RESUMING_HINTS = {grpc.StatusCode.NOT_FOUND: "the server does not have that export any more; leave out --resume"}


def export_vault(settings: ClientSettings, file: Path, *, resume: bool, recipient: str, as_json: bool) -> None:
    """Writes an export to a file. Raises ClickException."""
    if file.exists():
        raise click.ClickException(f"{file} exists already; choose another name, or delete it")
    partial = file.with_name(f"{file.name}.part")
    if resume and not partial.exists():
        raise click.ClickException(f"there is no {partial} to go on with; leave out --resume")
    if resume and recipient:
        raise click.UsageError("--secrets-for is for a new export; leave out --resume, or this")

    async def download(client: MetamorphClient) -> bool:
        verified = Verification()
        # All of the vault is in it.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (0 if resume else os.O_TRUNC)
        with os.fdopen(os.open(partial, flags, 0o600), "ab+") as written:
            export_id = _continued(written, verified) if resume else ""
            await _Download(client, written, verified, export_id).run(recipient)
            size = written.tell()
        try:
            trailer = verified.trailer()
        except Damaged as exc:
            partial.unlink()
            raise click.ClickException(f"the export arrived damaged: {exc}; try again") from None
        partial.rename(file)
        if as_json:
            click.echo(json.dumps({"file": str(file), "sha256": trailer["sha256"], "counts": trailer["counts"]}))
        else:
            click.echo(f"{file} has {counted(size, 'byte')}: {listed(trailer['counts'])}.")
        return True

    run_as_tenant(settings, download, RESUMING_HINTS if resume else {})


def _continued(written: BinaryIO, verified: Verification) -> str:
    """Returns the ID of the export that a file is a part of, and verifies what is there."""
    written.seek(0)
    try:
        export_id = json.loads(written.readline())["export_id"]
    except (ValueError, KeyError, TypeError):
        raise click.ClickException("what the interrupted export has left is too short; leave out --resume") from None
    written.seek(0)
    while chunk := written.read(READ_BYTES):
        verified.add(chunk)
    return str(export_id)


class _Download:
    """Brings an export, over several calls if need be."""

    def __init__(self, client: MetamorphClient, written: BinaryIO, verified: Verification, export_id: str) -> None:
        self._vault = client.vault
        self._written = written
        self._verified = verified
        self._export_id = export_id
        self._failures = 0

    async def run(self, recipient: str) -> None:
        """Returns once all is there. Raises MetamorphError when it does not go on."""
        with transfer_progress() as progress:
            task = progress.add_task("export", total=None, completed=self._written.tell())
            while True:
                try:
                    await self._call(
                        recipient, lambda size, expected: progress.update(task, completed=size, total=expected)
                    )
                except MetamorphError as refusal:
                    await self._pause(refusal)
                else:
                    return

    async def _call(self, recipient: str, show: Any) -> None:
        offset = self._written.tell()
        request = ExportVaultRequest(
            export_id=self._export_id,
            offset=offset,
            secrets_recipient="" if self._export_id else recipient,
        )
        expected = 0
        async for response in self._vault.ExportVault(request):
            if response.HasField("export"):
                self._export_id, expected = response.export.export_id, response.export.expected_bytes
                continue
            self._written.write(response.data)
            self._verified.add(response.data)
            self._failures = 0
            offset += len(response.data)
            show(offset, max(offset, expected))

    async def _pause(self, refusal: MetamorphError) -> None:
        """Waits before the next call. Raises the refusal if no other one helps."""
        self._failures += 1
        if not self._export_id or not refusal.resumable or self._failures > GIVE_UP_ATTEMPTS:
            raise refusal
        await asyncio.sleep(refusal.retry_delay or PAUSE_SECONDS)
