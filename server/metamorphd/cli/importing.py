"""Imports into a vault, from a file in our format or in another system's."""

import asyncio
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
from metamorph_client import MetamorphClient, MetamorphError
from metamorph_client.vault.v1.vault_service_pb2 import ImportVaultRequest, ImportVaultResponse, WhoAmIRequest
from rich.progress import Progress, TaskID

from metamorphd.cli.converting import Converting
from metamorphd.cli.counting import listed
from metamorphd.cli.foreign import SYSTEMS
from metamorphd.cli.foreign.conversations import Foreign, Unreadable
from metamorphd.cli.tenant import run_as_tenant, transfer_progress
from metamorphd.models.imports import Refused
from metamorphd.settings.client import ClientSettings
from metamorphd.transfers.verification import Arriving

SENT_BYTES = 256 * 1024
SECRETS, UNKNOWN = ("secret", "secret_version"), ("unknown",)


def import_vault(settings: ClientSettings, file: Path, *, system: str | None, as_json: bool) -> None:
    """Imports a file. Raises ClickException."""
    foreign = None if system is None else SYSTEMS[system](file)

    async def send(client: MetamorphClient) -> bool:
        pieces: Iterable[bytes]
        if foreign is None or system is None:
            pieces = _pieces(file)
        else:
            user = (await client.vault.WhoAmI(WhoAmIRequest())).user_id
            pieces = _joined(Converting(foreign, system, creator=user, now=time.time_ns() // 1000).lines())
        with transfer_progress() as progress:
            total = os.stat(file).st_size if foreign is None else None
            task = progress.add_task("import", total=total)
            sending = _Sending(pieces, progress, task)
            try:
                answer = await client.vault.ImportVault(sending.requests())
            except (MetamorphError, asyncio.CancelledError):
                # The call ends so when what it sends raises.
                if sending.failure is not None:
                    raise sending.failure from None
                raise
        if foreign is not None and foreign.lost and not (answer.imported_counts or answer.skipped_counts):
            raise click.ClickException(f"nothing in {file} can be imported; is it an export of {system}?")
        _show(answer, foreign, as_json=as_json)
        return True

    try:
        run_as_tenant(settings, send)
    except (Unreadable, UnicodeDecodeError) as exc:
        raise click.ClickException(f"{file} cannot be read: {exc}") from exc


def _pieces(file: Path) -> Iterator[bytes]:
    arriving = Arriving()
    with open(file, "rb") as opened:
        while piece := opened.read(SENT_BYTES):
            # The server does so too. While much is sent, its answer may be lost.
            try:
                arriving.add(piece)
            except Refused as exc:
                raise Unreadable(f"line {exc.line}: {exc.detail}") from None
            yield piece


def _joined(lines: Iterable[bytes]) -> Iterator[bytes]:
    held = bytearray()
    for line in lines:
        held += line
        while len(held) >= SENT_BYTES:
            yield bytes(held[:SENT_BYTES])
            del held[:SENT_BYTES]
    if held:
        yield bytes(held)


class _Sending:
    """Sends pieces of a file. `failure` is what has kept it from being read."""

    def __init__(self, pieces: Iterable[bytes], progress: Progress, task: TaskID) -> None:
        self._pieces = pieces
        self._progress = progress
        self._task = task
        self.failure: Exception | None = None

    def requests(self) -> Iterator[ImportVaultRequest]:
        """Yields the requests of a call."""
        try:
            for piece in self._pieces:
                yield ImportVaultRequest(data=piece)
                self._progress.advance(self._task, len(piece))
        except (Unreadable, UnicodeDecodeError) as exc:
            self.failure = exc
            raise


def _show(answer: ImportVaultResponse, foreign: Foreign | None, *, as_json: bool) -> None:
    imported, skipped = dict(sorted(answer.imported_counts.items())), dict(sorted(answer.skipped_counts.items()))
    lost = {} if foreign is None else dict(sorted(foreign.lost.items()))
    if as_json:
        click.echo(json.dumps({"imported": imported, "skipped": skipped, "lost": lost, "revision": answer.revision}))
        return
    click.echo(f"Imported: {listed(imported)}." if imported else "Nothing new was imported.")
    secrets = {kind: skipped.pop(kind) for kind in SECRETS if kind in skipped}
    unknown = {kind: skipped.pop(kind) for kind in UNKNOWN if kind in skipped}
    for what, counts in (
        ("In the vault already", skipped),
        ("Left out, because secrets are not imported", secrets),
        ("Left out, because the server does not know their kind", unknown),
    ):
        if counts:
            click.echo(f"{what}: {listed(counts)}.")
    if lost:
        counted = ", ".join(f"{what} ({count:,})" for what, count in lost.items())
        click.echo(f"The format cannot be taken along as a whole. Missing: {counted}.")
