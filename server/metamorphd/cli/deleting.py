"""Deletes a vault, and follows its erasing."""

import asyncio
import json
import time
from typing import Any

import click
import grpc
from metamorph_client import MetamorphClient, MetamorphError
from metamorph_client.vault.v1.operation_pb2 import OPERATION_KIND_ERASE_VAULT, Operation
from metamorph_client.vault.v1.vault_service_pb2 import (
    DeleteVaultRequest,
    DeleteVaultResponse,
    GetOperationRequest,
    ListOperationsRequest,
    WhoAmIRequest,
)

from metamorphd.cli.backups import LONGEST_LOOK_SECONDS, LOOK_GROWTH, LOOK_SECONDS, shown_time
from metamorphd.cli.listing import as_dict
from metamorphd.cli.tenant import run_as_tenant, transfer_progress
from metamorphd.models.counted import counted
from metamorphd.settings.client import ClientSettings

GIVE_UP_SECONDS = 60.0
DELETED = "VAULT_DELETED"


def delete_vault(settings: ClientSettings, vault_id: str, *, ask: bool, wait: bool, as_json: bool) -> None:
    """Deletes the vault of the settings, if it is the one that is named. Raises ClickException, and Abort."""
    deleting = _Deleting(vault_id, as_json=as_json)
    # Calls of their own: while somebody is asked, Ctrl-C must end the command.
    run_as_tenant(settings, deleting.check)
    if ask:
        question = f"Delete {vault_id}? All that it stores is erased, and nobody can bring it back."
        click.confirm(question, abort=True, err=True)
    run_as_tenant(settings, deleting.delete)
    try:
        if wait:
            run_as_tenant(settings, deleting.follow)
    except KeyboardInterrupt:
        click.echo(f"{deleting.going_on} Repeat the command to follow it.", err=True)
        raise
    finally:
        deleting.show()


class _Deleting:
    """The deletion of a vault."""

    def __init__(self, vault_id: str, *, as_json: bool) -> None:
        self._vault_id = vault_id
        self._as_json = as_json
        self._operation = Operation()
        self._answer: dict[str, Any] = {}

    @property
    def going_on(self) -> str:
        return f"The server goes on erasing {self._vault_id}, as {self._operation.operation_id}."

    async def check(self, client: MetamorphClient) -> bool:
        """Raises ClickException unless the caller's vault is the one that is named."""
        found = (await client.vault.WhoAmI(WhoAmIRequest())).vault_id
        if found != self._vault_id:
            raise click.ClickException(
                f"your vault is {found}, not {self._vault_id}; nothing was deleted (--token, or --vault in dev mode,"
                " selects another)"
            )
        return True

    async def delete(self, client: MetamorphClient) -> bool:
        """Deletes the vault, or finds what erases it if it is deleted already."""
        try:
            answer = await client.vault.DeleteVault(DeleteVaultRequest(confirmation=self._vault_id))
        except MetamorphError as exc:
            if exc.reason != DELETED:
                raise
            listed = await client.vault.ListOperations(ListOperationsRequest())
            erasing = (each for each in listed.operations if each.kind == OPERATION_KIND_ERASE_VAULT)
            self._operation = next(erasing, Operation(done=True))
            self._say(f"{self._vault_id} is deleted already.")
        else:
            self._operation = answer.operation
            self._answer = as_dict(answer)
            self._say(f"{self._vault_id} is deleted: nobody can read it any more.")
            self._say(_about_backups(answer))
        return True

    async def follow(self, client: MetamorphClient) -> bool:
        """Returns whether it is erased, once that has ended. Shows its progress until then."""
        wait, until = LOOK_SECONDS, time.monotonic() + GIVE_UP_SECONDS
        with transfer_progress() as progress:
            task = progress.add_task("erasing", total=None)
            while not self._operation.done:
                done, total = self._operation.progress.done_count, self._operation.progress.total_count
                progress.update(task, completed=done, total=total or None)
                await asyncio.sleep(wait)
                wait = min(wait * LOOK_GROWTH, LONGEST_LOOK_SECONDS)
                request = GetOperationRequest(operation_id=self._operation.operation_id)
                try:
                    self._operation = (await client.vault.GetOperation(request)).operation
                    until = time.monotonic() + GIVE_UP_SECONDS
                except MetamorphError as exc:
                    wait = self._patient(exc, wait, until)
        if self._operation.HasField("error"):
            raise click.ClickException(f"it is not erased: {self._operation.error.message}")
        self._say(f"{self._vault_id} is erased.")
        return True

    def _patient(self, refusal: MetamorphError, wait: float, until: float) -> float:
        """Returns how long to wait after a refusal: what it is about goes on. Raises it if nothing else helps."""
        limited = refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        if not (limited or refusal.resumable) or time.monotonic() > until:
            click.echo(self.going_on, err=True)
            raise refusal
        return refusal.retry_delay or wait

    def show(self) -> None:
        """Prints the answer as JSON, with the operation as it was seen last, if JSON is asked for."""
        if self._as_json:
            seen = {"vault_id": self._vault_id, **self._answer, "operation": as_dict(self._operation)}
            click.echo(json.dumps(seen))

    def _say(self, text: str) -> None:
        if not self._as_json:
            click.echo(text)


def _about_backups(answer: DeleteVaultResponse) -> str:
    if not answer.backup_count:
        return "No backup has it."
    backups = counted(answer.backup_count, "backup has", "backups have")
    if not answer.HasField("backups_expire_time"):
        return (
            f"{backups} it, with its wrapped key. The server makes none by itself, so an operator has to delete them."
        )
    last = shown_time(answer.backups_expire_time.seconds)
    return f"{backups} it, with its wrapped key. The last of them is deleted at {last} UTC."
